"""Layers that are frozen in the source stay as they are in training, and the notes say which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.backends import run_on

import featherweight as fw

X = np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype(np.float32)
FOLDED = {"inner/c/kernel", "inner/c/bias", "inner/dw/kernel", "inner/dw/bias"}
# What a shared layer has is found by its values.
SHARED = {"shared/kernel", "shared/bias"}
HEAD = {"pr/alpha", "head/kernel", "head/bias"}


def source() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(4, 3, use_bias=False, name="c"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="r"),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.BatchNormalization(name="norm_2"),
            layers.GlobalAveragePooling2D(),
        ],
        name="inner",
    )
    shared, x = layers.Dense(4, name="shared"), keras.Input((8, 8, 4))
    y = shared(layers.ReLU(name="re_lu")(shared(inner(x))))
    y = layers.PReLU(name="pr", alpha_initializer="random_normal")(y)
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    for number, variable in enumerate(v for v in model.variables if "norm" in v.path):
        variable.assign(np.random.default_rng(number).uniform(0.2, 2, variable.shape))
    return model


def trained_paths(model: Any) -> set[str]:
    return {variable.path.partition("/")[2] for variable in model.trainable_variables}


def notes(model: Any) -> str:
    return "\n".join(json.loads(model.blueprint.plan)["notes"])


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        (["inner"], SHARED | HEAD),
        (["inner/c", "inner/norm", "shared"], {"inner/dw/kernel", "inner/dw/bias"} | HEAD),
        (["head", "pr"], FOLDED | SHARED),
    ],
)
def test_frozen_layers_are_found_by_values_or_names(frozen: list[str], trained: set[str]) -> None:
    model = source()
    for path in frozen:
        layer = model
        for name in path.split("/"):
            layer = layer.get_layer(name)
        layer.trainable = False
    quantized = fw.quantize_aware(model, calibration=[X], progress=False)
    assert trained_paths(quantized) == trained
    assert f"frozen in the source, and not trained ({9 - len(trained)} weights)" in notes(quantized)


def test_norms_that_were_folded_into_trained_layers_are_named() -> None:
    model = source()
    model.get_layer("inner").get_layer("norm").trainable = False
    quantized = fw.quantize_aware(model, calibration=[X], progress=False)
    assert trained_paths(quantized) == FOLDED | SHARED | HEAD
    assert "frozen layers 'inner/norm' have no weights of their own" in notes(quantized)


def test_nothing_of_a_frozen_layer_moves_where_scales_are_learned_and_a_saved_model_knows(tmp_path: Path) -> None:
    model = source()
    model.get_layer("inner").trainable = False
    model.save(tmp_path / "source.keras")
    quantized = fw.quantize_aware(tmp_path / "source.keras", calibration=[X], train_ranges="learned", progress=False)
    quantized.compile(keras.optimizers.Adam(0.01), "mse")
    before = quantized.integers()
    quantized.fit(X, np.ones((8, 2)), epochs=2, verbose=0)
    moved = {name for name, array in quantized.integers().items() if not np.array_equal(array, before[name])}
    kernels = {name for name, array in before.items() if array.ndim == 4}
    assert len(kernels) == 2
    assert moved
    assert not moved & kernels
    quantized.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert trained_paths(loaded) == trained_paths(quantized)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), quantized.predict(X, verbose=0))
    loaded.trainable = True
    assert trained_paths(loaded) > FOLDED


def test_a_source_that_is_frozen_as_a_whole_is_warned_of() -> None:
    model = source()
    model.trainable = False
    with pytest.warns(UserWarning, match="All weights are frozen in the source"):
        quantized = fw.quantize_aware(model, calibration=[X], progress=False)
    assert not trained_paths(quantized)


_TORCH = """
import numpy as np, torch
import featherweight as fw
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
    torch.nn.Linear(144, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2),
).eval()
net[1].running_var.uniform_(0.2, 2), net[1].running_mean.uniform_(-1, 1)
for part in (net[0], net[1], net[6]):
    part.requires_grad_(False)
x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
model = fw.quantize_aware(net, calibration=[x], progress=False)
assert len(model.trainable_variables) == 2, [v.path for v in model.trainable_variables]
assert any(tuple(v.shape) == (5, 144) for v in model.trainable_variables)
print("DONE")
"""


@pytest.mark.frameworks
def test_what_a_torch_module_does_not_train_is_not_trained() -> None:
    run_on("torch", _TORCH)
