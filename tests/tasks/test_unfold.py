"""`unfold`: trained weights back in the Keras model, batch norms and all."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.errors import RecipeError, UnsupportedOp
from featherweight.tasks import unfold as unfolding

# Everything of these goes back; the others have constants that are no variable of the Keras model.
WHOLE = ("convnet", "depthwise", "dense", "multi_input", "multi_output", "upsampling", "lstm")


def copy(name):
    return models.BUILDERS[name]()


def shaken(name, seed=0):
    """A graph model with weights other than its source's."""
    trained, random = fw.graph_model(models.lowered(name, name in models.RECURRENT)), np.random.default_rng(seed)
    for variable in trained.trainable_variables:
        value = keras.ops.convert_to_numpy(variable)
        noise = random.normal(0, 1, value.shape)
        variable.assign(value * (1 + 0.1 * noise) + 0.01 * noise)
    return trained


def assert_same(net, trained, name):
    x = models.batch(name, 4, seed=3)
    fed = x if len(x) > 1 else next(iter(x.values()))
    wanted, found = trained.predict(x, verbose=0, batch_size=4), net.predict(fed, verbose=0, batch_size=4)
    for one, other in zip(keras.tree.flatten(wanted), keras.tree.flatten(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("name", WHOLE)
def test_everything_goes_back(name):
    net, trained = copy(name), shaken(name)
    statistics = {v.path: v.numpy() for v in net.non_trainable_variables}
    found = fw.unfold(trained, net)
    assert found.unmapped == ()
    assert found.difference is not None
    assert found.difference < 1e-5
    assert {row.tensor for row in found.rows} == {e.tensor for e in trained.layer_table if e.variable}
    assert_same(net, trained, name)
    for variable in net.non_trainable_variables:  # moving means and variances
        np.testing.assert_array_equal(variable.numpy(), statistics[variable.path])


@pytest.mark.parametrize(("name", "count"), [("transformer", 1), ("gru", 3)])
def test_what_has_no_variable_is_named(name, count, caplog):
    net = copy(name)
    found = fw.unfold(shaken(name), net)
    assert len(found.unmapped) == count
    assert all(row.reason == "no variable of the Keras model has its values" for row in found.unmapped)
    assert found.difference is None
    assert f"{count} of {len(found.rows)} trained constants could not be written back" in caplog.text


def test_from_a_quantized_model_after_training():
    net = copy("convnet")
    trained = fw.quantize_aware(net, "int8", calibration=models.samples("convnet", 8), progress=False, teacher=True)
    trained.compile(keras.optimizers.Adam(1e-3))
    trained.fit(models.batch("convnet", 16), epochs=2, batch_size=8, verbose=0)
    before = net.get_weights()
    found = fw.unfold(trained, net)
    assert found.unmapped == ()
    assert any((a != b).any() for a, b in zip(before, net.get_weights(), strict=True))
    # Quantizing the Keras model again gives the trained integers, but for ties that float32 breaks the other way.
    again = fw.quantize_aware(net, "int8", calibration=models.samples("convnet", 8), progress=False)
    for name, integers in trained.integers().items():
        if trained.integer.main.tensors[name].dtype == "int8":
            assert np.abs(integers - again.integers()[name]).max() <= 1


def test_channels_of_gamma_zero():
    net = copy("convnet")
    net.get_layer("stem_norm").gamma.assign([0.0, *np.ones(7)])
    trained = fw.graph_model(fw.load(net))
    assert fw.unfold(trained, net).unmapped == ()
    kernel = next(v for v in trained.trainable_variables if v.path.endswith("stem/kernel"))
    kernel.assign_add(np.full(kernel.shape, 0.1))
    assert [row.reason for row in fw.unfold(trained, net).unmapped] == ["'stem_norm' has channels of gamma 0"] * 2


def test_a_bias_that_the_layer_does_not_have():
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, use_bias=False, name="flat")], name="unbiased")
    trained = fw.graph_model(fw.load(net))
    bias = next(v for v in trained.trainable_variables if v.name == "bias")
    assert fw.unfold(trained, net).unmapped == ()
    bias.assign_add(np.ones(4))
    assert [row.reason for row in fw.unfold(trained, net).unmapped] == ["the layer 'flat' has no bias"]


def test_another_model_is_refused():
    with pytest.raises(RecipeError, match=r"was not made of the Keras model 'dense': their graphs differ"):
        fw.unfold(shaken("convnet"), copy("dense"))


def test_a_difference_puts_everything_back(monkeypatch):
    net, trained = copy("dense"), shaken("dense")
    before = net.get_weights()
    monkeypatch.setattr(unfolding, "_difference", lambda target, model: 0.5)
    with pytest.raises(UnsupportedOp, match=r"differs from the trained graph by 0\.5 of its largest output"):
        fw.unfold(trained, net)
    for one, other in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def branched() -> keras.Model:
    """A block of parallel branches, as it is trained."""
    inputs = keras.Input((8, 8, 4), name="image")
    three = keras.layers.Conv2D(4, 3, padding="same", name="three")(inputs)
    one = keras.layers.Conv2D(4, 1, name="one")(inputs)
    total = keras.layers.Add()([three, one, keras.layers.BatchNormalization(name="norm")(inputs)])
    return keras.Model(inputs, keras.layers.Dense(3, name="out")(keras.layers.Flatten()(keras.layers.ReLU()(total))))


def test_branches_of_a_keras_model_keep_their_layers() -> None:
    net = branched()
    assert not fw.unfold(fw.graph_model(net), net).unmapped
    assert not fw.unfold(fw.graph_model(fw.load(net)), net).unmapped
