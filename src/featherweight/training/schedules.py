"""Schedules of pruning: closures step → sparsity. When masks are updated is the optimizer's `frequency`.

A step is the number of weight updates that are done. Nothing is pruned before a schedule begins, and its last value
holds after it ends. Schedules take Python numbers, NumPy arrays, and the tensors of any Keras backend, inside compiled
steps as well.

A schedule is added here: a function under `@_schedule` that returns its closure with `Schedule`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from featherweight.arguments import checked, shown
from featherweight.errors import RecipeError, listed
from featherweight.sparsity.patterns import check_sparsity

# Steps are int32 in training.
LAST_STEP = 2**31 - 1

F = TypeVar("F", bound=Callable[..., "Schedule"])


@dataclass(frozen=True)
class Schedule:
    """A closure step → sparsity, with the steps at which masks must be updated whatever the frequency.

    Attributes:
        fraction: ``(xp, step) -> sparsity`` with ``numpy`` or ``keras.ops``, for steps from the beginning on.
        milestones: the first step, the last step, and those between at which the sparsity jumps.
        settings: the arguments that make the same schedule again, under ``schedule`` its name.
    """

    fraction: Callable[[Any, Any], Any] = field(compare=False, repr=False)
    milestones: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self, step: Any) -> Any:
        """Returns the sparsity at a step: a float for a Python number, else an array or tensor of float32."""
        if isinstance(step, (int, float, np.number, np.ndarray)):
            found = self._at(np, np.asarray(step, np.float64))
            return found if isinstance(step, np.ndarray) else float(found)
        from keras import ops

        return self._at(ops, ops.cast(step, "float32"))

    def _at(self, xp: Any, step: Any) -> Any:
        return xp.where(step < self.begin, 0.0, self.fraction(xp, step))

    @property
    def begin(self) -> int:
        """The first step at which weights are pruned."""
        return self.milestones[0]

    @property
    def end(self) -> int:
        """The step from which on the final sparsity holds."""
        return self.milestones[-1]

    @property
    def final(self) -> float:
        """The sparsity in the end."""
        return self(self.end)


_MAKERS: dict[str, Callable[..., Schedule]] = {}


def _schedule(make: F) -> F:
    if make.__name__ in _MAKERS:
        raise ValueError(f"schedule '{make.__name__}' is registered twice")
    _MAKERS[make.__name__] = made = checked()(make)
    return made


def names() -> tuple[str, ...]:
    """Returns the names of all schedules.

    >>> names()
    ('constant', 'polynomial_decay', 'linear', 'cosine', 'join')
    """
    return tuple(_MAKERS)


def restore(settings: Mapping[str, Any]) -> Schedule:
    """Returns the schedule whose `settings` these are.

    Raises:
        RecipeError: if no schedule has that name.

    >>> restore(linear(0.0, 0.5, 0, 10).settings)(5)
    0.25
    """
    arguments = dict(settings)
    name = arguments.pop("schedule", None)
    if name not in _MAKERS:
        raise RecipeError(f"Schedule {name!r} is unknown (allowed: {listed(names())}).")
    return _MAKERS[name](*map(restore, arguments["parts"])) if "parts" in arguments else _MAKERS[name](**arguments)


@_schedule
def constant(sparsity: float, begin: int = 0, end: int | None = None) -> Schedule:
    """Returns the schedule that prunes to one sparsity at once, at step `begin`.

    With `end`, masks are chosen anew until then at the optimizer's frequency; without, they stay as chosen.

    Raises:
        RecipeError: if the sparsity is outside [0, 1), or the schedule ends before it begins.

    >>> schedule = constant(0.5, begin=100)
    >>> schedule(99), schedule(100)
    (0.0, 0.5)
    """
    sparsity = check_sparsity(sparsity, "constant")
    settings = {"schedule": "constant", "sparsity": sparsity, "begin": begin, "end": end}
    span = _span("constant", begin, begin if end is None else end)
    return Schedule(lambda xp, step: xp.full_like(step, sparsity), span, settings)


@_schedule
def polynomial_decay(initial: float, final: float, begin: int = 0, end: int = 1000, power: float = 3.0) -> Schedule:
    """Returns the gradual schedule: final + (initial − final)·(1 − (step − begin)/(end − begin))^power.

    Power 3 is that of Zhu & Gupta (2017, arXiv 1710.01878, equation 1). Leave at least a quarter of the training after
    the end.

    Raises:
        RecipeError: if a sparsity is outside [0, 1), the power is not positive, or the schedule ends before it begins.

    >>> schedule = polynomial_decay(0.0, 0.8, begin=0, end=100)
    >>> [round(schedule(step), 3) for step in (0, 25, 50, 100, 200)]
    [0.0, 0.463, 0.7, 0.8, 0.8]
    """
    if not isinstance(power, (int, float)) or not power > 0 or not math.isfinite(power):
        raise RecipeError(f"polynomial_decay: the power must be a positive number, not {shown(power)}.")
    settings = {"schedule": "polynomial_decay", **_ends(initial, final, begin, end), "power": float(power)}
    return _ramp(settings, lambda xp, rest: xp.power(rest, float(power)))


@_schedule
def linear(initial: float, final: float, begin: int = 0, end: int = 1000) -> Schedule:
    """Returns the schedule that goes from one sparsity to another in a straight line.

    Raises:
        RecipeError: if a sparsity is outside [0, 1), or the schedule ends before it begins.

    >>> linear(0.2, 0.8, begin=100, end=200)(150)
    0.5
    """
    return _ramp({"schedule": "linear", **_ends(initial, final, begin, end)}, lambda _, rest: rest)


@_schedule
def cosine(initial: float, final: float, begin: int = 0, end: int = 1000) -> Schedule:
    """Returns the schedule that starts and ends slowly: final + (initial − final)·(1 + cos(π·done))/2.

    Raises:
        RecipeError: if a sparsity is outside [0, 1), or the schedule ends before it begins.

    >>> round(cosine(0.0, 0.8, begin=0, end=100)(25), 3)
    0.117
    """
    settings = {"schedule": "cosine", **_ends(initial, final, begin, end)}
    return _ramp(settings, lambda xp, rest: (1.0 - xp.cos(math.pi * rest)) / 2)


@_schedule
def join(*parts: Schedule) -> Schedule:
    """Returns the schedule that follows each part from the step at which the part begins.

    Raises:
        RecipeError: if there is no part, or one begins before the one before it ends.

    >>> schedule = join(linear(0.0, 0.5, 0, 100), polynomial_decay(0.5, 0.8, 200, 300))
    >>> schedule(150), schedule(300)
    (0.5, 0.8)
    """
    if not parts or not all(isinstance(part, Schedule) for part in parts):
        odd = next((part for part in parts if not isinstance(part, Schedule)), None)
        raise RecipeError(
            f"join: {shown(odd) if parts else 'nothing'} is no schedule. Give it some, such as "
            "join(linear(0.0, 0.5, 0, 100), constant(0.8, 200))."
        )
    for i, (part, following) in enumerate(itertools.pairwise(parts), 1):
        if following.begin <= part.begin or following.begin < part.end:
            raise RecipeError(
                f"join: part {i + 1} begins at step {following.begin}, before part {i} ends at step {part.end}. "
                "Begin it later."
            )

    def fraction(xp: Any, step: Any) -> Any:
        found = parts[0].fraction(xp, step)
        for part in parts[1:]:
            found = xp.where(step < part.begin, found, part.fraction(xp, step))
        return found

    milestones = tuple(sorted({step for part in parts for step in part.milestones}))
    return Schedule(fraction, milestones, {"schedule": "join", "parts": [dict(part.settings) for part in parts]})


def _ends(initial: float, final: float, begin: int, end: int) -> dict[str, Any]:
    return {"initial": initial, "final": final, "begin": begin, "end": end}


def _ramp(settings: dict[str, Any], shape: Callable[[Any, Any], Any]) -> Schedule:
    """Returns final + (initial − final)·shape(rest), where rest falls from 1 to 0; both ends are met exactly."""
    name = settings["schedule"]
    initial, final = (check_sparsity(settings[key], name) for key in ("initial", "final"))
    begin, end = _span(name, settings["begin"], settings["end"])
    if begin == end:
        raise RecipeError(f"{name}: it begins and ends at step {begin}. Let it end later, or use `constant`.")

    def fraction(xp: Any, step: Any) -> Any:
        rest = xp.clip((end - step) / (end - begin), 0.0, 1.0)
        return xp.where(step >= end, final, final + (initial - final) * shape(xp, rest))

    return Schedule(fraction, (begin, end), settings | {"initial": initial, "final": final})


def _span(name: str, begin: int, end: int) -> tuple[int, int]:
    for what, step in (("begin", begin), ("end", end)):
        if not isinstance(step, (int, np.integer)) or isinstance(step, bool) or not 0 <= step <= LAST_STEP:
            raise RecipeError(
                f"{name}: `{what}` must be a step, a whole number from 0 on (to {LAST_STEP}), not {shown(step)}."
            )
    if end < begin:
        raise RecipeError(f"{name}: it ends at step {end}, before it begins at step {begin}. Exchange them.")
    return int(begin), int(end)
