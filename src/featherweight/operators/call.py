"""One execution of one node: what it reads, over which arrays it computes, and how accumulators become outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph import Graph, Node, Tensor
from featherweight.graph.numerics import integer_range, round_half_away, storage_dtype
from featherweight.operators import on_numpy
from featherweight.operators.fixed_point import quantize_multiplier
from featherweight.operators.profiles import PROFILES, Profile

# Bounds of fused activations; None where they are open.
FUSED_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}


Array = Any
"""A value: a NumPy array, or a tensor of what the call's namespace computes with."""

# (index of a graph, its inputs' values) -> its outputs' values
RunGraph = Callable[[int, Sequence[Array]], Sequence[Array]]


def _alone(index: int, arrays: Sequence[Array]) -> Sequence[Array]:
    raise UnsupportedOp(f"A node calls graph {index}, and a node without its model is not supported.")


@dataclass(frozen=True, eq=False)
class Call:
    """One node with its inputs' values, ready to run.

    Attributes:
        arrays: the inputs' values, integers as stored; None where an optional input is absent.
        inputs: the inputs' tensors (types, parameters, the shapes at the file's own batch).
        outputs: the outputs' tensors.
        profile: the integer arithmetic.
        run_graph: runs another graph of the model.
        intermediates: tensors that only say in which parameters the kernel holds what it computes on the way.
        tensors: the graph's tensors by name (the scales of weights in blocks are one).
        kept: what operators keep from run to run, by name.
        dtype: the float type that is computed in.
    """

    node: Node
    arrays: tuple[Array | None, ...]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    profile: Profile = PROFILES["xnnpack"]
    run_graph: RunGraph = _alone
    intermediates: tuple[Tensor, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    kept: MutableMapping[str, Array] = field(default_factory=dict[str, Array])
    dtype: str = "float32"

    @property
    def xp(self) -> Any:
        """The array namespace that the node computes over, with the names of `keras.ops`."""
        return on_numpy

    @property
    def place(self) -> str:
        """The node, for messages."""
        return f"{self.node.op} '{self.node.name}'"

    def array(self, position: int) -> Array:
        """Returns the value of an input that must be there."""
        if position >= len(self.arrays):
            raise self.unsupported(f"it has {len(self.arrays)} inputs (needed: at least {position + 1})")
        value = self.arrays[position]
        if value is None:
            raise self.unsupported(f"input {position} is absent (it must be there)")
        return value

    def optional(self, position: int) -> Array | None:
        """Returns the value of an input, or None where it is absent."""
        return self.arrays[position] if position < len(self.arrays) else None

    def static(self, position: int) -> np.ndarray:
        """Returns the value of an input that must be known before anything is computed (axes, sizes …)."""
        value = self.array(position)
        if not is_static(value):
            raise self.unsupported(f"input {position} is computed from data (it must be a constant)")
        return value

    def integers(self, position: int) -> tuple[int, ...]:
        """Returns the value of a small integer input, flat."""
        return tuple(int(value) for value in self.static(position).reshape(-1))

    def attr_int(self, name: str, default: int = 0) -> int:
        """Returns an integer attribute."""
        return int(self.node.attrs.get(name, default))

    def input(self, position: int) -> Tensor:
        """Returns the tensor of an input that must be there."""
        tensor = self.inputs[position] if position < len(self.inputs) else None
        if tensor is None:
            raise self.unsupported(f"input {position} is absent (it must be there)")
        return tensor

    def affine(self, tensor: Tensor) -> tuple[Any, Any]:
        """Returns the (scale, zero point) of a tensor that is quantized per tensor."""
        quant = tensor.quant
        if quant is None or len(quant.scale) != 1:
            found = "no scale" if quant is None or not quant.scale else f"{len(quant.scale)} scales"
            raise self.unsupported(f"tensor '{tensor.name}' has {found} (supported: one scale)")
        return np.float32(quant.scale[0]), int(quant.zero_point[0]) if quant.zero_point else 0

    def unsupported(self, reason: str) -> UnsupportedOp:
        """Returns the error that says what of this node the reference kernels can't treat."""
        return UnsupportedOp(f"{self.place}: {reason} by the reference kernels. Run it with runtime 'litert'.")

    def fallen_back(self) -> Call:
        """Returns the call in the arithmetic of a node that the delegate does not take."""
        return self if self.profile.fallback is None else replace(self, profile=self.profile.fallback)

    @property
    def fill(self) -> int:
        """What stands for zero in the output's values: the zero point of its integers."""
        quant = self.outputs[0].quant
        return quant.zero_point[0] if quant is not None and quant.zero_point else 0

    def counted(self, positions: Array, index: int = 0) -> Array:
        """Returns positions in the type of an output; those of a Keras model stay as they are: backends lack int64."""
        return positions.astype(self.outputs[index].dtype) if is_static(positions) else positions

    def check_same(self, *positions: int) -> None:
        """Raises where integers that become outputs as they are have other parameters than the output.

        Raises:
            UnsupportedOp: naming the input.
        """
        out = self.outputs[0].quant
        for position in positions:
            quant = self.input(position).quant
            if quant is not None and out is not None and (quant.scale, quant.zero_point) != (out.scale, out.zero_point):
                raise self.unsupported(f"input {position} with parameters other than the output's is not supported")

    def float_bounds(self) -> tuple[float, float]:
        """Returns the (low, high) of the fused activation, infinite where open."""
        low, high = self.fused_bounds()
        return -np.inf if low is None else low, np.inf if high is None else high

    def clamp(self, x: Array) -> Array:
        """Returns a float value after the fused activation."""
        return clipped(x, *self.fused_bounds(), self.xp)

    def bounds(self) -> tuple[Any, Any]:
        """Returns the least and largest output integer: of the type, and of the fused activation.

        ``zero_point + round_half_away(f / scale)`` in float32, clipped (CalculateActivationRangeQuantized).
        """
        qmin, qmax = integer_range(self.outputs[0].dtype)
        low, high = self.fused_bounds()
        if low is None and high is None:
            return qmin, qmax
        scale, zero_point = self.affine(self.outputs[0])
        bound = delegated_bound if self.profile.is_delegate else quantized_bound
        return (
            qmin if low is None else max(qmin, bound(low, scale, zero_point)),
            qmax if high is None else min(qmax, bound(high, scale, zero_point)),
        )

    def fused_bounds(self) -> tuple[float | None, float | None]:
        """Returns the (low, high) of the fused activation, None where open."""
        name = fused_activation(self.node)
        if name not in FUSED_BOUNDS:
            raise self.unsupported(f"fused activation {name} is not supported (supported: {', '.join(FUSED_BOUNDS)})")
        return FUSED_BOUNDS[name]

    def finish(self, values: np.ndarray, low: int | None = None, high: int | None = None) -> np.ndarray:
        """Adds the output's zero point, clips to [low, high] and stores in the output's type.

        LiteRT's numbers have 32 bits there, and wrap.
        """
        zero_point = self.affine(self.outputs[0])[1]
        least, largest = self.bounds()
        values = values + zero_point
        if self.profile.is_litert:
            values = values.astype(np.int32)
        return np.clip(values, least if low is None else low, largest if high is None else high).astype(
            storage_dtype(self.outputs[0].dtype)
        )

    def rescaled(self, x: np.ndarray, real: float | np.ndarray) -> np.ndarray:
        """Returns integers times a real number, in the profile's fixed-point arithmetic."""
        return self.profile.rescale(x, *self.multiplier(real))

    def multiplier(self, real: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (multiplier, shift) of real factors.

        Raises:
            UnsupportedOp: if the profile only shifts, and a factor is no power of two.
        """
        factors = np.abs(np.atleast_1d(np.asarray(real, np.float64)))
        if self.profile.only_shifts and not np.isin(np.frexp(factors)[0], (0.0, 0.5)).all():
            wrong = float(factors[~np.isin(np.frexp(factors)[0], (0.0, 0.5))][0])
            raise UnsupportedOp(
                f"{self.place}: profile '{self.profile.name}' rescales by powers of two only, but a factor is "
                f"{wrong:g}. Quantize for a target whose scales are powers of two ('power-of-two'), or choose profile "
                "'integer_multiplier'."
            )
        return quantize_multiplier(real)

    def delegated(self, accumulators: np.ndarray, scale: np.ndarray | np.float32) -> np.ndarray:
        """Returns the output integers of XNNPACK: one float32 product, clamped, rounded half to even."""
        zero_point = self.affine(self.outputs[0])[1]
        low, high = self.bounds()
        values = accumulators.astype(np.float32) * np.asarray(scale, np.float32)
        np.clip(values, np.float32(low - zero_point), np.float32(high - zero_point), out=values)
        np.rint(values, out=values)
        values += np.float32(zero_point)
        return values.astype(storage_dtype(self.outputs[0].dtype))

    def check_accumulator(self, accumulators: np.ndarray, bits: int) -> None:
        """Raises if an accumulator of so many bits could not hold what was summed.

        Raises:
            DataError: naming the node and the sum.
        """
        limit = 2.0 ** (bits - 1)
        low, high = accumulators.min(initial=0), accumulators.max(initial=0)
        if low < -limit or high >= limit:
            worst = int(low if low < -limit else high)
            raise DataError(
                f"{self.place}: an accumulator of {bits} bits overflows (a sum is {worst}; allowed: {int(-limit)} to "
                f"{int(limit) - 1}). Quantize this layer with a larger weight scale, or keep it float."
            )


Kernel = Callable[[Call], tuple[Array, ...]]


def fused_activation(node: Node) -> str:
    """Returns the name of the node's fused activation, ``NONE`` where it has none."""
    return str(node.attrs.get("fused_activation_function", "NONE"))


def is_static(value: Array) -> bool:
    """True for a value that is known before anything is computed: a NumPy array."""
    return isinstance(value, (np.ndarray, np.generic))


def clipped(x: Array, low: float | None, high: float | None, xp: Any) -> Array:
    """Returns x in [low, high]; a gradient is 0 where a bound is active."""
    if low is None and high is None:
        return x
    if (low, high) == (0.0, None):
        return xp.relu(x)
    if (low, high) == (0.0, 6.0):
        return xp.relu6(x)
    # Whole numbers keep the type of integers.
    return xp.clip(x, *(None if bound is None else int(bound) for bound in (low, high)))


def tensors_of(node: Node, graph: Graph) -> tuple[tuple[Tensor | None, ...], tuple[Tensor, ...]]:
    """Returns the tensors of a node's inputs (None where an optional one is absent) and outputs."""
    inputs = tuple(graph.tensors[name] if name else None for name in node.inputs)
    return inputs, tuple(graph.tensors[name] for name in node.outputs)


def quantized_bound(value: float, scale: np.float32, zero_point: int) -> int:
    """Returns the integer of a bound of an activation function."""
    with np.errstate(over="ignore"):
        steps = float(round_half_away(np.asarray(np.float32(value) / scale)))
    return zero_point + int(np.clip(steps, -(2.0**31), 2.0**31 - 1))


def delegated_bound(value: float, scale: np.float32, zero_point: int) -> int:
    """Returns XNNPACK's integer of a bound: the zero point is added before rounding half to even."""
    with np.errstate(over="ignore"):
        steps = float(np.rint(np.float32(value) / scale + np.float32(zero_point)))
    return int(np.clip(steps, -(2.0**31), 2.0**31 - 1))
