"""Verifies a lowered graph against its source: the same inputs through both, every output compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import LoweringError
from featherweight.graph import Model
from featherweight.lower.source import Input
from featherweight.runtime.litert import Session

# Differences allowed, as fractions of an output's range and of its largest magnitude. Lowered models seen so far
# differ by less than 1e-6 of their output (another order of summation); the smallest real defect seen, the approximate
# GELU in place of the exact one, by 5e-4 where the output's range is 1 to 10.
_OF_RANGE = 2e-5
_OF_MAGNITUDE = 1e-5
_SMALLEST = 1e-7
# A sum of n terms, one after the other as LiteRT adds them, rounds n times: its error grows with √n, in units of 2⁻²⁴
# (Higham, Accuracy and Stability of Numerical Algorithms, section 4.5).
_OF_SUM = 4 * 2.0**-24
# How much farther from what float64 gives a lowered model may be than its source, which rounds in another order.
_TIMES_SOURCE = 4.0
# Beside float64, where only one of two results is rounded: InceptionV3's folded batch norms leave 1.3 times.
_TIMES_TOLERATED = 2.0


Run = Callable[[Sequence[np.ndarray], int], list[np.ndarray]]
"""What runs a source: (arrays in order, batch) → outputs in order."""


@dataclass(frozen=True)
class Difference:
    """How far one output is from its source: the largest difference, and what is tolerated."""

    output: str
    largest: float
    tolerance: float
    note: str = ""

    @property
    def is_tolerable(self) -> bool:
        """Whether shape and dtype agree, and the largest difference is within the tolerance."""
        return not self.note and self.largest <= self.tolerance


def tolerance(expected: np.ndarray, terms: int = 1) -> float:
    """The largest difference that float32 arithmetic in another order may leave, for values like these.

    `terms` is the length of the model's longest sum.
    """
    if expected.dtype.kind not in "fV" or not expected.size:
        return 0.0
    finite = expected[np.isfinite(expected)].astype(np.float64)
    if not finite.size:
        return 0.0
    of_magnitude = max(_OF_MAGNITUDE, _OF_SUM * math.sqrt(terms))
    return float(max(_OF_RANGE * np.ptp(finite), of_magnitude * np.abs(finite).max(), _SMALLEST))


def longest_sum(model: Model) -> int:
    """The largest number of values that an operator of the model averages or sums along axes."""
    found = [1]
    for graph in model.graphs:
        for node in graph.nodes:
            if node.op in {"MEAN", "SUM"}:
                before, after = (graph.tensors[name].elements for name in (node.inputs[0], node.outputs[0]))
                found.append(before // max(1, after))
    return max(found)


def differences(
    names: Sequence[str], expected: Sequence[np.ndarray], got: Sequence[np.ndarray], terms: int = 1
) -> list[Difference]:
    """Compares outputs pairwise; NaN equals NaN and an infinity itself."""
    return [_difference(name, e, g, terms) for name, e, g in zip(names, expected, got, strict=True)]


def judged(
    found: Sequence[Difference],
    expected: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    exact: Sequence[np.ndarray],
    again: Sequence[np.ndarray],
) -> list[Difference]:
    """Compares what differs too much with what float64 gives, by the measure of the source's own errors.

    These are its distance from float64, and from what it gives `again` for inputs that differ in their last bits, where
    every sum behind is rounded anew.
    """
    return [
        d if d.is_tolerable or d.note or e.shape != t.shape else Difference(d.output, _apart(t, g), _own(t, e, a))
        for d, e, g, t, a in zip(found, expected, got, exact, again, strict=True)
    ]


def _own(exact: np.ndarray, expected: np.ndarray, again: np.ndarray) -> float:
    own = max(_apart(exact, expected), _apart(again, expected))
    return max(_TIMES_SOURCE * own, _TIMES_TOLERATED * tolerance(expected))


def jittered(array: np.ndarray) -> np.ndarray:
    """Returns floats that differ from the given ones by a unit in the last place, up or down; others as they are."""
    if array.dtype != np.float32:
        return array
    up = np.random.default_rng(0).integers(0, 2, array.shape).astype(bool)
    return np.nextafter(array, np.where(up, np.float32(np.inf), np.float32(-np.inf)))


def _difference(name: str, expected: np.ndarray, got: np.ndarray, terms: int) -> Difference:
    if expected.shape != got.shape:
        return Difference(name, np.inf, 0.0, f"shape {list(got.shape)} where the source gives {list(expected.shape)}")
    if expected.dtype.kind in "iub" or got.dtype.kind in "iub":
        if expected.dtype.kind != got.dtype.kind:
            return Difference(name, np.inf, 0.0, f"dtype {got.dtype} where the source gives {expected.dtype}")
        unequal = expected.astype(np.int64) - got.astype(np.int64)
        return Difference(name, float(np.abs(unequal).max(initial=0)), 0.0)
    return Difference(name, _apart(expected, got), tolerance(expected, terms))


def _apart(expected: np.ndarray, got: np.ndarray) -> float:
    exact, near = expected.astype(np.float64), got.astype(np.float64)
    same = (exact == near) | (np.isnan(exact) & np.isnan(near))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(exact - near))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def require_equal(found: Sequence[Difference], where: str, way_out: str) -> None:
    """Raises for the first output that is not equal.

    Raises:
        LoweringError: naming the output, the largest difference, the tolerance and the way out.
    """
    for difference in found:
        if difference.is_tolerable:
            continue
        what = difference.note or (
            f"differs from its source by up to {difference.largest:.3g} (tolerated: {difference.tolerance:.3g})"
        )
        raise LoweringError(f"Output '{difference.output}' of the lowered {where}: {what}. {way_out}")


def random_inputs(
    inputs: Sequence[Input], batch: int, limits: Mapping[str, int], *, seed: int = 0, positive: bool = False
) -> list[np.ndarray]:
    """Draws one array per input: normal floats (uniform in [0, 1) if `positive`), integers below their limit."""
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for item in inputs:
        shape = item.at(batch)
        if item.dtype == "bool":
            drawn.append(rng.integers(0, 2, shape).astype(bool))
        elif np.issubdtype(_numpy_dtype(item.dtype), np.integer):
            top = min(limits.get(item.name, 100), np.iinfo(item.dtype).max)
            drawn.append(rng.integers(0, top, shape).astype(item.dtype))
        else:
            values = rng.random(shape) if positive else rng.normal(size=shape)
            drawn.append(values.astype(_numpy_dtype(item.dtype)))
    return drawn


def _numpy_dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def outputs_of(session: Session, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs a loaded model on arrays in the order of its inputs; returns its outputs in order."""
    session.invoke(dict(zip(session.inputs, inputs, strict=True)))
    return [session.read(tensor.name) for tensor in session.outputs.values()]
