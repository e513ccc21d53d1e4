"""Buffers of equal bytes as one, so that what shares a constant knows it, even where a converter stored it twice."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

# So many bytes at each end tell most buffers of one size apart.
_ENDS = 64


def as_one(buffers: Sequence[np.ndarray | None], apart: Collection[int]) -> list[np.ndarray | None]:
    """Returns the buffers of a file, each of equal bytes being the first of them; those numbered in `apart` stay.

    Nothing is read of a buffer that is the only one of its size.
    """
    sizes: dict[int, list[int]] = {}
    for number, buffer in enumerate(buffers):
        if buffer is not None and buffer.size and number not in apart:
            sizes.setdefault(buffer.size, []).append(number)
    found = list(buffers)
    for numbers in sizes.values():
        alike: dict[tuple[bytes, bytes], list[np.ndarray]] = {}
        for number in numbers if len(numbers) > 1 else ():
            buffer = found[number]
            assert buffer is not None
            known = alike.setdefault((buffer[:_ENDS].tobytes(), buffer[-_ENDS:].tobytes()), [])
            same = next((other for other in known if np.array_equal(other, buffer)), None)
            if same is None:
                known.append(buffer)
            else:
                found[number] = same
    return found
