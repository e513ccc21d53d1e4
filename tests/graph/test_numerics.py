from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featherweight.errors import DataError
from featherweight.graph import constant
from featherweight.graph.numerics import (
    LARGEST_BIAS,
    QuantParams,
    bias_params,
    dequantize,
    integer_range,
    params_from_range,
    quantize,
    round_half_away,
    scales_from_largest,
    storage_dtype,
)

ACTIVATIONS = st.sampled_from(["int8", "uint8", "int16"])
# Away from the ends of float32: what happens there has tests of its own.
REAL = st.floats(-1e30, 1e30, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-25)
RANGES = st.tuples(REAL, REAL).map(sorted)
MODERATE = st.floats(-1e6, 1e6, width=32)


def half_away(x: float) -> int:
    """The definition, in exact arithmetic."""
    exact = abs(Fraction(x))
    return int(math.copysign(1, x)) * math.floor(exact + Fraction(1, 2))


# ------------------------------------------------------------------------------------------------ rounding


@given(st.floats(-1e9, 1e9, width=32))
def test_round_half_away_is_exact_in_float32(x: float) -> None:
    assert round_half_away(np.array([x], np.float32))[0] == half_away(x)


@given(st.floats(-1e15, 1e15))
def test_round_half_away_is_exact_in_float64(x: float) -> None:
    assert round_half_away(np.array([x]))[0] == half_away(x)


@given(st.integers(-(1 << 22), 1 << 22))
def test_ties_go_away_from_zero(whole: int) -> None:
    tie = whole + 0.5
    assert round_half_away(np.array([tie], np.float32))[0] == half_away(tie)


def test_largest_float_below_one_half_rounds_to_zero() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert np.floor(below + np.float32(0.5)) == 1  # the trap
    assert round_half_away(np.array([below, -below])).tolist() == [0, 0]


def test_rounding_keeps_the_dtype_and_leaves_its_argument_alone() -> None:
    x = np.array([0.6, -2.5], np.float32)
    assert round_half_away(x).dtype == np.float32
    assert x.tolist() == [np.float32(0.6), -2.5]


# ------------------------------------------------------------------------------------------------ ranges


@given(RANGES, ACTIVATIONS, st.booleans(), st.booleans())
def test_zero_is_exact(bounds: list[float], dtype: str, symmetric: bool, power_of_two: bool) -> None:
    symmetric = symmetric and dtype != "uint8"
    params = params_from_range(*bounds, dtype, symmetric=symmetric, power_of_two=power_of_two)
    zero = quantize(np.zeros(1, np.float32), params)
    assert zero[0] == params.zero_point[0]
    assert dequantize(zero, params)[0] == 0


@given(RANGES, ACTIVATIONS, st.booleans(), st.booleans())
def test_the_grid_holds_the_range(bounds: list[float], dtype: str, symmetric: bool, power_of_two: bool) -> None:
    symmetric = symmetric and dtype != "uint8"
    params = params_from_range(*bounds, dtype, symmetric=symmetric, power_of_two=power_of_two)
    (scale,), (zero_point,) = params.scale, params.zero_point
    qmin, qmax = integer_range(dtype)
    assert qmin <= zero_point <= qmax
    # Rounding the zero point and the scale (to float32) may each move an end, together by no more than this.
    slack = scale * (0.5 + (qmax - qmin) * 2.0**-23)
    assert scale * (qmin - zero_point) - slack <= min(bounds[0], 0)
    assert max(bounds[1], 0) <= scale * (qmax - zero_point) + slack


@given(RANGES, ACTIVATIONS, st.floats(0, 1), st.booleans())
def test_round_trip_error_is_at_most_half_a_step(
    bounds: list[float], dtype: str, where: float, power_of_two: bool
) -> None:
    low, high = min(bounds[0], 0), max(bounds[1], 0)
    params = params_from_range(low, high, dtype, power_of_two=power_of_two)
    scale = params.scale[0]
    x = np.array([low + (high - low) * where], np.float32)
    error = abs(float(dequantize(quantize(x, params), params)[0]) - float(x[0]))
    qmin, qmax = integer_range(dtype)
    assert error <= scale * (0.5 + (qmax - qmin) * 2.0**-22)


@given(st.data())
def test_every_integer_survives(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["int4", "int8", "uint8", "int16"]))
    scale = float(np.float32(data.draw(st.floats(1e-20, 1e20))))
    qmin, qmax = integer_range(dtype)
    params = QuantParams(dtype, (scale,), (data.draw(st.integers(qmin, qmax)),))
    grid = np.arange(qmin, qmax + 1).astype(storage_dtype(dtype))
    assert (quantize(dequantize(grid, params), params).astype(int) == grid.astype(int)).all()


@given(RANGES, st.sampled_from(["int8", "int16"]))
def test_symmetric_parameters_have_zero_point_zero(bounds: list[float], dtype: str) -> None:
    params = params_from_range(*bounds, dtype, symmetric=True)
    largest = max(-bounds[0], bounds[1], 0)
    assert params.zero_point == (0,)
    if largest:
        assert params.scale[0] == pytest.approx(largest / integer_range(dtype)[1], rel=1e-6)


@given(RANGES, ACTIVATIONS, st.booleans())
def test_power_of_two_scales_are_the_smallest_that_cover(bounds: list[float], dtype: str, symmetric: bool) -> None:
    symmetric = symmetric and dtype != "uint8"
    params = params_from_range(*bounds, dtype, symmetric=symmetric, power_of_two=True)
    mantissa, _ = math.frexp(params.scale[0])
    assert mantissa == 0.5
    low, high = min(bounds[0], 0), max(bounds[1], 0)
    if low < high:
        qmin, qmax = integer_range(dtype)
        needed = max(-low, high) / qmax if symmetric else (high - low) / (qmax - qmin)
        assert params.scale[0] / 2 < needed * (1 + 1e-6)
        assert params.scale[0] * (1 + 1e-6) >= needed


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8"])
def test_a_range_of_width_zero_is_valid(dtype: str) -> None:
    assert params_from_range(0.0, 0.0, dtype) == QuantParams(dtype, (1.0,), (0,))


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (-3.0, -3.0), (0.0, 6.0), (-6.0, 0.0), (2.0, 6.0)])
def test_a_range_off_zero_is_widened_to_hold_it(low: float, high: float) -> None:
    params = params_from_range(low, high, "int8")
    assert params.zero_point == ((-128,) if high > 0 else (127,))
    assert params.scale == (float(np.float32(max(abs(low), abs(high)) / 255)),)


def test_zero_point_ties_round_away_from_zero_as_in_the_tensorflow_converter() -> None:
    # A range of [-1, 1], the commonest of inputs, gives exactly -0.5: std::round makes it -1
    # (getNudgedScaleAndZeroPoint in MLIR's FakeQuantSupport.cpp), floor(x + 0.5) would make it 0.
    assert params_from_range(-1.0, 1.0, "int8").zero_point == (-1,)
    assert params_from_range(-1.0, 1.0, "uint8").zero_point == (128,)


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_ranges_that_are_no_numbers_raise(low: float, high: float) -> None:
    with pytest.raises(DataError, match=r"^conv/out: its range is \[.*\]; both ends must be finite numbers\.$"):
        params_from_range(low, high, "int8", where="conv/out")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-37), (-1e-40, 0.0), (0.0, 5e-324)])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_ranges_that_are_nothing_to_float32_count_as_zero(low: float, high: float, power_of_two: bool) -> None:
    assert params_from_range(low, high, "int8", power_of_two=power_of_two) == QuantParams("int8", (1.0,), (0,))


@pytest.mark.parametrize(("low", "high"), [(-1e300, 1e300), (0.0, 1e308)])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_scales_that_float32_can_not_hold_raise(low: float, high: float, power_of_two: bool) -> None:
    message = r"^conv/out: its range needs the scale .*, which float32 can't hold \(allowed: 1\.18e-38 to 3\.4e\+38\)"
    with pytest.raises(DataError, match=message):
        params_from_range(low, high, "int8", power_of_two=power_of_two, where="conv/out")


def test_the_whole_of_float32_is_a_valid_range() -> None:
    largest = float(np.finfo(np.float32).max)
    params = params_from_range(-largest, largest, "int8")
    assert params.scale[0] == pytest.approx(2 * largest / 255, rel=1e-6)


# ------------------------------------------------------------------------------------------------ integers


@pytest.mark.parametrize(
    ("dtype", "full", "narrow"),
    [
        ("int2", (-2, 1), (-1, 1)),
        ("int4", (-8, 7), (-7, 7)),
        ("int8", (-128, 127), (-127, 127)),
        ("int16", (-32768, 32767), (-32767, 32767)),
        ("uint8", (0, 255), (0, 255)),
        ("int32", (-(2**31), 2**31 - 1), (-(2**31) + 1, 2**31 - 1)),
    ],
)
def test_integer_ranges(dtype: str, full: tuple[int, int], narrow: tuple[int, int]) -> None:
    assert integer_range(dtype) == full
    assert integer_range(dtype, narrow=True) == narrow


@given(arrays(np.float32, 7, elements=MODERATE), st.floats(1e-3, 1e3))
def test_a_narrow_range_never_reaches_the_lowest_integer(x: np.ndarray, scale: float) -> None:
    q = quantize(x, QuantParams("int8", (float(np.float32(scale)),), (0,)), narrow=True)
    assert q.min() >= -127


@given(st.data())
def test_quantize_is_the_rounded_float32_product_with_the_reciprocal(data: st.DataObject) -> None:
    x = data.draw(arrays(np.float32, 5, elements=MODERATE))
    scale = np.float32(data.draw(st.floats(1e-3, 1e3)))
    zero_point = data.draw(st.integers(-128, 127))
    product = x * (np.float32(1) / scale)
    expected = [min(max(half_away(float(v)) + zero_point, -128), 127) for v in product]
    assert quantize(x, QuantParams("int8", (float(scale),), (zero_point,))).tolist() == expected


def test_dividing_would_round_some_values_otherwise() -> None:
    # The reason why quantize multiplies by the reciprocal: NUMERICS, "Rounding of weights".
    random = np.random.default_rng(0)
    x = (random.integers(-127, 127, 1 << 20) + np.float32(0.5)).astype(np.float32) * np.float32(0.007)
    params = QuantParams("int8", (float(np.float32(0.007)),), (0,))
    divided = round_half_away(x.astype(np.float64) / params.scale[0]).astype(np.int8)
    assert (divided != quantize(x, params)).any()


def test_values_beyond_the_range_saturate() -> None:
    params = QuantParams("int8", (0.5,), (10,))
    assert quantize(np.array([-1e30, 1e30, -1e3, 1e3], np.float32), params).tolist() == [-128, 127, -128, 127]


def test_values_that_overflow_float32_on_the_way_saturate_without_a_warning() -> None:
    params = QuantParams("int8", (1e-30,), (0,))
    assert quantize(np.array([-1e30, 1e30], np.float32), params).tolist() == [-128, 127]


@given(st.integers(-(2**31), 2**31 - 1))
def test_int32_keeps_what_float32_keeps(value: int) -> None:
    x = np.array([value], np.float32)
    expected = min(int(x[0]), 2**31 - 1)
    assert quantize(x, QuantParams("int32", (1.0,), (0,))).tolist() == [expected]


def test_large_biases_saturate() -> None:
    x = np.array([3e9, -3e9, 1e30], np.float32)
    assert quantize(x, QuantParams("int32", (1.0,), (0,))).tolist() == [2**31 - 1, -(2**31), 2**31 - 1]
    wide = quantize(np.array([3e9, -1e30, 1e30], np.float32), QuantParams("int64", (1.0,), (0,)))
    assert wide.tolist() == [3_000_000_000, -(2**63), 2**63 - 1024]


@given(st.data())
def test_scales_per_channel_apply_along_their_axis(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = data.draw(arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
    scales = data.draw(st.lists(st.floats(0.125, 2, width=32), min_size=shape[axis], max_size=shape[axis]))
    whole = quantize(x, QuantParams("int8", tuple(scales), (0,) * len(scales), axis))
    for index, scale in enumerate(scales):
        one = quantize(np.take(x, index, axis), QuantParams("int8", (scale,), (0,)))
        assert np.array_equal(np.take(whole, index, axis), one)
    assert whole.shape == x.shape


@pytest.mark.parametrize("axis", [None, 0, 3])
@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_large_arrays_are_quantized_like_small_ones(axis: int | None, dtype: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (67, 9, 9, 33)).astype(np.float32)
    count = 1 if axis is None else x.shape[axis]
    scales = rng.uniform(0.005, 0.02, count).astype(np.float32)
    params = QuantParams(dtype, tuple(scales.tolist()), (3,) * count, axis)
    whole = quantize(x, params)
    for index in (0, 31, 66):
        own = (scales[index : index + 1] if axis == 0 else scales).tolist()
        part = quantize(x[index : index + 1], QuantParams(dtype, tuple(own), (3,) * len(own), axis))
        assert np.array_equal(whole[index : index + 1], part)


def test_scalars_and_empty_arrays() -> None:
    params = QuantParams("int8", (0.5,), (3,))
    assert quantize(np.float32(1.0), params).shape == ()
    assert int(quantize(np.float32(1.0), params)) == 5
    assert quantize(np.zeros((0, 3), np.float32), params).shape == (0, 3)
    assert dequantize(np.zeros((0, 3), np.int8), params).dtype == np.float32


def test_int4_values_are_ml_dtypes() -> None:
    q = quantize(np.array([-9.0, -7, 0, 3.5, 9], np.float32), QuantParams("int4", (1.0,), (0,)), narrow=True)
    assert q.dtype == ml_dtypes.int4
    assert q.astype(int).tolist() == [-7, -7, 0, 4, 7]


@given(st.sampled_from([("int4", -8, 7), ("int2", -2, 1)]), st.data())
def test_small_integers_pack_and_unpack(kind: tuple[str, int, int], data: st.DataObject) -> None:
    dtype, low, high = kind
    values = data.draw(arrays(np.int8, st.integers(0, 9), elements=st.integers(low, high)))
    tensor = constant("w", values, dtype)
    bits = 4 if dtype == "int4" else 2
    assert tensor.stored_bytes == -(-values.size * bits // 8)
    assert tensor.array is not None
    assert tensor.array.astype(int).tolist() == values.tolist()


def test_int4_puts_the_first_value_into_the_low_bits() -> None:
    data = constant("w", np.array([1, -2, 7], np.int8), "int4").data
    assert data is not None
    assert data.tolist() == [0xE1, 0x07]


# ------------------------------------------------------------------------------------------------ weights, biases


def scales_of(largest: list[float], dtype: str = "int8", *, power_of_two: bool = False) -> list[float]:
    return scales_from_largest(np.array(largest), dtype, power_of_two=power_of_two, where="dense/kernel").tolist()


def test_weight_scales_are_the_largest_magnitude_over_qmax() -> None:
    assert scales_of([1.0, 2.0]) == [np.float32(1 / 127), np.float32(2 / 127)]
    assert scales_of([2.0], "int4") == [np.float32(2 / 7)]
    assert scales_of([1.0, 1.984375], power_of_two=True) == [2.0**-6, 2.0**-6]


@given(arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)))
def test_weights_round_to_the_nearest_integer(weight: np.ndarray) -> None:
    peaks = np.abs(weight).max(axis=1).astype(np.float64)
    scales = np.array(scales_of(peaks.tolist()))
    params = QuantParams("int8", tuple(scales.tolist()), (0,) * 3, 0)
    q = quantize(weight, params, narrow=True)
    assert (np.abs(dequantize(q, params) - weight) <= scales[:, None] * (0.5 + 2.0**-15)).all()
    assert np.array_equal(np.abs(q).max(axis=1), np.where(peaks > 0, 127, 0))


def test_dead_channels_get_the_scale_of_the_tensorflow_converter() -> None:
    dead = float(np.float32(5e-7 / 127))
    assert scales_of([0.0, 1.0]) == [dead, np.float32(1 / 127)]
    assert scales_of([1e-40, 1.0]) == [dead, np.float32(1 / 127)]
    assert scales_of([0.0]) == [dead]
    assert scales_of([0.0, 0.0], power_of_two=True) == [2.0**-27, 2.0**-27]


def test_small_weights_beside_small_weights_are_not_dead() -> None:
    assert scales_of([1e-8, 1e-7]) == [np.float32(1e-8 / 127), np.float32(1e-7 / 127)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_raise(bad: float) -> None:
    with pytest.raises(
        DataError, match=r"^dense/kernel: it holds NaN or infinite values; .* Repair the model's weights"
    ):
        scales_of([1.0, bad])


@pytest.mark.parametrize("power_of_two", [False, True])
def test_weights_too_small_for_a_scale_are_dead(power_of_two: bool) -> None:
    assert scales_of([1e-40], power_of_two=power_of_two) == scales_of([0.0], power_of_two=power_of_two)


def test_bias_scales_are_float32_products() -> None:
    scales = np.array([0.1, 0.3], np.float32)
    params = bias_params(np.array([1.0, 2.0], np.float32), 0.7, scales, "int32")
    assert params.scale == tuple((np.float32(0.7) * scales).tolist())
    assert params.zero_point == (0, 0)
    assert params.axis == 0
    assert params.dtype == "int32"


def test_one_bias_scale_for_all_channels_beside_one_weight_scale() -> None:
    params = bias_params(np.array([1.0, 2.0], np.float32), 0.5, np.array([0.25]), "int64")
    assert params == QuantParams("int64", (0.125,), (0,))


@given(st.floats(1.0, 1e6, width=32), st.floats(1e-3, 1.0))
def test_a_bias_for_which_scales_were_widened_is_the_largest_integer(bias: float, input_scale: float) -> None:
    values = np.array([bias, -bias], np.float32)
    needed = np.full(2, abs(bias) / (LARGEST_BIAS["int32"] * input_scale)).astype(np.float32)
    params = bias_params(values, input_scale, needed, "int32")
    assert np.abs(quantize(values, params)).tolist() == pytest.approx([LARGEST_BIAS["int32"]] * 2, abs=64)
