"""How many channels go: as many as a share of the multiply-accumulates, or of the time, takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.channels.cut import total_macs, without_channels
from featherweight.channels.groups import Group
from featherweight.channels.labels import Labeled
from featherweight.channels.latencies import Clock, coarser, without_time
from featherweight.channels.steps import Step
from featherweight.errors import RecipeError
from featherweight.graph import Model


def share_of_macs(model: Model, labels: Labeled, steps: Sequence[Step], share: float) -> set[int]:
    """Returns what goes so that at least this share of the multiply-accumulates does: the lowest scores first.

    Raises:
        RecipeError: if all that can be removed is less.
    """
    # Stable: the steps of a group stay in their order, since their scores rise.
    order = sorted(steps, key=lambda step: step.score)
    before = total_macs(model)

    def removed(count: int) -> set[int]:
        return {value for step in order[:count] for value in step.labels}

    def gone(count: int) -> float:
        return 1 - total_macs(without_channels(model, labels, removed(count))) / max(before, 1)

    if (most := gone(len(order))) < share:
        raise RecipeError(
            f"remove_channels: macs={share:g} can't be removed; {most:.3f} is the most that these channels, "
            "`multiple` and `exclude` allow."
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if gone(middle) >= share else (middle + 1, high)
    return removed(low)


def share_of_time(
    clock: Clock, groups: Sequence[Group], scores: Sequence[np.ndarray], steps: Sequence[Sequence[Step]], share: float
) -> tuple[set[int], tuple[float, float]]:
    """Returns what goes so that at least this share of the time does, and microseconds before and after.

    Raises:
        RecipeError: if all that can be removed takes less, or everything so little that the clock says nothing.
    """
    if (whole := clock.total(set())) < clock.prices.call:
        raise RecipeError(
            f"remove_channels: convolutions and dense layers take {1e6 * whole:.1f} µs together, less than a call of "
            f"the runtime ({1e6 * clock.prices.call:.1f} µs): too little to tell them apart. Give macs= or "
            "sparsity=."
        )
    removed, gone = without_time(clock, groups, scores, [coarser(own) for own in steps], share)
    if gone < share:
        raise RecipeError(
            f"remove_channels: latency={share:g} can't be saved; {gone:.3f} is the most that these channels, "
            "`multiple` and `exclude` allow."
        )
    return removed, (1e6 * whole, 1e6 * clock.total(removed))
