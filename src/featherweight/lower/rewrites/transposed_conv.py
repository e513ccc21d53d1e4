"""Transposed convolution: JAX's dilated-input convolution as TRANSPOSE_CONV or CONV_3D_TRANSPOSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.lifting import lifted, lowered
from featherweight.lower.rewrites.placeholders import operator


@dataclass(frozen=True)
class _Dimension:
    """One spatial dimension. The full output has (size − 1)·stride + kernel elements; `crop` cuts its two ends.

    A negative crop appends zeros (a stride larger than the kernel leaves them at the end).
    """

    size: int
    kernel: int
    stride: int
    crop: tuple[int, int]

    @property
    def full(self) -> int:
        return (self.size - 1) * self.stride + self.kernel

    @property
    def output(self) -> int:
        return self.full - sum(self.crop)

    @property
    def is_same(self) -> bool:
        """Whether the operator's SAME padding does exactly this crop."""
        total = max(self.full - self.output, 0)
        return -(-self.output // self.stride) == self.size and self.crop[0] == total // 2

    @property
    def is_valid(self) -> bool:
        return self.crop == (0, 0)


def _is_transposed(equation: Any) -> bool:
    params = equation.params
    return (
        any(d > 1 for d in params["lhs_dilation"])
        and all(s == 1 for s in params["window_strides"])
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and len(params["lhs_dilation"]) in (1, 2, 3)
        and equation.invars[0].aval.dtype == np.float32
    )


def _transposed_conv(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """Puts the input into (n, *spatial, c), the kernel unflipped, and crops what the operator can't."""
    import jax
    import jax.numpy as jnp

    params = equation.params
    numbers = params["dimension_numbers"]
    rank = len(params["lhs_dilation"])
    layout = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    x = inputs[0] if layout == tuple(range(rank + 2)) else jnp.transpose(inputs[0], layout)
    # rhs_spec is (out, in, *spatial): the operator wants (out, *spatial, in), not flipped, without holes.
    out, inner, *spatial = numbers.rhs_spec
    kernel = _compile_time(lambda k: jnp.flip(jnp.transpose(k, (out, *spatial, inner)), range(1, rank + 1)), inputs[1])
    kernel = _compile_time(lambda k: _with_holes(k, params["rhs_dilation"]), kernel)
    dimensions = [
        _Dimension(size, k, stride, (k - 1 - pads[0], k - 1 - pads[1]))
        for size, k, stride, pads in zip(
            x.shape[1:-1], kernel.shape[1:-1], params["lhs_dilation"], params["padding"], strict=True
        )
    ]
    if rank == 1:
        x, kernel = lifted(tracing, x), _compile_time(lambda k: jnp.expand_dims(k, 1), kernel)
        dimensions = [_Dimension(1, 1, 1, (0, 0)), *dimensions]
    y = _operator(x, kernel, dimensions)
    y = lowered(tracing, y) if rank == 1 else y
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    result = y if order == tuple(range(rank + 2)) else jnp.transpose(y, [int(i) for i in np.argsort(order)])
    expected = equation.outvars[0].aval
    return [result] if isinstance(result, jax.Array) and result.shape == expected.shape else None


def _operator(x: Any, kernel: Any, dimensions: Sequence[_Dimension]) -> Any:
    """(n, *spatial, c), (out, *spatial, c) → (n, *output, out); crops and appends where neither padding fits."""
    import jax.numpy as jnp
    from jax import lax

    rank = len(dimensions)
    strides = [d.stride for d in dimensions]
    is_same = all(d.is_same for d in dimensions)
    exact = is_same or all(d.is_valid for d in dimensions)
    sizes = [d.output if exact else d.full for d in dimensions]
    shape = (x.shape[0], *sizes, kernel.shape[0])
    crops = [d.crop if exact else (0, 0) for d in dimensions]

    def plain(*operands: Any) -> Any:
        _, kernel, x = operands
        pads = [(d.kernel - 1 - c[0], d.kernel - 1 - c[1]) for d, c in zip(dimensions, crops, strict=True)]
        if rank == 3:
            kernel = jnp.moveaxis(kernel, 3, 0)
        kernel = jnp.flip(kernel, range(1, rank + 1))
        letters = "HWD"[:rank]
        layout = (f"N{letters}C", f"O{letters}I", f"N{letters}C")
        return lax.conv_general_dilated(x, kernel, (1,) * rank, pads, lhs_dilation=strides, dimension_numbers=layout)

    attrs: dict[str, Any] = {"padding": "SAME" if is_same else "VALID", "fused_activation_function": "NONE"}
    attrs |= {f"stride_{letter}": s for letter, s in zip("dhw"[-rank:], strides, strict=True)}
    if rank == 3:  # The 3-D operator has its kernel as (*spatial, out, c).
        kernel = _compile_time(lambda k: jnp.moveaxis(k, 0, 3), kernel)
        attrs |= {"dilation_d_factor": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
        y = operator("conv_3d_transpose", plain, np.asarray(shape, np.int32), kernel, x, **attrs)
    else:
        y = operator("transpose_conv", plain, np.asarray(shape, np.int32), kernel, x, **attrs)
    if exact:
        return y
    ends = [(max(d.crop[0], 0), d.full - max(d.crop[1], 0)) for d in dimensions]
    y = y[(slice(None), *(slice(*end) for end in ends))]
    zeros = [(max(-d.crop[0], 0), max(-d.crop[1], 0)) for d in dimensions]
    return jnp.pad(y, [(0, 0), *zeros, (0, 0)]) if any(map(any, zeros)) else y


def _with_holes(kernel: Any, dilation: Sequence[int]) -> Any:
    """A dilated kernel (out, *spatial, in) written out, zeros between its taps: the operator has no dilation."""
    import jax.numpy as jnp

    if all(d == 1 for d in dilation):
        return kernel
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[1:-1], dilation, strict=True)]
    wide = jnp.zeros((kernel.shape[0], *sizes, kernel.shape[-1]), kernel.dtype)
    return wide.at[(slice(None), *(slice(None, None, d) for d in dilation))].set(kernel)


def _compile_time(function: Any, value: Any) -> Any:
    """Applies `function` now if the value is known while tracing, so that a weight stays a constant."""
    import jax
    from jax.core import Tracer

    if isinstance(value, Tracer):
        return function(value)
    with jax.ensure_compile_time_eval():
        return np.asarray(function(value))


TRANSPOSED_CONV_RULE = Rule("transposed convolution", "conv_general_dilated", _is_transposed, _transposed_conv)
