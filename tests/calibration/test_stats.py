from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featherweight.calibration import ChannelMoments, Histogram, Stats, TensorStats
from featherweight.calibration.histogram import BINS, Accumulator, Scratch, bin_exponent, coarsened, extremes
from featherweight.calibration.stats import channel_moments
from featherweight.errors import DataError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = st.lists(hnp.arrays(np.float32, st.integers(1, 20), elements=FLOATS), min_size=1, max_size=6)


def measured(values: np.ndarray) -> TensorStats:
    """The statistics of one run's values."""
    accumulator = Accumulator(Scratch())
    accumulator.widen(*extremes(values))
    accumulator.count(values)
    low, high = accumulator.low + 0.0, accumulator.high + 0.0
    return TensorStats(1, low, high, accumulator.result(), channel_moments(values[:, None], 1))


def merged(parts: list[TensorStats]) -> TensorStats:
    result = parts[0]
    for part in parts[1:]:
        result = result.merge(part)
    return result


def bits(stats: TensorStats) -> tuple[object, ...]:
    assert stats.histogram is not None
    assert stats.channels is not None
    histogram = stats.histogram.exponent, stats.histogram.counts.tobytes(), stats.histogram.zeros
    channels = stats.channels.count, stats.channels.sums.tobytes(), stats.channels.squares.tobytes()
    return stats.count, stats.low.hex(), stats.high.hex(), histogram, channels


@given(ARRAYS, st.randoms(use_true_random=False))
def test_no_order_and_no_sharding_changes_a_bit(arrays, random):
    parts = [measured(array) for array in arrays]
    expected = bits(merged(parts))
    random.shuffle(parts)
    cut = random.randint(1, len(parts))
    shards = [merged(part) for part in (parts[:cut], parts[cut:]) if part]
    assert bits(merged(shards)) == expected
    assert bits(merged(shards[::-1])) == expected
    assert merged(shards) == merged(shards[::-1])
    together = Accumulator(Scratch())
    for array in reversed(arrays):
        together.widen(*extremes(array))
        together.count(array)
    assert together.result() == merged(parts).histogram


@given(ARRAYS)
def test_a_histogram_counts_every_value_in_its_bin(arrays):
    values = np.concatenate(arrays).astype(np.float64)
    histogram = merged([measured(array) for array in arrays]).histogram
    assert histogram is not None
    assert histogram.exponent == bin_exponent(float(np.abs(values).max()))
    assert histogram.zeros == np.count_nonzero(values == 0)
    index = np.trunc(np.ldexp(values[values != 0], -histogram.exponent)).astype(int) + BINS - 1
    assert np.array_equal(histogram.counts, np.bincount(index, minlength=2 * BINS - 1))
    assert histogram.total == values.size


@given(ARRAYS)
def test_pieces_hold_their_values(arrays):
    values = np.concatenate(arrays)
    low, high = float(values.min()), float(values.max())
    histogram = merged([measured(array) for array in arrays]).histogram
    assert histogram is not None
    left, right, count = histogram.pieces(low, high)
    assert (left <= right).all()
    assert not count.size or (low <= left[0] and right[-1] <= high)
    for value in values[values != 0]:
        assert ((left <= value) & (value <= right)).any()


@given(st.floats(2.0**-100, 2.0**127))
def test_bins_reach_the_largest_magnitude_and_are_half_in_use(largest):
    exponent = bin_exponent(largest)
    assert BINS / 2 <= math.ldexp(largest, -exponent) < BINS


def test_coarsening_twice_is_coarsening_once():
    counts = np.random.default_rng(0).integers(0, 9, 2 * BINS - 1)
    assert np.array_equal(coarsened(coarsened(counts, 2), 3), coarsened(counts, 5))
    assert coarsened(counts, 500)[BINS - 1] == counts.sum()


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5), elements=FLOATS))
def test_moments_are_the_exact_sums(values):
    moments = channel_moments(values, 1)
    wide = values.reshape(-1, values.shape[-1])
    assert moments.count == wide.shape[0]
    for channel in range(wide.shape[1]):
        exact = sum(Fraction(float(v)) for v in wide[:, channel]) / wide.shape[0]
        size = sum(abs(Fraction(float(v))) for v in wide[:, channel])
        assert abs(Fraction(float(moments.mean[channel])) - exact) <= size * Fraction(1, 2**49) + Fraction(1, 2**190)
    assert (moments.variance >= 0).all()


def test_moments_of_a_batch_are_those_of_its_rows():
    values = np.random.default_rng(0).normal(size=(4, 5, 5, 3)).astype(np.float32)
    rows = [channel_moments(row[None], 1) for row in values]
    total = rows[0]
    for row in rows[1:]:
        total = total.merge(row)
    assert channel_moments(values, 4) == total
    np.testing.assert_allclose(total.mean, values.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(total.variance, values.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_extremes_show_what_is_not_finite(bad):
    assert not np.isfinite(extremes(np.array([1.0, bad, 2.0], np.float32))).all()


def test_an_empty_side_adds_nothing():
    some = TensorStats(2, 1.0, 2.0)
    assert some.merge(TensorStats(0, 0.0, 0.0)) == TensorStats(0, 0.0, 0.0).merge(some) == some


def test_what_does_not_belong_together_is_not_merged():
    histogram = Histogram(0, np.zeros(2 * BINS - 1, np.int64), 1, 1)
    with pytest.raises(DataError, match="statistics with and without histogram can't be merged"):
        TensorStats(1, 0.0, 0.0, histogram).merge(TensorStats(1, 0.0, 0.0))
    three, four = (channel_moments(np.zeros((1, n), np.float32), 1) for n in (3, 4))
    with pytest.raises(DataError, match="statistics of 3 and 4 channels can't be merged"):
        TensorStats(1, 0.0, 0.0, None, three).merge(TensorStats(1, 0.0, 0.0, None, four))
    one, other = Stats(1, {"b": TensorStats(1, 0, 0)}), Stats(1, {"a": TensorStats(1, 0, 0)})
    with pytest.raises(DataError, match="statistics of different tensors can't be merged: b, a occur in one"):
        one.merge(other)


def test_equality_looks_at_the_values():
    zeros = np.zeros((1, 1), np.int64)
    assert ChannelMoments(1, zeros, zeros) == ChannelMoments(1, zeros.copy(), zeros.copy())
    assert ChannelMoments(1, zeros, zeros) != ChannelMoments(1, zeros, zeros + 1)
    assert Histogram(0, zeros, 1, 1) != Histogram(0, zeros, 2, 2)
    assert Histogram(0, zeros, 1, 1) != "histogram"
    assert ChannelMoments(1, zeros, zeros) != "moments"
