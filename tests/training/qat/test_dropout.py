"""Dropout of a Keras model in the training steps of its quantized graph: where it is, and what it draws."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tests.training.checking import predictions

import featherweight as fw
from featherweight.training.qat.dropout import Noise, drawn

SAMPLES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)


@functools.cache
def source() -> Any:
    """Dropout on both readers of a tensor, on one of two, on a whole branch, and where nothing reads it."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.SpatialDropout2D(0.25, name="spatial")(x)
    y = layers.Conv2D(4, 3, padding="same", name="path")(x)
    x = layers.Add(name="sum")([x, layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="depth")(y)])
    x = layers.GaussianNoise(0.1, name="noise")(x)
    z = layers.Conv2D(4, 1, name="branch")(layers.Dropout(0.2, name="one")(x))
    x = layers.Flatten(name="flatten")(layers.Add(name="second_sum")([z, x]))
    x = layers.Dense(6, activation="tanh", name="features")(layers.GaussianDropout(0.2, name="flat")(x))
    x = layers.Dense(3, name="logits")(layers.Dropout(0.5, seed=7, name="last")(x))
    return keras.Model(inputs, layers.Dropout(0.1, name="after")(x))


def made(model: Any = None, **options: Any) -> Any:
    return fw.quantize_aware(model or source(), calibration=list(SAMPLES), progress=False, **options)


def test_each_layer_is_put_back_where_it_was() -> None:
    model = made()
    places = {noise.layer: {(node.split("/")[0], at) for node, at in noise.edges} for noise in model.blueprint.noises}
    assert places == {
        "spatial": {("path", 0), ("sum", 0)},
        "depth": {("sum", 1)},
        "noise": {("branch", 0), ("second_sum", 1)},
        "one": {("branch", 0)},
        "flat": {("flatten", 0)},  # before the reshaping or behind it is the same
        "last": {("after", 0)},  # the logits, under the output's name
    }
    assert {noise.layer: noise.shared for noise in model.blueprint.noises if noise.shared} == {
        "spatial": (1, 2),
        "depth": (1, 2, 3),
    }
    notes = fw.finalize(model).plan.notes
    assert "dropout: 'after' is left out in training: nothing in the graph reads a tensor that holds its input" in notes
    assert "call" not in vars(source().get_layer("last"))  # The source is as it was.


def test_predictions_have_none_and_training_steps_have() -> None:
    model, plain = made(), made(dropout=False)
    assert not plain.blueprint.noises
    np.testing.assert_array_equal(model.predict(SAMPLES, verbose=0), plain.predict(SAMPLES, verbose=0))
    clean = np.asarray(plain(SAMPLES, training=True))
    np.testing.assert_array_equal(clean, plain.predict(SAMPLES, verbose=0))
    first, second = (np.asarray(model(SAMPLES, training=True)) for _ in range(2))  # two steps
    assert np.abs(first - clean).max() > 0.1
    assert np.abs(first - second).max() > 0.1


def test_what_was_trained_with_dropout_is_the_file_s(tmp_path: Path) -> None:
    model = made()
    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
    model.fit(SAMPLES, np.zeros((16, 3)), epochs=2, batch_size=8, verbose=0)
    np.testing.assert_array_equal(predictions(model, SAMPLES), fw.run(fw.finalize(model).model, SAMPLES))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.blueprint.noises == model.blueprint.noises
    # The draws go on where they were.
    np.testing.assert_array_equal(loaded(SAMPLES, training=True), model(SAMPLES, training=True))


def test_a_file_and_another_source_work_too(tmp_path: Path) -> None:
    source().save(tmp_path / "source.keras")
    names = [noise.layer for noise in made().blueprint.noises]
    assert [noise.layer for noise in made(str(tmp_path / "source.keras")).blueprint.noises] == names
    graph = fw.load(source())
    assert not made(graph).blueprint.noises
    assert [noise.layer for noise in made(graph, dropout=source()).blueprint.noises] == names


def test_dropout_without_a_counterpart_is_noted() -> None:
    inputs = keras.Input((4, 3))
    x = layers.AlphaDropout(0.1, name="alpha")(layers.LSTM(3, dropout=0.2, name="memory")(inputs))
    samples = list(np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32))
    model = keras.Model(inputs, layers.Dense(2)(x))
    qat = fw.quantize_aware(model, calibration=samples, progress=False)
    assert not qat.blueprint.noises
    assert json.loads(qat.blueprint.plan)["notes"][-2:] == [
        "dropout: that inside the recurrent layer of 'memory/lstm_cell' is left out in training",
        "dropout: AlphaDropout 'alpha' is left out in training",
    ]


@pytest.mark.parametrize(("shared", "like"), [((), None), ((1,), 0)])
def test_draws_keep_the_mean(shared: tuple[int, ...], like: int | None) -> None:
    noise = Noise("d", "dropout", 0.25, (100, 40), shared, 3)
    found = np.asarray(drawn(noise, np.full((50, 4000), 3.0, np.float32), None, np.int32(0)))
    assert found.shape == (50, 4000)
    assert set(np.unique(found)) == {0.0, 4.0}
    found = found.reshape(50, 100, 40)
    assert abs(found.mean() - 3) < 0.15
    if like is not None:
        np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1], found.shape))
    normal = replace(noise, kind="gaussian_noise", amount=0.5, shared=())
    steps = np.asarray(drawn(normal, np.zeros((50, 4000), np.float32), np.float32(0.1), np.int32(0)))
    assert abs(steps.std() - 5) < 0.1  # 0.5 in steps of 0.1
