"""Pruning without training: a float model goes in, and comes out with exact zeros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, count, flag, shapes, stream, text
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.graph.editor import with_constants
from featherweight.pruning.allocation import ALLOCATIONS, Share, allocate
from featherweight.pruning.choosing import ROLES, check_choice, choose
from featherweight.pruning.criteria import by_magnitude, by_sparsegpt, by_wanda
from featherweight.pruning.moments import is_observable, second_moments
from featherweight.pruning.prunable import GraphKernel, check_float, find_kernels
from featherweight.runtime.progress import track
from featherweight.runtime.samples import feeds
from featherweight.sparsity.patterns import Pattern, check_sparsity, keep_highest
from featherweight.sparsity.weight_layouts import view
from featherweight.targets.target import Target
from featherweight.tasks.load import load, peeked

METHODS = ("magnitude", "wanda", "sparsegpt")
_SAMPLES = 128


@dataclass(frozen=True)
class PrunedKernel:
    """What became of one kernel.

    Attributes:
        name: the constant's.
        op: the operator that multiplies by it.
        elements, zeros: how many weights it has, and how many of them are 0.
        pattern: that its zeros follow; empty where it stays dense.
        method: by which they were chosen; empty where it stays dense.
        reason: why it stays dense, or was pruned by another method than asked for.
    """

    name: str
    op: str
    elements: int
    zeros: int
    pattern: str = ""
    method: str = ""
    reason: str = ""

    @property
    def sparsity(self) -> float:
        """The fraction of its weights that are 0."""
        return self.zeros / max(self.elements, 1)


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned float model, and what became of each kernel."""

    model: Model
    kernels: tuple[PrunedKernel, ...]

    def __repr__(self) -> str:
        pruned = [kernel for kernel in self.kernels if kernel.pattern]
        patterns = listed(dict.fromkeys(kernel.pattern for kernel in pruned)) or "none"
        return (
            f"Pruned model: {100 * self.sparsity:.1f} % of the weights of {len(self.kernels)} kernels are zero\n"
            f"  pruned      {len(pruned)} kernels, patterns: {patterns}\n"
            f"  kept dense  {len(self.kernels) - len(pruned)} kernels\n{self.model!r}"
        )

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the weights of all kernels, those left dense too."""
        return sum(k.zeros for k in self.kernels) / max(sum(k.elements for k in self.kernels), 1)

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


@checked(
    {"samples": "limit", "dense": "keep"},
    pattern=text,
    method=text,
    calibration=stream,
    allocation=text,
    limit=count(way="Data go to calibration=."),
    input_shapes=shapes,
    progress=flag,
)
def prune(
    source: Any,
    sparsity: float,
    *,
    pattern: str = "unstructured",
    method: str = "magnitude",
    calibration: Iterable[Any] | None = None,
    allocation: str = "uniform",
    exclude: str | Sequence[str] = (),
    rules: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: Sequence[str] = ROLES,
    target: str | Path | Target | None = None,
    limit: int | None = None,
    input_shapes: Any = None,
    progress: bool = True,
) -> Pruned:
    """Prunes a float model without training; each kernel ends with exactly round(sparsity × units) zero units.

    Layers are pruned one after the other; what a method measures is fed by the pruned layers before.

    Args:
        source: what `load` takes.
        sparsity: the fraction of weights (blocks, channels) to set to zero, in [0, 1).
        pattern: ``unstructured``, blocks as ``1x4`` (outputs × consecutive inputs), ``2:4``, ``channel`` (outputs, left
            in the model as zeros), or ``auto`` for what `target` names.
        method: ``magnitude``; ``wanda``: magnitude × norm of the input (Sun et al., 2306.11695); ``sparsegpt``, which
            updates the weights that stay (Frantar & Alistarh, 2301.00774). The last two need `calibration`.
        calibration: samples from the training split, any iterable.
        allocation: ``uniform``, ``erk`` (Evci et al., 1911.11134) or ``global`` (the smallest of all kernels together).
        exclude: shell patterns of kernels that stay dense, matching their name or a part of it.
        rules: shell pattern → sparsity of its own, 0 for dense; the first that matches decides.
        keep: what stays dense unless a rule names it: the ``first`` convolution, the ``last`` kernel, ``depthwise``.
        target: a target's name or file, for ``auto``.
        limit: use at most so many samples (128).
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an option that is not understood, missing samples, or nothing to prune.
        DataError: if a pattern does not divide a kernel, or weights or samples can't be used.
        FormatError: if the model is quantized.
    """
    first, calibration = peeked(calibration)
    model = load(source, samples=first, input_shapes=input_shapes)
    check_float(model, "prune")
    _check(method, allocation, calibration is not None)
    choice = check_choice(pattern, target, exclude, rules, keep)
    found = {kernel.name: kernel for kernel in find_kernels(model)}
    chosen = choose([kernel.kernel for kernel in found.values()], choice)
    shares = allocate(chosen.kernels, chosen.ruled, check_sparsity(sparsity, "prune"), allocation)
    zeros = _global_zeros(model, found, shares) if allocation == "global" else {s.kernel.path: s.zeros for s in shares}
    given = [] if calibration is None else [feed.arrays for feed in feeds(calibration, model, limit=limit or _SAMPLES)]
    values: dict[str, np.ndarray] = {}
    rows = [
        PrunedKernel(name, found[name].node.op, *_counts(_array(model, found[name])), reason=reason)
        for name, reason in chosen.reasons.items()
    ]
    for share in track(shares, "Pruning", total=len(shares), enabled=progress):
        kernel = found[share.kernel.path]
        used, reason = _method_for(kernel, method, share.pattern)
        prefix = with_constants(model, values)
        value = _pruned(prefix, kernel, share.pattern, zeros[kernel.name], used, given)
        values[kernel.name] = value
        rows.append(PrunedKernel(kernel.name, kernel.node.op, *_counts(value), share.pattern.name, used, reason))
    order = {name: index for index, name in enumerate(found)}
    return Pruned(with_constants(model, values), tuple(sorted(rows, key=lambda row: order[row.name])))


def _check(method: str, allocation: str, has_samples: bool) -> None:
    for what, value, allowed in (("method", method, METHODS), ("allocation", allocation, ALLOCATIONS)):
        if value not in allowed:
            raise RecipeError(f"prune: {what} '{value}' is unknown (allowed: {listed(allowed)}).")
    if method != "magnitude" and not has_samples:
        raise RecipeError(
            f"prune: method '{method}' looks at what layers are fed: pass calibration samples from the training split, "
            "or use 'magnitude', which needs none."
        )


def _method_for(kernel: GraphKernel, method: str, pattern: Pattern) -> tuple[str, str]:
    """Returns the method that prunes a kernel, and why it is not the one that was asked for."""
    if method != "magnitude" and not is_observable(kernel):
        return "magnitude", "its inputs can't be observed in a loop or branch (load the model with unroll=True)"
    if method == "sparsegpt" and pattern.name == "channel":
        return "wanda", "whole channels leave nothing to update"
    return method, ""


def _pruned(
    model: Model, kernel: GraphKernel, pattern: Pattern, zeros: int, method: str, samples: Sequence[Any]
) -> np.ndarray:
    """Returns what becomes of a kernel in a model whose kernels before it are pruned already."""
    weight, layout = _array(model, kernel), kernel.kernel.layout
    if method == "magnitude":
        return by_magnitude(weight, pattern, layout, zeros)
    if method == "wanda":
        norms = np.sqrt(second_moments(model, kernel, samples, diagonal=True))
        return by_wanda(weight, norms, pattern, layout, zeros)
    return by_sparsegpt(weight, second_moments(model, kernel, samples), pattern, layout, zeros)


def _global_zeros(model: Model, kernels: Mapping[str, GraphKernel], shares: Sequence[Share]) -> dict[str, int]:
    """Returns how many units of each kernel go if those of the smallest magnitude go, over all kernels."""
    scores = [
        share.pattern.reduce(np, view(np, np.abs(_array(model, kernels[share.kernel.path])), share.kernel.layout),
                             share.kernel.layout).ravel()
        for share in shares
    ]  # fmt: skip
    kept = keep_highest(np.concatenate(scores), sum(share.zeros for share in shares))
    ends = np.cumsum([part.size for part in scores])
    parts = np.split(kept, ends[:-1])
    return {share.kernel.path: int((~part).sum()) for share, part in zip(shares, parts, strict=True)}


def _array(model: Model, kernel: GraphKernel) -> np.ndarray:
    array = model.graphs[kernel.graph].tensors[kernel.name].array
    assert array is not None
    return array


def _counts(array: np.ndarray) -> tuple[int, int]:
    return array.size, int((array == 0).sum())
