"""64 bits inside a training step: JAX has none unless it is told so, and is told so here for a few operations only."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import backend

from featherweight.operators import on_numpy
from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops


class _Int64:
    """`keras.ops` inside `wide`, with all that fixed-point arithmetic needs in 64 bits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ops, name)

    @staticmethod
    def maximum(x: Array, y: Array) -> Array:
        """Returns the larger values; Keras's own function makes int32 of them on torch."""
        return ops.where(x > y, x, y)

    @staticmethod
    def minimum(x: Array, y: Array) -> Array:
        """Returns the smaller values."""
        return ops.where(x < y, x, y)


# Keras's functions on NumPy make int32 of everything.
INT64: Any = on_numpy if backend.backend() == "numpy" else _Int64()


@contextmanager
def wide() -> Generator[None]:
    """Lets operations inside compute in int64 and float64; what leaves must be cast to 32 bits inside."""
    if backend.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


def real_product_sum(x: Array, y: Array, z: Array) -> Array:
    """Returns float32 ``x * y + z`` with one rounding, as a fused multiply-add gives it.

    The product is exact in float64; the sum is rounded to odd there, so that the rounding to float32 is the only one
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    with wide():
        x, y, z = (ops.cast(ops.convert_to_tensor(value), "float64") for value in (x, y, z))
        product = x * y
        total = product + z
        back = total - product
        error = (product - (total - back)) + (z - back)
        bits = ops.view(total, "int64")
        is_even = ops.equal(ops.bitwise_and(bits, np.int64(1)), 0)
        is_away = ops.equal(error > 0, total > 0)
        odd = ops.view(bits + ops.where(is_away, np.int64(1), np.int64(-1)), "float64")
        return ops.cast(ops.where(ops.logical_and(is_even, ops.not_equal(error, 0.0)), odd, total), "float32")
