from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.training import schedules
from featherweight.training.schedules import Schedule, constant, cosine, join, linear, polynomial_decay

RAMPS = (polynomial_decay, linear, cosine)
SPARSITIES = st.floats(0, 0.99)
SCHEDULES = (
    constant(0.5),
    constant(0.5, 7),
    constant(0.3, 2, 40),
    polynomial_decay(0.1, 0.9, 3, 50),
    polynomial_decay(0.0, 0.8, 0, 20, power=1.5),
    linear(0.0, 0.5, 5, 6),
    linear(0.8, 0.2, 5, 30),
    cosine(0.2, 0.75, 0, 33),
    join(linear(0.0, 0.5, 2, 10), constant(0.6, 12), cosine(0.6, 0.9, 20, 40)),
)


@pytest.mark.parametrize("ramp", RAMPS, ids=lambda ramp: ramp.__name__)
@given(initial=SPARSITIES, final=SPARSITIES, begin=st.integers(0, 1000), span=st.integers(1, 10**6))
def test_a_ramp_meets_both_ends_and_goes_one_way(
    ramp: object, initial: float, final: float, begin: int, span: int
) -> None:
    schedule = ramp(initial, final, begin, begin + span)  # type: ignore[operator]
    steps = np.unique(np.linspace(begin, begin + span, 50).astype(int))
    values = schedule(steps)
    assert values[0] == pytest.approx(initial, abs=1e-12)
    assert values[-1] == final == schedule(begin + span) == schedule(begin + span + 5) == schedule.final
    assert (np.diff(values) * np.sign(final - initial) >= -1e-12).all()
    assert (values >= min(initial, final) - 1e-12).all()
    assert (values <= max(initial, final) + 1e-12).all()
    if begin:
        assert schedule(begin - 1) == 0
        assert schedule(0) == 0


def test_values_of_the_schedules() -> None:
    assert polynomial_decay(0.5, 0.9, 10, 30)(20) == pytest.approx(0.9 - 0.4 * 0.5**3)  # Zhu & Gupta, equation 1
    assert polynomial_decay(0.0, 0.8, 0, 100, power=1)(25) == pytest.approx(0.2)
    assert linear(0.2, 0.6, 0, 4)(np.arange(6)).tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.6])
    assert cosine(0.0, 0.8, 0, 4)(np.arange(5)).tolist() == pytest.approx(
        [0.8 * (1 - np.cos(np.pi * t / 4)) / 2 for t in range(5)]
    )
    assert constant(0.7, 3)(np.arange(6)).tolist() == [0, 0, 0, 0.7, 0.7, 0.7]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.settings["schedule"])
def test_numbers_arrays_and_tensors_give_the_same(schedule: Schedule) -> None:
    steps = np.arange(60)
    values = schedule(steps)
    assert isinstance(schedule(5), float)
    assert [schedule(int(step)) for step in steps] == values.tolist()
    assert [schedule(step) for step in steps] == values.tolist()
    tensor = keras.ops.convert_to_numpy(schedule(keras.ops.convert_to_tensor(steps)))
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, values, atol=1e-6)
    assert tensor[-1] == np.float32(schedule.final)


def test_a_schedule_may_be_called_in_a_compiled_step() -> None:
    import jax

    compiled = jax.jit(SCHEDULES[3])
    assert float(compiled(50)) == np.float32(0.9)
    assert float(compiled(2)) == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.settings["schedule"])
def test_settings_make_the_same_schedule(schedule: Schedule) -> None:
    restored = schedules.restore(json.loads(json.dumps(schedule.settings)))
    assert restored == schedule
    steps = np.arange(60)
    assert (restored(steps) == schedule(steps)).all()


def test_a_join_follows_its_parts() -> None:
    joined = SCHEDULES[-1]
    assert joined.milestones == (2, 10, 12, 20, 40)
    assert [joined(step) for step in (1, 2, 6, 11, 12, 19, 40, 99)] == [0, 0, 0.25, 0.5, 0.6, 0.6, 0.9, 0.9]


def test_schedules_are_public() -> None:
    assert fw.schedules is schedules
    assert fw.Schedule is Schedule
    assert {"schedules", "Schedule"} <= {*fw.__all__}


@pytest.mark.parametrize("name", schedules.names())
def test_schedules_under_their_old_names(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"featherweight\.{name} is featherweight\.schedules\.{name}"):
        assert getattr(fw, name) is getattr(schedules, name)
    assert name not in fw.__all__


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.2, float("nan"), "half", None, True])
def test_a_sparsity_outside_its_range_is_an_error(sparsity: float) -> None:
    for make in (lambda: constant(sparsity), lambda: linear(sparsity, 0.5, 0, 9), lambda: cosine(0.5, sparsity, 0, 9)):
        with pytest.raises(RecipeError, match=r"a sparsity is a fraction of zeros in \[0, 1\), not "):
            make()


@pytest.mark.parametrize("ramp", RAMPS, ids=lambda ramp: ramp.__name__)
def test_a_schedule_that_ends_before_it_begins_is_an_error(ramp: object) -> None:
    name = ramp.__name__  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=f"{name}: it ends at step 10, before it begins at step 20. Exchange them."):
        ramp(0.0, 0.5, 20, 10)  # type: ignore[operator]
    with pytest.raises(RecipeError, match=f"{name}: it begins and ends at step 10. Let it end later, or use"):
        ramp(0.0, 0.5, 10, 10)  # type: ignore[operator]
    with pytest.raises(RecipeError, match="it ends at step 3, before it begins at step 4"):
        constant(0.5, 4, 3)


@pytest.mark.parametrize("step", [-1, 1.5, "2", True])
def test_a_step_is_a_whole_number(step: int) -> None:
    with pytest.raises(RecipeError, match=r"`begin` must be a step, a whole number from 0 on .*, not "):
        linear(0.0, 0.5, step, 10)


@pytest.mark.parametrize("power", [0, -1, float("inf"), float("nan"), "3"])
def test_a_power_is_positive(power: float) -> None:
    with pytest.raises(RecipeError, match="the power must be a positive number, not"):
        polynomial_decay(0.0, 0.5, 0, 10, power)


def test_parts_of_a_join_follow_each_other() -> None:
    with pytest.raises(
        RecipeError, match=r"join: part 2 begins at step 5, before part 1 ends at step 10. Begin it later."
    ):
        join(linear(0.0, 0.5, 0, 10), constant(0.5, 5))
    for parts in ((), (0.5,)):
        with pytest.raises(RecipeError, match=r"join: .* is no schedule. Give it some"):
            join(*parts)  # type: ignore[arg-type]


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"Schedule 'steps' is unknown \(allowed: constant, polynomial_decay, "):
        schedules.restore({"schedule": "steps"})


def test_a_schedule_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'linear' is registered twice"):
        schedules._schedule(linear)
