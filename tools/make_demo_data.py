"""Makes the demo's bundled data set: the first images of every class, in the order of the source.

    python tools/make_demo_data.py SOURCE_DIR

SOURCE_DIR holds the four files that Zalando Research published, as the Debian package
`dataset-fashion-mnist` and the cache of `keras.datasets.fashion_mnist` do. Its output is the same, byte
for byte, on every run with the same zlib.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from featherweight.demo.dataset import BUNDLED_FILE, read_idx_folder

TRAIN_PER_CLASS = 600
TEST_PER_CLASS = 200


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """The ascending indices of the first `per_class` examples of each class."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in np.unique(labels)]))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz whose bytes depend on the arrays only (fixed dates, strongest deflate)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue(), compresslevel=9)


def main(source: Path) -> None:
    """Select the images, write the bundled file and print what it holds."""
    arrays: dict[str, np.ndarray] = {}
    for part, per_class in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
        images, labels = read_idx_folder(source, part)
        chosen = first_of_each_class(labels, per_class)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images[chosen], labels[chosen]
    write_npz(BUNDLED_FILE, arrays)
    digest = hashlib.sha256(BUNDLED_FILE.read_bytes()).hexdigest()
    print(f"{BUNDLED_FILE}: {BUNDLED_FILE.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_demo_data.py SOURCE_DIR")
    main(Path(sys.argv[1]))
