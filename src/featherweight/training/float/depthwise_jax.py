"""Depthwise convolution on JAX and CPUs, where XLA's grouped convolution is slow: products of shifted images."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

Pair = tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def shifted_products(x: Any, weight: Any, sizes: Pair, strides: Pair, dilations: Pair) -> Any:
    """Returns the depthwise convolution of x (n, h, w, c), padded, with a weight (1, kh, kw, c): (n, *sizes, c).

    The gradient of the weight is a loop over the taps: written out, nothing takes XLA longer to compile.
    """
    return _products(x, weight, sizes, strides, dilations)


def _products(x: Any, weight: Any, sizes: Pair, strides: Pair, dilations: Pair) -> Any:
    reach, steps = _reach(sizes, strides), (1, *strides, 1)
    total = None
    for row, column in np.ndindex(*weight.shape[1:3]):
        top, left = row * dilations[0], column * dilations[1]
        ends = (x.shape[0], top + reach[0], left + reach[1], x.shape[3])
        seen = lax.slice(x, (0, top, left, 0), ends, steps)
        factors = lax.slice(weight, (0, row, column, 0), (1, row + 1, column + 1, x.shape[3]))
        product = lax.mul(seen, lax.broadcast_in_dim(factors, seen.shape, (0, 1, 2, 3)))
        total = product if total is None else lax.add(total, product)
    return total


def _reach(sizes: Pair, strides: Pair) -> list[int]:
    """Returns how many rows and columns of the image one tap sees, with those that strides pass over."""
    return [(size - 1) * stride + 1 for size, stride in zip(sizes, strides, strict=True)]


def _seen(x: Any, top: Any, left: Any, sizes: Pair, strides: Pair) -> Any:
    """Returns what one tap of the window sees, whose place is known in the running step: (n, *sizes, c)."""
    reach = _reach(sizes, strides)
    return lax.dynamic_slice(x, (0, top, left, 0), (x.shape[0], *reach, x.shape[3]))[:, :: strides[0], :: strides[1]]


def _forward(x: Any, weight: Any, sizes: Pair, strides: Pair, dilations: Pair) -> tuple[Any, Any]:
    return _products(x, weight, sizes, strides, dilations), (x, weight)


def _backward(sizes: Pair, strides: Pair, dilations: Pair, kept: Any, upstream: Any) -> tuple[Any, Any]:
    x, weight = kept
    rows, columns = weight.shape[1:3]

    def of_tap(tap: Any) -> Any:
        seen = _seen(x, tap // columns * dilations[0], tap % columns * dilations[1], sizes, strides)
        return (seen * upstream).sum((0, 1, 2))

    of_weight = lax.map(of_tap, np.arange(rows * columns)).reshape(weight.shape)
    # Linear in x: nothing of the forward pass is computed again.
    _, of_x = jax.vjp(lambda value: _products(value, weight, sizes, strides, dilations), x)
    return *of_x(upstream), of_weight


shifted_products.defvjp(_forward, _backward)
