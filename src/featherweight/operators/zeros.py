"""What operators make of zeros, as their reference kernels compute it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from featherweight.errors import DataError
from featherweight.graph import Node, Tensor
from featherweight.operators.call import Call
from featherweight.operators.profiles import PROFILES
from featherweight.operators.record import lookup

# A window of one pixel, of a map of pixels and axes that fit one another.
_ATTRS = {"filter_height": 1, "filter_width": 1, "stride_h": 1, "stride_w": 1, "padding": "VALID", "alpha": 0.5}
_MAP, _AXES = (1, 2, 2, 1), np.array([1, 2], np.int32)
_NUMBERS = np.array([-2.0, -0.5, 0.0, 1.0, 3.0], np.float32)


@cache
def keeps_zero(op: str) -> bool:
    """True where an operator makes zeros of operands that hold nothing but zeros, channel by channel.

    >>> keeps_zero("TANH"), keeps_zero("COS"), keeps_zero("SOFTMAX")
    (True, False, False)
    """
    record, zeros = lookup(op), np.zeros(_MAP, np.float32)
    if record.elementwise:
        return _is_zero(op, [zeros] * record.elementwise)
    return record.is_mover or (record.axes in ("window", "reduction") and _is_zero(op, [zeros, _AXES]))


@cache
def absorbing(op: str) -> tuple[int, ...]:
    """Returns the operands of an operator of two whose zeros make zeros, whatever the other one is.

    >>> absorbing("MUL"), absorbing("PRELU"), absorbing("DIV"), absorbing("ADD")
    ((0, 1), (0,), (), ())
    """
    if lookup(op).elementwise < 2:
        return ()
    zeros = np.zeros_like(_NUMBERS)
    return tuple(p for p in (0, 1) if _is_zero(op, [zeros if i == p else _NUMBERS for i in (0, 1)]))


def _is_zero(op: str, arrays: Sequence[np.ndarray]) -> bool:
    """True where the kernel for float32 makes zeros of these operands."""
    kernels = lookup(op).kernels
    kernel = kernels.get("float32", kernels.get("*"))
    if kernel is None:
        return False
    tensors = tuple(Tensor(f"x{i}", array.shape, array.dtype.name) for i, array in enumerate(arrays))
    output = Tensor("y", arrays[0].shape, "float32")
    node = Node(op, tuple(tensor.name for tensor in tensors), ("y",), _ATTRS)
    try:
        with np.errstate(all="ignore"):
            (found,) = kernel(Call(node, tuple(arrays), tensors, (output,), PROFILES["xnnpack"]))
    except DataError:  # it is not defined there
        return False
    return not np.asarray(found).any()
