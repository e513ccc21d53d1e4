"""Distillation: the distance against NumPy, training without labels, saving, other teachers, bad input."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.errors import DataError
from featherweight.training.graph.exposed import expose
from featherweight.training.qat.distillation import Compared, compared, distance


def student(name="dense", recipe="int8", **options):
    return fw.quantize_aware(
        models.lowered(name, name in models.RECURRENT),
        recipe,
        calibration=models.samples(name, 8, seed=1),
        progress=False,
        **{"teacher": True, **options},
    )


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "values"])
def test_distance(rng, kind):
    one, other = rng.normal(0, 2, (2, 16, 5)).astype(np.float32)
    if kind == "softmax":
        p, q = log_softmax(2 * other), log_softmax(2 * one)
        wanted = (np.exp(p) * (p - q)).sum(-1).mean()
    elif kind == "sigmoid":
        p, q = 1 / (1 + np.exp(-2 * other)), 1 / (1 + np.exp(-2 * one))
        wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    else:
        wanted = np.mean((one - other) ** 2) / np.mean((other - other.mean(0)) ** 2)
    pair = Compared("out", "a", "b", kind, 1.0 if kind == "values" else 2.0)
    assert float(distance([pair], {"a": one}, {"b": other})) == pytest.approx(wanted, rel=1e-4)
    assert float(distance([pair], {"a": one}, {"b": one})) == pytest.approx(0, abs=1e-6)


def test_probabilities_are_compared_before_they_are_made():
    kinds = {pair.output: pair.kind for pair in student("multi_output")._compared.value}
    assert kinds == {"label": "softmax", "mask": "sigmoid", "box": "values"}


@pytest.mark.parametrize("name", ["dense", "convnet"])
def test_training_without_labels_or_loss(name):
    model, x = student(name, recipe="w4a8"), models.batch(name, 32, seed=2)
    outputs = model.predict(x, verbose=0)
    model.compile(keras.optimizers.Adam(3e-4))
    before = model.evaluate(x, verbose=0, batch_size=16)
    weights = [v.numpy() for v in model.teacher.variables]
    model.fit(x, epochs=12, batch_size=16, verbose=0)
    assert model.evaluate(x, verbose=0, batch_size=16) < before
    assert (model.predict(x, verbose=0) != outputs).any()
    for variable, value in zip(model.teacher.variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_distance_is_zero_cost_for_predictions_and_in_no_file():
    model, x = student(), models.batch("dense", 8)
    plain = student(teacher=None)
    np.testing.assert_array_equal(model.predict(x, verbose=0), plain.predict(x, verbose=0))
    assert fw.write(fw.finalize(model).model) == fw.write(fw.finalize(plain).model)
    assert model.losses == []


def test_labels_and_a_loss_may_be_added():
    model, x = student(), models.batch("dense", 8)
    model.compile("sgd")
    alone = model.evaluate(x, verbose=0)
    model.compile("sgd", loss=lambda y, p: 0 * keras.ops.mean(p, axis=-1) + 3.0)
    assert model.evaluate(x, np.zeros((8, 64)), verbose=0) == pytest.approx(alone + 3, rel=1e-5)
    assert model.fit(x, np.zeros((8, 64)), verbose=0).history["loss"][0] == pytest.approx(alone + 3, rel=1e-2)


def test_saving_and_going_on(tmp_path):
    model, x = student(), models.batch("dense", 16)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(x, epochs=2, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, verbose=0) == model.evaluate(x, verbose=0)
    assert not loaded.teacher.trainable
    one = model.fit(x, epochs=2, batch_size=8, shuffle=False, verbose=0).history
    assert loaded.fit(x, epochs=2, batch_size=8, shuffle=False, verbose=0).history == one


def test_another_model_as_teacher():
    net = models.BUILDERS["dense"]()
    net.get_layer("reconstruction").bias.assign_add(np.full(64, 2.0))
    model, x = student(teacher=net), models.batch("dense", 16)
    wanted = net.predict(x["frame"], verbose=0)
    ours = model.predict(x, verbose=0)
    model.compile("sgd")
    relative = np.mean((ours - wanted) ** 2) / np.mean((wanted - wanted.mean(0)) ** 2)
    assert model.evaluate(x, batch_size=16, verbose=0) == pytest.approx(relative, rel=1e-3)


def test_a_teacher_of_other_inputs_or_outputs_is_refused():
    with pytest.raises(DataError, match=r"The teacher's inputs \('image' \[24, 24, 3\]\) are not those of the model"):
        student(teacher=models.lowered("convnet"))
    net = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3)])
    with pytest.raises(DataError, match=r"The teacher's outputs \(.*\[3\]\) are not those of the model .*\[64\]"):
        student(teacher=net)


def test_outputs_that_differ_in_kind_are_compared_as_they_are():
    softmax = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
    linear = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    one, other = expose(fw.load(softmax)), expose(fw.load(linear))
    assert [pair.kind for pair in compared(one, one.model, other)] == ["values"]
    assert [pair.kind for pair in compared(one, one.model, one)] == ["softmax"]


def test_outputs_that_are_integers_teach_nothing():
    x = np.ones((1, 8), np.float32)
    weight = np.arange(32, dtype=np.float32).reshape(8, 4)
    both = expose(fw.load(lambda x: ((x @ weight), (x @ weight).argmax(-1).astype("int32")), samples=[x]))
    number = expose(fw.load(lambda x: (x @ weight).argmax(-1).astype("int32"), samples=[x]))
    assert len(compared(both, both.model, both)) == 1
    with pytest.raises(DataError, match=r"None of the outputs \(.*\) is a real number"):
        compared(number, number.model, number)
