"""Groups of operators that stay wide: where a residual stream carries outliers, the stream and what writes into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, conv, dense, layer, net, softmax, unary, weights

import featherweight as fw
from featherweight.graph import Model
from featherweight.recipes import recipe as recipes
from featherweight.recipes.matching import exactly, resolve
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.repair.candidate import Candidate, Setting, integer_model, planned
from featherweight.repair.improve import asked_repairs, improved
from featherweight.repair.judge import Judge
from featherweight.repair.roles import groups
from featherweight.repair.wide_places import wide_places
from featherweight.repair.wide_rules import wide_rules
from featherweight.targets import target as targets

WIDTH, STREAM, HIDDEN = 16, (1, 8, 16), (1, 8, 32)


def stream(blocks: int = 2) -> Model:
    """A residual stream of 16 channels; what is added to the first one is 300 times as large as the rest.

    The head hardly looks at that channel.
    """
    constants, layers, at = dict[str, np.ndarray](), [], "x"
    for index in range(blocks):
        into, out, head = f"into_{index}", f"out_{index}", f"sum_{index}"
        constants |= {into: weights(32, WIDTH, seed=index), out: weights(WIDTH, 32, seed=index + 9)}
        constants[into][:, 0] *= np.float32(0.002)
        constants[out][0] *= 300
        layers += [
            dense(at, into, "", f"h_{index}", HIDDEN),
            unary("LOGISTIC", f"h_{index}", f"a_{index}", HIDDEN),
            dense(f"a_{index}", out, "", f"d_{index}", STREAM),
            add(at, f"d_{index}", head, STREAM),
        ]
        at = head
    constants["head"] = weights(4, WIDTH, seed=99)
    constants["head"][:, 0] *= np.float32(0.0005)
    layers.append(dense(at, "head", "", "y", (1, 8, 4)))
    for node, _ in layers:
        if node.op == "FULLY_CONNECTED":
            node.attrs["keep_num_dims"] = True
    return net({"x": STREAM}, constants, layers, ["y"])


def setting(model: Model, target: str = "litert", **more: Any) -> Setting:
    shape = model.main.tensors["x"].shape
    feeds = tuple({"x": np.random.default_rng(i).normal(size=shape).astype(np.float32)} for i in range(12))
    return Setting(targets.load(target), feeds[:8], feeds[8:], **more)


def repaired(model: Model, where: Setting, recipe: str | Recipe = "int8") -> tuple[Candidate, Candidate | str]:
    start = planned(where, model, recipes.load(recipe))
    return start, wide_places(where, start)


def level(where: Setting, candidate: Candidate) -> float:
    return float(Judge(candidate.model, where.held_out).levels(integer_model(candidate)).mean())


def value(model: Model, name: str) -> np.ndarray:
    return np.asarray(model.tensors[name].array)


def test_a_stream_with_outliers_stays_wide_as_a_group():
    model = stream()
    where = setting(model)
    start, found = repaired(model, where)
    assert isinstance(found, Candidate)
    assert level(where, start) < 12
    assert level(where, found) > level(where, start) + 10
    forms = found.plan.forms
    assert {forms.get(f"sum_{i}") for i in range(2)} == {None}
    assert {forms[f"d_{i}"] for i in range(2)} == {"float32*int8"}
    assert found.notes[-1].startswith("wide places: ")
    assert "2 sums of a residual stream" in found.notes[-1], found.notes


def test_what_costs_nothing_stays_in_integers():
    model = stream()
    _, found = repaired(model, setting(model))
    assert isinstance(found, Candidate)
    assert {found.plan.forms.get(f"a_{i}") for i in range(2)} == {"int8"}


def test_it_is_a_recipe_that_the_planner_follows_by_itself():
    model = stream()
    where = setting(model)
    _, found = repaired(model, where)
    assert isinstance(found, Candidate)
    again = fw.plan(model, found.stats, found.recipe)
    assert again.forms == found.plan.forms
    assert again.params == found.plan.params


def test_it_is_deterministic():
    model = stream()
    first, second = (repaired(model, setting(model))[1] for _ in range(2))
    assert isinstance(first, Candidate)
    assert isinstance(second, Candidate)
    assert first.plan == second.plan
    assert first.notes == second.notes


def test_a_rule_that_names_an_operator_stands():
    model = stream()
    int8 = Scheme("int8")
    own = Recipe("mine", (Rule("sum_0", activation=int8), *recipes.load("int8").rules))
    _, found = repaired(model, setting(model), own)
    assert isinstance(found, Candidate)
    assert found.plan.forms["sum_0"] == "int8"


def test_16_bits_where_the_target_has_no_floats():
    model = stream()
    where = setting(model, "ethos-u85")
    start, found = repaired(model, where)
    assert isinstance(found, Candidate)
    assert level(where, found) > level(where, start) + 6
    wide = {form for form in found.plan.forms.values() if form.startswith("int16")}
    assert "int16" in wide
    assert not any(form.startswith("float") for form in found.plan.forms.values())
    assert found.plan.kept_float == {}


def test_integers_everywhere_are_not_given_up_where_they_are_asked_for():
    model = stream()
    where = setting(model, integers=True)
    _, found = repaired(model, where)
    assert isinstance(found, Candidate)
    assert not any(form.startswith("float") for form in found.plan.forms.values())


def test_parameters_that_other_repairs_chose_stand():
    model = stream()
    where = setting(model)
    start = planned(where, model, recipes.load("int8"))
    finer = {
        name: fw.QuantParams(p.dtype, tuple(s * 0.9 for s in p.scale), p.zero_point, p.axis)
        if name in ("h_0", "into_0")
        else p
        for name, p in start.plan.params.items()
    }
    found = wide_places(where, replace(start, plan=replace(start.plan, params=finer)))
    assert isinstance(found, Candidate)
    assert found.plan.params["into_0"] == finer["into_0"]


def test_weights_of_4_bits_stay_as_small_as_they_are():
    w = {"w": weights(64, 3, 3, 32), "b": weights(64)}
    model = net({"x": (1, 8, 8, 32)}, w, [conv("x", "w", "b", "y", (1, 8, 8, 64))], ["y"])
    where = setting(model)
    start = planned(where, model, recipes.load("w4a8"))
    assert start.plan.forms == {"y": "int8*int4"}
    rule, *_ = wide_rules(model.main.nodes[0], model.main, start.recipe.rules[-1], where)
    assert rule is not None
    assert rule.keep_small
    free = planned(where, model, Recipe("free", (rule,)))
    assert free.plan.forms == {"y": "float32+int4"}


def test_a_small_gain_is_not_lost_on_the_way():
    model = stream()
    where = setting(model, "power-of-two")
    start, found = repaired(model, where, "w4a8")
    assert isinstance(found, Candidate)
    said = [float(part.split()[-1]) for part in found.notes[-1].split(" dB with")[:3]]
    assert said[0] < said[2] <= said[1]
    assert said[2] >= (said[0] + said[1]) / 2 - 0.1
    assert found is not start


def uneven() -> Model:
    """Channels of which the largest is 2,000 times the smallest; the heads read all of them as one size.

    Neither one scale for what a head reads nor one for its weights leaves anything of most channels.
    """
    factors = np.geomspace(1, 2000, 32).astype(np.float32)
    constants = {"a": weights(32, WIDTH) * factors[:, None], "b": weights(4, 32, seed=1) / factors}
    constants |= {"c": weights(6, 32, seed=2) / factors, "d": weights(WIDTH, WIDTH, seed=3)}
    layers = [
        dense("x", "d", "", "h", (1, WIDTH)),
        unary("TANH", "h", "t", (1, WIDTH)),
        dense("t", "a", "", "m", (1, 32)),
        unary("RELU", "m", "r", (1, 32)),
        dense("r", "b", "", "y", (1, 4)),
        dense("r", "c", "", "z", (1, 6)),
    ]
    return net({"x": (1, WIDTH)}, constants, layers, ["y", "z"])


def test_float_where_activations_on_the_fly_are_poor_too():
    model = uneven()
    where = setting(model)
    start, found = repaired(model, where)
    assert isinstance(found, Candidate)
    judge = Judge(model, where.held_out)
    assert (judge.noise(integer_model(start)) > 10**-1.0).any()
    assert (judge.noise(integer_model(found)) < 10**-1.5).all()
    assert found.plan.forms["t"] == "int8"  # it loses nothing
    assert "y" not in found.plan.forms
    assert "in float" in found.notes[-1]
    assert "dense layers before 'y'" in found.notes[-1]


def joined(*sizes: float) -> Model:
    """Columns of unlike range under one scale, all of which the next layer reads as one size."""
    width, constants, layers = 8, {"h": weights(32, WIDTH, seed=1), "y": weights(6, 16, seed=2)}, list[Layer]()
    for i, size in enumerate(sizes):
        constants[f"p{i}"] = weights(width, 32, seed=(1, i)) * np.float32(size)
        layers.append(dense("t", f"p{i}", "", f"part{i}", (1, width)))
    parts = tuple(f"part{i}" for i in range(len(sizes)))
    columns = np.repeat(np.array(sizes, np.float32), width)
    constants["d"] = weights(16, len(columns), seed=(1, 77)) / columns
    layers = [
        dense("x", "h", "", "m", (1, 32)),
        unary("RELU", "m", "t", (1, 32)),
        *layers,
        layer("CONCATENATION", parts, {"all": (1, len(columns))}, axis=1),
        dense("all", "d", "", "n", (1, 16)),
        unary("RELU", "n", "r", (1, 16)),
        dense("r", "y", "", "out", (1, 6)),
    ]
    return net({"x": (1, WIDTH)}, constants, layers, ["out"])


@pytest.mark.parametrize("first", ["bias-correction", "least-squares"])
def test_weights_that_make_up_for_rounding_are_no_bound_for_what_floats_reach(first: str):
    model = joined(1, 30, 1000)
    where = setting(model)
    start, alone = repaired(model, where)
    assert isinstance(alone, Candidate)
    assert level(where, start) < 5
    assert level(where, alone) > 20
    end, _ = improved(where, start, model, asked_repairs([first, "wide-places"]), is_auto=False)
    assert level(where, end) > level(where, alone) - 2


def test_weights_start_anew_beside_wide_places():
    model = stream()
    where = setting(model)
    start = planned(where, model, recipes.load("int8"))
    asked = asked_repairs(["bias-correction", "wide-places"])
    end, attempts = improved(where, start, model, asked, is_auto=False)
    assert [attempt.name for attempt in attempts] == ["bias-correction", "wide-places", "bias-correction"]
    assert end.chosen is not None
    assert "float32*int8" in end.plan.forms.values()
    assert all(
        np.array_equal(value(end.chosen.model, n), value(model, n)) for n, t in model.tensors.items() if t.is_constant
    )


def test_weights_in_4_bits_stay_where_outputs_are_better_with_them():
    """What they make up for is each other's rounding, which is the same beside wide operators."""
    model = stream()
    where = setting(model)
    recipe = Recipe("four", (Rule(weight=Scheme("int4"), activation=Scheme("int8")),))
    start = planned(where, model, recipe)
    (gptq,) = asked_repairs("gptq")
    rounded = gptq.apply(where, start)
    assert isinstance(rounded, Candidate)
    found, anew = wide_places(where, rounded), wide_places(where, start)
    assert isinstance(found, Candidate)
    assert isinstance(anew, Candidate)
    assert found.chosen is not None
    for name, tensor in rounded.model.tensors.items():
        if tensor.is_constant:
            assert np.array_equal(value(found.model, name), value(rounded.model, name))
            assert np.array_equal(value(found.chosen.model, name), value(model, name))
    levels = [float(Judge(model, where.held_out).levels(integer_model(each)).mean()) for each in (anew, found)]
    assert levels[1] > levels[0]
    again = gptq.apply(where, found)  # anew, beside what is wide
    assert isinstance(again, Candidate)
    assert again.plan.forms == found.plan.forms


def test_nothing_to_gain_is_said():
    w = {"w": weights(4, WIDTH)}
    model = net({"x": (1, WIDTH)}, w, [dense("x", "w", "", "y", (1, 4))], ["y"])
    _, found = repaired(model, setting(model))
    assert isinstance(found, str)
    assert "with all operators wide, the output has" in found
    assert repaired(model, setting(model), "dynamic")[1] == "no operator computes in integers"


def test_roles_of_a_transformer():
    shape, scores = (1, 8, 16), (1, 8, 8)
    constants = {name: weights(WIDTH, WIDTH, seed=i) for i, name in enumerate("qkvo")} | {
        "scale": np.array([0.25], np.float32)
    }
    layers = [
        dense("x", "q", "", "query", shape),
        dense("x", "k", "", "key", shape),
        dense("x", "v", "", "value", shape),
        layer("BATCH_MATMUL", ("query", "key"), {"products": scores}, adj_x=False, adj_y=True),
        layer("MUL", ("products", "scale"), {"scaled": scores}, fused_activation_function="NONE"),
        softmax("scaled", "attention", scores),
        layer("BATCH_MATMUL", ("attention", "value"), {"mixed": shape}, adj_x=False, adj_y=False),
        dense("mixed", "o", "", "written", shape),
        add("x", "written", "y", shape),
    ]
    model = net({"x": shape}, constants, layers, ["y"])
    found = groups(model.main, {node.name for node in model.main.nodes})
    assert {group.role: [node.name for node in group.nodes] for group in found} == {
        "dense layers of 16×16": ["query", "key", "value"],
        "products of activations": ["products", "mixed"],
        "softmax and its scores": ["scaled", "attention"],
        "dense layers into a residual stream of 16×16": ["written"],
        "sums of a residual stream": ["y"],
    }


@pytest.mark.parametrize("name", ["a[0]", "a*b?c", "layer/dense;layer/bias", "[[x]]"])
def test_a_pattern_for_one_name(name: str):
    w = {"w": weights(4, WIDTH)}
    model = net({"x": (1, WIDTH)}, w, [dense("x", "w", "", name, (1, 4))], [name])
    rule = Rule(exactly(name))
    assert resolve(Recipe("mine", (rule,)), model) == {name: rule}


def cell() -> Model:
    """Two layers of integers before a cell of gates, whose states come in and go out as floats."""
    import keras
    from keras import ops

    keras.utils.set_random_seed(0)
    x, hidden, state = (keras.Input((n,), name=name) for name, n in (("x", 24), ("h", 16), ("c", 16)))
    values = keras.layers.Dense(32, activation="relu", name="first")(x * np.geomspace(0.01, 40, 24, dtype=np.float32))
    gates = keras.layers.Dense(64, name="input")(values) + keras.layers.Dense(64, name="recurrent")(hidden)
    into, forget, new, out = ops.split(gates, 4, axis=1)
    after = ops.sigmoid(forget) * state + ops.sigmoid(into) * ops.tanh(new)
    outputs = {"c2": after, "h2": ops.sigmoid(out) * ops.tanh(after)}
    return fw.load(keras.Model([x, hidden, state], outputs))


def test_what_the_plan_keeps_in_float_beside_integers_stays_so_beside_wide_operators():
    model, random = cell(), np.random.default_rng(0)
    shapes = {name: model.main.tensors[name].shape for name in model.main.inputs}
    feeds = [{n: random.normal(size=(1, *s[1:])).astype(np.float32) for n, s in shapes.items()} for _ in range(24)]
    where = Setting(targets.load("litert"), tuple(feeds[:16]), tuple(feeds[16:]), io="float32")
    start, found = repaired(model, where)
    kept = {node.name for node in model.main.nodes if start.plan.forms.get(node.name, "float32") == "float32"}
    assert len(kept) > 3
    assert isinstance(found, Candidate)
    assert {found.plan.forms.get(name, "float32") for name in kept} == {"float32"}
