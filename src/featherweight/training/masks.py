"""Masks inside a compiled training step: the lowest scores found by bisection, without a sort.

A float32 read as an integer keeps its order, so the k-th lowest of n scores is found bit by bit: 32 passes that count
the scores below a candidate. That is an order of magnitude faster than a sort on a CPU, exact, and the same number of
compiled operations whatever n. All kernels are treated in one loop, which keeps the compiled step small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.training.registry import ops

_LOWEST = -(2**31)


def keep_highest(scores: Sequence[Any], counts: Any, is_pooled: bool = False) -> list[Any]:
    """Returns for each tensor of scores True for all but its lowest; of equal scores, those that come first go first.

    Args:
        scores: float32 tensors of any shapes.
        counts: int32 tensor: how many go, for each tensor; for all together (one element) if they are pooled.
        is_pooled: whether the lowest of all tensors together go.
    """
    shapes = [tuple(one.shape) for one in scores]
    keys = [ops.reshape(_ordered(one), (-1,)) for one in scores]
    positions, begin = [], 0
    for key in keys:
        positions.append(ops.arange(begin, begin + key.shape[0], dtype="int32"))
        begin += key.shape[0] if is_pooled else 0

    def total(flags: Sequence[Any]) -> Any:
        sums = ops.stack([ops.sum(ops.cast(flag, "int32")) for flag in flags])
        return ops.sum(sums, keepdims=True) if is_pooled else sums

    def each(values: Any) -> list[Any]:
        return [values[0 if is_pooled else i] for i in range(len(keys))]

    def below(limits: Any) -> list[Any]:
        return [key < limit for key, limit in zip(keys, each(limits), strict=True)]

    # The largest threshold below which fewer than `counts` scores lie is the last score that goes.
    zeros = ops.zeros_like(counts)
    start = ops.where(total(below(zeros)) < counts, zeros, zeros + _LOWEST)
    thresholds = _bisect(start, 31, lambda limits: total(below(limits)) < counts)
    lower = below(thresholds)
    ties = [key == limit for key, limit in zip(keys, each(thresholds), strict=True)]
    missing = counts - total(lower)

    def first_ties(limits: Any) -> list[Any]:
        rows = zip(ties, positions, each(limits), strict=True)
        return [ops.logical_and(tie, position < limit) for tie, position, limit in rows]

    # The largest position before which no more ties lie than are missing.
    largest = begin if is_pooled else max(key.shape[0] for key in keys)
    ends = _bisect(zeros, largest.bit_length(), lambda limits: total(first_ties(limits)) <= missing)
    gone = [ops.logical_or(*pair) for pair in zip(lower, first_ties(ends), strict=True)]
    return [ops.reshape(ops.logical_not(one), shape) for one, shape in zip(gone, shapes, strict=True)]


def _bisect(start: Any, bits: int, is_allowed: Any) -> Any:
    """Returns start + the largest numbers of so many bits that are allowed; what is below an allowed one is, too."""

    def body(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        bit, found = state
        return bit // 2, ops.where(is_allowed(found + bit), found + bit, found)

    bit = ops.cast(ops.convert_to_tensor(2 ** (bits - 1)), "int32")
    return ops.fori_loop(0, bits, body, (bit, start))[1]


def _ordered(scores: Any) -> Any:
    """Returns integers in the order of the floats: below zero, more magnitude means less."""
    bits = ops.view(scores, "int32")
    return ops.where(bits < 0, ops.bitwise_xor(bits, 0x7FFFFFFF), bits)
