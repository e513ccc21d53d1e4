"""The numbers that integers are scaled by while a graph is trained: variables, and what is computed from them.

A scale of the moment is a float32 number that the training step and the file share bit for bit. It is one of

* a constant: of the integer graph, as it was planned;
* a variable that follows its weight: the channel's largest magnitude times a ratio, which calibration decided;
* a number of `moving_ranges`;
* a learned factor near 1 times the planned scale (Esser et al., 1902.08153, with the step size relative to where it
  starts: optimizers then move small and large scales alike, and none becomes negative).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from featherweight.graph import Model, Node, Tensor
from featherweight.graph.numerics import DEAD_WEIGHT, QuantParams, integer_range
from featherweight.operators.profiles import Profile
from featherweight.training.graph.registry import Array, ops
from featherweight.training.integer.channels import Stack, stacked
from featherweight.training.integer.lookup_tables import HOST
from featherweight.training.integer.step import Channels
from featherweight.training.integer.straight_through import damped, power_of_two_above, standing_for
from featherweight.training.qat.blueprint import Blueprint, weights_and_biases
from featherweight.training.qat.moving_ranges import MovingRanges, made_ranges
from featherweight.training.qat.scale_groups import scale_groups

# The name of the factors of activations among those that freeze.
_ACTIVATIONS = ""
# How far a learned scale can go from where it started.
_SMALLEST, _LARGEST = 1 / 64, 64.0
# (name, value, trainable) → variable
Maker = Callable[[str, np.ndarray, bool], keras.Variable]


@dataclass(frozen=True, eq=False)
class Scales:
    """The scales of one model.

    Attributes:
        integer: the graph, with the planned parameters.
        profile: the arithmetic that tables are computed for.
        weights: constant → its learned factors; one, or one per channel.
        stack: the constants whose scales follow them, as they lie in the next two; none where scales are learned.
        following: scales that follow their weights, or None.
        ratios: of these to the channel's largest magnitude.
        groups: activation → position in `factors`; empty where their ranges are fixed.
        factors: learned factors of activations' scales.
        held: learned factors → what they were when they froze, by name: ``activations``, or that of a weight.
        moving: ranges of activations that move by a rule, if any do.
        tables: node → what `tables.HOST` computed for it.
        step: the training steps that were done.
        freeze_after: steps after which learned factors no longer move, or None.
    """

    integer: Model
    profile: Profile
    weights: Mapping[str, keras.Variable]
    stack: Stack
    following: keras.Variable | None
    ratios: keras.Variable | None
    groups: Mapping[str, int]
    factors: keras.Variable | None
    held: Mapping[str, keras.Variable]
    moving: MovingRanges | None
    tables: Mapping[str, tuple[keras.Variable, ...]]
    step: keras.Variable
    freeze_after: int | None = None

    def affine(self, tensor: Tensor) -> tuple[Array, Array]:
        """Returns a tensor's (scale, zero point) of the moment, float32; NumPy's where training does not move them."""
        quant = tensor.quant
        assert quant is not None
        zero_point = np.float32(quant.zero_point[0] if quant.zero_point else 0)
        if tensor.name in self.stack.shapes:
            return self.stack.part(ops.convert_to_tensor(self.following), tensor.name), zero_point
        if tensor.name in self.weights:
            factor = self._factor(tensor.name, self.weights[tensor.name])
            return self._learned(_planned(tensor), factor, tensor), zero_point
        if self.moving is not None and tensor.name in self.moving.groups:
            return self.moving.affine(tensor.name)
        if tensor.name in self.groups:
            factor = self._factor(_ACTIVATIONS, self.factors)[self.groups[tensor.name]]
            return self._learned(np.float32(quant.scale[0]), factor, tensor), zero_point
        return np.float32(quant.scale[0]), zero_point

    def affine_now(self, tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns a tensor's (scale, zero point) outside of a step (there JAX compiles each cut of a vector)."""
        if tensor.name in self.stack.shapes:
            return self.stack.part(_array(self.following), tensor.name), np.zeros((), np.float32)
        scale, zero_point = self.affine(tensor)
        return _array(scale), _array(zero_point)

    def _factor(self, name: str, variable: Any) -> Array:
        """Returns learned factors of the moment: those that froze, if any did."""
        value = ops.convert_to_tensor(variable)
        if name not in self.held:
            return value
        return ops.where(self.is_frozen(), ops.convert_to_tensor(self.held[name]), value)

    def is_frozen(self) -> Array:
        """True from the step on after which learned factors no longer move."""
        return ops.convert_to_tensor(self.step) >= (self.freeze_after or 0)

    def count(self, observed: Callable[[tuple[str, ...]], Mapping[str, Array]]) -> None:
        """Begins a training step: ranges move by their rule, and factors that are to freeze are noted.

        Args:
            observed: returns float tensors of the batch by name.
        """
        step = ops.convert_to_tensor(self.step)
        if self.moving is not None:
            self.moving.update(step, observed)
        for name, held in self.held.items():
            variable: Any = self.factors if name == _ACTIVATIONS else self.weights[name]
            held.assign(ops.where(self.is_frozen(), ops.convert_to_tensor(held), ops.convert_to_tensor(variable)))
        self.step.assign(step + 1)

    @property
    def moves(self) -> bool:
        """True where scales of activations change in training."""
        return self.moving is not None or bool(self.groups)

    def _learned(self, planned: Array, factor: Array, tensor: Tensor) -> Array:
        """Returns a learned scale; where it must be a power of two, the next above (TQT: Jain et al., 1903.08066)."""
        scale = ops.multiply(planned, _bounded_factor(factor, tensor))
        return standing_for(power_of_two_above(scale), scale) if self.profile.only_shifts else scale

    def parameters(self) -> dict[str, QuantParams]:
        """Returns the parameters of the moment of what training moves: tensor of the integer graph → parameters."""
        found: dict[str, QuantParams] = {}
        weights = {*self.stack.shapes, *self.weights}
        for name in (*self.stack.shapes, *self.weights, *self.groups, *(self.moving.groups if self.moving else ())):
            tensor = self.integer.main.tensors[name]
            scale, zero_point = self.affine_now(tensor)
            assert tensor.quant is not None
            moved = replace(tensor.quant, scale=tuple(scale.reshape(-1).tolist()))
            found[name] = replace(moved, zero_point=(int(zero_point),)) if name not in weights else moved
        return found

    def follow(self, weights: Mapping[str, Array]) -> None:
        """Moves each scale that is not learned with the channel's largest weight."""
        if self.following is None:
            return
        tensors = self.integer.main.tensors
        largest = {
            name: ops.max(ops.abs(ops.stop_gradient(weights[name])), axis=_other_axes(tensors[name]))
            for name in self.stack.shapes
        }
        scales = ops.maximum(self.stack.joined(largest), DEAD_WEIGHT) * ops.convert_to_tensor(self.ratios)
        self.following.assign(power_of_two_above(scales) if self.profile.only_shifts else scales)

    def channels(self, zero: Array) -> dict[str, Channels]:
        """Returns node → what the integers of its weight, bias and sums are scaled by, where no activation moves."""
        if self.following is None or self.moves:
            return {}
        return self.stack.channels(ops.convert_to_tensor(self.following), zero)

    def refresh_tables(self) -> None:
        """Computes the tables of operators anew from the scales of the moment, where those move."""
        if not self.moves:
            return
        tensors = self.integer.main.tensors
        current = {name: replace(tensors[name], quant=quant) for name, quant in self.parameters().items()}
        for node in self.integer.main.nodes:
            if node.name in self.tables:
                values = _host_constants(node, {**tensors, **current}, self.profile)
                for variable, value in zip(self.tables[node.name], values, strict=True):
                    variable.assign(value)

    def tables_of(self, node: Node) -> tuple[Array, ...]:
        """Returns what was computed on the host for a node."""
        return tuple(ops.convert_to_tensor(table) for table in self.tables.get(node.name, ()))


def made_scales(blueprint: Blueprint, make: Maker) -> Scales:
    """Makes the variables."""
    integer, profile, options = blueprint.integer, blueprint.profile, blueprint.ranges
    learned = options.is_learned
    tensors, scales = integer.main.tensors, dict[str, keras.Variable]()
    followers, ratios = dict[str, np.ndarray](), dict[str, np.ndarray]()
    exposed = blueprint.exposed
    frozen = {entry.tensor for entry in exposed.table if entry.variable in exposed.frozen}
    # Half way between the power of two that was planned and the one below.
    start = np.float32(math.sqrt(0.5) if profile.only_shifts else 1.0)
    for _, tensor, role in weights_and_biases(integer):
        # Scales of blocks are computed from the weights at every moment.
        planned = _planned(tensor)
        if role != "weight" or tensor.name in {*scales, *followers} or planned.size == 0:
            continue
        if learned:
            scales[tensor.name] = make(f"weight_factor_{len(scales)}", np.full_like(planned, start), True)
            if blueprint.sources[tensor.name] in frozen:
                scales[tensor.name].trainable = False
            continue
        real = blueprint.exposed.real(blueprint.sources[tensor.name])
        largest = np.abs(real).max(axis=_other_axes(tensor))
        followers[tensor.name] = planned
        ratios[tensor.name] = planned / np.maximum(largest, np.float32(DEAD_WEIGHT))
    stack, following, ratio = (
        stacked(integer.main, {name: scale.shape for name, scale in followers.items()}),
        None,
        None,
    )
    if followers:
        following = make("weight_scales", np.concatenate([scale.reshape(-1) for scale in followers.values()]), False)
        ratio = make("weight_ratios", np.concatenate([part.reshape(-1) for part in ratios.values()]), False)
    groups = scale_groups(integer.main) if learned else {}
    count = len(set(groups.values()))
    factors = make("activation_factors", np.full(count, start, np.float32), True) if count else None
    held: dict[str, keras.Variable] = {}
    if learned and options.freeze_after is not None:
        learning = scales | ({} if factors is None else {_ACTIVATIONS: factors})
        held = {
            name: make(f"held_factor_{number}", np.full(variable.shape, start, np.float32), False)
            for number, (name, variable) in enumerate(learning.items())
        }
    moving = None
    if options.moves_by_rule and (moved := scale_groups(integer.main)):
        only_shifts = profile.only_shifts
        graph = blueprint.exposed.model.main
        is_symmetric = blueprint.origin.target.is_symmetric
        moving = made_ranges(
            integer.main, graph, moved, options, make, is_power_of_two=only_shifts, is_symmetric=is_symmetric
        )
    tables = {
        node.name: tuple(
            make(f"table_{number}_{index}", value, False)
            for index, value in enumerate(_host_constants(node, tensors, profile))
        )
        for number, node in enumerate(integer.main.nodes)
        if node.op in HOST and tensors[node.outputs[0]].quant is not None
    }
    step = make("step", np.zeros((), np.int32), False)
    return Scales(
        integer,
        profile,
        scales,
        stack,
        following,
        ratio,
        groups,
        factors,
        held,
        moving,
        tables,
        step,
        options.freeze_after,
    )


def _array(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value), np.float32)


def _planned(tensor: Tensor) -> np.ndarray:
    """Returns the planned scale, or one per channel."""
    assert tensor.quant is not None
    scales = np.asarray(tensor.quant.scale, np.float32)
    return scales.reshape(()) if scales.size == 1 else scales


def _bounded_factor(factor: Array, tensor: Tensor) -> Array:
    """Returns a learned factor inside its bounds; its gradient over sqrt(elements * qmax) (LSQ, section 2.2)."""
    assert tensor.quant is not None
    elements = math.prod(tensor.shape if tensor.is_constant else tensor.shape[1:]) / max(len(tensor.quant.scale), 1)
    damping = 1 / math.sqrt(max(elements, 1.0) * integer_range(tensor.dtype)[1])
    return damped(ops.clip(factor, _SMALLEST, _LARGEST), damping)


def _other_axes(tensor: Tensor) -> tuple[int, ...]:
    # A file does not say along which axis one scale lies.
    axis = tensor.quant.axis if tensor.quant is not None and len(tensor.quant.scale) > 1 else None
    return tuple(at for at in range(len(tensor.shape)) if at != axis)


def _host_constants(node: Node, tensors: Mapping[str, Tensor], profile: Profile) -> tuple[np.ndarray, ...]:
    inputs, outputs = [tensors[name] for name in node.inputs], [tensors[name] for name in node.outputs]
    return HOST[node.op](node, inputs, outputs, profile)
