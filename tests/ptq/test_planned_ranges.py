"""What the planner makes of measured ranges, and which statistics it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import dense, net, unary, weights
from tests.ptq.nets import INT8, X, ranges, recipe, samples, single

from featherweight.calibration import calibrate
from featherweight.errors import DataError, RecipeError
from featherweight.graph.numerics import QuantParams, params_from_range
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Rule, Scheme
from featherweight.runtime import run


def test_a_layer_that_is_all_but_dead_still_loads() -> None:
    """LiteRT refuses files in which 6 / scale, the bound of a fused RELU6, is no int32 number."""
    constants = {"w": weights(3, 8), "b": np.zeros(3, np.float32)}
    model = net({"x": X}, constants, [dense("x", "w", "b", "y", (16, 3), "RELU6")], ["y"])
    tiny = [{"x": sample["x"] * np.float32(1e-10)} for sample in samples(model, 4)]
    made = plan(model, calibrate(model, tiny, progress=False), "int8", "litert")
    assert any("was widened to a width of 1.42e-06" in note for note in made.notes)
    run(rewrite(model, made), tiny[0])


def test_activations_get_the_parameters_of_their_measured_range() -> None:
    decided = plan(single("RELU"), ranges(x=(-1.0, 3.0), y=(0.0, 3.0)), "int8")
    assert decided.params["x"] == params_from_range(-1.0, 3.0, "int8")
    assert decided.params["y"] == params_from_range(0.0, 3.0, "int8")


@pytest.mark.parametrize(("least", "steps"), [(0.5, 16383), (0.012, 32767)])
def test_curves_of_16_bits_have_room_where_they_stay_fine(least: float, steps: int) -> None:
    model = net({"x": (1, 64)}, {}, [unary("RSQRT", "x", "y", (1, 64))], ["y"])
    feeds = [{"x": np.geomspace(least, 1.0, 64, dtype=np.float32)[None]}]
    made = plan(model, calibrate(model, feeds, progress=False), "int16x8", "litert")
    assert made.kept_float == {}
    assert made.params["x"].scale[0] == np.float32(1 / steps)


def test_int16_activations_are_symmetric() -> None:
    decided = plan(single("RELU"), ranges(x=(-1.0, 3.0), y=(0.0, 3.0)), "int16x8")
    # Twice as wide as measured: 16 bits have room to spare.
    assert decided.params["x"] == QuantParams("int16", (float(np.float32(3 / 16383)),), (0,))


def test_a_tensor_without_statistics() -> None:
    with pytest.raises(DataError, match=r"^No range was measured for 'y'\. Calibrate this very model again"):
        plan(single("RELU"), ranges(x=(0.0, 1.0)), "int8")


def test_no_statistics_at_all() -> None:
    with pytest.raises(RecipeError, match=r"^Recipe 'int8' needs measured ranges\. Pass calibration samples"):
        plan(single("RELU"), None, "int8")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(DataError, match=r"'x': its range is \[.*\]; both ends must be finite numbers"):
        plan(single("RELU"), ranges(x=(0.0, bad), y=(0.0, 1.0)), "int8")


@pytest.mark.parametrize("high", [1e-38, 1e-44])
def test_ranges_too_small_for_a_scale_count_as_zero(high: float) -> None:
    decided = plan(single("RELU"), ranges(x=(0.0, high), y=(0.0, 1.0)), "int8")
    assert decided.params["x"] == QuantParams("int8", (1.0,), (0,))
    assert f"tensor 'x': its values, up to {high:.3g}, count as zero" in decided.notes


def test_a_tensor_of_zeros() -> None:
    decided = plan(single("RELU"), ranges(x=(0.0, 0.0), y=(0.0, 0.0)), "int8")
    assert decided.params["y"] == QuantParams("int8", (1.0,), (0,))
    assert not run(rewrite(single("RELU"), decided), np.zeros(X, np.float32)).any()


@pytest.mark.parametrize(("low", "high", "notes"), [(0.0, 0.0, 1), (2.0, 2.0, 1), (0.0, 1e-6, 0)])
def test_an_input_that_was_always_the_same(low: float, high: float, notes: int) -> None:
    decided = plan(single("RELU"), ranges(x=(low, high), y=(low, high)), "int8")
    assert len(decided.notes) == notes
    message = f"input 'x': every calibration sample holds {low:g} alone, so its range fits no other values; calibrate"
    assert all(note.startswith(message) for note in decided.notes)


def test_an_unknown_range_method() -> None:
    with pytest.raises(RecipeError, match="range method 'median' is unknown"):
        plan(single("RELU"), ranges(x=(0.0, 1.0), y=(0.0, 1.0)), "int8", ranges="median")


def test_a_rule_chooses_the_range_method_of_what_its_operators_compute() -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "h", X), unary("RELU", "h", "y", X)], ["y"])
    stats = calibrate(model, samples(model, 32), histograms=True, progress=False)
    clipped = Rule("y", activation=Scheme("int8", ranges="percentile:90"))
    decided = plan(model, stats, recipe(clipped, INT8))
    assert decided.params["h"] == params_from_range(0.0, stats.tensors["h"].high, "int8")
    assert decided.params["y"].scale[0] < 0.95 * decided.params["h"].scale[0]


@pytest.mark.parametrize(
    ("io", "name", "message"),
    [
        ("int4", "int8", r"^io 'int4' is unknown \(allowed: float32, int8, uint8\)"),
        ("int8", "dynamic", r"^io int8 needs integer activations, which recipe 'dynamic' has not\. Use io float32"),
    ],
)
def test_borders_that_do_not_exist(io: str, name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(single("RELU"), ranges(x=(0.0, 1.0), y=(0.0, 1.0)), name, io=io)


def test_what_ranges_clip_is_noted() -> None:
    values = np.concatenate([np.linspace(-1, 1, 1998), [-9, 9]]).astype(np.float32)
    model = net({"x": (1, 2000)}, {}, [unary("ABS", "x", "y", (1, 2000))], ["y"])
    stats = calibrate(model, [{"x": values[None]}], histograms=True, progress=False)
    notes = {method: plan(model, stats, "int8", ranges=method).notes for method in ("minmax", "percentile:99.9")}
    assert notes["minmax"] == ()
    (note,) = notes["percentile:99.9"]
    assert note == "ranges clip values of 1 of 2 tensors: 0.15 % of 'x' (range -0.996 to 1 of -9 to 9)"


def test_readers_of_8_bits_get_the_measured_range_of_what_is_made_in_16() -> None:
    """Else the room that 16 bits have, and their symmetry, would be two of the eight bits."""
    constants = {
        f"{n}{i}": weights(8, 8, seed=i) if n == "w" else np.zeros(8, np.float32) for n in "wb" for i in (1, 2)
    }
    model = net(
        {"x": (16, 8)},
        constants,
        [dense("x", "w1", "b1", "h", (16, 8), "RELU"), dense("h", "w2", "b2", "y", (16, 8))],
        ["y"],
    )
    first, second = model.main.nodes
    rules = (
        Rule(first.name, weight=Scheme("int8"), activation=Scheme("int16", per_channel=False)),
        Rule(second.name, weight=Scheme("int8"), activation=Scheme("int8", per_channel=False)),
    )
    stats = calibrate(model, samples(model, 4), progress=False)
    made = plan(model, stats, recipe(*rules), "litert")
    assert made.params["h"].dtype == "int16"
    high = stats.tensors["h"].high
    assert made.edges[f"{second.name}:0"] == params_from_range(0.0, high, "int8")
