"""What LiteRT's kernels can't compute is known before, over the whole range of scales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.building import Layer, add, layer, net, softmax, unary, weights
from tests.ptq import nets
from tests.ptq.litert_worker import run_all
from tests.ptq.nets import planned, ranges, sqnr_db

from featherweight import operators
from featherweight.calibration import Stats, TensorStats
from featherweight.calibration.details import Magnitudes, magnitudes
from featherweight.errors import UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators import profiles
from featherweight.operators.call import Call
from featherweight.ptq.planning import plan
from featherweight.runtime import run
from featherweight.targets.target import check
from featherweight.tasks.quantize import quantize
from featherweight.tflite import write

SIZE = (1, 37)
VERSIONS = {"EQUAL": 2, "LESS": 2}
RESOLVERS = {"auto": "xnnpack", "no_delegate": "tflite_opt", "reference": "tflite_ref"}


def two_operands(op: str, dtype: str, scales: tuple[float, float, float], zeros: bool) -> Model:
    """Returns an integer operator on an input and a constant."""
    qmin, qmax = integer_range(dtype)
    x, z, y = (QuantParams(dtype, (float(np.float32(s)),), (0,)) for s in scales)
    values = np.zeros(SIZE, dtype) if zeros else np.random.default_rng(0).integers(qmin, qmax, SIZE).astype(dtype)
    is_compared = op in ("EQUAL", "LESS")
    result = Tensor("y", SIZE, "bool") if is_compared else Tensor("y", SIZE, dtype, quant=y)
    attrs: dict[str, Any] = {"pot_scale_int16": False} if op in ("ADD", "SUB") else {}
    version = VERSIONS.get(op) or operators.lookup(op).versions[dtype]
    node = Node(op, ("x", "z"), ("y",), attrs, version)
    tensors = {"x": Tensor("x", SIZE, dtype, quant=x), "z": constant("z", values, dtype, z), "y": result}
    return Model((Graph("main", ("x",), ("y",), (node,), tensors),))


def ratios(count: int) -> list[tuple[float, float, float]]:
    """Returns triples of scales whose ratios lie anywhere: near each other, far apart, at the ends of float32."""
    rng = np.random.default_rng(1)
    found: list[tuple[float, float, float]] = []
    for _ in range(count):
        centre = rng.uniform(-100, 100)
        spread = rng.choice([1.0, 6.0, 24.0])
        exponents = np.clip(centre + rng.uniform(-spread, spread, 3), -125, 125)
        found.append(tuple(float(s) for s in np.exp2(exponents)))  # pyright: ignore[reportArgumentType]
    return found


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        *((op, dtype) for op in ("ADD", "SUB", "MUL", "EQUAL") for dtype in ("int8", "int16")),
        ("SQUARED_DIFFERENCE", "int8"),
        ("LESS", "int8"),
    ],
)
def test_over_all_ratios_of_scales_litert_computes_it_or_it_is_refused(op: str, dtype: str, tmp_path: Path) -> None:
    qmin, qmax = integer_range(dtype)
    x = np.random.default_rng(2).integers(qmin, qmax, SIZE).astype(dtype)
    cases = {str(i): two_operands(op, dtype, scales, zeros=i % 5 == 0) for i, scales in enumerate(ratios(120))}
    promised: dict[str, dict[str, np.ndarray]] = {}
    for name, model in cases.items():
        for resolver, profile in RESOLVERS.items():
            try:
                found = run(model, x, runtime="reference", profile=profile)
            except UnsupportedOp:
                continue
            promised.setdefault(name, {})[resolver] = np.asarray(found)
    jobs = {name: (write(cases[name]), [x], tuple(found)) for name, found in promised.items()}
    assert len(jobs) >= 20
    results = run_all(jobs, tmp_path)
    for name, found in promised.items():
        for resolver, expected in found.items():
            got = results[name, resolver]
            scales = [t.quant.scale[0] for t in cases[name].main.tensors.values() if t.quant]
            assert not isinstance(got, str), (scales, resolver, got)
            np.testing.assert_array_equal(got[0], expected, err_msg=f"{scales} {resolver}")


def test_what_is_refused_is_said_by_planner_check_and_reference() -> None:
    model = two_operands("ADD", "int16", (1.0, 2.0**-15, 2.0**-15), zeros=True)
    (violation,) = check(model, "litert")
    assert violation.constraint == "kernels"
    assert "further apart than its kernel can bring together (it ends the process)" in violation.message
    with pytest.raises(UnsupportedOp, match=r"ADD 'y': LiteRT can't compute it: scales 1 and 3\.05e-05 of its inputs"):
        run(model, np.zeros(SIZE, np.int16), runtime="reference")


EXPONENTS = st.floats(-30, 30)


@given(EXPONENTS, EXPONENTS, EXPONENTS, st.sampled_from(["int8", "int16x8"]), st.sampled_from(["ADD", "SUB"]))
def test_whatever_the_ranges_a_planned_sum_is_fit(x: float, z: float, y: float, recipe: str, op: str) -> None:
    model = net({"x": SIZE, "z": SIZE}, {}, [layer(op, ("x", "z"), {"y": SIZE})], ["y"])
    bounds = {name: (-(2.0**e), 2.0**e) for name, e in (("x", x), ("z", z), ("y", y))}
    decided, integer = planned(model, recipe, stats=ranges(**bounds))
    assert list(decided.forms) == ["y"]
    assert check(integer, "litert") == ()


@given(EXPONENTS, st.sampled_from(["int8", "int16x8"]), st.sampled_from(["ADD", "SUB", "MUL"]))
def test_a_zero_beside_anything_fits_it(x: float, recipe: str, op: str) -> None:
    layers = [layer(op, ("x", "z"), {"y": SIZE})]
    bounds = {"x": (-(2.0**x), 2.0**x), "y": (0.0, 0.0) if op == "MUL" else (-(2.0**x), 2.0**x)}
    nets = [
        (net({"x": SIZE}, {"z": np.zeros(SIZE, np.float32)}, layers, ["y"]), bounds),
        (net({"x": SIZE, "z": SIZE}, {}, layers, ["y"]), {**bounds, "z": (0.0, 0.0)}),
    ]
    for model, measured in nets:
        decided, integer = planned(model, recipe, stats=ranges(**measured))
        assert decided.kept_float == {}
        assert op == "MUL" or decided.params["z"].scale == decided.params["x"].scale
        assert check(integer, "litert") == ()


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_a_difference_from_zero(size: float, recipe: str) -> None:
    layers = [layer("SUB", ("zero", "x"), {"n": SIZE}), unary("LOGISTIC", "n", "y", SIZE)]
    model = net({"x": SIZE}, {"zero": np.float32(0)}, layers, ["n", "y"])
    x = (np.linspace(-1, 1, 37) * size).astype(np.float32)[None]
    q = quantize(model, recipe, calibration=[x], progress=False)
    found, expected = run(q.model, x), run(model, x)
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    (n, *_), (right, *_) = found.values(), expected.values()
    assert sqnr_db(right, n) >= 40.0
    assert "SUB" not in nets.operators(q.model)


def test_operands_that_nothing_else_reads_are_no_finer_than_their_sum() -> None:
    model = net(
        {"x": SIZE}, {"c": np.float32(1e-4)}, [
            layer("MUL", ("x", "c"), {"h": SIZE}), add("x", "h", "y", SIZE)
        ], ["y"]
    )  # fmt: skip
    decided, _ = planned(model, stats=ranges(x=(-1.0, 1.0), h=(-1e-4, 1e-4), y=(-1.0, 1.0)))
    assert decided.params["h"].scale[0] >= decided.params["y"].scale[0] * 2.0**-10


# ------------------------------------------------------------------------------------------------- coarse kernels


def curve(op: str, values: np.ndarray, outputs: np.ndarray) -> Stats:
    found = TensorStats(1, float(values.min()), float(values.max()), magnitudes=magnitudes(values))
    return Stats(1, {"x": found, "y": TensorStats(1, float(outputs.min()), float(outputs.max()))})


@pytest.mark.parametrize(
    ("op", "low", "high", "recipe", "stays"),
    [
        ("RSQRT", 0.5, 2.0, "int8", False),
        ("RSQRT", 1e-4, 100.0, "int8", True),
        ("RSQRT", 1e-4, 100.0, "int16x8", True),
        ("RSQRT", 0.1, 2.0, "int16x8", False),
        ("GELU", -3.0, 3.0, "int16x8", False),
        ("GELU", -3000.0, 3.0, "int16x8", True),
        ("LOG", 0.5, 8.0, "int8", False),
        ("EXP", -4.0, 1.0, "int16x8", False),
    ],
)
def test_a_kernel_that_can_not_follow_its_curve_stays_float(
    op: str, low: float, high: float, recipe: str, stays: bool
) -> None:
    values = (
        np.linspace(low, high, 300, dtype=np.float32) if low < 0 else np.geomspace(low, high, 300, dtype=np.float32)
    )
    shape = (1, 300)
    model = net({"x": shape}, {}, [unary(op, "x", "y", shape)], ["y"])
    exact = np.asarray(run(model, values[None]))
    decided = plan(model, curve(op, values, exact), recipe)
    assert ("y" in decided.kept_float) == stays, decided.kept_float
    if stays:
        assert "dB on these samples (wanted:" in decided.kept_float["y"]
        whole = plan(model, curve(op, values, exact), recipe, integers=True)
        assert list(whole.forms) == ["y"]
        assert any("dB on these samples (wanted:" in note for note in whole.notes)


def normalized(x: str, row: tuple[int, ...], shape: tuple[int, ...]) -> list[Layer]:
    return [
        layer("MEAN", (x, "axis"), {"m": row}, keep_dims=True),
        layer("SUB", (x, "m"), {"d": shape}),
        layer("MUL", ("d", "d"), {"q": shape}),
        layer("MEAN", ("q", "axis"), {"v": row}, keep_dims=True),
        add("v", "eps", "e", row),
        unary("RSQRT", "e", "r", row),
        layer("MUL", ("d", "r"), {"n": shape}),
    ]


NORMALIZING = {"w": weights(32, 32), "axis": np.array([2], np.int32), "eps": np.float32(1e-6)}


def test_a_normalization_stays_float_as_a_whole() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 64, 32)).astype(np.float32)
    rows *= np.geomspace(1e-3, 10, 64).astype(np.float32)[None, :, None]
    shape, row = rows.shape, (1, 64, 1)
    dense = layer("FULLY_CONNECTED", ("x", "w", ""), {"h": shape}, keep_num_dims=True)
    last = layer("FULLY_CONNECTED", ("n", "w", ""), {"y": shape}, keep_num_dims=True)
    model = net({"x": shape}, NORMALIZING, [dense, *normalized("h", row, shape), last], ["y"])
    for recipe in ("int8", "int16x8"):
        q = quantize(model, recipe, calibration=[rows], progress=False, verify=False)
        assert set(q.plan.kept_float) == {"m", "d", "q", "v", "e", "r", "n"}, (recipe, q.plan.kept_float)
        assert "goes with" in q.plan.kept_float["n"] or "leads to or follows RSQRT 'r'" in q.plan.kept_float["n"]
    whole = quantize(model, "int8", calibration=[rows], integers=True, progress=False, verify=False)
    assert whole.plan.kept_float == {}


def test_a_row_that_is_taken_out_to_be_normalized_has_the_steps_of_all() -> None:
    """A class token beside patches that are a hundred times as large."""
    random = np.random.default_rng(0)
    tokens = random.normal(size=(24, 1, 17, 32)).astype(np.float32)
    tokens[:, :, 0] *= 0.01
    shape, taken = (1, 17, 32), (1, 1, 32)
    constants = NORMALIZING | {"b": np.array([0, 0, 0], np.int32), "z": np.array([1, 1, 32], np.int32)}
    layers = [
        add("x", "x", "h", shape),
        layer("SLICE", ("h", "b", "z"), {"t": taken}),
        *normalized("t", (1, 1, 1), taken),
        layer("FULLY_CONNECTED", ("n", "w", ""), {"y": taken}, keep_num_dims=True),
        layer("FULLY_CONNECTED", ("h", "w", ""), {"all": shape}, keep_num_dims=True),
    ]
    model = net({"x": shape}, constants, layers, ["y", "all"])
    q = quantize(model, "int8", calibration=list(tokens), progress=False, verify=False)
    assert {"h", "t", "n"} <= set(q.plan.kept_float), q.plan.kept_float
    assert "in rows that RSQRT 'r' normalizes" in q.plan.kept_float["h"]
    found, right = (run(form, tokens[0]) for form in (q.model, model))
    assert isinstance(found, dict)
    assert isinstance(right, dict)
    assert sqnr_db(next(iter(right.values())), next(iter(found.values()))) > 25


def test_magnitudes_merge_exactly() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    parts = [magnitudes(part) for part in np.array_split(values, 7)]
    merged: Magnitudes = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged == magnitudes(values)
    assert merged.counts.sum() == 1000
    np.testing.assert_allclose(np.average(merged.values, weights=merged.counts), values.mean(), atol=1e-3)


# ------------------------------------------------------------------------------------------------- speed and scores


def test_what_is_slower_in_integers_stays_float_on_cpus_only() -> None:
    shape = (1, 64, 64, 64)
    model = net({"x": shape}, {}, [unary("HARD_SWISH", "x", "y", shape)], ["y"])
    stats = ranges(x=(-4.0, 4.0), y=(-0.4, 4.0))
    decided = plan(model, stats, "int8")
    assert decided.kept_float["y"] == "HARD_SWISH: slower in integers on target 'litert', by about 918 µs"
    assert list(plan(model, stats, "int8", "tflm").forms) == ["y"]
    assert list(plan(model, stats, "int8", integers=True).forms) == ["y"]
    small = net({"x": (1, 64)}, {}, [unary("HARD_SWISH", "x", "y", (1, 64))], ["y"])
    assert list(plan(small, stats, "int8").forms) == ["y"]


def test_a_rule_that_names_an_operator_is_followed() -> None:
    from featherweight.recipes.recipe import Rule, Scheme, load

    shape = (1, 64, 64, 64)
    model = net({"x": shape}, {}, [unary("HARD_SWISH", "x", "y", shape)], ["y"])
    int8, rule = load("int8"), Rule(op="HARD_SWISH", weight=Scheme("int8"), activation=Scheme("int8"))
    named = replace(int8, rules=(rule, *int8.rules))
    assert list(plan(model, ranges(x=(-4.0, 4.0), y=(-0.4, 4.0)), named).forms) == ["y"]


@pytest.mark.parametrize(("classes", "stays"), [(10, False), (127, False), (128, True), (1000, True)])
def test_probabilities_of_many_classes_stay_float_at_a_float_output(classes: int, stays: bool) -> None:
    shape = (1, classes)
    model = net({"x": shape}, {}, [softmax("x", "y", shape)], ["y"])
    stats = ranges(x=(-4.0, 4.0), y=(0.0, 1.0))
    decided = plan(model, stats, "int8")
    assert ("y" in decided.kept_float) == stays
    whole = plan(model, stats, "int8", io="int8")
    assert list(whole.forms) == ["y"]
    assert any("in steps of 1/256, so that most are 0" in note for note in whole.notes) == stays


def test_operators_without_an_optimized_16_bit_kernel_are_named_once() -> None:
    model = net({"x": SIZE, "z": SIZE}, {}, [add("x", "z", "h", SIZE), add("h", "z", "y", SIZE)], ["y"])
    decided, _ = planned(model, "int16x8")
    assert [n for n in decided.notes if "kernels for int16" in n] == [
        "target 'litert' has no optimized kernels for int16 activations: 2 ADD take about 13 times as long as in float"
    ]


def test_an_embedding_has_the_width_of_its_recipe() -> None:
    from tests.single_ops import FACTORIES

    model = FACTORIES["EMBEDDING_LOOKUP"]()
    for recipe, form in (("int8", "float32*int8"), ("int16x8", "float32*int8"), ("w4a8", "float32*int4")):
        decided, _ = planned(model, recipe, stats=ranges(y=(-1.0, 1.0)))
        assert decided.forms == {"y": form}


def test_a_product_s_second_operand_is_symmetric_where_the_delegate_wants_it() -> None:
    shapes = {"x": (1, 4, 8), "z": (1, 8, 4)}
    layers = [layer("BATCH_MATMUL", ("x", "z"), {"y": (1, 4, 4)})]
    stats = ranges(x=(-1.0, 3.0), z=(-1.0, 3.0), y=(-9.0, 9.0))
    decided = plan(net(shapes, {}, layers, ["y"]), stats, "int8")
    assert decided.params["z"].zero_point == (0,)
    assert decided.params["x"].zero_point != (0,)
    assert plan(net(shapes, {}, layers, ["y"]), stats, "int8", "tflm").params["z"].zero_point != (0,)


def test_noise_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).normal(size=(8, 1, 16)).astype(np.float32)
    x[0, 0, 0] = 1e5
    model = net({"x": (1, 16)}, {"w": weights(4, 16)}, [
        layer("FULLY_CONNECTED", ("x", "w", ""), {"y": (1, 4)})
    ], ["y"])  # fmt: skip
    q = quantize(model, "int8", calibration=[x[1], x[0], *x[2:]], limit=1, progress=False)
    assert not any("dB above its error" in note for note in q.plan.notes)
    q = quantize(model, "int8", calibration=[*x[1:], x[0]], progress=False)
    (note,) = (note for note in q.plan.notes if "dB above its error" in note)
    assert note.startswith("output 'y' is only ")
    assert "First cause, odd-samples: sample 7 (of 8) reaches 1e+05 in input 'x'" in note
    assert note in caplog.text
    assert not [n for n in quantize(model, "int8", calibration=list(x[1:]), verify=False).plan.notes if "dB" in n]


def test_a_depthwise_convolution_without_a_bias_is_refused_where_its_kernel_reads_one() -> None:
    x, w, y = (QuantParams("int8", (0.1,), (0,)) for _ in range(3))
    tensors = (Tensor("x", (1, 4, 4, 8), "int8", quant=x), Tensor("w", (1, 3, 3, 8), "int8", quant=w))
    node = Node("DEPTHWISE_CONV_2D", ("x", "w"), ("y",))
    found = {
        name: operators.refusal(
            Call(node, (None, None), tensors, (Tensor("y", (1, 4, 4, 8), "int8", quant=y),), profiles.find(name))
        )
        for name in ("xnnpack", "tflite_opt", "tflite_ref")
    }
    assert found["tflite_ref"] is None
    assert found["xnnpack"] == found["tflite_opt"] is not None


def test_a_product_whose_operand_can_not_be_symmetric_stays_float() -> None:
    scores, values = (1, 4, 32, 32), (1, 4, 64, 32)
    layers = [
        softmax("x", "p", scores),
        layer("BATCH_MATMUL", ("v", "p"), {"y": values}, adj_y=True),
    ]
    model = net({"x": scores, "v": values}, {}, layers, ["y"])
    bounds = {"x": (-4.0, 4.0), "v": (-1.0, 1.0), "p": (0.0, 1.0), "y": (-1.0, 1.0)}
    decided = plan(model, ranges(**bounds), "int8")
    assert "'p' has a zero point, which XNNPACK refuses" in decided.kept_float["y"]
    assert plan(model, ranges(**bounds), "int8", integers=True).kept_float == {}


@pytest.mark.parametrize("inputs", [512, 4096])
def test_a_dense_layer_of_16_bits_without_a_bias_sums_in_64(inputs: int) -> None:
    w = np.full((4, inputs), 0.1, np.float32)
    layers = [layer("FULLY_CONNECTED", ("x", "w", ""), {"y": (1, 4)})]
    model = net({"x": (1, inputs)}, {"w": w}, layers, ["y"])
    x = np.random.default_rng(0).uniform(0.9, 1, (1, inputs)).astype(np.float32)
    q = quantize(model, "int16x8", calibration=[x], progress=False)
    assert sqnr_db(np.asarray(run(model, x)), np.asarray(run(q.model, x))) >= 60.0
    assert np.array_equal(run(q.model, x), run(q.model, x, runtime="reference"))
