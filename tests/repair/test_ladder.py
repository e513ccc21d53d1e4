"""How wide each group must be: the steps that bring most for what they cost, measured at the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featherweight.repair.ladder import Rungs, State, climbed, needed

CHEAP = Rungs(np.array([[0.5, 0.0], [0.05, 0.0], [0.0, 0.0]]), np.array([0.0, 1.0, 9.0]))
DEAR = Rungs(np.array([[0.5, 0.3], [0.4, 0.2], [0.0, 0.0]]), np.array([0.0, 5.0, 9.0]))
IDLE = Rungs(np.array([[1e-6, 0.0], [0.0, 0.0]]), np.array([0.0, 1.0]))
LADDERS = {"cheap": CHEAP, "dear": DEAR, "idle": IDLE}


def summed(factor: float = 1.0) -> Callable[[State], np.ndarray]:
    return lambda state: factor * np.sum([LADDERS[name].noise[rung] for name, rung in state.items()], axis=0)


def test_the_cheap_step_is_taken_where_it_is_enough() -> None:
    assert climbed(LADDERS, np.array([0.6, 1.0]), summed()) == {"cheap": 1, "dear": 0, "idle": 0}


def test_every_output_keeps_what_is_asked_of_it() -> None:
    assert climbed(LADDERS, np.array([2.0, 0.1]), summed()) == {"cheap": 0, "dear": 2, "idle": 0}


def test_what_is_measured_counts_more_than_the_sum() -> None:
    # The model as a whole is twelve times as noisy as its parts: one step of the cheap group is not enough.
    assert climbed(LADDERS, np.array([0.5, 1.0]), summed(12.0)) == {"cheap": 2, "dear": 2, "idle": 0}


def test_what_cant_be_reached_ends_on_the_highest_rungs() -> None:
    state = climbed(LADDERS, np.array([1e-9, 1e-9]), lambda _: np.array([1.0, 1.0]))
    assert state == {"cheap": 2, "dear": 2, "idle": 1}


def test_a_step_too_many_is_taken_back() -> None:
    # The parts cancel: with the cheap group in integers all is within what is asked.
    state = climbed(LADDERS, np.array([0.6, 1.0]), lambda _: np.array([0.1, 0.1]))
    assert state == {"cheap": 0, "dear": 0, "idle": 0}


def test_outputs_that_have_enough_are_not_held_to_all_of_it() -> None:
    allowed = needed(np.array([5.0, 25.0, 80.0]), 15.0, 30.0, np.array([0.0, 2.0, 2.0]))
    np.testing.assert_allclose(-10 * np.log10(allowed), [15.0, 27.0, 30.0])
