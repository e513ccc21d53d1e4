from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.calibration import (
    RANGE_METHODS,
    TensorStats,
    find_range,
    needs_histogram,
    register_range_method,
    share_beyond,
)
from featherweight.calibration.histogram import BINS, Accumulator, Histogram, Scratch, extremes
from featherweight.calibration.ranges import squared_error
from featherweight.errors import DataError, RecipeError
from featherweight.graph.numerics import dequantize, params_from_range, quantize

METHODS = [*(name for name in RANGE_METHODS if name != "auto"), "percentile:99.9", "percentile:100", "clip:0.3"]
FLOATS = st.floats(-1e6, 1e6, width=32)


def stats_of(values: np.ndarray) -> TensorStats:
    accumulator = Accumulator(Scratch())
    accumulator.widen(*extremes(values))
    accumulator.count(values)
    return TensorStats(1, accumulator.low, accumulator.high, accumulator.result())


def real_error(values: np.ndarray, found: tuple[float, float], dtype: str, symmetric: bool) -> float:
    params = params_from_range(*found, dtype, symmetric=symmetric)
    return float(np.mean((dequantize(quantize(values, params), params) - values) ** 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS))
def test_every_method_holds_zero_and_stays_within_the_extremes(method, symmetric, values):
    low, high = find_range(stats_of(values), method, "int8", symmetric=symmetric)
    assert min(0.0, values.min()) <= low <= 0.0 <= high <= max(0.0, values.max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.5, -2.0, 1e-30, -1e30])
def test_constant_tensors_are_valid(method, value):
    low, high = find_range(stats_of(np.full(100, value, np.float32)), method)
    params = params_from_range(low, high, "int8")
    restored = dequantize(quantize(np.float32(value), params), params)
    assert restored == pytest.approx(value, rel=1 / 100)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_never_held_a_value_has_the_range_zero(method):
    assert find_range(TensorStats(0, 0.0, 0.0), method) == (0.0, 0.0)


def test_percentiles_cut_the_tails_they_name(rng):
    values = rng.normal(size=200_000).astype(np.float32)
    stats = stats_of(values)
    for percent in (99.0, 99.9, 99.99):
        low, high = find_range(stats, f"percentile:{percent}")
        assert low == pytest.approx(np.quantile(values, 1 - percent / 100), abs=0.02)
        assert high == pytest.approx(np.quantile(values, percent / 100), abs=0.02)
    assert find_range(stats, "percentile") == find_range(stats, "percentile:99.99")
    assert find_range(stats, "percentile:100") == find_range(stats, "minmax")


def test_zeros_count_as_values_of_a_percentile(rng):
    values = np.zeros(100_000, np.float32)
    values[:5] = [1, 2, 3, 4, 5]
    assert find_range(stats_of(values), "percentile:99.99") == (0.0, 0.0)
    low, high = find_range(stats_of(values), "percentile:99.997")
    assert (low, round(high)) == (0.0, 3) or (low, round(high)) == (0.0, 2)


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile:99.9"])
def test_outliers_are_clipped(rng, method):
    values = np.abs(rng.normal(size=100_000)).astype(np.float32)
    values[0] = 100.0
    low, high = find_range(stats_of(values), method, "int4" if method == "mse" else "int8")
    assert low == 0.0
    assert 2.0 < high < 60.0


@pytest.mark.parametrize("dtype", ["int4", "int8", "int16"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_at_least_as_good_as_minmax_on_the_values(rng, dtype, symmetric):
    values = rng.standard_t(3, size=50_000).astype(np.float32)
    values = np.where(values < 0, values / 4, values)
    stats = stats_of(values)
    errors = {
        m: real_error(values, find_range(stats, m, dtype, symmetric=symmetric), dtype, symmetric)
        for m in ("mse", "minmax")
    }
    assert errors["mse"] <= errors["minmax"] * 1.0001
    assert dtype != "int4" or errors["mse"] < 0.5 * errors["minmax"]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", ["int4", "int8", "int16"])
@pytest.mark.parametrize("clip", [1.0, 0.5, 0.2])
def test_the_histograms_error_is_the_values_error(rng, dtype, symmetric, clip):
    values = rng.normal(0.3, 1, size=200_000).astype(np.float32)
    values[values < -2] = 0
    stats = stats_of(values)
    assert stats.histogram is not None
    low, high = stats.low * clip, stats.high * clip
    estimated = squared_error(stats.histogram.pieces(stats.low, stats.high), low, high, dtype, symmetric) / values.size
    assert estimated == pytest.approx(real_error(values, (low, high), dtype, symmetric), rel=0.03)


def test_entropy_keeps_a_uniform_distribution_whole():
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    low, high = find_range(stats_of(values), "entropy")
    assert low <= -0.95
    assert high >= 0.95


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "none",
            "range method 'none' is unknown (allowed: minmax, percentile, clip, auto, mse, entropy, percentile:NUMBER, "
            "clip:NUMBER)",
        ),
        ("clip:0", "the fraction must be a number above 0, at most 1"),
        ("minmax:1", "range method 'minmax:1' is unknown"),
        ("mse:3", "range method 'mse:3' is unknown"),
        ("percentile:all", "the percentile must be a number above 50, at most 100"),
        ("percentile:101", "the percentile must be a number above 50, at most 100"),
        ("percentile:nan", "the percentile must be a number above 50, at most 100"),
    ],
)
def test_unknown_methods_are_errors(method, message):
    for ask in (needs_histogram, lambda m: find_range(TensorStats(1, 0.0, 1.0), m)):
        with pytest.raises(RecipeError, match=re.escape(message)):
            ask(method)


def test_a_missing_histogram_is_an_error():
    with pytest.raises(DataError, match="conv: range method 'mse' needs a histogram"):
        find_range(TensorStats(1, 0.0, 1.0), "mse", where="conv")


def test_registering_twice_raises():
    with pytest.raises(ValueError, match="range method minmax is registered twice"):
        register_range_method("minmax", needs_histogram=False)(lambda stats, dtype, symmetric: (0.0, 0.0))


def test_shares_beyond_a_range(rng):
    values = rng.normal(size=50_000).astype(np.float32)
    stats = stats_of(values)
    for low, high in ((-1.0, 2.0), (-10.0, 0.5), (-0.3, 10.0)):
        share = np.mean((values < low) | (values > high))
        assert share_beyond(stats, low, high) == pytest.approx(share, abs=1e-3)
    assert share_beyond(stats, stats.low, stats.high) == 0
    assert share_beyond(stats_of(np.full(9, 5, np.float32)), 0.0, 4.0) == 1


def test_a_clip_is_a_fraction_of_the_extremes():
    assert find_range(TensorStats(1, -1.0, 4.0), "clip:0.75") == (-0.75, 3.0)
    assert find_range(TensorStats(1, -1.0, 4.0), "clip") == find_range(TensorStats(1, -1.0, 4.0), "clip:0.9")
    assert not needs_histogram("clip:0.75")


def test_auto_can_not_be_told_from_statistics():
    assert needs_histogram("auto")
    with pytest.raises(RecipeError, match=r"'auto' is chosen by running the model on samples\. Use quantize"):
        find_range(TensorStats(1, -1.0, 4.0, Histogram(0, np.zeros(2 * BINS - 1, np.int64), 1, 1)), "auto")
