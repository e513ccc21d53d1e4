"""The buffers of a file that is being written: equal constants are stored once, whichever graphs they are in."""

from __future__ import annotations

import zlib

import numpy as np

from featherweight.graph import Tensor
from featherweight.tflite.reader import release_pages


class Buffers:
    """Numbers buffers by what they hold.

    Attributes:
        contents: by number; the first holds nothing, as the format prescribes.
    """

    def __init__(self) -> None:
        self.contents: list[np.ndarray | None] = [None]
        self._numbers: dict[int, int] = {}
        self._alike: dict[tuple[int, int], list[int]] = {}

    def number(self, data: np.ndarray | None) -> int:
        """Returns the number of the buffer that holds an array; the same array has the same buffer."""
        if data is None:
            return 0
        if id(data) not in self._numbers:
            self._numbers[id(data)] = len(self.contents)
            self.contents.append(data)
        return self._numbers[id(data)]

    def number_of(self, tensor: Tensor) -> int:
        """Returns the number of the buffer of a tensor's value; constants of equal bytes share one.

        Runtimes only read them. Variables, which are written, and what has no bytes at all keep their own.
        """
        data = tensor.data
        if data is None or not data.size or tensor.is_variable or id(data) in self._numbers:
            return self.number(data)
        alike = self._alike.setdefault((data.size, zlib.crc32(data.data)), [])
        same = next((number for number in alike if np.array_equal(data, np.asarray(self.contents[number]))), None)
        if same is None:
            alike.append(self.number(data))
        else:
            self._numbers[id(data)] = same
        release_pages(data)
        return self._numbers[id(data)]
