"""Constants that stand for "none" take no room in a range, and stop no recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, dense, layer, net, softmax, unary, weights
from tests.ptq.nets import operators, planned, sqnr_db

from featherweight.calibration import calibrate
from featherweight.errors import RecipeError
from featherweight.graph import Model
from featherweight.graph.numerics import dequantize
from featherweight.operators.relevance import EVERYTHING, NOTHING
from featherweight.ptq.relevance import relevant_intervals, within
from featherweight.runtime import run
from featherweight.tasks.load import load
from featherweight.tasks.quantize import quantize

SCORES = (1, 4, 12, 12)
LOWEST = float(np.finfo(np.float32).min)


def matmul(x: str, z: str, y: str, shape: tuple[int, ...]) -> Layer:
    return layer("BATCH_MATMUL", (x, z), {y: shape})


def select(c: str, x: str, z: str, y: str, shape: tuple[int, ...]) -> Layer:
    return layer("SELECT_V2", (c, x, z), {y: shape})


def attention(masked: list[Layer], constants: dict[str, np.ndarray]) -> Model:
    """softmax(x zᵀ, masked) v, where `masked` turns ``scores`` into ``masked``."""
    inputs = {"x": (1, 4, 12, 8), "z": (1, 4, 8, 12), "v": (1, 4, 12, 8)}
    layers = [matmul("x", "z", "scores", SCORES), *masked, softmax("masked", "p", SCORES)]
    return net(inputs, constants, [*layers, matmul("p", "v", "y", inputs["v"])], ["y"])


CAUSAL = np.tril(np.ones((12, 12), bool))
MASKS: dict[str, tuple[list[Layer], dict[str, np.ndarray]]] = {
    "where(mask, scores, -inf)": (
        [select("c", "scores", "none", "masked", SCORES)],
        {"c": CAUSAL, "none": np.float32(-np.inf)},
    ),
    "scores + mask of -inf": (
        [add("scores", "m", "masked", SCORES)],
        {"m": np.where(CAUSAL, 0, -np.inf).astype(np.float32)},
    ),
    "scores + mask of the lowest float": (
        [add("scores", "m", "masked", SCORES)],
        {"m": np.where(CAUSAL, 0, LOWEST).astype(np.float32)},
    ),
    "scores + (1 - keep) * lowest": (
        [
            layer("SUB", ("one", "keep"), {"drop": (12, 12)}),
            layer("MUL", ("drop", "low"), {"m": (12, 12)}),
            add("scores", "m", "masked", SCORES),
        ],
        {"one": np.float32(1), "keep": CAUSAL.astype(np.float32), "low": np.float32(LOWEST)},
    ),
    "scores - 1e9 * drop": (
        [
            layer("MUL", ("drop", "high"), {"m": (12, 12)}),
            layer("SUB", ("scores", "m"), {"masked": SCORES}),
        ],
        {"drop": (~CAUSAL).astype(np.float32), "high": np.float32(1e9)},
    ),
    "maximum with -inf, then a mask of -100": (
        [
            layer("MAXIMUM", ("scores", "none"), {"m": SCORES}),
            add("m", "mask", "masked", SCORES),
        ],
        {"none": np.float32(-np.inf), "mask": np.where(CAUSAL, 0, -100).astype(np.float32)},
    ),
}


def draws(model: Model, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {name: model.main.tensors[name].shape for name in model.main.inputs}
    return [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)]


def decibels(model: Model, quantized: Model, seed: int = 1) -> float:
    feeds = draws(model, 4, seed)
    outputs: list[Any] = [np.concatenate([np.asarray(run(m, feed)) for feed in feeds]) for m in (model, quantized)]
    return sqnr_db(*outputs)


@pytest.mark.parametrize(("recipe", "least"), [("int8", 28.0), ("int16x8", 50.0)])
@pytest.mark.parametrize("name", MASKS)
def test_masked_attention_keeps_its_accuracy(name: str, recipe: str, least: float) -> None:
    model = attention(*MASKS[name])
    q = quantize(model, recipe, calibration=draws(model, 8, 0), progress=False)
    assert decibels(model, q.model) >= least
    assert not any("ADD" in reason or "SELECT" in reason for reason in q.plan.kept_float.values())
    assert any("masks, −∞" in note for note in q.plan.notes)
    (feed,) = draws(model, 1, 2)
    assert np.array_equal(run(q.model, feed), run(q.model, feed, runtime="reference"))


@pytest.mark.parametrize("method", ["minmax", "mse", "percentile", "entropy"])
def test_every_range_method_leaves_masks_out(method: str) -> None:
    model = attention(*MASKS["scores + mask of the lowest float"])
    q = quantize(model, "int8", calibration=draws(model, 8, 0), ranges=method, progress=False)
    assert decibels(model, q.model) >= 25.0


@pytest.mark.parametrize("name", MASKS)
def test_a_masked_score_has_no_part_in_the_softmax(name: str) -> None:
    model = attention(*MASKS[name])
    q = quantize(model, "int8", calibration=draws(model, 8, 0), progress=False)
    (feed,) = draws(model, 1, 3)
    found = run(q.model, feed, tensors=["p"], runtime="reference")
    assert isinstance(found, dict)
    params = q.plan.params["p"]
    probabilities = dequantize(found["p"], params) if found["p"].dtype != np.float32 else found["p"]
    assert probabilities[..., ~CAUSAL].max() <= 1 / 256


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("pad", [-np.inf, LOWEST, -1e30])
def test_padding_before_a_largest_value(pad: float, recipe: str) -> None:
    amounts = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    pool = {"filter_height": 3, "filter_width": 3, "stride_h": 2, "stride_w": 2, "padding": "VALID"}
    layers = [
        layer("PADV2", ("x", "amounts", "none"), {"p": (1, 10, 10, 4)}),
        layer("MAX_POOL_2D", ("p",), {"y": (1, 4, 4, 4)}, **pool),
    ]
    model = net({"x": (1, 8, 8, 4)}, {"amounts": amounts, "none": np.float32(pad)}, layers, ["y"])
    q = quantize(model, recipe, calibration=draws(model, 8, 0), progress=False)
    assert q.plan.kept_float == {}
    # What calibration has not seen is clipped in 8 bits.
    assert decibels(model, q.model) >= (28.0 if recipe == "int8" else 60.0)


def test_infinity_that_reaches_an_output_stays_float() -> None:
    layers = [dense("x", "w", "", "h", (1, 8)), select("c", "h", "none", "y", (1, 8))]
    constants = {"w": weights(8, 8), "c": np.arange(8)[None] < 4, "none": np.float32(-np.inf)}
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    q = quantize(model, "int8", calibration=draws(model, 4, 0), verify=False, progress=False)
    assert q.plan.forms == {"h": "int8*int8"}
    assert (
        "holds infinity or a mask, which neither a softmax nor a pooling nor a comparison takes out"
        in q.plan.kept_float["y"]
    )
    (feed,) = draws(model, 1, 1)
    assert np.array_equal(np.isinf(np.asarray(run(q.model, feed))), np.isinf(np.asarray(run(model, feed))))


def test_infinity_that_no_constant_brings_is_an_error() -> None:
    model = net({"x": (1, 8)}, {}, [unary("LOG", "x", "y", (1, 8))], ["y"])
    from featherweight.errors import DataError

    with pytest.raises(DataError, match="tensor 'y' holds infinity when the model runs on"):
        quantize(model, "int8", calibration=[np.zeros((1, 8), np.float32)], progress=False)


def test_rows_that_are_masked_as_a_whole_take_no_room() -> None:
    keep = CAUSAL.copy()
    keep[5] = False
    mask = np.where(keep, 0, LOWEST).astype(np.float32)
    model = attention([add("scores", "m", "masked", SCORES)], {"m": mask})
    q = quantize(model, "int8", calibration=draws(model, 8, 0), progress=False)
    assert q.plan.params["masked"].scale[0] < 1.0
    assert decibels(model, q.model) >= 28.0


def test_float16_masks_are_finite_or_infinite() -> None:
    for low, stored in ((LOWEST, -65504.0), (-np.inf, -np.inf)):
        scores = (1, 40, 40)
        mask = np.where(np.tril(np.ones((40, 40), bool)), 0, low).astype(np.float32)
        model = net({"x": scores}, {"m": mask}, [add("x", "m", "s", scores), softmax("s", "y", scores)], ["y"])
        q = quantize(model, "float16", progress=False)
        (tensor,) = (t for t in q.model.main.tensors.values() if t.dtype == "float16")
        assert float(np.asarray(tensor.array).min()) == stored
        assert any("±65504 stands for" in note for note in q.plan.notes) == np.isfinite(low)
        (feed,) = draws(model, 1, 0)
        np.testing.assert_allclose(run(q.model, feed), run(model, feed), atol=1e-6)


def test_constants_too_large_for_float16_stay_float() -> None:
    shape = (1, 2048)
    model = net({"x": shape}, {"c": np.full(shape, 1e6, np.float32)}, [add("x", "c", "y", shape)], ["y"])
    with pytest.raises(RecipeError, match=r"its constant reaches 1e\+06, float16 ends at 65504"):
        quantize(model, "float16", progress=False)
    model = net({"x": shape}, {"c": np.full(shape, -np.inf, np.float32)}, [add("x", "c", "y", shape)], ["y"])
    with pytest.raises(RecipeError, match="its constant holds infinity, which int8 has not"):
        quantize(model, "weights8")


def test_torch_s_safe_softmax_folds_away_without_a_mask() -> None:
    shape, rows = (1, 2, 5, 5), (1, 2, 5, 1)
    layers = [
        layer("EQUAL", ("x", "none"), {"is_none": shape}),
        layer("LOGICAL_NOT", ("is_none",), {"some": shape}),
        layer("REDUCE_ANY", ("some", "axis"), {"any": rows}, keep_dims=True),
        layer("LOGICAL_NOT", ("any",), {"empty": rows}),
        softmax("x", "p", shape),
        select("empty", "zero", "p", "s", shape),
        unary("ABS", "s", "y", shape),
    ]
    constants = {"none": np.float32(-np.inf), "axis": np.array([3], np.int32), "zero": np.float32(0)}
    built = net({"x": shape}, constants, layers, ["y"])
    tensors = dict(built.main.tensors)
    for name in ("is_none", "some", "any", "empty"):
        tensors[name] = replace(tensors[name], dtype="bool")
    model = Model((replace(built.main, tensors=tensors),))
    assert set(operators(load(model))) == {"SOFTMAX", "ABS"}


def test_what_matters_of_a_tensor() -> None:
    model = attention(*MASKS["scores + mask of the lowest float"])
    feeds = draws(model, 8, 0)
    stats = calibrate(model, feeds, progress=False)
    found = relevant_intervals(model.main, stats, {})
    peak = stats.tensors["masked"].peak
    assert peak is not None
    assert found["masked"] == (pytest.approx(peak - np.log(2 * 256 * 12)), np.inf)
    assert found["m"][0] == pytest.approx(found["masked"][0] - stats.tensors["scores"].high)
    assert found["y"] == found["v"] == EVERYTHING
    assert within((-5.0, 2.0), NOTHING) == (-5.0, 2.0)


def test_the_order_of_samples_makes_no_difference() -> None:
    model = attention(*MASKS["where(mask, scores, -inf)"])
    feeds = draws(model, 6, 0)
    assert calibrate(model, feeds, progress=False) == calibrate(model, feeds[::-1], progress=False)
    with_histograms = calibrate(model, feeds, histograms=True, channels=True, progress=False)
    assert with_histograms.tensors["masked"].peak == calibrate(model, feeds, progress=False).tensors["masked"].peak


def test_planned_twice_is_planned_alike() -> None:
    model = attention(*MASKS["scores - 1e9 * drop"])
    assert planned(model)[0] == planned(model)[0]


@pytest.mark.parametrize("histograms", [False, True])
def test_infinity_in_a_branch_that_is_never_chosen(histograms: bool) -> None:
    shape = (1, 16)
    layers = [
        dense("x", "w", "", "h", shape, "RELU"),
        unary("LOG", "h", "log", shape),
        layer("GREATER", ("h", "zero"), {"c": shape}),
        select("c", "log", "zero", "s", shape),
        dense("s", "w", "", "y", shape),
    ]
    built = net({"x": shape}, {"w": weights(16, 16), "zero": np.float32(0)}, layers, ["y"])
    tensors = {**built.main.tensors, "c": replace(built.main.tensors["c"], dtype="bool")}
    model = Model((replace(built.main, tensors=tensors),))
    feeds = draws(model, 8, 0)
    q = quantize(model, "int8", calibration=feeds, ranges="mse" if histograms else "minmax", progress=False)
    assert "'log' holds infinity" in q.plan.kept_float["log"]
    assert np.isfinite(np.asarray(run(q.model, feeds[0]))).all()
    stats = calibrate(model, feeds, histograms=histograms, progress=False)
    assert stats == calibrate(model, feeds[::-1], histograms=histograms, progress=False)
    assert [name for name, each in stats.tensors.items() if each.is_infinite] == ["log"]


MASKED_OUTPUTS = {
    "where(c, y, -1e9)": [select("c", "h", "low", "y", (1, 16))],
    "y - 1e9 * drop": [
        layer("MUL", ("drop", "high"), {"m": (1, 16)}),
        layer("SUB", ("h", "m"), {"y": (1, 16)}),
    ],
}


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("name", MASKED_OUTPUTS)
def test_what_a_mask_leaves_of_an_output_is_kept(name: str, recipe: str) -> None:
    shape, keep = (1, 16), np.arange(16)[None] < 10
    constants = {"w": weights(16, 16), "c": keep, "low": np.float32(-1e9), "high": np.float32(1e9)}
    layers = [dense("x", "w", "", "h", shape), *MASKED_OUTPUTS[name]]
    inputs = {"x": shape, "drop": shape} if "drop" in name else {"x": shape}
    model = net(inputs, constants, layers, ["y"])
    feeds = draws(model, 8, 0)
    if "drop" in name:
        feeds = [{**feed, "drop": (~keep).astype(np.float32)} for feed in feeds]
    q = quantize(model, recipe, calibration=feeds, progress=False)
    right, found = (np.concatenate([np.asarray(run(m, feed)) for feed in feeds]) for m in (model, q.model))
    assert sqnr_db(right[:, :10], found[:, :10]) >= 30.0
    assert "holds infinity or a mask" in q.plan.kept_float["y"]


def test_a_mask_that_was_folded_into_a_bias() -> None:
    for low in (-np.inf, -1e9):
        bias = np.where(np.arange(16) < 10, 0, low).astype(np.float32)
        layers = [dense("x", "w", "b", "h", (1, 16)), softmax("h", "y", (1, 16))]
        model = net({"x": (1, 16)}, {"w": weights(16, 16), "b": bias}, layers, ["y"])
        q = quantize(model, "int8", calibration=draws(model, 8, 0), progress=False)
        assert q.plan.forms["h"] == "float32*int8"
        assert decibels(model, q.model) >= 25.0


@pytest.mark.parametrize(("op", "depth"), [("RELU", 1e4), ("TANH", 1e4), ("LOGISTIC", 1e9)])
def test_operators_that_saturate_take_masks(op: str, depth: float) -> None:
    shape = (1, 16)
    constants = {"c": np.arange(16)[None] < 10, "low": np.float32(-depth)}
    layers = [select("c", "x", "low", "m", shape), unary(op, "m", "y", shape)]
    model = net({"x": shape}, constants, layers, ["y"])
    for recipe in ("int8", "int16x8"):
        q = quantize(model, recipe, calibration=draws(model, 16, 0), progress=False)
        assert q.plan.kept_float == {}
        assert decibels(model, q.model) >= 25.0


def test_a_bound_of_infinity_bounds_nothing() -> None:
    shape = (1, 16)
    layers = [
        layer("MAXIMUM", ("x", "low"), {"a": shape}),
        layer("MINIMUM", ("a", "high"), {"y": shape}),
    ]
    model = net({"x": shape}, {"low": np.float32(-np.inf), "high": np.float32(np.inf)}, layers, ["y"])
    q = quantize(model, "int8", calibration=draws(model, 16, 0), progress=False)
    assert decibels(model, q.model) >= 25.0


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
def test_a_mask_that_is_computed_from_an_input(recipe: str) -> None:
    shape, row = (1, 4, 12, 12), (1, 1, 1, 12)
    layers = [
        layer("SUB", ("one", "keep"), {"d": row}),
        layer("MUL", ("d", "low"), {"m": row}),
        add("x", "m", "s", shape),
        softmax("s", "y", shape),
    ]
    model = net({"x": shape, "keep": row}, {"one": np.float32(1), "low": np.float32(-1e9)}, layers, ["y"])
    keep = np.random.default_rng(1).integers(5, 12, 8)
    feeds = [
        {**feed, "keep": (np.arange(12) < n).astype(np.float32).reshape(row)}
        for feed, n in zip(draws(model, 8, 0), keep, strict=True)
    ]
    q = quantize(model, recipe, calibration=feeds, progress=False)
    right, found = (np.concatenate([np.asarray(run(m, feed)) for feed in feeds]) for m in (model, q.model))
    assert sqnr_db(right, found) >= 25.0


def test_only_what_reads_a_mask_is_float_before_weights() -> None:
    shape, wide = (1, 4, 4, 2), (1, 8, 8, 2)
    layers = [
        layer("SELECT_V2", ("c", "x", "low"), {"m": shape}),
        layer("TRANSPOSE_CONV", ("sizes", "w", "m"), {"t": wide}, stride_h=2, stride_w=2, padding="SAME"),
        unary("RELU", "t", "r", wide),
        add("r", "r", "y", wide),
    ]
    constants = {
        "c": np.arange(4)[None, :, None, None] < 3,
        "low": np.float32(-1e9),
        "w": weights(2, 2, 2, 2),
        "sizes": np.array(wide, np.int32),
    }
    model = net({"x": shape}, constants, layers, ["y"])
    q = quantize(model, "int8", calibration=draws(model, 8, 0), verify=False, progress=False)
    assert "m" in q.plan.kept_float
    assert {name: form for name, form in q.plan.forms.items() if name != "t"} == {"r": "int8", "y": "int8"}


def test_the_largest_of_masked_values_is_no_mask() -> None:
    shape, row = (1, 8, 16), (1, 16)
    layers = [
        layer("SELECT_V2", ("c", "x", "low"), {"m": shape}),
        layer("REDUCE_MAX", ("m", "axis"), {"r": row}, keep_dims=False),
        dense("r", "w", "", "y", row),
    ]
    for low in (-np.inf, LOWEST, -1e9):
        constants = {
            "c": np.arange(8)[None, :, None] < 5,
            "low": np.float32(low),
            "axis": np.array([1], np.int32),
            "w": weights(16, 16),
        }
        model = net({"x": shape}, constants, layers, ["y"])
        feeds = draws(model, 8, 0)
        q = quantize(model, "int8", calibration=feeds, progress=False)
        assert q.plan.kept_float == {}
        assert decibels(model, q.model) >= 25.0
        assert calibrate(model, feeds, progress=False).tensors["r"].is_masked is False
        assert calibrate(model, feeds, progress=False).tensors["m"].is_masked is True
