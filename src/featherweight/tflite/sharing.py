"""A flatbuffer builder that writes equal vectors, strings and tables once: whatever refers to them shares them.

A flatbuffer's offsets may meet in one place, and runtimes only read. A fifth of a small quantized file would be vectors
of zero points that are all 0.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import flatbuffers
import numpy as np


class SharingBuilder(flatbuffers.Builder):
    """Writes vectors of numbers and strings once; tables where they are wrapped as `Shared`."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[Hashable, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
        """Returns where a vector of these numbers is."""
        key = x.dtype.str, x.tobytes()
        if key not in self.written:
            self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]

    def CreateString(self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        """Returns where this string is."""
        key = s.encode(encoding, errors) if isinstance(s, str) else s
        if key not in self.written:
            self.written[key] = super().CreateString(key)
        return self.written[key]


class Shared:
    """A table of the schema that is written once for all of equal content."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def Pack(self, builder: SharingBuilder) -> int:  # noqa: N802 (what the schema's generated classes call)
        """Returns where the table is."""
        key = _content(self.table)
        if key not in builder.written:
            builder.written[key] = self.table.Pack(builder)
        return builder.written[key]


def _content(value: Any) -> Hashable:
    """Returns what makes two values of the schema equal."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_content, value))
    if hasattr(value, "Pack"):
        return (type(value), *((name, _content(part)) for name, part in vars(value).items()))
    return type(value), repr(value)
