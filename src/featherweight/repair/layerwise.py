"""Weights chosen layer by layer, from what the integer model feeds each layer: scales, rounding, biases.

Weights end up on the grid of the plan's scales in the float graph (``w = scale * q``), from which the rewriter makes the
same integers again; nothing here writes integers. Each step starts from the weights of the float model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.graph import Model
from featherweight.operators import lookup
from featherweight.pruning.criteria import as_rows, from_rows
from featherweight.pruning.prunable import GraphKernel
from featherweight.ptq.plan import Plan, edge
from featherweight.repair.gptq import Grid, damped, gptq
from featherweight.repair.grids import grid_of, params_of, planned_params
from featherweight.repair.input_moments import InputMoments, groups_of, input_moments, too_few, total_error
from featherweight.repair.places import Place, find_places, with_own_biases, written
from featherweight.repair.prefix import Prefix, most_runs
from featherweight.repair.weight_scales import best_scales
from featherweight.targets.target import Target

# Factors beyond these come of channels that hardly vary, and say nothing.
_SPREAD = (0.5, 2.0)


@dataclass(frozen=True)
class Choices:
    """What is chosen of each layer.

    Attributes:
        scales: scales of weights by the error of the output.
        gptq: integers that make up for each other's error, instead of the nearest ones.
        bias: biases that keep the mean of each output channel.
        spread: scales that keep the deviation of each output channel, after rounding; per channel only.
        ridge: the part of the mean second moment by which regressing the float layer's outputs on the integer inputs
            is held to the float weights; None for the float weights themselves.
    """

    scales: bool = False
    gptq: bool = False
    bias: bool = False
    spread: bool = False
    ridge: float | None = None


@dataclass(frozen=True)
class LayerRepair:
    """What became of one weight.

    Attributes:
        operator: the operator's name.
        weight: its constant's.
        before_db: signal to error of the layer's output in the integer model, with the nearest integers.
        after_db: with those that were chosen.
        reason: why nothing was chosen; empty where something was.
        note: what else there is to say.
    """

    operator: str
    weight: str
    before_db: float = 0.0
    after_db: float = 0.0
    reason: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Rounded:
    """A float graph with weights on a plan's grid, that plan, and what became of each weight."""

    model: Model
    plan: Plan
    layers: tuple[LayerRepair, ...]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One weight on its way: (groups, rows, depth), its moments, what it is added to."""

    weights: np.ndarray
    moments: InputMoments
    grid: Grid
    bits: int
    is_shared: bool
    has_bias: bool


def round_weights(
    model: Model, plan: Plan, samples: Sequence[Mapping[str, np.ndarray]], choices: Choices, target: Target
) -> Rounded:
    """Returns the model with weights and biases chosen layer by layer, and the plan with the scales that go with them.

    Args:
        model: the float model that the plan is for.
        plan: its plan.
        samples: feeds of it, public input name → array with a batch dimension; as many are used as fit into memory.
        choices: what to choose.
        target: says what scales there are.
    """
    model = with_own_biases(model, plan) if choices.bias else model
    places, reasons = find_places(model, plan)
    rows = [LayerRepair("?", name, reason=reason) for name, reason in reasons.items()]
    prefix = Prefix(model, plan, samples[: most_runs(model, samples)])
    values: dict[str, np.ndarray] = {}
    for position, node in enumerate(model.main.nodes):
        for place in places.get(node.name, ()):
            prefix.advance(position)
            moments = input_moments(prefix, place.kernel, both=choices.spread or choices.ridge is not None)
            row, found, plan = _chosen(place, moments, model, plan, choices, target)
            rows.append(row)
            if found:
                values |= found
                prefix.model, prefix.plan = written(model, values), plan
    return Rounded(written(model, values), plan, tuple(rows))


def _chosen(
    place: Place, moments: InputMoments, model: Model, plan: Plan, choices: Choices, target: Target
) -> tuple[LayerRepair, dict[str, np.ndarray], Plan]:
    """Returns what became of a weight, the new constants, and the plan with its scales."""
    kernel, tensors = place.kernel, model.main.tensors
    name, where = kernel.name, (kernel.node.name, kernel.name)
    if not moments.count:
        return LayerRepair(*where, reason="no sample reaches it"), {}, plan
    if not moments.is_finite:
        return LayerRepair(*where, reason="what it is fed holds infinite values"), {}, plan
    params = planned_params(plan, kernel.node, place.position)
    array = np.asarray(tensors[name].array, np.float32)
    weights = groups_of(as_rows(array, kernel.kernel.layout).astype(np.float64), kernel.groups)
    grid = grid_of(params, weights, is_narrow=lookup(kernel.node.op).weight is not None)
    bits = 4 if params.dtype == "int4" else 8
    is_shared = params.axis is None and params.block_size is None
    layer = _Layer(weights, moments, grid, bits, is_shared, bool(place.bias) and choices.bias)
    before = layer.grid.values(layer.grid.integers(weights))
    after, grid = _rounded(layer, choices, target)
    signal, errors = _errors(layer, (before, after))
    before_db, after_db = (10 * float(np.log10(signal / max(error, 1e-30))) if signal > 0 else 0.0 for error in errors)
    if errors[1] > errors[0]:
        after, grid, after_db = before, layer.grid, before_db
    found = {name: from_rows(after.reshape(-1, after.shape[-1]).astype(np.float32), kernel.kernel.layout)}
    if layer.has_bias:
        bias = np.asarray(tensors[place.bias].array, np.float64)
        found[place.bias] = (bias + _mean_error(layer, after).reshape(bias.shape)).astype(np.float32)
    if grid is not layer.grid:
        plan = params_of(plan, kernel.node, place.position, replace(params, scale=_scales(grid, params.scale)))
    return LayerRepair(*where, before_db, after_db, note=too_few(moments.count, kernel.depth)), found, plan


def _scales(grid: Grid, before: tuple[float, ...]) -> tuple[float, ...]:
    scales = grid.scale.astype(np.float32).ravel()
    return tuple(scales.tolist()) if len(before) > 1 else (float(scales[0]),)


def _rounded(layer: _Layer, choices: Choices, target: Target) -> tuple[np.ndarray, Grid]:
    """Returns the chosen weights on their grid, and that."""
    moments, grid = layer.moments.centred() if layer.has_bias else layer.moments, layer.grid
    wanted = layer.weights
    if choices.ridge is not None:
        wanted = _regressed(layer.weights, moments, choices.ridge)
    is_fixed = grid.scale.shape[-1] > 1
    if choices.scales and not is_fixed:
        factors = best_scales(
            wanted,
            moments.rounded_squares,
            grid,
            bits=layer.bits,
            is_shared=layer.is_shared,
            is_power_of_two=target.is_power_of_two,
        )
        grid = _on_float32(grid.scaled(factors))
    integers = gptq(wanted, moments.rounded_squares, grid) if choices.gptq else None
    integers = grid.integers(wanted) if integers is None else integers
    if choices.spread and not is_fixed and not layer.is_shared:
        grid = _on_float32(grid.scaled(_spread_factors(layer.weights, grid.values(integers), moments)))
    return grid.values(integers), grid


def _on_float32(grid: Grid) -> Grid:
    return grid._replace(scale=grid.scale.astype(np.float32).astype(np.float64))


def _regressed(weights: np.ndarray, moments: InputMoments, ridge: float) -> np.ndarray:
    """Returns V with ``E‖W x − V x̂‖² + ridge · mean(diag H) · ‖V − W‖²`` least: ``W (C + λI)(H + λI)⁻¹``."""
    hessian = damped(moments.rounded_squares, ridge)
    added = hessian - moments.rounded_squares
    try:
        return np.linalg.solve(hessian, ((moments.mixed + added).swapaxes(1, 2) @ weights.swapaxes(1, 2))).swapaxes(1, 2)
    except np.linalg.LinAlgError:
        return weights


def _spread_factors(weights: np.ndarray, after: np.ndarray, moments: InputMoments) -> np.ndarray:
    """Returns the deviation of the float layer's outputs over that of the integer one's, for each row."""
    wanted, found = total_error(weights, moments.squares), total_error(after, moments.rounded_squares)
    factors = np.sqrt(np.divide(wanted, found, out=np.ones_like(wanted), where=(found > 0) & (wanted > 0)))
    return np.clip(factors, *_SPREAD)[:, :, None]


def _errors(layer: _Layer, candidates: Sequence[np.ndarray]) -> tuple[float, list[float]]:
    """Returns the power of the layer's output, and that of its error with each of some weights.

    The error is that of the weights alone, or, where the moments of the float inputs are known, that of the inputs,
    too.
    """
    moments = layer.moments.centred() if layer.has_bias else layer.moments
    weights, integer = layer.weights, moments.rounded_squares
    if moments.squares is None or moments.mixed is None:
        signal = float(total_error(weights, integer).sum())
        return signal, [float(total_error(weights - after, integer).sum()) for after in candidates]
    signal = float(total_error(weights, moments.squares).sum())
    crossed = weights @ moments.mixed
    return signal, [
        signal - 2 * float((crossed * after).sum()) + float(total_error(after, integer).sum()) for after in candidates
    ]


def _mean_error(layer: _Layer, after: np.ndarray) -> np.ndarray:
    """Returns ``E[W x − V x̂]`` of each row."""
    x, rounded = layer.moments.means
    return (layer.weights @ x[:, :, None] - after @ rounded[:, :, None])[:, :, 0]
