"""Samples that reach much farther than all others."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.calibration.odd_samples import Reaches, odd_samples

RANDOM = np.random.default_rng(5)


def fed(*reaches: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.float32([[reach, 0, -reach / 2]])} for reach in reaches]


def test_the_one_that_makes_the_range_is_named_whichever_end_it_reaches() -> None:
    for far in (50, -50):
        (odd,) = odd_samples(fed(1, 2, far, 1, 1, 1, 1, 1, 1))
        assert (odd.name, odd.indices, odd.samples, odd.reach, odd.rest) == ("x", (2,), 9, 50, 2)
    assert str(odd).startswith("sample 2 (of 9) reaches 50 in input 'x', all others stay within 2: 1 in 25 of")


def test_several_of_many_are_odd_and_the_farthest_comes_first() -> None:
    reaches = [1.0] * 60
    reaches[7], reaches[40] = 9.0, 30.0
    (odd,) = odd_samples(fed(*reaches))
    assert odd.indices == (40, 7)
    assert str(odd).startswith("samples 40, 7 (of 60) reach 30 in")


@pytest.mark.parametrize(
    "reaches",
    [
        [1, 1, 1, 50],  # too few to tell
        [1, 1.5, 2, 3, 2, 1, 1, 3.9],  # not four times as far
        [1, 1, 1, 1, 1, 1, 40, 50],  # a kind of its own
        [0, 0, 0, 0, 0, 0, 0, 0, 5],  # nothing to compare with
        [1] * 20,
    ],
)
def test_what_is_not_odd(reaches: list[float]) -> None:
    assert odd_samples(fed(*reaches)) == ()


def test_integers_have_no_range_and_each_input_counts_for_itself() -> None:
    feeds = [{"ids": np.int32([[1000 * (i == 3)]]), "z": np.float32([[1.0]])} for i in range(9)]
    assert odd_samples(feeds) == ()
    feeds[3]["z"] = np.float32([[99.0]])
    assert [odd.name for odd in odd_samples(feeds)] == ["z"]


def test_examples_of_a_batch_are_told_apart() -> None:
    reaches, batch = Reaches(), np.ones((9, 2, 2), np.float32)
    batch[4] *= 10
    reaches.add({"x": batch}, rows=9)
    (odd,) = reaches.odd()
    assert (odd.indices, odd.samples) == ((4,), 9)


def test_quantize_warns_of_one_and_says_its_number(caplog: pytest.LogCaptureFixture) -> None:
    model, several = models.lowered("convnet"), models.samples("convnet", 12)
    (name,) = several[0]
    with caplog.at_level(logging.WARNING):
        plain = fw.quantize(model, calibration=several, progress=False)
    assert not any("reaches" in note for note in plain.plan.notes)
    several[5] = {name: several[5][name] * np.float32(100)}
    with caplog.at_level(logging.WARNING):
        found = fw.quantize(model, calibration=several, progress=False)
    (note,) = [note for note in found.plan.notes if "of its steps" in note]
    assert "ample 5 (of 12) reaches" in note
    assert note in caplog.text
    repaired = fw.quantize(model, calibration=several, ranges="auto", progress=False)
    assert any("improve: sample 5 (of 12) reaches" in note for note in repaired.plan.notes)
