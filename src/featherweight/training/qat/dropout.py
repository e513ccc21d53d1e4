"""Dropout and noise of a Keras model, in the training steps of the graph that it was lowered to.

Lowering leaves out what only training does. `dropout_places` finds where it was; here it is put back: before the nodes
that read what the layer's output was, on centred integers, zero being zero. Predictions have none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from featherweight.graph import Tensor
from featherweight.graph.numerics import integer_range
from featherweight.operators.call import Array
from featherweight.training.graph.program import Program
from featherweight.training.graph.registry import Function, Step, ops
from featherweight.training.integer.lookup_tables import HOST
from featherweight.training.integer.step import is_quantized
from featherweight.training.integer.straight_through import bounded, rounded

# Seeds of layers must be apart from each other by more than there are steps: torch adds the two.
_APART = 10_000_019


@dataclass(frozen=True)
class Noise:
    """What one call of a Keras layer does in training.

    Attributes:
        layer: the layer's name.
        kind: ``dropout``, ``gaussian_dropout`` or ``gaussian_noise``.
        amount: the rate, or the standard deviation in the tensor's real units.
        shape: of the layer's input, without its batch.
        shared: axes of the input, batch included, along which one draw is shared.
        seed: decides the draws, with the step.
        edges: (node, position of the input) that read the layer's output.
    """

    layer: str
    kind: str
    amount: float
    shape: tuple[int, ...]
    shared: tuple[int, ...]
    seed: int
    edges: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Noise:
        """Returns what `dataclasses.asdict` made fields of, tuples being lists."""
        given: dict[str, Any] = dict(fields)
        given["edges"] = tuple((str(node), int(position)) for node, position in fields["edges"])
        given["shape"], given["shared"] = tuple(fields["shape"]), tuple(fields["shared"])
        return cls(**given)


class _StepSeed(keras.random.SeedGenerator):
    """A seed for each step, so that training that goes on after a stop draws what it would have drawn.

    It has no state of its own: the step is a variable of the model.
    """

    def __init__(self, seed: int, step: Array) -> None:
        self.name, self._initial_seed, self._step = "step_seed", seed, step

    def next(self, ordered: bool = True) -> Array:
        dtype = "uint32" if keras.config.backend() == "jax" else "int32"  # A key of JAX is two uint32.
        return ops.stack([ops.cast(part, dtype) for part in (self._initial_seed, self._step)])


def with_noise(
    program: Program,
    noises: Sequence[Noise],
    scale_of: Callable[[Tensor], Array],
    step_of: Callable[[], Array],
) -> Program:
    """Returns a program that draws noise before the nodes that read it.

    Args:
        program: of the integer or the float graph.
        noises: with their edges; nodes that the program lacks are left out.
        scale_of: returns a quantized tensor's scale of the moment.
        step_of: returns the number of the training step.
    """
    functions = dict(program.functions)
    for noise in reversed(noises):  # What is wrapped last is drawn first.
        for node, position in noise.edges:
            if node in functions:
                functions[node] = _before(functions[node], position, noise, scale_of, step_of)
    return replace(program, functions=functions)


def _before(
    computes: Function,
    position: int,
    noise: Noise,
    scale_of: Callable[[Tensor], Array],
    step_of: Callable[[], Array],
) -> Function:
    def function(step: Step) -> tuple[Array, ...]:
        arrays, tensor = list(step.arrays), step.inputs[position]
        assert tensor is not None
        is_integer = is_quantized(tensor)
        value = drawn(noise, arrays[position], scale_of(tensor) if is_integer else None, step_of())
        if is_integer:
            value = rounded(value)
        if is_integer and step.node.op in HOST:  # Nothing is in a table beyond the integers of the type.
            quant = tensor.quant
            zero_point = quant.zero_point[0] if quant is not None and quant.zero_point else 0
            low, high = integer_range(tensor.dtype)
            value = bounded(value, float(low - zero_point), float(high - zero_point))
        arrays[position] = value
        return computes(replace(step, arrays=tuple(arrays)))

    return function


def drawn(noise: Noise, x: Array, scale: Array | None, step: Array) -> Array:
    """Returns a value with the noise of one step, in float.

    Args:
        noise: what to draw.
        x: real numbers, or centred integers of the scale; of any shape that holds the layer's input.
        scale: what one integer stands for; None for real numbers.
        step: the number of the training step.
    """
    x, shape = ops.convert_to_tensor(x), ops.shape(x)
    is_other_shape = tuple(x.shape[1:]) != noise.shape
    values = ops.reshape(x, (-1, *noise.shape)) if is_other_shape else x
    seed = _StepSeed(noise.seed, step)
    if noise.kind == "dropout":
        drawn_shape = [1 if axis in noise.shared else None for axis in range(len(noise.shape) + 1)]
        values = keras.random.dropout(values, noise.amount, drawn_shape, seed)
    elif noise.kind == "gaussian_dropout":
        deviation = math.sqrt(noise.amount / (1 - noise.amount))
        values = values * keras.random.normal(ops.shape(values), 1.0, deviation, values.dtype, seed)
    else:
        normal = keras.random.normal(ops.shape(values), 0.0, noise.amount, values.dtype, seed)
        values = values + (normal if scale is None else normal / scale)
    return ops.reshape(values, shape) if is_other_shape else values


def noise_of(layer: Any, shape: tuple[int, ...], number: int) -> Noise | None:
    """Returns what a layer does to an input of this shape (without batch) in training; None where it does nothing.

    Args:
        layer: of Keras, one of `LAYERS`.
        shape: of one example.
        number: of the layer's call among all, for its seed.
    """
    own_seed = getattr(layer, "seed", None)
    seed = ((own_seed or 0) + _APART * (number + 1)) % (1 << 30)
    if isinstance(layer, keras.layers.GaussianNoise):
        return Noise(layer.name, "gaussian_noise", float(layer.stddev), shape, (), seed) if layer.stddev else None
    if not layer.rate:
        return None
    kind = "gaussian_dropout" if isinstance(layer, keras.layers.GaussianDropout) else "dropout"
    return Noise(layer.name, kind, float(layer.rate), shape, _shared_axes(layer, len(shape) + 1), seed)


def _shared_axes(layer: Any, rank: int) -> tuple[int, ...]:
    """Returns the axes along which a dropout layer draws once."""
    if isinstance(layer, _SPATIAL):
        is_first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return tuple(range(2, rank)) if is_first else tuple(range(1, rank - 1))
    drawn_shape = getattr(layer, "noise_shape", None) or ()
    return tuple(axis for axis, size in enumerate(drawn_shape) if size == 1)


_SPATIAL = (keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D)
LAYERS = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise, *_SPATIAL)
