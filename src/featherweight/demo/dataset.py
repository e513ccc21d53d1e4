"""The demo's data: Fashion-MNIST, as much of it as this machine has; nothing is ever downloaded."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from featherweight.errors import DataError

BUNDLED_FILE = Path(__file__).with_name("fashion_mnist_subset.npz")

CLASS_NAMES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

_FILE_PREFIX: Mapping[str, str] = MappingProxyType({"train": "train", "test": "t10k"})
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, float32 (n, 28, 28, 1) in 0..1, labels, int64 (n,) in 0..9, and their source in words."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str


def full_set_folders() -> tuple[Path, ...]:
    """Returns the folders where the full set may be installed: Debian's package, and the cache of Keras."""
    keras_home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    return Path("/usr/share/datasets/fashion-mnist"), keras_home / "datasets" / "fashion-mnist"


def load(full: bool | None = None) -> Dataset:
    """Loads Fashion-MNIST: all 70,000 images where they are installed, else the 8,000 that this package has.

    Args:
        full: True insists on the full set, False on the bundled subset; None takes what is there.

    Raises:
        DataError: the full set is asked for and not installed, or a file of it is damaged.

    >>> data = load(full=False)
    >>> data.x_train.shape, data.x_test.shape, str(data.x_train.dtype)
    ((6000, 28, 28, 1), (2000, 28, 28, 1), 'float32')
    """
    folders = () if full is False else full_set_folders()
    for folder in folders:
        if all(path.is_file() for part in _FILE_PREFIX for path in _idx_files(folder, part)):
            parts = [*read_idx_folder(folder, "train"), *read_idx_folder(folder, "test")]
            return _dataset(*parts, where=str(folder))
    if full:
        raise DataError(
            f"The full Fashion-MNIST is not installed (looked in {' and '.join(map(str, folders))}). Install "
            "Debian's dataset-fashion-mnist, call keras.datasets.fashion_mnist.load_data() once, or use the "
            "bundled subset."
        )
    with np.load(BUNDLED_FILE, allow_pickle=False) as arrays:
        parts = [arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    return _dataset(*parts, where="bundled subset")


def read_idx_folder(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads `part` ("train" or "test"): images, uint8 (n, 28, 28), and labels, uint8 (n,).

    Raises:
        DataError: a file is missing, truncated, or not what its name says.
    """
    images_file, labels_file = _idx_files(folder, part)
    images = _read_idx(images_file, _IMAGES_MAGIC)
    labels = _read_idx(labels_file, _LABELS_MAGIC)
    if len(images) != len(labels):
        raise DataError(
            f"{images_file} holds {len(images)} images but {labels_file} holds {len(labels)} labels. Install the set "
            "again, or remove it: a subset is bundled."
        )
    return images, labels


def _idx_files(folder: Path, part: str) -> tuple[Path, Path]:
    prefix = _FILE_PREFIX[part]
    return folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """Reads unsigned bytes in the IDX format: magic number, sizes (big-endian int32), then the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        found, *_ = struct.unpack_from(">i", content)
        if found != magic:
            raise DataError(
                f"{path} is not the IDX file its name says: its magic number is {found}, not {magic}. Install the set "
                "again, or remove it: a subset is bundled."
            )
        shape = struct.unpack_from(f">{magic & 0xFF}i", content, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{path} can't be read as a gzipped IDX file: {error}. Install the data set again.") from error


def _dataset(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, where: str) -> Dataset:
    def scaled(images: np.ndarray) -> np.ndarray:
        return (images[..., np.newaxis] / np.float32(255)).astype(np.float32)

    return Dataset(
        x_train=scaled(x_train),
        y_train=y_train.astype(np.int64),
        x_test=scaled(x_test),
        y_test=y_test.astype(np.int64),
        source=f"Fashion-MNIST, {len(x_train)} training and {len(x_test)} test images ({where})",
    )
