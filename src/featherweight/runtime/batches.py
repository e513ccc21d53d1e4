"""How examples are grouped into runs: what fits a model's batch, fixed or free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from featherweight.errors import DataError, listed
from featherweight.graph import Tensor


@dataclass(frozen=True, eq=False)
class Feed:
    """What one run of the model takes.

    Attributes:
        arrays: public input name → array with a batch dimension, in the input's dtype.
        rows: examples in it.
        first: number of the first sample in it, counted from 0 as the user's iterable gave them.
        last: number of the last one.
    """

    arrays: dict[str, np.ndarray]
    rows: int
    first: int
    last: int

    @property
    def label(self) -> str:
        """What it is, for messages: ``sample 3`` or ``samples 4 to 7``."""
        return f"sample {self.first}" if self.first == self.last else f"samples {self.first} to {self.last}"


def has_free_batch(tensor: Tensor) -> bool:
    """True where the file leaves the first dimension open."""
    return bool(tensor.shape_signature) and tensor.shape_signature is not None and tensor.shape_signature[0] == -1


def split(
    arrays: Mapping[str, np.ndarray], inputs: Mapping[str, Tensor], where: str = ""
) -> list[dict[str, np.ndarray]]:
    """Cuts checked arrays into what fits the model's batch; where the batch is free, nothing is cut.

    Raises:
        DataError: if the inputs disagree about the batch, or the batch does not divide by the model's.
    """
    rows = rows_of(arrays, inputs, where)
    unit = unit_of(inputs, None)
    if unit is None or rows == unit:
        return [dict(arrays)]
    if rows % unit:
        raise DataError(
            f"{where}a batch of {rows} does not fit the model's fixed batch of {unit}; give a multiple of it."
        )
    return [{n: a[i : i + unit] for n, a in arrays.items()} for i in range(0, rows, unit)]


def unit_of(inputs: Mapping[str, Tensor], batch: int | None) -> int | None:
    """Returns the number of examples that every run takes, or None where runs take what comes."""
    free = [has_free_batch(tensor) for tensor in inputs.values()]
    if inputs and all(free):
        return batch
    if any(free) or not inputs or any(not tensor.shape for tensor in inputs.values()):
        return None
    sizes = {tensor.shape[0] for tensor in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def rows_of(arrays: Mapping[str, np.ndarray], inputs: Mapping[str, Tensor], where: str) -> int:
    """Returns the number of examples in checked arrays; raises if the inputs disagree or can't take them."""
    unit, free = unit_of(inputs, None), {n: has_free_batch(t) for n, t in inputs.items()}
    counted = {n: a.shape[0] for n, a in arrays.items() if a.ndim and (unit is not None or free[n])}
    if len(set(counted.values())) > 1:
        found = listed(f"{name}: {rows}" for name, rows in counted.items())
        raise DataError(f"{where}its inputs differ in batch size ({found}); they must be the same.")
    for name, array in arrays.items():
        if name not in counted and array.ndim and array.shape[0] != inputs[name].shape[0]:
            raise DataError(
                f"{where}input '{name}' has the batch {array.shape[0]}, but the model's is fixed at "
                f"{inputs[name].shape[0]}."
            )
    return next(iter(counted.values()), 1)


def cut(feed: Feed, rows: int, inputs: Mapping[str, Tensor]) -> Feed:
    """Returns the feed's first rows where the batch is free, else the feed as it is."""
    if not any(has_free_batch(tensor) for tensor in inputs.values()):
        return feed
    arrays = {n: a[:rows] if has_free_batch(inputs[n]) else a for n, a in feed.arrays.items()}
    return Feed(arrays, rows, feed.first, feed.last)


def regrouped(checked: Iterator[Feed], unit: int, inputs: Mapping[str, Tensor], limit: int | None) -> Iterator[Feed]:
    """Splits and joins feeds so that each has `unit` rows; where the batch is free, the last may be less."""
    pending: list[Feed] = []
    waiting, left = 0, limit
    free = any(has_free_batch(tensor) for tensor in inputs.values())
    for feed in checked:
        if free and left is not None:
            feed = cut(feed, left, inputs) if feed.rows > left else feed
            left -= feed.rows
        pending.append(feed)
        waiting += feed.rows
        if waiting >= unit:
            whole = _joined(pending)
            for start in range(0, waiting - unit + 1, unit):
                part = {name: array[start : start + unit] for name, array in whole.arrays.items()}
                yield Feed(part, unit, whole.first if start == 0 else feed.first, feed.last)
            rest = waiting % unit
            remainder = {name: array[waiting - rest :] for name, array in whole.arrays.items()}
            pending = [Feed(remainder, rest, feed.first, feed.last)] if rest else []
            waiting = rest
        if left is not None and left <= 0:
            break
    if waiting and not free:
        raise DataError(f"the last {waiting} examples don't fill the model's fixed batch of {unit}; give a multiple.")
    if waiting:
        yield _joined(pending)


def _joined(parts: list[Feed]) -> Feed:
    if len(parts) == 1:
        return parts[0]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return Feed(arrays, sum(part.rows for part in parts), parts[0].first, parts[-1].last)
