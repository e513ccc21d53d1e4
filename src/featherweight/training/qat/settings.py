"""What a user can choose about training in integers, as frozen values that are saved with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.errors import RecipeError, listed
from featherweight.training.schedules import Schedule, restore

METHODS = ("fixed", "learned", "moving_average", "minmax")
_REMEDIES = ("freeze", "dampen")


@dataclass(frozen=True)
class RangeTraining:
    """How the ranges of activations move while a model is trained; all start as calibrated.

    Attributes:
        method: ``fixed``: not at all; ``learned``: by gradient, weight scales too (LSQ: Esser et al., 1902.08153; on
            targets of powers of two, TQT: Jain et al., 1903.08066); ``moving_average``: with the extremes of each
            batch; ``minmax``: as ``moving_average``, but they only grow.
        momentum: of the moving average: what stays of the range in a step.
        freeze_after: steps after which ranges no longer move; None: never. TQT freezes after about 1,000.
        narrowing: schedule of the fraction that is cut off all ranges, such as ``linear(0.0, 0.2, 0, 1000)``; not for
            learned ranges, which find their own width.
        delay: steps that are computed in float before integers begin.

    Raises:
        RecipeError: for a value that is not allowed.
    """

    method: str = "fixed"
    momentum: float = 0.99
    freeze_after: int | None = None
    narrowing: Schedule | None = None
    delay: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RecipeError(f"ranges '{self.method}' of training are unknown (allowed: {listed(METHODS)}).")
        _check_number("momentum", self.momentum, 0, 1)
        for name, steps in (("freeze_after", self.freeze_after), ("delay", self.delay)):
            if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
                raise RecipeError(f"RangeTraining: {name} is a number of steps, 0 or more, not {steps!r}.")
        if self.freeze_after is not None and self.method == "fixed":
            raise RecipeError("RangeTraining: freeze_after has no effect on fixed ranges. Choose another method.")
        if self.narrowing is not None and (self.method == "learned" or not isinstance(self.narrowing, Schedule)):
            raise RecipeError(
                "RangeTraining: narrowing is a schedule such as fw.linear(0.0, 0.2, 0, 1000), for ranges that are not "
                f"learned; not {self.narrowing!r} for method '{self.method}'."
            )

    @property
    def is_learned(self) -> bool:
        """True where scales are trained by gradient."""
        return self.method == "learned"

    @property
    def observes(self) -> bool:
        """True where ranges follow what the batches hold."""
        return self.method in ("moving_average", "minmax")

    @property
    def moves_by_rule(self) -> bool:
        """True where activation ranges change, but not by gradient."""
        return self.observes or self.narrowing is not None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        narrowing = None if self.narrowing is None else dict(self.narrowing.settings)
        return {**vars(self), "narrowing": narrowing}

    @classmethod
    def of(cls, value: RangeTraining | str | Mapping[str, Any]) -> RangeTraining:
        """Returns options from the name of a method, or from what `to_json` returned."""
        if isinstance(value, RangeTraining):
            return value
        if isinstance(value, str):
            return cls(value)
        settings = dict(value)
        if settings.get("narrowing") is not None:
            settings["narrowing"] = restore(settings["narrowing"])
        return cls(**settings)


@dataclass(frozen=True)
class Oscillations:
    """What to do about integer weights that jump to and fro between two values (Nagel et al., 2203.11086).

    Attributes:
        remedy: ``freeze`` holds a weight at its average integer once it changes direction too often (section 4.2);
            ``dampen`` draws weights to the centres of their bins by a loss (section 4.1).
        threshold: of the frequency of changes of direction from which on a weight is frozen, at the first step and
            in the end; it falls as a cosine.
        steps: in which the threshold falls.
        momentum: of the averages of that frequency and of the integer: what a step adds.
        strength: of the loss of ``dampen``.

    Raises:
        RecipeError: for a value that is not allowed.
    """

    remedy: str = "freeze"
    threshold: tuple[float, float] = (0.1, 0.01)
    steps: int = 1000
    momentum: float = 0.02
    strength: float = 1e-3

    def __post_init__(self) -> None:
        if self.remedy not in _REMEDIES:
            raise RecipeError(f"oscillations: '{self.remedy}' is unknown (allowed: {listed(_REMEDIES)}).")
        for value in self.threshold:
            _check_number("threshold", value, 0, math.inf)
        _check_number("momentum", self.momentum, 0, 1)
        _check_number("strength", self.strength, 0, math.inf)
        _check_number("steps", self.steps, 0, math.inf)
        object.__setattr__(self, "threshold", tuple(self.threshold))

    @classmethod
    def of(cls, value: Oscillations | str | Mapping[str, Any] | None) -> Oscillations | None:
        """Returns options from a remedy's name, or from the fields of one; None stays None."""
        if value is None or isinstance(value, Oscillations):
            return value
        return cls(value) if isinstance(value, str) else cls(**value)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raises if a value is not between two numbers, without them."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low < value < high:
        between = f"between {low:g} and {high:g}" if high < math.inf else f"above {low:g}"
        raise RecipeError(f"training in integers: {name} is a number {between}, not {value!r}.")
