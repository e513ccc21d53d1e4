"""A sparsity curve: the task metric of pruned models, pattern by pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.tflite import write_atomically


@dataclass(frozen=True)
class CurvePoint:
    """One pruned model, evaluated.

    Attributes:
        pattern: of its zeros.
        sparsity: that was asked for.
        reached: the fraction of zeros among the weights of all kernels, those left dense too.
        value: the metric.
        delta, delta_error: value minus the dense model's, and the standard error of the paired difference.
        file_bytes, compressed_bytes: of the ``.tflite`` file that was evaluated.
    """

    pattern: str
    sparsity: float
    reached: float
    value: float
    delta: float
    delta_error: float
    file_bytes: int
    compressed_bytes: int


@dataclass(frozen=True)
class Curve:
    """The points of all patterns, the dense model's first.

    Attributes:
        metric: what was measured.
        max_drop: how far a value may fall below the dense model's before the knee.
        method: of pruning without training, or ``retrained``.
    """

    metric: str
    method: str
    max_drop: float
    points: tuple[CurvePoint, ...]

    def __repr__(self) -> str:
        knees = ", ".join(f"{pattern} {self.knee(pattern).sparsity:g}" for pattern in self.patterns)
        return f"Curve of {self.metric} over {len(self.points)} models; knees: {knees or 'none'}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns, in order."""
        return tuple(dict.fromkeys(point.pattern for point in self.points if point.pattern))

    def of(self, pattern: str) -> tuple[CurvePoint, ...]:
        """Returns the dense point and those of a pattern, by sparsity."""
        chosen = [point for point in self.points if point.pattern in ("", pattern)]
        return tuple(sorted(chosen, key=lambda point: point.sparsity))

    def knee(self, pattern: str) -> CurvePoint:
        """Returns the point of the largest sparsity up to which no value falls by more than `max_drop`."""
        best, *others = self.of(pattern)
        for point in others:
            if -point.delta > self.max_drop:
                break
            best = point
        return best

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, with the sparsity of each pattern's knee."""
        return {**asdict(self), "knees": {pattern: self.knee(pattern).sparsity for pattern in self.patterns}}

    def __str__(self) -> str:
        from featherweight.report.curve_rendering import text

        return text(self)

    def save(self, path: str | Path) -> None:
        """Writes the curve in the form of the suffix: ``.txt``, ``.json``, ``.html``, ``.svg`` or ``.png``.

        Raises:
            RecipeError: for another suffix.
            FeatherweightError: if a picture is wanted and Matplotlib is not installed.
        """
        from featherweight.report.curve_rendering import rendered

        write_atomically(Path(path), [rendered(self, Path(path).suffix)])


def from_json(content: Mapping[str, Any]) -> Curve:
    """Returns the curve that `Curve.to_json` wrote."""
    points = tuple(CurvePoint(**point) for point in content["points"])
    return Curve(content["metric"], content["method"], content["max_drop"], points)
