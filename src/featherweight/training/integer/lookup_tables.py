"""Integer kernels that are tables: computed on the host by the reference kernels, looked up in the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from featherweight.graph import Node, Tensor
from featherweight.graph.numerics import integer_range
from featherweight.operators import Call, lookup, registered
from featherweight.operators.call import Array
from featherweight.operators.profiles import Profile
from featherweight.training.graph.registry import ops
from featherweight.training.integer.step import IntegerStep, integer, off_pole

# (node, inputs, outputs, profile) → the constants of `IntegerStep`; tensors carry the parameters of the moment.
Host = Callable[[Node, Sequence[Tensor], Sequence[Tensor], Profile], tuple[np.ndarray, ...]]
HOST: dict[str, Host] = {}

_ELEMENTWISE = tuple(op.name for op in registered() if op.axes == "same" and {"int8", "int16"} & op.kernels.keys())


def every_output(
    node: Node, inputs: Sequence[Tensor], outputs: Sequence[Tensor], profile: Profile
) -> tuple[np.ndarray, ...]:
    """Returns the centred output of an elementwise operator for each integer of the input's type, least first."""
    quant, dtype = outputs[0].quant, inputs[0].dtype
    assert quant is not None
    qmin, qmax = integer_range(dtype)
    x = np.arange(qmin, qmax + 1).astype(dtype)
    if lookup(node.op).is_of_positive and inputs[0].quant is not None:
        # LiteRT ends a run with an error at the root of a negative number; training takes it for zero.
        x = np.maximum(x, x.dtype.type(inputs[0].quant.zero_point[0]))
    found = lookup(node.op).kernels[dtype](Call(node, (x,), tuple(inputs), tuple(outputs), profile))[0]
    return (found.astype(np.float32) - np.float32(quant.zero_point[0]),)


HOST.update(dict.fromkeys(_ELEMENTWISE, every_output))


@integer(*_ELEMENTWISE)
def looked_up(step: IntegerStep) -> Array:
    """One result for each integer; the gradient is that of the float function."""
    x = step.array(0)
    index = ops.cast(x + step.zero_point(0) - float(integer_range(step.input(0).dtype)[0]), "int32")
    real = step.in_float(off_pole(step.node.op, x) * step.scale(0))
    return step.standing_for(ops.take(step.constants[0], index), ops.divide(real, step.affine(step.outputs[0])[0]))
