"""Masks inside a compiled training step: the lowest scores found by bisection, without a sort.

A float32 read as an integer keeps its order, so the k-th lowest of n scores is found bit by bit: 32 passes that count
the scores below a candidate. That is an order of magnitude faster than a sort on a CPU, and exact. All kernels lie in
one matrix, each in rows of its own, so that the compiled step has the same few operations however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.training.graph.registry import ops

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
# Scores in a row: a kernel's last row is filled up, and counts of whole rows are added by kernel.
_WIDTH = 1024


def keep_highest(scores: Sequence[Any], counts: Any, is_pooled: bool = False) -> list[Any]:
    """Returns for each tensor of scores True for all but its lowest; of equal scores, those that come first go first.

    Args:
        scores: float32 tensors of any shapes.
        counts: int32 tensor: how many go, for each tensor; for all together (one element) if they are pooled.
        is_pooled: whether the lowest of all tensors together go.
    """
    shapes = [tuple(one.shape) for one in scores]
    sizes = [int(np.prod(shape)) for shape in shapes]
    rows = [-(-size // _WIDTH) for size in sizes]
    owners = np.zeros(sum(rows), np.int32) if is_pooled else np.repeat(np.arange(len(rows), dtype=np.int32), rows)
    firsts = np.concatenate([np.arange(sum(rows))] if is_pooled else [np.arange(count) for count in rows]) * _WIDTH
    parts: list[Any] = []
    for one, size, count in zip(scores, sizes, rows, strict=True):
        parts += [ops.reshape(_ordered(one), (-1,)), ops.full((count * _WIDTH - size,), _HIGHEST, "int32")]
    keys = ops.reshape(ops.concatenate(parts), (-1, _WIDTH))
    positions = ops.expand_dims(ops.convert_to_tensor(firsts, "int32"), 1) + ops.arange(_WIDTH, dtype="int32")

    def total(flags: Any) -> Any:
        found = ops.sum(ops.cast(flags, "int32"), axis=1)
        return ops.segment_sum(found, ops.convert_to_tensor(owners), 1 if is_pooled else len(rows))

    def each(values: Any) -> Any:
        return ops.expand_dims(ops.take(values, ops.convert_to_tensor(owners)), 1)

    # The largest threshold below which fewer than `counts` scores lie is the last score that goes.
    zeros = ops.zeros_like(counts)
    start = ops.where(total(keys < each(zeros)) < counts, zeros, zeros + _LOWEST)
    thresholds = _bisect(start, 31, lambda limits: total(keys < each(limits)) < counts)
    lower, ties = keys < each(thresholds), keys == each(thresholds)
    missing = counts - total(lower)

    def first_ties(limits: Any) -> Any:
        return ops.logical_and(ties, positions < each(limits))

    # The largest position before which no more ties lie than are missing.
    bits = (_WIDTH * (sum(rows) if is_pooled else max(rows))).bit_length()
    ends = _bisect(zeros, bits, lambda limits: total(first_ties(limits)) <= missing)
    kept = ops.reshape(ops.logical_not(ops.logical_or(lower, first_ties(ends))), (-1,))
    begins = np.cumsum([0, *rows]) * _WIDTH
    return [
        ops.reshape(kept[int(begin) : int(begin) + size], shape)
        for begin, size, shape in zip(begins, sizes, shapes, strict=False)
    ]


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
