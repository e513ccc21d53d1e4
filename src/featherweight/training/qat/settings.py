"""What a user can choose about training in integers, as frozen values that are saved with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.arguments import choice, count, renamed, shown, wrong
from featherweight.errors import RecipeError, listed
from featherweight.training.schedules import LAST_STEP, Schedule, restore

METHODS = ("fixed", "learned", "moving_average", "minmax")
_REMEDIES = ("freeze", "dampen")


@renamed({})
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
        choice(*METHODS)(self.method, "RangeTraining: method")
        _check_number("momentum", self.momentum, 0, 1)
        for name, steps in (("freeze_after", self.freeze_after), ("delay", self.delay)):
            if steps is not None:
                count(0, LAST_STEP)(steps, f"RangeTraining: {name}")
        if self.freeze_after is not None and self.method == "fixed":
            raise RecipeError("RangeTraining: freeze_after has no effect on fixed ranges. Choose another method.")
        if self.narrowing is not None and (self.method == "learned" or not isinstance(self.narrowing, Schedule)):
            raise RecipeError(
                "RangeTraining: narrowing is a schedule such as fw.schedules.linear(0.0, 0.2, 0, 1000), for ranges "
                f"that are not learned; not {shown(self.narrowing)} for method '{self.method}'."
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
        if not isinstance(value, Mapping):
            raise wrong(value, "quantize_aware: train_ranges", f"{listed(METHODS)}, or a RangeTraining")
        settings = {str(name): setting for name, setting in value.items()}
        if settings.get("narrowing") is not None:
            settings["narrowing"] = restore(settings["narrowing"])
        return cls(**settings)


@renamed({})
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
        choice(*_REMEDIES)(self.remedy, "Oscillations: remedy")
        if not isinstance(self.threshold, (list, tuple)) or len(self.threshold) != 2:
            raise wrong(self.threshold, "Oscillations: threshold", "a pair of numbers: at the first step, in the end")
        for value in self.threshold:
            _check_number("threshold", value, 0, math.inf)
        _check_number("momentum", self.momentum, 0, 1)
        _check_number("strength", self.strength, 0, math.inf)
        count(1, LAST_STEP)(self.steps, "Oscillations: steps")
        object.__setattr__(self, "threshold", tuple(self.threshold))

    @classmethod
    def of(cls, value: Oscillations | str | Mapping[str, Any] | None) -> Oscillations | None:
        """Returns options from a remedy's name, or from the fields of one; None stays None."""
        if value is None or isinstance(value, Oscillations):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise wrong(value, "quantize_aware: oscillations", f"{listed(_REMEDIES)}, or an Oscillations")
        return cls(**{str(name): setting for name, setting in value.items()})


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raises if a value is not between two numbers, without them."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low < value < high:
        between = f"between {low:g} and {high:g}" if high < math.inf else f"above {low:g}"
        raise RecipeError(f"training in integers: {name} is a number {between}, not {shown(value)}.")
