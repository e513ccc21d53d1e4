"""What the arguments of a `SparseOptimizer` may be, as far as that can be told without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.errors import RecipeError, listed
from featherweight.pruning.allocation import ALLOCATIONS
from featherweight.training.schedules import LAST_STEP, Schedule, constant

# As calls and stored configurations of version 0.1 say it.
OLD_WORDS = {"criterion": "method", "dense": "keep"}
METHODS = ("magnitude", "movement")


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
        f"SparseOptimizer: schedule={shown(schedule)} is no schedule. Use fw.schedules.polynomial_decay(0.0, 0.8, "
        "begin=0, end=1000), another one of fw.schedules, or a number."
    )


def check_arguments(
    schedule: Schedule, frequency: Any, method: str, allocation: str, regrowth: Any, keeps_zeros: bool
) -> None:
    """Checks what belongs together.

    Raises:
        RecipeError: for a frequency that is no number of steps, an unknown method or allocation, one that has no
            effect, and a regrowth that is no fraction, has no time, or does not go with the rest.
    """
    if not isinstance(frequency, int) or isinstance(frequency, bool) or not 1 <= frequency <= LAST_STEP:
        raise RecipeError(f"SparseOptimizer: frequency={shown(frequency)} is no whole number of steps from 1 on.")
    for what, value, allowed in (("method", method, METHODS), ("allocation", allocation, ALLOCATIONS)):
        if keeps_zeros and value != allowed[0]:
            raise RecipeError(f"SparseOptimizer: {what}={shown(value)} has no effect without a schedule. Leave it out.")
        if value not in allowed:
            raise RecipeError(f"SparseOptimizer: {what}={shown(value)} is not understood (allowed: {listed(allowed)}).")
    if regrowth is None:
        return
    if not isinstance(regrowth, float) or not 0 < regrowth < 1:
        raise RecipeError(f"SparseOptimizer: regrowth={shown(regrowth)} is no fraction between 0 and 1, such as 0.3.")
    if schedule.begin == schedule.end:
        raise RecipeError(
            f"SparseOptimizer: regrowth has no time: masks are updated at step {schedule.end} only. Give the "
            "schedule a later end."
        )
    if allocation == "global" or method == "movement":
        raise RecipeError("SparseOptimizer: regrowth works with method='magnitude' in a share for each kernel.")
