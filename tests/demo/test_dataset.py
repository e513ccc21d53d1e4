from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from featherweight.demo import dataset
from featherweight.errors import DataError

SIDE = 28


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">4i", 2051, *images.shape)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A full set of 30 + 20 random images where Keras would have cached it, and nothing of Debian's."""
    folder = tmp_path / "datasets" / "fashion-mnist"
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(
            folder,
            part,
            rng.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8),
            (np.arange(count) % 10).astype(np.uint8),
        )
    monkeypatch.setattr(dataset, "full_set_folders", lambda: (tmp_path / "nowhere", folder))
    return folder


def test_the_bundled_subset_is_balanced_and_scaled() -> None:
    data = dataset.load(full=False)
    assert (np.bincount(data.y_train) == 600).all()
    assert (np.bincount(data.y_test) == 200).all()
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    assert data.source == "Fashion-MNIST, 6000 training and 2000 test images (bundled subset)"


def test_no_training_image_is_tested() -> None:
    data = dataset.load(full=False)
    trained = {image.tobytes() for image in data.x_train}
    assert sum(image.tobytes() in trained for image in data.x_test) == 0


def test_the_bundled_file_is_the_one_of_the_provenance() -> None:
    digest = hashlib.sha256(dataset.BUNDLED_FILE.read_bytes()).hexdigest()
    assert digest in dataset.BUNDLED_FILE.with_name("PROVENANCE.md").read_text()


def test_the_full_set_is_used_where_it_is_installed(installed: Path) -> None:
    data = dataset.load()
    assert data.source == f"Fashion-MNIST, 30 training and 20 test images ({installed})"
    assert data.x_train.shape == (30, SIDE, SIDE, 1)
    assert data.y_test.tolist() == [*range(10), *range(10)]


@pytest.mark.usefixtures("installed")
def test_the_subset_is_used_where_it_is_asked_for() -> None:
    assert len(dataset.load(full=False).x_train) == 6000


def test_a_full_set_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dataset, "full_set_folders", lambda: (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(DataError, match=r"The full Fashion-MNIST is not installed \(looked in .*a and .*b\)\. Install"):
        dataset.load(full=True)
    assert len(dataset.load().x_train) == 6000


def test_a_truncated_file_is_named(installed: Path) -> None:
    path = installed / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz can't be read as a gzipped IDX file: .*again"):
        dataset.load()


def test_images_in_the_place_of_labels_are_refused(installed: Path) -> None:
    images, labels = installed / "t10k-images-idx3-ubyte.gz", installed / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(images.read_bytes())
    with pytest.raises(DataError, match=r"its magic number is 2051, not 2049"):
        dataset.load()


def test_missing_labels_are_counted(installed: Path) -> None:
    labels = gzip.compress(struct.pack(">2i", 2049, 3) + bytes(3))
    (installed / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match=r"holds 20 images but .* holds 3 labels"):
        dataset.load()
