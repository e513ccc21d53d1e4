"""Samples that repeat others: what is measured on them stands on fewer samples than there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

# Of an example's power about its own mean, what a copy may differ by: 20 dB, as frames of one scene do, a picture that
# was compressed again, or noise that was added.
_NEARLY = 0.01
_EXACTLY = 1e-12
# Values of inputs of fewer elements are alike by chance.
_LEAST_ELEMENTS = 64
# Elements that are compared of each example, evenly from all.
_MOST_ELEMENTS = 16384

Feed = Mapping[str, np.ndarray]


def copies(feeds: Iterable[Feed], *, nearly: bool = True) -> list[int]:
    """Returns for each example the index of the first one that it repeats; its own where it repeats none.

    Examples are gone through once, and of each no more than 16,384 numbers are kept. One repeats another if all inputs
    are the same, or if all are real numbers that differ by less than a hundredth of their power about their own mean.
    Crops, mirrored or scaled pictures are none to this measure.

    Args:
        feeds: the inputs of each example.
        nearly: False: only what is the same repeats.

    >>> random = np.random.default_rng(0)
    >>> one, other = random.normal(size=(2, 10, 10)).astype(np.float32)
    >>> copies([{"x": one}, {"x": other}, {"x": one}, {"x": other + 0.01 * one}])
    [0, 1, 0, 1]
    """
    first: dict[bytes, int] = {}
    found, seen = list[int](), dict[int, list[np.ndarray] | None]()
    for index, feed in enumerate(feeds):
        found.append(first.setdefault(_digest(feed), index))
        if found[-1] == index:
            seen[index] = _vectors(feed) if nearly else None
    kinds, vectors = list(seen), list(seen.values())
    if len(kinds) < 2 or any(each is None for each in vectors):
        return found
    shapes = {tuple(x.size for x in each or ()) for each in vectors}
    if len(shapes) > 1:
        return found
    is_near = np.ones((len(kinds), len(kinds)), bool)
    for rows in zip(*(each or () for each in vectors), strict=True):
        x = np.stack(rows)
        powers = np.square(x - x.mean(axis=1, keepdims=True)).sum(axis=1)
        lengths = np.square(x).sum(axis=1)
        distances = np.maximum(lengths[:, None] + lengths - 2 * x @ x.T, 0.0)
        is_near &= distances <= _NEARLY * np.minimum(powers[:, None], powers) + _EXACTLY * lengths
    nearest = {kind: kinds[int(is_near[at, : at + 1].argmax())] if is_near[at, :at].any() else kind
               for at, kind in enumerate(kinds)}  # fmt: skip
    return [_root(nearest, index) for index in found]


def copies_said(feeds: Iterable[Feed]) -> str:
    """Returns half a sentence on the examples that repeat others, or nothing where none does.

    >>> same = {"x": np.ones((1, 3), np.float32)}
    >>> copies_said([same, {"x": np.zeros((1, 3), np.float32)}, same])
    '1 of 3 samples repeat others, or nearly (sample 2 repeats sample 0): what is measured stands on 2'
    """
    found = copies(feeds)
    repeated = [(index, of) for index, of in enumerate(found) if index != of]
    if not repeated:
        return ""
    index, of = repeated[0]
    return (
        f"{len(repeated)} of {len(found)} samples repeat others, or nearly (sample {index} repeats sample {of}): what "
        f"is measured stands on {len(found) - len(repeated)}"
    )


def counted(feeds: Iterable[Feed]) -> str:
    """Returns how many examples there are, and how many of them differ where some repeat others.

    >>> counted([{"x": np.ones((1, 3), np.float32)}] * 40)
    '40 samples, 1 of them different,'
    """
    found = copies(feeds)
    different = len({*found})
    return f"{len(found)} samples" + ("" if different == len(found) else f", {different} of them different,")


def _root(nearest: Mapping[int, int], index: int) -> int:
    while nearest[index] != index:
        index = nearest[index]
    return index


def _digest(feed: Feed) -> bytes:
    found = hashlib.sha256()
    for name in sorted(feed):
        values = np.ascontiguousarray(feed[name])
        found.update(f"{name} {values.dtype} {values.shape} ".encode() + values.tobytes())
    return found.digest()


def _vectors(feed: Feed) -> list[np.ndarray] | None:
    """Returns an example's inputs as rows of numbers; None where one is not to be compared as numbers."""
    rows: list[np.ndarray] = []
    for name in sorted(feed):
        values = np.asarray(feed[name])
        is_picture = values.dtype == np.uint8
        if values.size < _LEAST_ELEMENTS or not (values.dtype.kind == "f" or is_picture):
            return None
        x = values.ravel()[:: max(1, -(-values.size // _MOST_ELEMENTS))].astype(np.float64)
        if not np.isfinite(x).all():
            return None
        rows.append(x)
    return rows
