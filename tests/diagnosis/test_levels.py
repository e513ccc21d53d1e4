"""When an output needs no repair: by all its values, by its columns together, and by each of them."""

from __future__ import annotations

import numpy as np
import pytest

from featherweight.diagnosis.levels import Level, OutputLevel

MANY = 64


def output(weakest: float, *, spread: float = 1.0) -> OutputLevel:
    """An output of large means, the columns of which have noise of a thousandth of their spread, but for one."""
    spreads, noise = np.ones(MANY), np.full(MANY, 0.001)
    spreads[5], noise[5] = spread, weakest * spread
    return OutputLevel("y", np.full(MANY, 1e4), spreads, noise)


@pytest.mark.parametrize(("weakest", "is_enough"), [(0.1, True), (0.2, True), (0.3, False), (0.9, False)])
def test_one_column_that_is_noise_needs_repair_however_many_are_well(weakest: float, is_enough: bool) -> None:
    found = output(weakest)
    assert found.level_db > 15
    assert found.sqnr_db > 25
    assert found.weakest == (5, pytest.approx(-10 * np.log10(weakest)))
    assert Level((found,), 8).is_enough is is_enough


def test_a_column_that_is_constant_says_nothing() -> None:
    found = output(0.9, spread=1e-9)
    assert found.weakest is not None
    assert found.weakest[0] != 5
    assert found.is_enough


def test_an_output_without_columns_counts_as_a_whole() -> None:
    found = OutputLevel("y", np.ones(1), np.ones(1), np.full(1, 0.001))
    assert found.weakest is None
    assert found.is_enough
