from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.analysis.small_models import CLASSES, FEATURES, classifier, features, two_headed

from featherweight import tflite
from featherweight.analysis import compare
from featherweight.analysis.borders import stored_numbers
from featherweight.analysis.channel_errors import ChannelSums
from featherweight.errors import DataError, RecipeError, UnsupportedOp
from featherweight.graph import constant, replace_graph
from featherweight.graph.numerics import dequantize, quantize
from featherweight.operators import profiles
from featherweight.runtime import run
from featherweight.runtime.litert import Session
from featherweight.tasks import quantize as pipeline


@pytest.fixture(scope="module")
def quantized():
    return pipeline.quantize(classifier(), "int8", calibration=features(), progress=False).model


def by_name(rows):
    return {(row.kind, row.name): row for row in rows}


def test_a_model_equals_itself():
    rows = compare(classifier(), classifier(), features(8))
    assert {row.sqnr_db for row in rows} == {math.inf}
    assert {row.max_abs_error for row in rows} == {0.0}
    assert {row.kind for row in rows} == {"output", "activation", "weight"}


def test_rows_agree_with_their_definitions(quantized):
    x = features(50, seed=3)
    rows = by_name(compare(classifier(), quantized, x))
    expected, got = run(classifier(), x), run(quantized, x)
    row = rows["output", "scores"]
    error = np.float64(expected) - got
    assert row.sqnr_db == pytest.approx(10 * math.log10(np.square(np.float64(expected)).sum() / np.square(error).sum()))
    assert row.max_abs_error == np.abs(error).max()
    assert row.mse == pytest.approx(np.square(error).mean())
    assert row.rounding_mse + row.clipping_mse == pytest.approx(row.mse)
    assert row.dtype == "int8"  # what is behind the DEQUANTIZE at the border
    assert row.count == 50 * CLASSES
    assert 0.99 < row.cosine < 1
    hidden = rows["activation", "hidden"]
    assert (hidden.op, hidden.dtype, hidden.shape) == ("FULLY_CONNECTED", "int8", (1, 16))
    assert hidden.own_sqnr_db is not None
    assert hidden.own_sqnr_db > hidden.sqnr_db - 1


def test_weights_are_compared_as_stored(quantized):
    rows = by_name(compare(classifier(), quantized, features(4)))
    weight = classifier().main.tensors["one/kernel"].array
    stored = quantized.main.tensors["one/kernel"]
    row = rows["weight", "one/kernel"]
    assert row.dtype == "int8"
    assert row.max_abs_error == pytest.approx(np.abs(weight - dequantize(stored.array, stored.quant)).max(), rel=1e-6)
    assert rows["weight", "one/bias"].dtype == "int32"
    assert rows["weight", "one/bias"].sqnr_db > 60


def test_worst_first(quantized):
    levels = [row.sqnr_db for row in compare(classifier(), quantized, features(16))]
    assert levels == sorted(levels)


def test_clipping_shows_where_samples_leave_the_calibrated_range():
    narrow = pipeline.quantize(classifier(), "int8", calibration=features() * 0.1, progress=False).model
    row = by_name(compare(classifier(), narrow, features(50)))["activation", "hidden"]
    assert row.clipped_fraction > 0.1
    assert row.clipping_mse > 10 * row.rounding_mse


def test_batches_do_not_change_the_result(quantized):
    x = features(70)
    at_once = compare(classifier(), quantized, [x])
    singly = compare(classifier(), quantized, (row[np.newaxis] for row in x))
    for one, other in zip(by_name(at_once).items(), by_name(singly).items(), strict=True):
        assert one[0] == other[0]
        assert one[1].mse == pytest.approx(other[1].mse, rel=1e-6)


def test_limit(quantized):
    rows = by_name(compare(classifier(), quantized, features(50), limit=5))
    assert rows["output", "scores"].count == 5 * CLASSES


def test_integer_inputs_and_outputs_are_compared_as_real_numbers():
    model = pipeline.quantize(classifier(), "int8", calibration=features(), io="int8", progress=False).model
    rows = by_name(compare(classifier(), model, features(50)))
    assert rows["output", "scores"].sqnr_db > 25


@pytest.mark.parametrize("recipe", ["float16", "dynamic", "weights8", "weights4"])
def test_recipes_that_leave_activations_float(recipe):
    model = pipeline.quantize(classifier(), recipe).model
    rows = by_name(compare(classifier(), model, features(20)))
    assert 15 < rows["output", "scores"].sqnr_db < 120
    assert rows["output", "scores"].own_sqnr_db is None
    stored = rows["weight", "one/kernel"]
    assert stored.dtype != "float32"
    assert 15 < stored.sqnr_db < 120


def test_several_inputs_and_outputs():
    random = np.random.default_rng(0)
    samples = [{n: random.normal(size=(1, FEATURES)).astype(np.float32) for n in ("left", "right")} for _ in range(30)]
    model = pipeline.quantize(two_headed(), "int8", calibration=samples, progress=False).model
    rows = by_name(compare(two_headed(), model, samples))
    assert {name for kind, name in rows if kind == "output"} == {"small", "large"}
    assert min(rows["output", "small"].sqnr_db, rows["output", "large"].sqnr_db) > 25


def test_files_and_bytes_are_models_too(tmp_path, quantized):
    tflite.save(quantized, tmp_path / "q.tflite")
    rows = compare(tflite.write(classifier()), tmp_path / "q.tflite", features(4))
    assert any(row.name == "scores" for row in rows)


def test_models_that_are_not_two_versions_of_one():
    with pytest.raises(DataError, match=r"The float model has 1 outputs \(scores\), the other 2 \(small, large\)"):
        compare(classifier(), two_headed(), features(4))
    narrow = classifier()
    graph = narrow.main
    tensors = dict(graph.tensors) | {"x": replace(graph.tensors["x"], shape=(1, 5), shape_signature=(-1, 5))}
    tensors["one/kernel"] = constant("one/kernel", np.zeros((16, 5), np.float32))
    other = replace_graph(narrow, 0, replace(graph, tensors=tensors))
    with pytest.raises(DataError, match=r"Input 'features' has the shape \[1, 8\] in the float model, but \[1, 5\]"):
        compare(narrow, other, features(4))


def test_samples_that_do_not_fit(quantized):
    with pytest.raises(DataError, match=r"sample 0, input 'features': its shape is \[7\]"):
        compare(classifier(), quantized, np.zeros((4, 7), np.float32))
    with pytest.raises(DataError, match="no samples"):
        compare(classifier(), quantized, iter(()))


def test_own_error_is_that_of_quantizing_the_float_values(quantized):
    x = features(40)
    row = by_name(compare(classifier(), quantized, x))["output", "scores"]
    params = next(t.quant for t in quantized.main.tensors.values() if t.quant and t.shape == (1, CLASSES))
    values = run(classifier(), x)
    error = np.float64(values) - dequantize(quantize(values, params), params)
    expected = 10 * math.log10(np.square(np.float64(values)).sum() / np.square(error).sum())
    assert row.own_sqnr_db == pytest.approx(expected, rel=1e-6)


def test_an_operator_s_own_error_is_told_from_what_it_inherits(quantized):
    x = features(40)
    rows = by_name(compare(classifier(), quantized, x))
    row, graph = rows["output", "scores"], quantized.main
    with Session(classifier(), outputs=["hidden", "logits"]) as session:
        exact = session.run(x)
    hidden, logits = (exact[name].astype(np.float64) for name in ("hidden", "logits"))
    weight, bias = (stored_numbers(graph.tensors[name], graph) for name in ("two/kernel", "two/bias"))
    params = next(t.quant for t in graph.tensors.values() if t.quant and t.shape == (1, CLASSES))
    computed = (hidden @ weight.T.astype(np.float64) + bias).astype(np.float32)
    alone = dequantize(quantize(computed, params), params)
    signal = np.square(logits).sum()
    assert row.operator_sqnr_db == pytest.approx(10 * np.log10(signal / np.square(logits - alone).sum()), abs=0.05)
    inherited = np.square(run(quantized, x) - alone.astype(np.float64)).sum()
    assert row.inherited_sqnr_db == pytest.approx(10 * np.log10(signal / inherited), abs=0.1)
    assert row.sqnr_db < row.operator_sqnr_db
    assert row.layer == "logits"
    assert rows["activation", "hidden"].operator_sqnr_db is not None
    assert rows["weight", "one/kernel"].operator_sqnr_db is None


def test_a_hybrid_operator_s_own_error():
    model = pipeline.quantize(classifier(), "dynamic").model
    rows = by_name(compare(classifier(), model, features(20)))
    hidden = rows["activation", "hidden"]
    assert hidden.operator_sqnr_db == pytest.approx(hidden.sqnr_db, abs=1e-3)  # it is the first
    assert hidden.inherited_sqnr_db > 80
    assert rows["output", "scores"].operator_sqnr_db > rows["output", "scores"].sqnr_db


def test_the_worst_channel_is_found_where_the_whole_hides_it():
    model = classifier()
    sizes = np.array([100, 100, 0.5, 100, 100, 100], np.float32)
    tensors = dict(model.main.tensors)
    for name in ("two/kernel", "two/bias"):
        values = np.asarray(tensors[name].array)
        tensors[name] = constant(name, values * sizes.reshape(-1, *[1] * (values.ndim - 1)))
    model = replace_graph(model, 0, replace(model.main, tensors=tensors))
    small = pipeline.quantize(model, "int8", calibration=features(), progress=False).model
    row = by_name(compare(model, small, features(40)))["output", "scores"]
    assert row.worst_channel == 2
    assert row.worst_channel_db < 15 < 30 < row.sqnr_db


def test_masks_leave_other_channels_to_be_judged():
    sums = ChannelSums()
    sums.add(np.float32([[3e38, 1, np.inf]]), np.float32([[3e38, 2, 0]]))
    assert sums.worst() == (1, 0.0)


# ------------------------------------------------------------------------------------------------------ in profiles


def shifting(io="float32", activation="RELU"):
    """The classifier with powers of two for scales: halves are frequent."""
    model = classifier(activation)
    return pipeline.quantize(model, "int8", calibration=features(), target="power-of-two", io=io, progress=False).model


def test_one_model_in_one_profile_does_not_differ(quantized):
    rows = compare(quantized, quantized, features(50), profiles=("xnnpack", "xnnpack"))
    assert {(row.sqnr_db, row.differing_fraction, row.max_abs_error) for row in rows} == {(math.inf, 0.0, 0.0)}
    assert {row.name for row in rows} >= {"scores", "hidden"}


def test_two_profiles_differ_by_what_the_reference_kernels_give():
    model, x, names = shifting(activation="NONE"), features(400, seed=3), ("tflite_ref", "power_of_two")
    rows = by_name(compare(model, model, x, profiles=names))
    first, second = (run(model, x, runtime="reference", profile=p, tensors=["hidden"])["hidden"] for p in names)
    steps = np.abs(first.astype(int) - second)
    row = rows["activation", "hidden"]
    assert row.differing_fraction == np.mean(steps > 0)
    assert row.largest_steps == pytest.approx(steps.max(), rel=1e-4)
    assert steps.max() == 1  # negative halves
    assert row.own_sqnr_db is None  # these are integers on both sides


def test_a_float_model_against_a_chip():
    x = features(200, seed=3)
    rows = by_name(compare(classifier(), shifting(), x, profiles=("xnnpack", "power_of_two")))
    expected, got = run(classifier(), x), run(shifting(), x, runtime="reference", profile="power_of_two")
    row = rows["output", "scores"]
    assert row.max_abs_error == pytest.approx(np.abs(expected - got).max(), rel=1e-3)
    assert row.own_sqnr_db > row.sqnr_db > 20


def test_a_profile_of_one_s_own(quantized):
    def cut(x, multiplier, shift):
        return (x.astype(np.int64) * multiplier) >> (31 - shift)

    chip = replace(profiles.find("integer_multiplier"), name="cutting", rescale=cut, rescale_products=cut)
    rows = by_name(compare(quantized, quantized, features(200), profiles=("integer_multiplier", chip)))
    row = rows["activation", "hidden"]
    assert row.largest_steps == pytest.approx(1, rel=1e-4)
    assert 0.1 < row.differing_fraction < 0.6  # half of what is not cut off by the RELU


def test_integer_models_in_profiles_take_real_samples():
    rows = by_name(compare(*[shifting("int8")] * 2, features(40), profiles=("integer_multiplier", "power_of_two")))
    assert rows["output", "scores"].count == 40 * CLASSES


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("xnnpack",), r"profiles names 1 \(xnnpack\); two are needed, one for each model"),
        ("xnnpack", r"profiles names 1 \(xnnpack\); two are needed"),
        ((), r"profiles names 0 \(none\); two are needed"),
        (("xnnpack", "tflite_opt", "tflite_ref"), r"profiles names 3 \(xnnpack, tflite_opt, tflite_ref\)"),
        (("xnnpack", "shifts"), r"profile 'shifts' is unknown \(allowed: tflite_ref, "),
    ],
)
def test_profiles_that_are_none(quantized, names, message):
    with pytest.raises(RecipeError, match=message):
        compare(quantized, quantized, features(4), profiles=names)


def test_profiles_of_floats_or_with_threads(quantized):
    both = ("xnnpack", "power_of_two")
    with pytest.raises(
        RecipeError, match=r"profile 'xnnpack' is an integer arithmetic, but the model computes with floats"
    ):
        compare(classifier(), classifier(), features(4), profiles=both)
    with pytest.raises(RecipeError, match=r"threads is 2, but the reference kernels have none to choose"):
        compare(quantized, quantized, features(4), profiles=both, threads=2)


def test_a_model_that_does_not_run_in_a_profile(quantized):
    with pytest.raises(UnsupportedOp, match=r"profile 'power_of_two' rescales by powers of two only"):
        compare(quantized, quantized, features(4), profiles=("xnnpack", "power_of_two"))


def test_activations_of_two_integer_models_are_compared(quantized):
    other = pipeline.quantize(classifier(), "int8", calibration=features() * 0.5, progress=False).model
    row = by_name(compare(quantized, other, features(50)))["activation", "hidden"]
    assert 10 < row.sqnr_db < 60
    assert row.clipped_fraction > 0
