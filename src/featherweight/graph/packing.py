"""Integers of less than a byte, as files hold them: several in each byte, the first one in the low bits."""

from __future__ import annotations

import numpy as np

from featherweight.graph.numerics import storage_dtype

PACKED_BITS = {"int4": 4, "uint4": 4, "int2": 2}


def pack(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the integers of an array densely packed, uint8; the last byte is filled up with zeros.

    >>> pack(np.array([1, -1, 2]), "int4")
    array([241,   2], dtype=uint8)
    """
    bits = PACKED_BITS[dtype]
    per_byte = 8 // bits
    flat = array.astype(np.int8).reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    flat = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    packed = flat[:, 0].copy()
    for lane in range(1, per_byte):
        packed |= flat[:, lane] << (bits * lane)
    return packed


def unpack(data: np.ndarray, dtype: str, elements: int) -> np.ndarray:
    """Returns so many integers of packed bytes, flat, a byte for each: the inverse of `pack`."""
    bits, kind = PACKED_BITS[dtype], np.uint8 if dtype.startswith("u") else np.int8
    lanes = [(data << (8 - bits * (lane + 1))).view(kind) >> (8 - bits) for lane in range(8 // bits)]
    return np.stack(lanes, axis=-1).reshape(-1)[:elements].astype(storage_dtype(dtype))
