"""Samples that repeat others."""

from __future__ import annotations

import numpy as np
import pytest

from featherweight.calibration.copies import copies, copies_said

RANDOM = np.random.default_rng(3)
PICTURES = RANDOM.normal(size=(5, 1, 16, 16, 3)).astype(np.float32)


def fed(*arrays: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"x": array} for array in arrays]


def test_frames_of_one_scene_repeat_the_first() -> None:
    a, b, c = PICTURES[:3]
    frames = [a + np.float32(0.05 * i) * b for i in range(2)]
    assert copies(fed(c, *frames, b, a)) == [0, 1, 1, 3, 1]


def test_one_that_is_twice_as_bright_mirrored_or_shifted_repeats_none() -> None:
    a = PICTURES[0]
    assert copies(fed(a, 2 * a, a[:, :, ::-1], np.roll(a, 1, 1), a + 3)) == [0, 1, 2, 3, 4]


def test_a_sample_of_other_size_does_not_hide_that_others_repeat() -> None:
    a, b, c = PICTURES[:3]
    assert copies(fed(a, 1000 * b, c, a * np.float32(1.001))) == [0, 1, 2, 0]


def test_few_numbers_and_integers_repeat_others_when_they_are_the_same_only() -> None:
    rows = np.ones((1, 8), np.float32)
    assert copies(fed(rows, rows * np.float32(1.0001), rows)) == [0, 1, 0]
    tokens = np.arange(128, dtype=np.int32)[None]
    other = tokens.copy()
    other[0, 0] = 9
    assert copies(fed(tokens, other, tokens)) == [0, 1, 0]


def test_all_inputs_count() -> None:
    a, b = PICTURES[:2]
    pairs = [{"x": a, "z": a}, {"x": a, "z": b}, {"x": a * np.float32(1.001), "z": b}]
    assert copies(pairs) == [0, 1, 1]
    masked = [{"x": x, "mask": np.ones((1, 128), np.float32)} for x in (a, b, a * np.float32(1.001))]
    assert copies(masked) == [0, 1, 0]


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_constant_and_infinite_samples(value: float) -> None:
    same = np.full((1, 16, 16, 3), value, np.float32)
    assert copies(fed(same, PICTURES[0], same)) == [0, 1, 0]


def test_samples_of_other_lengths_are_compared_as_they_are() -> None:
    assert copies(fed(PICTURES[0], PICTURES[0][:, :8], PICTURES[0])) == [0, 1, 0]


def test_nothing_is_said_where_none_repeats() -> None:
    assert copies_said(fed(*PICTURES)) == ""
    assert copies_said([]) == ""
