"""What a diagnosis names: causes of error, with their repairs; and suspects, whose causes are to be tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.diagnosis.exact import Runs

# The repair that is for outputs only.
SPLIT = "split-outputs"
# Causes: name → the repairs that address it, by the names that `improve` takes, and what a user can do besides.
REMEDIES: dict[str, tuple[tuple[str, ...], str]] = {
    "stands-alone": ((), "Quantize the float model anew: reading it fuses the activation into the operator before it"),
    "unlike-ranges": (
        (SPLIT, "wide-places"),
        "Give values of unlike range a tensor, and an output, of their own",
    ),
    "clipped-range": (("ranges",), "Calibrate with samples like these, by ranges that clip less"),
    "dead-range": (("ranges",), "Calibrate with samples like these, or give the range with a plan"),
    "outliers": (("ranges", "smooth", "wide-places"), "Clip them, or keep the tensor in 16 bits"),
    "constant-shift": (("bias-correction",), "Correct the bias by the mean of the error"),
    "output-shift": (("bias-correction",), "Correct the bias of the last layer by the mean of the error"),
    "softmax-input": (("wide-places",), "Keep the scores in 16 bits or float"),
    "normalization-input": (("wide-places",), "Keep the statistics of the normalization in 16 bits or float"),
    "residual-stream": (("wide-places",), "Keep the sums that blocks add to in 16 bits or float, all of them together"),
    "activation-rounding": (("wide-places", "ranges"), "Keep it in 16 bits or float"),
    "int4-depthwise": (("weight-scales", "gptq"), "Keep depthwise kernels in 8 bits with a rule of the recipe"),
    "int4-weights": (("gptq", "weight-scales", "reconstruct"), "Round against the layer's output, or keep 8 bits here"),
    "unlike-channels": (
        ("equalize", "smooth", "wide-places"),
        "Give channels like ranges, or use a target with a scale per channel",
    ),
    "weight-outliers": (("weight-scales",), "Choose weight scales by error"),
    "weight-rounding": (("gptq", "least-squares"), "Round the weights against the layer's output"),
    "spectral-front-end": (
        ("wide-places",),
        "Keep the front end up to the logarithm in float or 16 bits, or compute it before the model",
    ),
    "state-feedback": (("wide-places",), "Keep the state and what computes it in float or 16 bits"),
    "outside-windows": (("ranges", "wide-places"), "Keep scales inside of what the runtime's kernels take"),
    "kernel-arithmetic": (("wide-places",), "Keep the operator float, or in 16 bits"),
    "odd-samples": (("ranges",), "Leave them out if they are mistakes, or let samples choose the ranges"),
    "other-weights": ((), "Quantize this float model anew, or give the one that the file was made from"),
    "unseen-ranges": ((), "Calibrate with more samples, of all kinds that occur"),
    "unlike-data": ((), "Normalize the data as in training, or calibrate with samples like these"),
}


@dataclass(frozen=True)
class Cause:
    """One cause of error, found by measuring.

    Attributes:
        name: which kind it is, one of `REMEDIES`.
        statement: what is so, in one sentence with its numbers.
        layers: the user's names of the layers where it is, the worst first.
        operators: type and name of each operator there.
        tensors: what is rounded there.
        output: the output that loses most by it.
        alone_db: the level of that output if this error alone were there: its own error carried to the output, dB.
        alone_sqnr_db: the same as plain signal to noise over all of the output's values.
        without_db: the level of the model's worst output with these places left exact, measured; None: not measured.
        worst_column: (index, level in dB) of the output's column that loses most by it, where columns count.
        repairs: names of the repairs that address it, as `improve` takes them.
        remedy: what to do, in half a sentence.
    """

    name: str
    statement: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    tensors: tuple[str, ...]
    output: str
    alone_db: float
    alone_sqnr_db: float
    without_db: float | None
    worst_column: tuple[int, float] | None
    repairs: tuple[str, ...]
    remedy: str


@dataclass(frozen=True, eq=False)
class Suspect:
    """A cause that a place may have.

    Attributes:
        cause: its name.
        statement: what is so if it has it.
        without: what the tensors would hold without it; None: the place is exact then.
        aspect: which side of its cause it is, where that has several.
        most: it explains an error if less than this part of it is left without it.
        surpasses: it is named wherever it explains an error, others that explain more notwithstanding.
    """

    cause: str
    statement: str
    without: Mapping[str, Runs] | None = None
    aspect: str = ""
    most: float = 0.5
    surpasses: bool = False


def extremes(runs: Runs) -> tuple[float, float]:
    """Returns the smallest and the largest finite value of all runs."""
    finite = [x[np.isfinite(x)] for x in runs]
    low = min((float(x.min()) for x in finite if x.size), default=0.0)
    return low, max((float(x.max()) for x in finite if x.size), default=0.0)


def columns(runs: Runs) -> np.ndarray:
    """Returns all values as rows of the last axis, float64 (rows, columns)."""
    return np.concatenate([np.nan_to_num(x).reshape(-1, x.shape[-1] if x.ndim else 1) for x in runs]).astype(np.float64)


def on_grid(x: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, levels: int) -> np.ndarray:
    """Returns values rounded to `levels` + 1 steps from low to high, which are widened to hold zero; broadcasts."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    step = np.where(high > low, (high - low) / levels, 1.0)
    shift = np.round(low / step)
    return ((np.clip(np.round(x / step), shift, shift + levels)) * step).astype(np.float32)


def without_mean(found: Mapping[str, Runs], exact: Mapping[str, Runs]) -> dict[str, Runs]:
    """Returns values less the mean of their error, one number for each index of the last axis."""
    changed: dict[str, Runs] = {}
    for name, runs in found.items():
        errors = columns([y - x for x, y in zip(exact[name], runs, strict=True)])
        changed[name] = [y - errors.mean(axis=0).astype(np.float32).reshape(y.shape[-1:]) for y in runs]
    return changed


def number(value: float) -> str:
    """Returns a number in three digits.

    >>> number(0.012345), number(-250.0)
    ('0.0123', '-250')
    """
    return f"{value:.3g}"


def indices(found: Sequence[int] | np.ndarray, limit: int = 8) -> str:
    """Returns indices for a sentence.

    >>> indices([1, 2, 3], 2)
    '1, 2 and 1 more'
    """
    shown = ", ".join(str(int(i)) for i in found[:limit])
    return shown + (f" and {len(found) - limit} more" if len(found) > limit else "")
