"""Pruning without training: exact counts, whatever the method, and what each method is for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import models
from tests.building import dense, net, softmax, weights
from tests.ptq.nets import samples

import featherweight as fw
from featherweight.errors import DataError, FormatError, RecipeError
from featherweight.graph import Model
from featherweight.pruning.criteria import by_sparsegpt, by_wanda
from featherweight.pruning.prunable import find_kernels
from featherweight.sparsity.patterns import parse
from featherweight.sparsity.weight_layouts import runtime_layout


def stack(*widths: int, seed: int = 0) -> Model:
    """A float network of dense layers without activations."""
    constants: dict[str, np.ndarray] = {}
    layers, last = [], "x"
    for number, (depth, width) in enumerate(pairwise(widths)):
        constants |= {
            f"w{number}": weights(width, depth, seed=seed + number),
            f"b{number}": np.zeros(width, np.float32),
        }
        layers.append(dense(last, f"w{number}", f"b{number}", f"y{number}", (1, width), "RELU"))
        last = f"y{number}"
    return net({"x": (1, widths[0])}, constants, layers, [last])


def zeros_of(model: Model, name: str) -> int:
    array = model.main.tensors[name].array
    assert array is not None
    return int((array == 0).sum())


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.37), ("1x4", 0.5), ("4x1", 0.6), ("2:4", 0.5)])
@pytest.mark.parametrize("name", ["convnet", "dense", "transformer"])
def test_every_kernel_ends_with_the_exact_sparsity(name: str, pattern: str, sparsity: float, method: str) -> None:
    model, made = models.lowered(name), parse(pattern)
    found = {kernel.name: kernel for kernel in find_kernels(model)}
    fitting = [k.name for k in found.values() if made.obstacle(k.kernel.layout) is not None]
    result = fw.prune(
        model, sparsity, pattern=pattern, method=method, calibration=models.samples(name, 8), exclude=fitting,
        progress=False,
    )  # fmt: skip
    pruned = [row for row in result.kernels if row.method]
    assert pruned
    for row in pruned:
        layout = found[row.name].kernel.layout
        size = layout.size // made.units(layout)
        assert row.zeros == round(sparsity * made.units(layout)) * size == zeros_of(result.model, row.name)
        assert row.method == method
    fw.run(result.model, models.batch(name, 1))


def test_what_stays_dense_says_why() -> None:
    rules = {"*expand*": 0.75}
    result = fw.prune(models.lowered("depthwise"), 0.5, exclude="block_1_project", rules=rules, progress=False)
    reasons = {row.name.split("/")[0]: row.reason for row in result.kernels if not row.method}
    assert reasons["block_1_project"] == "excluded by 'block_1_project'"
    assert reasons["stem"].startswith("the first convolution; name it in a rule")
    assert reasons["block_1_depthwise"].startswith("a depthwise convolution")
    assert all(row.zeros == 0 for row in result.kernels if not row.method)
    ruled = [row for row in result.kernels if "expand" in row.name]
    assert ruled
    assert all(row.zeros == round(0.75 * row.elements) for row in ruled)


def output_error(model: Model, pruned: Model, given: list[dict[str, np.ndarray]]) -> float:
    pairs = [(np.asarray(fw.run(model, x)), np.asarray(fw.run(pruned, x))) for x in given]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a, _ in pairs))


def test_methods_that_look_at_inputs_do_less_harm() -> None:
    """Inputs of very different size, and related ones: what tells Wanda and SparseGPT from magnitudes."""
    model, random = stack(64, 64, 32), np.random.default_rng(0)
    mixing = random.normal(size=(64, 64)) * np.exp(random.normal(size=64))
    feeds = [{"x": (random.normal(size=(1, 64)) @ mixing).astype(np.float32)} for _ in range(200)]
    errors = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        made = fw.prune(model, 0.5, method=method, calibration=feeds[:128], keep=(), progress=False)
        errors[method] = output_error(model, made.model, feeds[128:])
    assert errors["sparsegpt"] < 0.8 * errors["wanda"]
    assert errors["wanda"] < 0.8 * errors["magnitude"]


def test_sparsegpt_without_correlation_is_by_magnitude() -> None:
    weight = weights(8, 32)
    pruned = by_sparsegpt(weight, 100 * np.eye(32)[None], parse("unstructured"), runtime_layout(weight.shape), 128)
    kept = np.sort(np.abs(weight).ravel())[128:]
    np.testing.assert_array_equal(np.sort(np.abs(pruned[pruned != 0])), kept)


def test_sparsegpt_makes_up_for_what_goes() -> None:
    """Two equal inputs: the weight of the one that goes is added to the other's."""
    moments = np.full((2, 2), 1000.0) + 1e-6 * np.eye(2)
    weight = np.float32([[1.0, 2.0]])
    pruned = by_sparsegpt(weight, moments[None], parse("unstructured"), runtime_layout(weight.shape), 1)
    np.testing.assert_allclose(pruned, [[0.0, 3.0]], atol=0.05)


def test_wanda_compares_within_a_row() -> None:
    weight = np.float32([[1, 2, 3, 4], [10, 20, 30, 40]])
    pruned = by_wanda(weight, np.ones((1, 4)), parse("unstructured"), runtime_layout(weight.shape), 4)
    assert (pruned == 0).tolist() == [[True, True, False, False]] * 2


@given(st.integers(0, 2**16), st.floats(0, 0.95), st.sampled_from(["unstructured", "1x4", "2x2"]))
@settings(max_examples=25, deadline=None)
def test_ties_and_zeros_still_give_the_exact_number(seed: int, sparsity: float, pattern: str) -> None:
    random = np.random.default_rng(seed)
    weight = random.integers(-1, 2, (8, 16)).astype(np.float32)
    x = random.normal(size=(40, 16))
    layout, moments = runtime_layout(weight.shape), (x.T @ x)[None]
    units = parse(pattern).units(layout)
    zeros = round(sparsity * units)
    pruned = by_sparsegpt(weight, moments, parse(pattern), layout, zeros)
    assert int((pruned == 0).sum()) >= zeros * weight.size // units
    nonzero = np.where(weight == 0, np.float32(1e-3), weight)
    pruned = by_sparsegpt(nonzero, moments, parse(pattern), layout, zeros)
    assert int((pruned == 0).sum()) == zeros * weight.size // units


@pytest.mark.parametrize("recipe", ["int8", "int16x8", "dynamic", "w4a8"])
def test_quantizing_keeps_every_zero(recipe: str) -> None:
    pruned = fw.prune(models.lowered("dense"), 0.6, keep=(), progress=False)
    calibration = None if recipe == "dynamic" else models.samples("dense", 8)
    integer = fw.quantize(pruned.model, recipe, calibration=calibration, progress=False).model
    for row in pruned.kernels:
        mask = pruned.model.main.tensors[row.name].array == 0
        kept = next(t for n, t in integer.main.tensors.items() if n.startswith(row.name) and t.is_constant and t.quant)
        assert not kept.array[mask].any()


def test_training_in_integers_keeps_every_zero() -> None:
    import keras

    pruned = fw.prune(models.lowered("dense"), 0.6, keep=(), progress=False)
    model = fw.quantize_aware(pruned.model, calibration=models.samples("dense", 8), progress=False)
    inputs = models.batch("dense", 8)
    model.compile(keras.optimizers.Adam(1e-2), loss="mse")
    model.fit(inputs, np.ones_like(model.predict(inputs, verbose=0)), epochs=3, verbose=0)
    finished = fw.finalize(model)
    for row in pruned.kernels:
        mask = pruned.model.main.tensors[row.name].array == 0
        assert mask.mean() == pytest.approx(0.6, abs=0.01)
        assert not finished.model.main.tensors[row.name].array[mask].any()


def test_bad_input() -> None:
    model = stack(8, 6, 4)
    with pytest.raises(RecipeError, match=r"prune: a sparsity is a fraction of zeros in \[0, 1\), not 1.5"):
        fw.prune(model, 1.5, progress=False)
    with pytest.raises(RecipeError, match=r"prune: method 'guess' is unknown \(allowed: magnitude, wanda, sparsegpt\)"):
        fw.prune(model, 0.5, method="guess", progress=False)
    with pytest.raises(RecipeError, match="method 'wanda' looks at what layers are fed: pass calibration samples"):
        fw.prune(model, 0.5, method="wanda", progress=False)
    with pytest.raises(
        DataError, match=r"Kernel 'w1', shape \(4, 6\): pattern '1x4' does not divide it: .*nearest: 4 or 8"
    ):
        fw.prune(model, 0.5, pattern="1x4", keep=(), progress=False)
    with pytest.raises(RecipeError, match=r"rule 'nothing' matches no kernel\. They are named w0, w1"):
        fw.prune(model, 0.5, rules={"nothing": 0.5}, progress=False)
    with pytest.raises(RecipeError, match="there is nothing to prune"):
        fw.prune(model, 0.5, exclude="*", progress=False)
    with pytest.raises(RecipeError, match="the model has no trainable kernel, so there is nothing to prune"):
        fw.prune(net({"x": (1, 4)}, {}, [softmax("x", "y", (1, 4))], ["y"]), 0.5, progress=False)
    quantized = fw.quantize(model, calibration=samples(model), progress=False)
    with pytest.raises(FormatError, match=r"prune takes float models; .* holds int8 with a scale"):
        fw.prune(quantized.model, 0.5, progress=False)
    broken = stack(8, 6, 4)
    broken.main.tensors["w0"].data.flags.writeable = True
    broken.main.tensors["w0"].data.view(np.float32)[0] = np.nan
    with pytest.raises(DataError, match="its kernel 'w0' holds NaN or infinite values"):
        fw.prune(broken, 0.5, progress=False)
