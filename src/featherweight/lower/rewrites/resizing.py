"""Image resizing: one operator for bilinear interpolation and for repeated rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.placeholders import operator


def _is_image_resize(equation: Any) -> bool:
    if equation.params.get("name") != "_resize" or len(equation.invars) != 1:
        return False
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    return before.ndim == 4 and (before.shape[0], before.shape[3]) == (after.shape[0], after.shape[3])


def _bilinear(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """`jax.image.resize` does not say by which method: it is bilinear if it computes what bilinear computes."""
    import jax
    from jax.extend.core import jaxpr_as_fun

    plain = jaxpr_as_fun(equation.params["jaxpr"])
    (x,) = inputs
    size = equation.outvars[0].aval.shape[1:3]
    probe = np.random.default_rng(0).normal(size=x.shape).astype(x.dtype)
    computed = np.asarray(jax.jit(plain).lower(jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()(probe)[0])
    if not np.allclose(computed, _bilinear_half_pixel(probe, size), rtol=0, atol=1e-5):
        return None
    return [_resize(lambda x, _: plain(x)[0], "resize_bilinear", x, size)]


def _bilinear_half_pixel(x: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Bilinear interpolation with half-pixel centers and clamped borders; (n, h, w, c) → (n, *size, c)."""
    for axis, length in zip((1, 2), size, strict=True):
        last = x.shape[axis] - 1
        center = (np.arange(length) + 0.5) * (x.shape[axis] / length) - 0.5
        low = np.floor(center)
        weight = (center - low).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = (np.clip(low + step, 0, last).astype(int) for step in (0, 1))
        x = np.take(x, below, axis) * (1 - weight) + np.take(x, above, axis) * weight
    return x


def _resize(plain: Any, op: str, x: Any, size: Sequence[int], *, half_pixel_centers: bool = True) -> Any:
    shape = np.asarray(size, np.int32)
    return operator(op, plain, x, shape, align_corners=False, half_pixel_centers=half_pixel_centers)


def _merges_a_repeat(equation: Any) -> bool:
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    return before.ndim == 5 and after.ndim == 4 and before.dtype == np.float32


def _nearest(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """Rows, columns or both repeated: (n, h, w, c) → (n, h, r, w, c) → (n, h·r, w, c) and the like."""
    x, value, size = None, inputs[0], list(equation.outvars[0].aval.shape)
    # Columns may be repeated after rows: then the inner repeat's operator is stepped over, and not used.
    repeats: dict[int, int] = {}
    while True:
        found = _repeat(tracing, value, size)
        if found is None or found[0] in repeats:
            break
        axis, count, x = found
        repeats[axis] = count
        size[axis] //= count
        inner = tracing.origin(x, "nearest")
        if inner is None:
            break
        value = inner.inputs[0]
    if x is None or not set(repeats) <= {1, 2}:
        return None
    by = [repeats.get(axis, 1) for axis in (1, 2)]

    def plain(x: Any, _: Any) -> Any:
        import jax.numpy as jnp

        return jnp.repeat(jnp.repeat(x, by[0], 1), by[1], 2)

    output = _resize(plain, "resize_nearest_neighbor", x, [x.shape[1] * by[0], x.shape[2] * by[1]])
    tracing.remember(output, "nearest", (inputs[0],))
    return [output]


def _repeat(tracing: Tracing, value: Any, size: Sequence[int]) -> tuple[int, int, Any] | None:
    """(axis, count, x) where value is x with a new dimension of `count` copies behind `axis`."""
    origin = tracing.origin(value, "broadcast_in_dim")
    if origin is None or origin.inputs[0].ndim != 4:
        return None
    kept = tuple(origin.params["broadcast_dimensions"])
    new = next(iter(set(range(5)) - set(kept)), 5)
    x, count = origin.inputs[0], value.shape[new] if new < 5 else 0
    is_plain = x.shape == tuple(value.shape[i] for i in kept)
    merged = tuple(s * (count if i == new - 1 else 1) for i, s in enumerate(x.shape))
    return (new - 1, count, x) if is_plain and count > 1 and merged == tuple(size) else None


RESIZE_RULES: tuple[Rule, ...] = (
    Rule("bilinear resize", "jit", _is_image_resize, _bilinear),
    Rule("bilinear resize", "pjit", _is_image_resize, _bilinear),
    Rule("nearest resize", "reshape", _merges_a_repeat, _nearest),
)
