"""Lowering where TensorFlow and torch are installed: other Keras backends, the second route, torch modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.backends import on_backend
from tests.lower.support import ops

from featherweight.errors import LoweringError
from featherweight.lower import lower, lower_with_notes
from featherweight.runtime import run

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

# Lowers one live model on the backend of the process, and says whether LiteRT gives what the model gives.
_SCRIPT = """
import sys
import keras, numpy as np
from keras import layers as L
from featherweight.lower import lower_with_notes
from featherweight.runtime import run

class Local(L.Layer):
    def call(self, x):
        return keras.ops.tanh(x) * 2

kind, route, unroll = sys.argv[1:]
layers = {
    "convnet": lambda: [L.Input((8, 8, 3), name="image"), L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(),
                        L.ReLU(), L.UpSampling2D(2), L.Flatten(), L.Dense(3, name="classes")],
    "custom": lambda: [L.Input((6,), name="image"), Local(), L.Dense(3, activation="gelu", name="classes")],
    "recurrent": lambda: [L.Input((5, 3), name="image"), L.LSTM(4), L.Dense(3, name="classes")],
}
model = keras.Sequential(layers[kind]())
lowered = lower_with_notes(model, route=route, unroll=unroll == "unroll")
x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype("float32")
expected = keras.ops.convert_to_numpy(model(x, training=False))
np.testing.assert_allclose(run(lowered.model, {"image": x}), expected, atol=1e-5)
assert [name for name, _ in lowered.model.signatures[0].outputs] == ["classes"], lowered.model.signatures
print("OPS", *[node.op for node in lowered.model.main.nodes])
"""


def _on(backend: str, kind: str, route: str = "auto", unroll: str = "") -> list[str]:
    return on_backend(backend, _SCRIPT, kind, route, unroll).split("OPS", 1)[1].split()


@pytest.mark.parametrize(("backend", "module"), [("tensorflow", "tensorflow"), ("torch", "torch")])
def test_a_live_model_of_another_backend_is_lowered_through_jax(backend: str, module: str) -> None:
    pytest.importorskip(module)
    expected = ["CONV_2D", "RESIZE_NEAREST_NEIGHBOR", "RESHAPE", "FULLY_CONNECTED"]
    assert _on(backend, "convnet") == expected
    assert "WHILE" in _on(backend, "recurrent")
    assert "WHILE" not in _on(backend, "recurrent", unroll="unroll")


@pytest.mark.parametrize(("backend", "module"), [("tensorflow", "tensorflow"), ("torch", "litert_torch")])
def test_a_class_of_this_process_goes_through_the_converter_of_its_backend(backend: str, module: str) -> None:
    pytest.importorskip(module)
    assert "TANH" in _on(backend, "custom")


def test_both_routes_give_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    import keras
    from keras import layers as L  # noqa: N812
    from tests.lower.support import sequential

    layers = [L.Conv2D(6, 3, padding="same"), L.BatchNormalization(), L.ReLU(6.0), L.DepthwiseConv2D(3)]
    layers += [L.Conv2DTranspose(4, 3, 2, padding="same"), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")]
    model = sequential((8, 8, 3), *layers)
    path = tmp_path / "model.keras"
    model.save(path)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    ours = lower(path)
    for theirs in (lower(path, route="tensorflow"), lower(model, route="tensorflow")):
        np.testing.assert_allclose(run(ours, x), run(theirs, x), atol=1e-6)
        assert ops(theirs) == ops(ours)
    assert keras.config.backend() == "jax"


@pytest.mark.parametrize("kind", ["convnet", "recurrent"])
def test_the_tensorflow_route_in_its_own_process(kind: str) -> None:
    pytest.importorskip("tensorflow")
    assert _on("tensorflow", kind, "tensorflow")
    assert "WHILE" not in _on("tensorflow", kind, "tensorflow", "unroll")


def test_torch_modules() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    parts = [torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    module = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(6, 4))
    with pytest.raises(LoweringError, match=r"does not say the shapes of its inputs.*samples=\[x\]"):
        lower(module)
    module.train()
    lowered = lower_with_notes(module, samples=[torch.zeros(1, 3, 9, 9)])
    assert module.training
    assert "CONV_2D" in ops(lowered.model)
    x = torch.randn(3, 3, 9, 9)
    module.eval()
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(run(lowered.model, x.numpy()), expected, atol=1e-5)


def test_a_torch_module_with_integers_and_several_outputs() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("litert_torch")

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(120, 8)

        def forward(self, tokens: object, x: object) -> dict[str, object]:
            return {"mean": self.table(tokens).mean(1), "gelu": torch.nn.functional.gelu(x)}

    module = Two()
    tokens, x = torch.randint(0, 120, (1, 6)), torch.randn(1, 5)
    lowered = lower_with_notes(module, samples=[(tokens, x)])
    assert [name for name, _ in lowered.model.signatures[0].inputs] == ["tokens", "x"]
    got = run(lowered.model, {"tokens": tokens.numpy().astype("int32"), "x": x.numpy()})
    assert isinstance(got, dict)
    expected = module(tokens, x)
    for name, array in got.items():
        np.testing.assert_allclose(array, expected[name].detach().numpy(), atol=1e-5)
    assert ops(lowered.model).count("GELU") == 1
