"""Every training kernel against LiteRT: one operator at a time, integer for integer."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import building, single_ops
from tests.backends import on_backend
from tests.training.checking import RESOLVER, assert_every_tensor_is_litert_s
from tests.training.variants import VARIANTS

import featherweight as fw
from featherweight.graph import constant
from featherweight.graph.numerics import dequantize, quantize

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
# No int8 kernel has them, or no real number goes in.
WITHOUT_INTEGERS = {
    *("DIV", "POW", "SIN", "COS", "SQUARE", "FLOOR", "CEIL", "ROUND", "CAST", "CUMSUM", "CONV_3D"),
    *("EMBEDDING_LOOKUP", "LOGICAL_NOT"),
}


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that runs LiteRT's own kernels."""
    file = tmp_path_factory.mktemp("target") / "builtin.toml"
    file.write_text('extends = "litert"\nname = "builtin"\ndescription = "no delegate"\nprofile = "tflite_opt"\n')
    return file


@functools.cache
def trainable(name: str, recipe: str, target: str | Path) -> tuple[Any, Any, Any]:
    """Returns the float model, the model in training and what it becomes: the same for all tests, which train none."""
    graph = MODELS[name]()
    samples = [single_ops.feeds(graph, seed) for seed in range(4)]
    model = fw.quantize_aware(graph, recipe, calibration=samples, target=target, progress=False)
    return graph, model, fw.finalize(model)


@pytest.fixture(scope="module", autouse=True)
def models_are_let_go() -> Iterator[None]:
    yield
    trainable.cache_clear()


@pytest.mark.parametrize(("recipe", "target", "name"), FORMS)
def test_every_operator_computes_litert_s_integers(recipe: str, target: str, name: str, builtin: Path) -> None:
    graph, model, finished = trainable(name, recipe, builtin if target == "builtin" else target)
    for reason in finished.plan.kept_float.values():
        is_known = graph.main.nodes[0].op in UNTRAINED
        assert is_known == reason.endswith("it has no training kernel in this form"), reason
        assert is_known or "has no" in reason
    if not finished.plan.kept_float:
        assert_every_tensor_is_litert_s(model, finished, single_ops.feeds(graph, 10))


# ------------------------------------------------------------------------------------------------ as users compile them


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("recipe", "target"), [("int8", "litert"), ("int8", "builtin"), ("int16x8", "litert")])
def test_optimized_programs_compute_litert_s_integers(recipe: str, target: str, builtin: Path) -> None:
    """XLA fuses and reorders what it optimizes: all operators in one program, their weights and scales given to it."""
    import jax

    made = {name: trainable(name, recipe, builtin if target == "builtin" else target) for name in MODELS}
    kept = {name: parts for name, parts in made.items() if not parts[2].plan.kept_float}
    assert len(kept) >= {"int8": 99, "int16x8": 70}[recipe]
    feeds = [{name: single_ops.feeds(parts[0], seed) for name, parts in kept.items()} for seed in (10, 11)]
    expected = [{name: litert_s(parts[2], fed[name]) for name, parts in kept.items()} for fed in feeds]

    @jax.jit
    def computed(values: dict[str, Any], fed: dict[str, Any]) -> dict[str, Any]:
        return {
            name: tensors_from(model, values[name], fed[name], list(expected[0][name]))
            for name, (_, model, _) in kept.items()
        }

    values = {name: [variable.value for variable in model.variables] for name, (_, model, _) in kept.items()}
    different: list[str] = []
    for fed, integers in zip(feeds, expected, strict=True):
        found = computed(values, fed)
        for name, (_, _, finished) in kept.items():
            for tensor, array in integers[name].items():
                quant = finished.model.main.tensors[tensor].quant
                zero_point = quant.zero_point[0] if quant is not None and quant.zero_point else 0
                if not np.array_equal(np.asarray(found[name][tensor]) + zero_point, array):
                    different.append(f"{name}: {tensor}")
    assert different == []


def litert_s(finished: fw.Quantized, inputs: Any) -> dict[str, np.ndarray]:
    return fw.run(finished.model, inputs, tensors="all", resolver=RESOLVER[finished.plan.profile], threads=1)


def tensors_from(model: Any, values: list[Any], inputs: Any, names: list[str]) -> dict[str, Any]:
    """Returns tensors of a model whose variables have these values, as Keras's training steps compute them."""
    import keras

    with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
        return model.tensors(inputs, names)


# ------------------------------------------------------------------------------------------------------------ gradients

# Their outputs are cut at ends of ranges that other inputs set, or that kernels prescribe.
CUT = {"TANH", "GELU", "RSQRT", "LOG"}
COMPARISONS = {"EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "ARG_MAX", "ARG_MIN"}


@pytest.fixture(scope="module")
def gradients() -> dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]]:
    """Operator → gradients of its inputs in training, those of the float operator at the same numbers, what counts.

    All in one program: compiling it once is what takes the time.
    """
    import jax
    from keras import ops

    pairs: dict[str, tuple[Any, Any]] = {}
    given: dict[str, tuple[Any, Any]] = {}
    counts: dict[str, np.ndarray] = {}
    for name in MODELS:
        graph = MODELS[name]()
        x = single_ops.feeds(graph, 10)
        reals = [key for key, array in x.items() if array.dtype == np.float32]
        wider = {key: array * 1.5 if key in reals else array for key, array in x.items()}
        model = fw.quantize_aware(graph, calibration=[x, wider], progress=False)
        finished = fw.finalize(model)
        if finished.plan.kept_float or not reals:
            continue
        rounded, at = rounded_model(graph, finished), rounded_inputs(x, finished)
        pairs[name] = model, fw.graph_model(rounded)
        given[name] = {key: x[key] for key in reals}, {key: at[key] for key in reals}
        rest = {key: array for key, array in x.items() if key not in reals}
        pairs[name] = tuple(with_rest(one, rest) for one in pairs[name])
        integers = litert_s(finished, x)[graph.main.outputs[0]]
        counts[name] = (integers > -128) & (integers < 127) if name in CUT else np.ones((), bool)

    def slopes(at: int) -> Any:
        def total(inputs: dict[str, Any]) -> Any:
            return sum(weighted_sum(pairs[name][at](inputs[name])) for name in pairs)

        def weighted_sum(outputs: Any) -> Any:
            return sum(ops.sum(part * building.weights(*part.shape)) for part in jax.tree.leaves(outputs))

        return jax.jit(jax.grad(total))({name: fed[at] for name, fed in given.items()})

    found, expected = (jax.tree.map(np.asarray, slopes(at)) for at in (0, 1))
    return {name: (found[name], expected[name], counts[name]) for name in pairs}


def with_rest(model: Any, rest: dict[str, np.ndarray]) -> Callable[[Any], Any]:
    return lambda inputs: model({**inputs, **rest})


def rounded_model(graph: fw.Model, finished: fw.Quantized) -> fw.Model:
    """Returns the float model with the weights that the integers of the file stand for."""
    tensors = dict(graph.main.tensors)
    for name, tensor in finished.model.main.tensors.items():
        if tensor.array is not None and tensor.quant is not None and name in tensors:
            real = dequantize(tensor.array, tensor.quant).astype(np.float32)
            tensors[name] = constant(name, real.reshape(tensors[name].shape))
    return replace(graph, graphs=(replace(graph.main, tensors=tensors),))


def rounded_inputs(inputs: dict[str, np.ndarray], finished: fw.Quantized) -> dict[str, np.ndarray]:
    """Returns the numbers that quantized inputs stand for."""
    params = finished.plan.params
    return {
        key: dequantize(quantize(array, params[key]), params[key]).astype(np.float32) if key in params else array
        for key, array in inputs.items()
    }


@pytest.mark.parametrize("name", sorted(MODELS))
def test_gradients_are_those_of_the_float_operator_where_nothing_is_clipped(name: str, gradients: Any) -> None:
    """Straight through: what the integers' own gradient would be without their rounding, to that of floats."""
    if name not in gradients:
        assert MODELS[name]().main.nodes[0].op in UNTRAINED | WITHOUT_INTEGERS
        return
    found, expected, counts = gradients[name]
    assert counts.mean() > 0.8
    for key, gradient in found.items():
        largest = np.abs(expected[key]).max()
        assert (largest == 0) == (name in COMPARISONS)
        difference = np.where(counts, gradient - expected[key], 0)
        np.testing.assert_allclose(difference, 0, atol=4 * np.finfo(np.float32).eps * largest)


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
