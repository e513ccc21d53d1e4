"""Every training kernel against LiteRT: one operator at a time, integer for integer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import single_ops
from tests.backends import on_backend
from tests.training.checking import assert_every_tensor_is_litert_s
from tests.training.variants import VARIANTS

import featherweight as fw

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODELS = single_ops.FACTORIES | VARIANTS
CALCULATING = (
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "ADD", "SUB", "MUL"),
    *("SQUARED_DIFFERENCE", "ABS", "RSQRT", "L2_NORMALIZATION", "PRELU", "MEAN", "SUM", "EQUAL", "LESS", "SOFTMAX"),
    *("AVERAGE_POOL_2D with padding", "RESIZE_BILINEAR", "PADV2", "LOGISTIC", "LEAKY_RELU"),
)
FORMS = [
    *(("int8", "litert", name) for name in MODELS),
    *((recipe, target, name) for recipe, target in (("int16x8", "litert"), ("int8", "tflm")) for name in CALCULATING),
    *(("int8", "builtin", name) for name in CALCULATING),
]
UNTRAINED = {"UNIDIRECTIONAL_SEQUENCE_LSTM", "LOG_SOFTMAX"}


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that runs LiteRT's own kernels."""
    file = tmp_path_factory.mktemp("target") / "builtin.toml"
    file.write_text('extends = "litert"\nname = "builtin"\ndescription = "no delegate"\nprofile = "tflite_opt"\n')
    return file


def trainable(name: str, recipe: str, target: str | Path) -> tuple[Any, Any]:
    graph = MODELS[name]()
    samples = [single_ops.feeds(graph, seed) for seed in range(4)]
    return graph, fw.quantize_aware(graph, recipe, calibration=samples, target=target, progress=False)


@pytest.mark.parametrize(("recipe", "target", "name"), FORMS)
def test_every_operator_computes_litert_s_integers(recipe: str, target: str, name: str, builtin: Path) -> None:
    graph, model = trainable(name, recipe, builtin if target == "builtin" else target)
    finished = fw.finalize(model)
    for reason in finished.plan.kept_float.values():
        is_known = graph.main.nodes[0].op in UNTRAINED or (name, target) == ("SUM", "tflm")
        assert is_known == reason.endswith("it has no training kernel in this form"), reason
        assert is_known or "has no" in reason
    if not finished.plan.kept_float:
        assert_every_tensor_is_litert_s(model, finished, single_ops.feeds(graph, 10))


@pytest.mark.parametrize("name", ["SUM", "SQUARED_DIFFERENCE", "L2_NORMALIZATION", "PRELU", "MEAN", "PADV2"])
def test_gradients_are_those_of_the_float_operator(name: str) -> None:
    """Straight through: what the integers' own gradient would be without their rounding."""
    import jax

    graph, model = trainable(name, "int8", "litert")
    x = single_ops.feeds(graph, 10)

    def gradients(model: Any) -> dict[str, np.ndarray]:
        weights = single_ops.weights(*graph.main.tensors["y"].shape)
        given = {key: jax.numpy.asarray(part) for key, part in x.items()}
        found = jax.grad(lambda x: (model(x) * weights).sum())(given)
        return {key: np.asarray(gradient) for key, gradient in found.items()}

    expected = gradients(fw.graph_model(graph))
    for key, gradient in gradients(model).items():
        assert np.isfinite(gradient).all()
        correlation = np.corrcoef(gradient.reshape(-1), expected[key].reshape(-1))[0, 1]
        assert correlation > 0.9


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_random_models_of_every_operator_on_other_backends(backend: str) -> None:
    examples = 3 if backend == "torch" else 1
    printed = on_backend(
        backend, f"from tests.training.integer.kernel_cases import run_cases; run_cases({examples}, [])"
    )
    result = json.loads(printed.split("RESULT", 1)[1])
    assert result["kinds"] > 100
    assert result["differences"] == []
