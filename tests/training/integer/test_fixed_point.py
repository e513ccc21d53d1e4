"""Fixed-point arithmetic over NumPy and over every backend of Keras: integer for integer."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.backends import on_backend

from featherweight.operators import fixed_point
from featherweight.training.integer.int64_scope import INT64, wide

NAMES = ["rescale_twice", "rescale_twice_up", "rescale_once", "rescale_once_even", "rescale_short"]
SHIFTS = np.arange(-31, 32)[:, None]
ENDS = [-(2**31), -(2**31) + 1, -(2**30), -1, 0, 1, 2**30 - 1, 2**30, 2**31 - 1]
ACCUMULATORS = arrays.arrays(np.int32, 40, elements=st.integers(-(2**31), 2**31 - 1) | st.sampled_from(ENDS))
MULTIPLIERS = st.integers(2**30, 2**31 - 1) | st.sampled_from([2**30, 0x7FFEFFFF, 0x7FFF0000, 2**31 - 1])


@jax.jit
def rescaled(x: Any, high: Any, low: Any) -> list[Any]:
    """Returns both halves of what each rescaling gives, for every shift: 64 bits don't leave the scope."""
    with wide():
        multiplier = (INT64.cast(high, "int64") << 16) + INT64.cast(low, "int64")
        shifts = INT64.convert_to_tensor(SHIFTS, "int64")
        found = [getattr(fixed_point, name)(INT64.cast(x, "int64"), multiplier, shifts, INT64) for name in NAMES]
        return [[INT64.cast(part, "int32") for part in (value >> 32, value)] for value in found]


@given(ACCUMULATORS, MULTIPLIERS)
def test_every_shift_rescales_the_same_compiled(x: np.ndarray, multiplier: int) -> None:
    for name, (high, low) in zip(NAMES, rescaled(x, multiplier >> 16, multiplier & 0xFFFF), strict=True):
        expected = getattr(fixed_point, name)(x.astype(np.int64), np.int64(multiplier), SHIFTS)
        found = (np.asarray(high, np.int64) << 32) | np.asarray(low).view(np.uint32)
        np.testing.assert_array_equal(found, expected, err_msg=name)


_SCRIPT = (
    f"NAMES = {NAMES}"
    + """
import numpy as np
from keras import ops
from featherweight.operators import fixed_point, on_numpy
from featherweight.training.integer.int64_scope import INT64, wide

rng = np.random.default_rng(0)
ends = [-2**31, -2**31 + 1, -2**30, -1, 0, 1, 2**30 - 1, 2**30, 2**31 - 1]
x = np.concatenate([ends, rng.integers(-2**31, 2**31, 500)]).astype(np.int64)
shifts = np.arange(-31, 32)[:, None]
factors = np.concatenate([np.exp(rng.normal(0, 8, 500)), -np.exp(rng.normal(0, 8, 50)), 2.0 ** np.arange(-40, 31)])
with wide():
    for multiplier in (*rng.integers(2**30, 2**31, 20), 2**30, 0x7FFEFFFF, 0x7FFF0000, 2**31 - 1):
        for name in NAMES:
            rescale = getattr(fixed_point, name)
            given = (fixed_point.whole(value, INT64) for value in (x, multiplier, shifts))
            np.testing.assert_array_equal(ops.convert_to_numpy(rescale(*given, INT64)), rescale(x, multiplier, shifts))
    for function, values in (
        (fixed_point.quantize_multiplier, factors), (fixed_point.inverse_square_root, np.abs(x[x != -2**31]))
    ):
        for found, expected in zip(function(INT64.convert_to_tensor(values), INT64), function(values), strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)
"""
)


@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_backends_compute_the_same(backend: str) -> None:
    on_backend(backend, _SCRIPT)


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_backends_of_frameworks_compute_the_same(backend: str) -> None:
    pytest.importorskip(backend)
    on_backend(backend, _SCRIPT)
