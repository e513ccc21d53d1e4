"""Weights chosen layer by layer, from what the integer model feeds each layer: scales, rounding, biases.

Weights end up on the grid of the plan's scales in the float graph (``w = scale * q``), from which the rewriter makes
the same integers again; nothing here writes integers. Each step starts from the weights of the float model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from featherweight.graph import Model
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators import lookup
from featherweight.pruning.criteria import as_rows, from_rows
from featherweight.pruning.prunable import GraphKernel
from featherweight.ptq.fitness import refused
from featherweight.ptq.plan import Plan
from featherweight.repair.weights.alike import alternating
from featherweight.repair.weights.gptq import Grid, gptq, of_rows, row_parts, settled, with_fitted_scales
from featherweight.repair.weights.grids import grid_of, params_of, planned_params, scales_of
from featherweight.repair.weights.halves import Halves, shrunk
from featherweight.repair.weights.moments import InputMoments, groups_of, input_moments, too_few, total_error
from featherweight.repair.weights.places import Place, find_places, with_own_biases, written
from featherweight.repair.weights.prefix import Prefix, most_runs
from featherweight.repair.weights.scales import best_scales, with_spread
from featherweight.targets.target import Target
from featherweight.tflite import outside, release_pages


@dataclass(frozen=True)
class Choices:
    """What is chosen of each layer.

    Attributes:
        scales: scales of weights by the error of the output.
        gptq: integers that make up for each other's error, instead of the nearest ones.
        bias: biases that keep the mean of each output channel.
        spread: scales that keep the deviation of each output channel, after rounding; per channel only.
        regress: weights that make up for errors of what the layer is fed.
    """

    scales: bool = False
    gptq: bool = False
    bias: bool = False
    spread: bool = False
    regress: bool = False


@dataclass(frozen=True)
class LayerRepair:
    """What became of one weight.

    Attributes:
        operator: the operator's name; empty where nothing was chosen.
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
    """One weight on its way, (groups, rows, depth).

    Attributes:
        weights: of the float model.
        wanted: what rounding starts from.
        moments: of its inputs; about their means, where a bias takes these.
        squares: Σx̂ x̂ᵀ without what is chance.
        power: of the layer's output, by the float weights.
    """

    weights: np.ndarray
    wanted: np.ndarray
    moments: InputMoments
    squares: np.ndarray
    power: float
    grid: Grid
    bits: int
    is_shared: bool


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
    places, reasons = find_places(model, plan)
    if choices.bias:
        model = with_own_biases(model, places)
        places, reasons = find_places(model, plan)
    rows = [LayerRepair("", name, reason=reason) for name, reason in reasons.items()]
    prefix = Prefix(model, plan, alternating(model, samples)[: most_runs(model, samples)])
    is_both = choices.spread or choices.regress
    by_node: dict[str, list[tuple[Place, GraphKernel]]] = {}
    for place in places:
        for kernel in place.kernels:
            by_node.setdefault(kernel.node.name, []).append((place, kernel))
    moments: dict[str, Halves] = {}
    values: dict[str, np.ndarray] = {}
    for position, node in enumerate(model.main.nodes):
        for place, kernel in by_node.get(node.name, ()):
            prefix.advance(position)
            seen = [moments.pop(kernel.name)] if kernel.name in moments else []
            seen.append(Halves(*input_moments(prefix, kernel, both=is_both)))
            moments[kernel.name] = reduce(Halves.plus, seen)
            seen.clear()  # of large layers, moments are most of the memory
            if kernel is not place.kernel:
                continue  # other operators read it, too
            row, constants, plan = _chosen(place, moments.pop(kernel.name), model, plan, choices, target)
            rows.append(row)
            values |= {name: outside(array) for name, array in constants.items()}
            release_pages(model.main.tensors[kernel.name].data)
            prefix.model, prefix.plan = written(model, values), plan
    return Rounded(written(model, values), plan, tuple(rows))


def _chosen(
    place: Place, moments: Halves, model: Model, plan: Plan, choices: Choices, target: Target
) -> tuple[LayerRepair, dict[str, np.ndarray], Plan]:
    """Returns what became of a weight, the new constants, and the plan with its scales."""
    kernel, tensors = place.kernel, model.main.tensors
    name, where = kernel.name, (kernel.node.name, kernel.name)
    if not moments.count:
        return LayerRepair(*where, reason="no sample reaches it"), {}, plan
    if not (moments.one.is_finite and moments.another.is_finite):
        return LayerRepair(*where, reason="what it is fed holds infinite values"), {}, plan
    params = planned_params(plan, kernel.node, place.position)
    array = np.asarray(tensors[name].array, np.float32)
    weights = groups_of(as_rows(array, kernel.kernel.layout).astype(np.float64), kernel.groups)
    grid = grid_of(params, weights, is_narrow=lookup(kernel.node.op).weight is not None)
    has_bias = bool(place.bias) and choices.bias
    count, means = moments.count, moments.means
    if has_bias:
        moments = moments.centred()
    wanted = moments.regressed(weights) if choices.regress else weights
    both, squares, power = _pooled(moments, weights)
    del moments
    layer = _Layer(weights, wanted, both, squares, power, grid, INTEGER_BITS[params.dtype], params.axis is None)
    after, chosen = _rounded(layer, choices, target)
    changed = params_of(plan, kernel.node, place.position, scales_of(chosen, params))
    errors = [_error(layer, None), _error(layer, after)]
    is_integer = not plan.forms.get(kernel.node.name, "float32").startswith("float32")
    is_new = is_integer and chosen is not grid
    is_refused = is_new and refused(kernel.node, model.main, changed.params, changed.edges, target)
    if errors[1] > errors[0] or is_refused:
        after, errors[1], changed = grid.values(grid.integers(weights)), errors[0], plan
    before_db, after_db = (10 * math.log10(power / error) if power > 0 and error > 0 else 0.0 for error in errors)
    found = {name: from_rows(after.reshape(-1, after.shape[-1]).astype(np.float32), kernel.kernel.layout)}
    if has_bias:
        bias = np.asarray(tensors[place.bias].array, np.float64)
        found[place.bias] = (bias + _mean_error(weights, after, means).reshape(bias.shape)).astype(np.float32)
    return LayerRepair(*where, before_db, after_db, note=too_few(count, kernel.depth)), found, changed


def _pooled(halves: Halves, weights: np.ndarray) -> tuple[InputMoments, np.ndarray, float]:
    """Returns the moments of all samples, their second moments without chance, and the power of the layer's output.

    Where moments of the float inputs are not known, nothing else reads those with chance, and they are overwritten.
    """
    shrinkage, both = halves.shrinkage, halves.both
    is_alone = both.squares is None
    power = float(total_error(weights, both.rounded_squares if both.squares is None else both.squares).sum())
    return both, shrunk(both.rounded_squares, shrinkage, both.rounded_squares if is_alone else None), power


def _rounded(layer: _Layer, choices: Choices, target: Target) -> tuple[np.ndarray, Grid]:
    """Returns the chosen weights on their grid, and that."""
    grid, moments, wanted = layer.grid, layer.squares, layer.wanted
    if choices.scales:
        is_power_of_two = target.is_power_of_two
        grid = best_scales(
            wanted, moments, grid, bits=layer.bits, is_shared=layer.is_shared, is_power_of_two=is_power_of_two
        )
    integers = gptq(wanted, moments, grid) if choices.gptq else None
    if integers is None:
        integers = grid.integers(wanted)
    else:
        integers = settled(wanted, moments, grid, integers)
        if choices.scales and not (layer.is_shared or target.is_power_of_two):
            grid = with_fitted_scales(wanted, moments, grid, integers)
            integers = settled(wanted, moments, grid, integers)
    if choices.spread and not layer.is_shared:
        grid = with_spread(layer.weights, integers, layer.moments, grid)
    return grid.values(integers), grid


def _error(layer: _Layer, after: np.ndarray | None) -> float:
    """Returns the power of the error of the layer's output with some weights; None: the nearest of the grid.

    It is that of the weights alone, or, where the moments of the float inputs are known, of the inputs, too.
    """
    both, error = layer.moments, 0.0 if layer.moments.mixed is None else layer.power
    for part in row_parts(layer.weights):
        weights, grid = layer.weights[:, part], of_rows(layer.grid, part)
        values = grid.values(grid.integers(weights)) if after is None else after[:, part]
        if both.mixed is None:
            error += float(total_error(weights - values, layer.squares).sum())
        else:
            error -= 2 * float(((weights @ both.mixed) * values).sum())
            error += float(total_error(values, both.rounded_squares).sum())
    return error


def _mean_error(weights: np.ndarray, after: np.ndarray, means: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns ``E[W x − V x̂]`` of each row."""
    x, rounded = means
    return (weights @ x[:, :, None] - after @ rounded[:, :, None])[:, :, 0]
