"""An operator's own error, carried to the output: held against models in which nothing else is rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import add, concat, conv, dense, net, softmax, weights
from tests.ptq.nets import INT8, planned, recipe, samples, sqnr_db

from featherweight.analysis.places import Pair
from featherweight.diagnosis.exact import Exact, exact_values
from featherweight.diagnosis.own_errors import OwnError, own_errors
from featherweight.diagnosis.simulation import Simulation
from featherweight.graph import Model
from featherweight.graph.editor import with_constants
from featherweight.graph.numerics import dequantize, quantize
from featherweight.ptq.plan import Plan
from featherweight.runtime import run

X = (1, 4, 4, 8)


def two_branches() -> Model:
    """A convolution, a second one beside it in a sum, and one behind."""
    constants = {f"{n}": weights(8, 1, 1, 8, seed=i) for i, n in enumerate(("wa", "wb", "wc"))}
    constants |= {f"b{n}": np.full(8, 0.1, np.float32) for n in "abc"}
    layers = [
        conv("x", "wa", "ba", "a", X),
        conv("a", "wb", "bb", "b", X),
        add("a", "b", "s", X),
        conv("s", "wc", "bc", "c", X),
    ]
    return net({"x": X}, constants, layers, ["c"])


def measured(
    model: Model, form: str = "int8", count: int = 6, **more: bool
) -> tuple[Plan, Pair, Exact, dict[str, OwnError]]:
    plan, integer = planned(model, form, **more)
    pair = Pair(model, integer)
    exact = exact_values(model, samples(model, count))
    return plan, pair, exact, {each.name: each for each in own_errors(pair, exact)}


def outputs(model: Model, exact: Exact) -> np.ndarray:
    return np.concatenate([run(model, dict(feed)) for feed in exact.feeds])


def test_weights_alone_are_a_model_with_these_weights_rounded() -> None:
    model = two_branches()
    plan, _, exact, found = measured(model)
    for name, weight, bias in (("a", "wa", "ba"), ("b", "wb", "bb"), ("c", "wc", "bc")):
        params = plan.params[weight]
        rounded = dequantize(quantize(model.tensors[weight].array, params, narrow=True), params)
        changed = with_constants(model, {weight: rounded})
        expected = sqnr_db(outputs(model, exact), outputs(changed, exact))
        level = found[name].weights
        assert level is not None
        assert level.sqnr_db == pytest.approx(expected, abs=0.05), bias
        assert level.examples == 6


def test_activations_alone_are_the_tensor_rounded_for_all_its_readers() -> None:
    model = two_branches()
    plan, pair, exact, found = measured(model)
    a = [dequantize(quantize(x, plan.params["a"]), plan.params["a"]) for x in exact.values["a"]]
    constants = {n: model.tensors[n].array for n in ("wb", "wc", "bb", "bc")}
    rest = net(
        {"a": X},
        constants,
        [conv("a", "wb", "bb", "b", X), add("a", "b", "s", X), conv("s", "wc", "bc", "c", X)],
        ["c"],
    )
    expected = sqnr_db(outputs(model, exact), np.concatenate([run(rest, x) for x in a]))
    level = found["a"].activations
    assert level is not None
    assert level.sqnr_db == pytest.approx(expected, abs=0.01)
    assert found["x"].op == "input"
    assert found["x"].weights is None
    assert found["s"].weights is None
    assert set(found) == {"x", "a", "b", "s", "c"}
    assert len(pair.places) == 5 + 6


def test_own_errors_add_up_to_the_model_s() -> None:
    model = two_branches()
    _, pair, exact, found = measured(model)
    together = -10 * np.log10(sum(each.ratio for each in found.values()))
    actual = sqnr_db(outputs(model, exact), outputs(pair.after, exact))
    whole = Simulation(pair, exact).level()
    assert whole.sqnr_db == pytest.approx(actual, abs=0.3)
    assert together == pytest.approx(whole.level_db, abs=2.0)
    assert Simulation(pair, exact).level(pair.places).sqnr_db > 100


def test_a_hybrid_kernel_s_own_rounding_is_told_from_its_weights() -> None:
    model = net({"x": (1, 64)}, {"w": weights(32, 64)}, [dense("x", "w", "", "y", (1, 32))], ["y"])
    _, pair, exact, found = measured(model, "dynamic")
    assert [place.kind for place in pair.places] == ["weight", "operator"]
    y = found["y"]
    assert y.weights is not None
    assert y.activations is not None
    actual = sqnr_db(outputs(model, exact), outputs(pair.after, exact))
    assert y.level_db == pytest.approx(actual, abs=1.0)
    assert Simulation(pair, exact).level().sqnr_db == pytest.approx(actual, abs=0.01)


def test_few_are_carried_and_the_rest_is_estimated() -> None:
    model = two_branches()
    _, pair, exact, whole = measured(model)
    found = own_errors(pair, exact, most=2)
    assert [each.is_carried for each in found] == [True, True, False, False, False]
    worst = sorted(whole.values(), key=lambda each: each.local_db)[:2]
    assert {each.name for each in found[:2]} == {each.name for each in worst}
    assert [each.name for each in own_errors(pair, exact, names=["b"])] == ["b"]


def test_an_index_is_judged_by_the_scores_that_it_is_picked_from() -> None:
    from tests.building import layer, tensor

    index = {"i": replace(tensor("i", (1,)), dtype="int64")}
    layers = [dense("x", "w", "", "y", (1, 6)), layer("ARG_MAX", ("y", "axis"), index, output_type=4)]
    model = net({"x": (1, 8)}, {"w": weights(6, 8), "axis": np.int32(1)}, layers, ["i"])
    _, _, exact, found = measured(model)
    assert [(output.name, output.tensor) for output in exact.outputs] == [("i", "y")]
    assert 20 < found["y"].level_db < 60


def test_columns_of_an_output_count_one_by_one() -> None:
    size = np.array([500, 1, 500, 500], np.float32)[:, None]
    model = net({"x": (1, 8)}, {"w": weights(4, 8) * size}, [dense("x", "w", "", "y", (1, 4))], ["y"])
    _, _, _, found = measured(model, count=8)
    level = found["y"].activations
    assert level is not None
    assert level.sqnr_db > 30
    assert level.level_db < 12
    (output,) = level.outputs
    assert min(range(4), key=lambda i: output.columns_db[i]) == 1


def test_shared_grids_are_places_of_each_tensor() -> None:
    shape = (1, 4, 4, 16)
    constants = {"wa": weights(8, 1, 1, 8), "wb": weights(8, 1, 1, 8, seed=1) * 0.01, "o": np.zeros(8, np.float32)}
    layers = [conv("x", "wa", "o", "a", X), conv("x", "wb", "o", "b", X), concat("a", "b", y="y", shape=shape)]
    _, _, _, found = measured(net({"x": X}, constants, layers, ["y"]), integers=True)
    assert found["b"].local_db < found["a"].local_db - 20


def test_softmax_and_int16_and_mixed_recipes_have_places_where_they_round() -> None:
    layers = [dense("x", "w", "", "y", (1, 6)), softmax("y", "p", (1, 6))]
    model = net({"x": (1, 8)}, {"w": weights(6, 8)}, layers, ["p"])
    assert {p.params.dtype for p in measured(model, "int16x8")[1].places if p.params} == {"int16", "int8"}
    plan, integer = planned(model, recipe(replace(INT8, op="FULLY_CONNECTED")))
    assert "p" not in plan.forms
    kinds = [(place.kind, place.tensor) for place in Pair(model, integer).places]
    assert kinds == [("activation", "x"), ("activation", "y"), ("weight", "w")]
