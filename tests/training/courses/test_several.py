"""One set of weights for several chips: each model stays its file's, bit for bit, and all have the same weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models
from tests.backends import run_on
from tests.training.checking import assert_equal, runtime_outputs

import featherweight as fw
from featherweight import tflite

TARGETS = ["litert", "esp32-s3", "esp32-p4"]


def made(**options):
    return fw.quantize_aware(
        models.lowered("convnet"), calibration=models.samples("convnet", 8, seed=1), targets=TARGETS, progress=False,
        **options,
    )  # fmt: skip


def part(x):
    return {name: array[:16] for name, array in x.items()}


def assert_same_weights(one, other):
    for first, second in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (first, second)))


@pytest.fixture(scope="module")
def trained():
    several = made(teacher=True)
    several.compile(keras.optimizers.Adam(3e-4))
    x = models.batch("convnet", 32, seed=2)
    before = several.evaluate(x)
    history = several.fit(x, epochs=3, batch_size=8, verbose=0, validation_data=part(x)).history
    return several, x, before, history


def test_all_have_one_set_of_weights_and_a_loss_each(trained):
    several, x, before, history = trained
    first, *others = several.models.values()
    for other in others:
        assert_same_weights(first, other)
    losses = [f"{name}_loss" for name in TARGETS]
    assert list(before) == TARGETS
    assert {"loss", "val_loss", *losses, *(f"val_{name}" for name in losses)} == set(history)
    assert all(len(rows) == 3 and np.isfinite(rows).all() for rows in history.values())
    np.testing.assert_allclose(history["loss"], np.mean([history[name] for name in losses], axis=0))
    for name, scores in several.evaluate(part(x)).items():
        assert scores["loss"] == pytest.approx(history[f"val_{name}_loss"][-1], rel=1e-5)


def test_each_file_computes_what_its_model_predicts(trained):
    several, x, *_ = trained
    finished = fw.finalize(several)
    assert list(finished) == TARGETS
    predicted = several.predict(x)
    for name, result in finished.items():
        assert result.plan.target == name
        assert_equal(predicted[name], runtime_outputs(result, x))


def test_the_same_again_is_the_same(trained):
    several, x, *_ = trained
    again = made(teacher=True)
    again.compile(keras.optimizers.Adam(3e-4))
    again.fit(x, epochs=3, batch_size=8, verbose=0)
    assert_same_weights(several, again)


def test_saved_and_loaded_it_goes_on_as_if_it_had_not_been(trained, tmp_path):
    several, x, *_ = trained
    several.save(tmp_path / "several.keras")
    loaded = keras.saving.load_model(tmp_path / "several.keras")
    for one, other in zip(several.predict(x).values(), loaded.predict(x).values(), strict=True):
        assert_equal(one, other)
    for one in (several, loaded):
        one.fit(x, epochs=1, batch_size=16, verbose=0)  # ends with another target than it began with
        one.fit(x, epochs=1, batch_size=8, verbose=0)
    assert_same_weights(several, loaded)
    for one, other in zip(fw.finalize(several).values(), fw.finalize(loaded).values(), strict=True):
        assert tflite.write(one.model) == tflite.write(other.model)


def test_callbacks_see_a_model_of_keras():
    several = made()
    x, y = models.batch("convnet", 32, seed=2), np.arange(32) % 10
    several.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    before = several.get_weights()
    rates = []
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", min_delta=1e6),
        keras.callbacks.LearningRateScheduler(lambda epoch, _: 1e-3 / (epoch + 1)),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: rates.append(float(several.optimizer.learning_rate))
        ),
    ]
    history = several.fit(x, y, 8, 5, 0, callbacks, validation_data=(x, y), class_weight={1: 2.0}, shuffle=False)
    assert several.stop_training
    assert len(history.history["val_esp32-s3_accuracy"]) == 2
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 4)
    several.set_weights(before)
    for one, other in zip(several.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_loops_of_ones_own_take_steps_by_turns_and_leave_one_set_of_weights():
    several = made()
    several.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = models.batch("convnet", 8, seed=2), np.arange(8) % 10
    scores = [several.train_on_batch(x, y, return_dict=True) for _ in range(4)]
    assert [next(key for key in each if key != "loss") for each in scores] == [
        f"{TARGETS[step % 3]}_loss" for step in (1, 2, 3, 4)
    ]
    first, *others = several.models.values()
    for other in others:
        assert_same_weights(first, other)
    for name, result in fw.finalize(several).items():
        assert_equal(several.predict(x)[name], runtime_outputs(result, x))


def test_a_part_of_the_samples_is_held_out():
    x, y = models.batch("convnet", 32, seed=2), np.arange(32) % 10
    found = []
    for first, options in (
        (32, {"validation_split": 0.25}),
        (24, {"validation_data": ({"image": x["image"][24:]}, y[24:])}),
    ):
        several = made()
        several.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        fed = {"image": x["image"][:first]}
        found.append(several.fit(fed, y[:first], 8, 1, 0, sample_weight=np.ones(first), **options).history)
    assert found[0] == found[1]
    assert several.evaluate(fed, y[:24], return_dict=True).keys() == several.models.keys()
    for split in (1.5, 0.999):
        with pytest.raises(fw.RecipeError, match="validation_split"):
            several.fit(x, y, verbose=0, validation_split=split)


def test_clusters_are_let_go_where_that_is_asked_for():
    clustered = fw.cluster(models.lowered("convnet"), 8, keep=()).model
    options = {"calibration": models.samples("convnet", 4), "targets": ["litert", "tflm"], "progress": False}
    for keep in (True, False):
        several = fw.quantize_aware(clustered, keep_clusters=keep, **options)
        assert {bool(model.blueprint.clustered) for model in several.models.values()} == {keep}


def test_a_recipe_that_changes_nothing_on_one_of_them_is_said(caplog):
    with caplog.at_level("WARNING", "featherweight"):
        several = fw.quantize_aware(models.lowered("convnet"), "weights8", targets=["litert", "tflm"], progress=False)
    said = "Recipe 'weights8' on target 'tflm' changes nothing of this model: target 'tflm' does not turn int8 weights"
    assert [said in record.message for record in caplog.records] == [True]
    finished = fw.finalize(several)
    assert [any(said in note for note in result.plan.notes) for result in finished.values()] == [False, True]


def test_pruning_goes_on_in_every_arithmetic():
    several = made(teacher=True)
    several.compile(fw.SparseOptimizer("adam", 0.5))
    several.fit(models.batch("convnet", 32, seed=2), batch_size=8, verbose=0)
    for model in several.models.values():
        assert set(model.optimizer.sparsities().values()) == {0.5}


def test_what_can_not_be_shared_is_refused():
    with pytest.raises(fw.RecipeError, match="with several targets ranges can't be learned"):
        made(train_ranges="learned")
    with pytest.raises(fw.RecipeError, match="targets= goes without target= and plan="):
        made(target="tflm")
    with pytest.raises(fw.RecipeError, match=r"a list of targets .*, each once"):
        fw.quantize_aware(models.lowered("convnet"), targets=["litert", "litert"])
    several, x = made(), models.batch("convnet", 8, seed=2)
    for call in (several.fit, several.evaluate):
        with pytest.raises(fw.RecipeError, match=r"compile it before (fit|evaluate), with a loss unless"):
            call(x)
    with pytest.raises(fw.RecipeError, match="SeveralTargets: optimizer='adamm' is none of Keras's"):
        several.compile("adamm", "mse")
    several.compile("adam", "mse")
    with pytest.raises(fw.DataError, match="compiled with a loss, which needs labels"):
        several.fit(x)
    with pytest.raises(fw.FormatError, match=r"one for each of several targets \(litert, .* model.models\['litert'\]"):
        fw.load(several)
    with pytest.raises(fw.RecipeError, match=r"fit: batch_size is 0 \(allowed: a whole number from 1 on\)"):
        several.fit(x, np.zeros(8), batch_size=0)
    with pytest.raises(fw.DataError, match="there are 3 weights for 8 samples"):
        several.fit(x, np.zeros(8), sample_weight=[1, 2, 3])
    with pytest.raises(fw.RecipeError, match="validation_data has 3 parts"):
        several.fit(x, np.zeros(8), validation_data=(x, x, x))


_SCRIPT = """
import tempfile
import keras, numpy as np
import featherweight as fw
from keras import layers as L

keras.utils.set_random_seed(0)
net = keras.Sequential([L.Input((8,)), L.Dense(16, activation="relu"), L.Dense(4)])
x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
several = fw.quantize_aware(
    net, calibration=x[:8], targets=["litert", "esp32-s3"], teacher=True, progress=False, verify=False
)
several.compile(keras.optimizers.Adam(1e-3))
history = several.fit(x, batch_size=8, epochs=2, verbose=0, validation_data=x).history
assert {"loss", "litert_loss", "val_esp32-s3_loss"} <= set(history), history
path = tempfile.mkdtemp() + "/m.keras"
several.save(path)
loaded = keras.saving.load_model(path)
for one in (several, loaded):
    one.fit(x, batch_size=8, verbose=0)
for one, other in zip(several.get_weights(), loaded.get_weights()):
    np.testing.assert_array_equal(one, other)
predicted = several.predict(x)
for name, result in fw.finalize(several).items():
    how = {"runtime": "reference", "profile": "power_of_two"} if name == "esp32-s3" else {}
    np.testing.assert_array_equal(np.asarray(fw.run(result.model, x, **how)), np.asarray(predicted[name]))
print("DONE")
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(backend):
    pytest.importorskip(backend)
    run_on(backend, _SCRIPT)
