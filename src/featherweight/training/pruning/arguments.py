"""What the arguments of a `SparseOptimizer` may be, as far as that can be told without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.errors import RecipeError, listed
from featherweight.pruning.allocation import ALLOCATIONS
from featherweight.training.schedules import Schedule, constant

CRITERIA = ("magnitude", "movement")


def as_schedule(schedule: Any) -> Schedule:
    """Returns a schedule for one, for the number that it keeps to, or for None (0).

    Raises:
        RecipeError: for anything else.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule is None:
        return constant(0.0)
    if isinstance(schedule, (int, float, np.number)):
        return constant(float(schedule))
    raise RecipeError(
        f"SparseOptimizer: schedule={schedule!r} is no schedule. Use featherweight.polynomial_decay(0.0, 0.8, begin=0, "
        "end=1000), another one of featherweight.training.schedules, or a number."
    )


def check_arguments(
    schedule: Schedule, frequency: Any, criterion: str, allocation: str, regrowth: Any, keeps_zeros: bool
) -> None:
    """Checks what belongs together.

    Raises:
        RecipeError: for a frequency that is no number of steps, an unknown criterion or allocation, one that has no
            effect, and a regrowth that is no fraction, has no time, or does not go with the rest.
    """
    if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
        raise RecipeError(f"SparseOptimizer: frequency={frequency!r} is no whole number of steps from 1 on.")
    for what, value, allowed in (("criterion", criterion, CRITERIA), ("allocation", allocation, ALLOCATIONS)):
        if keeps_zeros and value != allowed[0]:
            raise RecipeError(f"SparseOptimizer: {what}={value!r} has no effect without a schedule. Leave it out.")
        if value not in allowed:
            raise RecipeError(f"SparseOptimizer: {what}={value!r} is not understood (allowed: {listed(allowed)}).")
    if regrowth is None:
        return
    if not isinstance(regrowth, float) or not 0 < regrowth < 1:
        raise RecipeError(f"SparseOptimizer: regrowth={regrowth!r} is no fraction between 0 and 1, such as 0.3.")
    if schedule.begin == schedule.end:
        raise RecipeError(
            f"SparseOptimizer: regrowth has no time: masks are updated at step {schedule.end} only. Give the "
            "schedule a later end."
        )
    if allocation == "global" or criterion == "movement":
        raise RecipeError("SparseOptimizer: regrowth works with criterion='magnitude' in a share for each kernel.")
