"""What SparseOptimizer refuses, and what it warns of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.training.pruning.nets import BATCH, Custom, conv_net, data, dense_net, trained, zeros

import featherweight as fw
from featherweight.errors import DataError, RecipeError
from featherweight.training.schedules import Schedule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "fast"}, r"schedule='fast' is no schedule\. Use fw\.schedules\.polynomial_decay"),
        ({"schedule": 1.5}, r"a sparsity is a fraction of zeros in \[0, 1\), not 1\.5"),
        ({"pattern": "3"}, "Sparsity pattern '3' is unknown"),
        ({"frequency": 0}, "frequency=0 is no whole number of steps from 1 on"),
        ({"frequency": 2.5}, r"frequency=2\.5 is no whole number"),
        ({"method": "taylor"}, r"method='taylor' is not understood \(allowed: magnitude, movement\)"),
        ({"allocation": "even"}, r"allocation='even' is not understood \(allowed: uniform, global, erk\)"),
        ({"keep": ["head"]}, r"keep='head' is not understood \(allowed: first, last, depthwise\)"),
        ({"rules": {"a": 1.0}}, r"Rule 'a': a sparsity is a fraction of zeros in \[0, 1\), not 1\.0"),
        ({"pattern": "auto"}, "takes the pattern from a target. Name one"),
        ({"pattern": "auto", "target": "abacus"}, "Unknown target 'abacus'"),
        ({"regrowth": 1.5}, r"regrowth=1\.5 is no fraction between 0 and 1, such as 0\.3"),
        ({"regrowth": 0.3}, "regrowth has no time: masks are updated at step 0 only. Give the schedule a later end"),
    ],
    ids=str,
)
def test_arguments_that_are_not_understood(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fw.SparseOptimizer("adam", **{"schedule": 0.5, **options})


@pytest.mark.parametrize("options", [{"method": "movement"}, {"allocation": "global"}])
def test_regrowth_needs_shares_and_magnitudes(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="regrowth works with method='magnitude' in a share for each kernel"):
        fw.SparseOptimizer("adam", fw.schedules.constant(0.5, 0, 9), regrowth=0.3, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"pattern": "1x5"},
            DataError,
            r"Kernel 'net/a/kernel', shape \(12, 16\): pattern '1x5' does not divide it: it has 12 consecutive inputs, "
            r"which don't divide by 5 \(nearest: 10 or 15\)",
        ),
        ({"pattern": "2:4"}, RecipeError, "pattern '2:4' holds at most a sparsity of 0.5, not 0.6"),
        ({"pattern": "2:4", "schedule": 0.4}, RecipeError, "'2:4' means a final sparsity of 0.5, not 0.4. Let the"),
        ({"exclude": ["d", "a"]}, RecipeError, "exclude 'd' matches no kernel. They are named net/a/kernel, net/b"),
        ({"rules": {"stem": 0.5}}, RecipeError, "rule 'stem' matches no kernel. They are named net/a/kernel"),
        ({"exclude": ["*"]}, RecipeError, r"nothing to prune; all kernels stay dense: 'net/a/kernel' \(excluded by"),
        ({"allocation": "global", "rules": {"a": 0.2}}, RecipeError, "a global allocation gives no kernel its own"),
        ({"schedule": 0.0, "rules": {"a": 0.2}}, RecipeError, "rules follow the schedule, which ends at a sparsity of"),
    ],
    ids=str,
)
def test_choices_that_no_model_can_follow(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = dense_net()
    optimizer = fw.SparseOptimizer("adam", **{"schedule": 0.6, "model": model, **options})
    with pytest.raises(error, match=message):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize(
    ("made", "options", "path"),
    [
        (conv_net, {}, "net/stem/kernel"),
        (dense_net, {"pattern": "1x4"}, "net/a/kernel"),
        (lambda: keras.Sequential([L.Input((6,)), Custom(name="y")], name="net"), {}, "net/y/mixing"),
    ],
    ids=["convolutions", "blocks", "custom layers"],
)
def test_a_loop_of_ones_own_names_the_model_where_layers_decide(made: Any, options: Any, path: str) -> None:
    model = made()
    message = rf"what becomes of '{path}' depends on its layer, .* Name the model: SparseOptimizer\(…, model=model\)"
    with pytest.raises(RecipeError, match=message):
        fw.SparseOptimizer("adam", 0.5, **options).build(model.trainable_variables)
    for named in (model, [model]):
        optimizer = fw.SparseOptimizer("adam", 0.5, **options, keep=(), model=named)
        optimizer.build(model.trainable_variables)
        assert path in optimizer.patterns()


def test_variables_of_no_model_are_judged_by_name_and_rank() -> None:
    made = [keras.Variable(np.ones(shape), name=name) for name, shape in (("w", (4, 6)), ("b_bias", (1, 6)))]
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.0), 0.5, keep=(), model=())
    optimizer.apply([np.ones((4, 6)), np.ones((1, 6))], made)
    assert optimizer.sparsities() == {"w": 0.5}


def test_a_model_without_kernels() -> None:
    model = keras.Sequential([L.Input((4,)), L.BatchNormalization()])
    with pytest.raises(RecipeError, match="the model has no trainable kernel, so there is nothing to prune"):
        fw.SparseOptimizer("adam", 0.5).build(model.trainable_variables)
    only = keras.Sequential([L.Input((4,)), L.Dense(3)], name="net")
    with pytest.raises(RecipeError, match=r"there is nothing to prune; .* \(the last classifier; name it in a rule"):
        trained(only, fw.SparseOptimizer("adam", 0.5), 1)


def test_a_kernel_of_which_nothing_is_left() -> None:
    model = dense_net()
    with pytest.warns(UserWarning, match="a sparsity of 0.97 leaves none of its 16 channel units"):
        fw.SparseOptimizer("adam", 0.97, "channel", model=model).build(model.trainable_variables)


def test_a_kernel_of_which_erk_leaves_nothing() -> None:
    inputs = keras.Input((4,))
    small = L.Dense(2, name="small")(inputs)
    model = keras.Model(inputs, L.Dense(2000, name="large")(L.Dense(2000, name="middle")(small)), name="net")
    optimizer = fw.SparseOptimizer("adam", 0.9995, "channel", allocation="erk", keep=(), model=model)
    with pytest.warns(
        UserWarning, match=r"Kernel 'small/kernel', shape .* a sparsity of 1 leaves none of its \d+ channel units"
    ):
        optimizer.build(model.trainable_variables)


def test_a_global_allocation_does_not_warn_of_what_it_may_keep() -> None:
    model = dense_net()
    optimizer = fw.SparseOptimizer("adam", 0.97, "channel", allocation="global", model=model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.build(model.trainable_variables)
    assert caught == []


def test_a_schedule_that_the_training_does_not_finish_warns_at_the_first_step() -> None:
    model = dense_net()
    message = (
        "the schedule ends at step 9, but this training ends at step 8, so the final sparsity of 0.5 is not reached"
    )
    with pytest.warns(UserWarning, match=message):
        trained(model, fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 9)))
    model.compile(fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 16)), "sparse_categorical_crossentropy")
    model.fit(*data(model), batch_size=BATCH, epochs=2, verbose=0)


def test_a_resumed_training_knows_the_steps_before(tmp_path: Path) -> None:
    model = dense_net()
    with pytest.warns(UserWarning, match="the schedule ends at step 12, but this training ends at step 8"):
        trained(model, fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 12)))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    trained(loaded, loaded.optimizer, 4)
    assert zeros(loaded, "b/kernel") == 192


def test_an_optimizer_that_has_seen_no_model() -> None:
    optimizer = fw.SparseOptimizer("adam", 0.5)
    for report in (optimizer.sparsities, optimizer.dense_kernels, optimizer.patterns, lambda: optimizer.kernels):
        with pytest.raises(RecipeError, match=r"it has no kernels yet\. Train a step, or call build"):
            report()
    with pytest.raises(ValueError, match="optimizer must already be built"):
        optimizer.apply([np.zeros(3)])


def test_a_schedule_of_ones_own() -> None:
    optimizer = fw.SparseOptimizer("adam", Schedule(lambda xp, step: 0.25 + 0.0 * step, (2, 4)))
    model = trained(dense_net(), optimizer, 5)
    assert zeros(model, "b/kernel") == 96
    with pytest.raises(RecipeError, match="a schedule of one's own has no settings to store"):
        optimizer.get_config()
