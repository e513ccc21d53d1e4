"""What happens to masks in a training step: when they are due, how many units go, which ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import listed
from featherweight.pruning.allocation import Share
from featherweight.sparsity.weight_layouts import unview, view
from featherweight.training.devices import values_of
from featherweight.training.graph.registry import ops
from featherweight.training.pruning.bisection import keep_highest
from featherweight.training.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Masking:
    """The pruned kernels of a model with their masks.

    Attributes:
        is_fixed: whether the masks stay as they are.
        is_pooled: whether the lowest scores of all kernels together go.
        trained: the variables that are trained, in the order of gradients.
        kernels, masks, movements: variables, one for each share; no movements unless they are the criterion.
    """

    shares: tuple[Share, ...]
    schedule: Schedule
    frequency: int
    regrowth: float | None
    is_pooled: bool
    trained: tuple[Any, ...]
    kernels: tuple[Any, ...]
    masks: tuple[Any, ...]
    movements: tuple[Any, ...]
    is_fixed: bool = False

    def sparsities(self) -> dict[str, float]:
        """Returns path → fraction of zeros of each kernel."""
        rows = zip(self.shares, values_of(self.kernels), strict=True)
        return {share.kernel.path: 1 - float(np.count_nonzero(v)) / v.size for share, (_, v) in rows}

    def warn_of_emptied(self) -> None:
        """Warns of kernels that pruning has left nothing of."""
        rows = zip(self.shares, values_of(self.masks), strict=True)
        if emptied := [share.kernel.path for share, (_, mask) in rows if not mask.any()]:
            warnings.warn(
                f"SparseOptimizer: pruning has left no weight in {listed(emptied)}; the output of such a layer does "
                "not depend on its input. Exclude it, ask for less, or use another allocation.",
                stacklevel=3,
            )

    def mask_values(self) -> list[Any]:
        """Returns the masks as tensors."""
        return [ops.convert_to_tensor(mask) for mask in self.masks]

    def masked(self, values: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Returns each kernel with its value where its mask is True, 0 elsewhere."""
        return [
            (kernel, ops.where(value, ops.convert_to_tensor(kernel), ops.zeros((), kernel.dtype)))
            for kernel, value in zip(self.kernels, values, strict=True)
        ]

    def gradients(self, variables: Sequence[Any], grads: Sequence[Any], scale: Any) -> list[Any]:
        """Returns the gradient of each kernel as float32, divided by a loss scale; 0 for one that has none."""
        by_variable = {id(variable): gradient for variable, gradient in zip(variables, grads, strict=True)}
        found: list[Any] = []
        for kernel in self.kernels:
            gradient = by_variable.get(id(kernel))
            gradient = ops.zeros(kernel.shape) if gradient is None else ops.convert_to_tensor(gradient)
            gradient = ops.cast(gradient, "float32") / (1.0 if scale is None else scale)
            found.append(ops.where(ops.isfinite(gradient), gradient, 0.0))
        return found

    def moved(self, gradients: Sequence[Any] | None) -> list[tuple[Any, Any]]:
        """Returns each movement with −Σ w·gradient, this step included (Sanh et al. 2020, equation 4)."""
        if gradients is None or not self.movements:
            return []
        rows = zip(self.movements, self.kernels, gradients, strict=True)
        return [(movement, movement - ops.cast(kernel, "float32") * gradient) for movement, kernel, gradient in rows]

    def updated(self, step: Any, has_advanced: Any, gradients: Sequence[Any] | None) -> list[Any]:
        """Returns the masks for a step: new ones if they are due, else those that there are."""
        if self.is_fixed:
            return self.mask_values()
        is_due = ops.logical_and(has_advanced, self._is_due(step))
        return list(ops.cond(is_due, lambda: self._chosen(step, gradients), self.mask_values))

    def _is_due(self, step: Any) -> Any:
        """At the milestones, and every `frequency` steps between the first and the last; the first step is step 1."""
        schedule = self.schedule
        is_regular = ops.equal((step - schedule.begin) % self.frequency, 0)
        is_due = ops.logical_and(is_regular, ops.logical_and(step >= schedule.begin, step <= schedule.end))
        for milestone in schedule.milestones:
            is_due = ops.logical_or(is_due, ops.equal(step, max(milestone, 1)))
        return is_due

    def _chosen(self, step: Any, gradients: Sequence[Any] | None) -> list[Any]:
        counts = self._counts(step)
        if self.regrowth is None or gradients is None:
            units = keep_highest(self._scores(), counts, self.is_pooled)
        else:
            units = self._regrown(step, counts, gradients)
        rows = zip(self.shares, units, strict=True)
        return [
            unview(ops, share.pattern.spread(ops, kept, share.kernel.layout), share.kernel.layout)
            for share, kept in rows
        ]

    def _counts(self, step: Any) -> Any:
        """Returns how many units go; from the end of the schedule on, exactly as many as was asked for."""
        final = self.schedule.final
        parts = np.array([share.units * (share.fraction / final if final else 0.0) for share in self.shares])
        limits = np.array([math.floor(share.pattern.ceiling * share.units) for share in self.shares])
        zeros = np.array([share.zeros for share in self.shares])
        if self.is_pooled:
            parts, limits = parts.sum(keepdims=True), limits.sum(keepdims=True)
            zeros = np.array([round(final * sum(share.units for share in self.shares))])
        sparsity = ops.cast(self.schedule(step), "float32")
        gradual = ops.cast(ops.round(sparsity * ops.convert_to_tensor(parts, "float32")), "int32")
        gradual = ops.minimum(gradual, ops.convert_to_tensor(limits, "int32"))
        return ops.where(step >= self.schedule.end, ops.convert_to_tensor(zeros, "int32"), gradual)

    def _scores(self) -> list[Any]:
        if self.movements:
            return self._reduced([ops.convert_to_tensor(movement) for movement in self.movements])
        return self._reduced([ops.abs(ops.cast(kernel, "float32")) for kernel in self.kernels])

    def _reduced(self, values: Sequence[Any]) -> list[Any]:
        """Returns the units' scores for elements' scores."""
        rows = zip(self.shares, values, strict=True)
        return [
            share.pattern.reduce(ops, view(ops, value, share.kernel.layout), share.kernel.layout)
            for share, value in rows
        ]

    def _regrown(self, step: Any, counts: Any, gradients: Sequence[Any]) -> list[Any]:
        """Drops more than `counts` of what is kept, and grows as many with the largest gradients (RigL, section 3)."""
        schedule = self.schedule
        done = (ops.cast(step, "float32") - schedule.begin) / (schedule.end - schedule.begin)
        fraction = (self.regrowth or 0.0) / 2 * (1.0 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))
        units = ops.convert_to_tensor([share.units for share in self.shares], "int32")
        exchanged = ops.cast(fraction * ops.cast(units - counts, "float32"), "int32")
        active = self._reduced([ops.cast(mask, "float32") for mask in self.masks])
        scores = [ops.where(kept > 0, score, -1.0) for kept, score in zip(active, self._scores(), strict=True)]
        remaining = keep_highest(scores, counts + exchanged)
        growth = self._reduced([ops.abs(gradient) for gradient in gradients])
        scores = [ops.where(kept, math.inf, score) for kept, score in zip(remaining, growth, strict=True)]
        return keep_highest(scores, counts)
