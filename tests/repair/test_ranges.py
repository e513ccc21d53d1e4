"""ranges="auto": chosen by the operators that read a tensor, confirmed at the output, on held-out samples."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests import models
from tests.building import dense, layer, net, unary, weights
from tests.runtime import tiny

import featherweight as fw
from featherweight.diagnosis.exact import exact_values
from featherweight.graph import Model
from featherweight.graph.numerics import params_from_range
from featherweight.ptq.planning import plan
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Rule, Scheme
from featherweight.repair.candidate import Setting, planned
from featherweight.repair.improve import divided
from featherweight.repair.ranges import choose_ranges, opened
from featherweight.repair.readers import groups_of, reading_errors, rounded
from featherweight.targets import target as targets

SIZE = 64


def unread_outliers() -> Model:
    """A net whose second layer hardly reads the one feature that is fifty times as large as the others."""
    random = np.random.default_rng(0)
    first = random.normal(0, 0.2, (SIZE, SIZE)).astype(np.float32)
    first[0] *= 50
    second = random.normal(0, 0.2, (10, SIZE)).astype(np.float32)
    second[:, 0] *= 1e-5
    constants = {"w": first, "b": np.zeros(SIZE, np.float32), "v": second, "c": np.zeros(10, np.float32)}
    layers = [dense("x", "w", "b", "h", (1, SIZE), "RELU"), dense("h", "v", "c", "y", (1, 10))]
    return net({"x": (1, SIZE)}, constants, layers, ["y"])


def samples(count: int, size: int = SIZE) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=(1, size)).astype(np.float32) for i in range(count)]


def level_db(model: Any, reference: Model, feeds: list[np.ndarray]) -> float:
    wanted, found = (np.concatenate([fw.run(each, feed) for feed in feeds]) for each in (reference, model))
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


def auto(model: Model, given: Any, **options: Any) -> fw.Quantized:
    return fw.quantize(model, "int8", calibration=given, ranges="auto", progress=False, **options)


def test_what_no_reader_needs_gets_no_room() -> None:
    model, unseen = (
        unread_outliers(),
        [np.random.default_rng(100 + i).normal(size=(1, SIZE)).astype("f") for i in range(30)],
    )
    plain = fw.quantize(model, "int8", calibration=samples(40), progress=False)
    own = fw.quantize(model, "int8", calibration=samples(40), ranges="mse", progress=False)
    chosen = auto(model, samples(40))
    assert chosen.plan.params["h"].scale[0] < plain.plan.params["h"].scale[0] / 2
    levels = [level_db(each.model, model, unseen) for each in (plain, own, chosen)]
    assert levels[2] > levels[0] + 6
    assert levels[2] > levels[1] + 3
    (note,) = [n for n in chosen.plan.notes if n.startswith("ranges: ")]
    assert re.match(r"ranges: .* by methods chosen for each.* \(.*\d by .*; all others by their extremes\), \+", note)
    assert "dB at the output against the extremes on 10 held-out samples" in note
    assert any(n.startswith("ranges clip values of ") for n in chosen.plan.notes)


def test_the_order_of_samples_changes_no_byte() -> None:
    given = samples(24)
    files = {fw.write(auto(unread_outliers(), order).model) for order in (given, given[::-1], given[7:] + given[:7])}
    assert len(files) == 1


def test_extremes_stand_where_nothing_is_surely_better() -> None:
    model, given = models.lowered("convnet"), models.samples("convnet", 4)
    result = auto(model, given)
    assert any("4 samples are too few to choose ranges by: the extremes stand" in n for n in result.plan.notes)
    plain = fw.quantize(model, "int8", calibration=given, progress=False)
    assert fw.write(result.model) == fw.write(plain.model)


def test_samples_that_are_all_alike_choose_nothing() -> None:
    result = auto(unread_outliers(), samples(1) * 16)
    assert any("16 samples, 1 of them different, are too few to choose ranges by" in n for n in result.plan.notes)


def test_held_out_samples_that_reach_farther_are_named() -> None:
    model, feeds = unread_outliers(), [{"x": each} for each in samples(16)]
    far = tuple({"x": 9 * feed["x"]} for feed in feeds[:6])
    setting = Setting(targets.load("litert"), tuple(feeds[6:]), far, ranges="auto")
    found = choose_ranges(setting, planned(setting, model, recipes.load("int8")))
    assert "samples disagree: in those held out, 3 tensors reach more than 1.5 times as far as in the others" in (
        found if isinstance(found, str) else found.notes[-1]
    )


def test_activations_of_16_bits_keep_their_extremes() -> None:
    result = fw.quantize(unread_outliers(), "int16x8", calibration=samples(24), ranges="auto", progress=False)
    assert any("no method gives other ranges than the extremes" in note for note in result.plan.notes)


def test_where_the_extremes_stand_the_file_is_theirs() -> None:
    model, given = models.lowered("convnet"), models.samples("convnet", 12)
    result = auto(model, given)
    assert any("the extremes stand: nothing is surely better on 4 held-out samples" in n for n in result.plan.notes)
    assert fw.write(result.model) == fw.write(fw.quantize(model, "int8", calibration=given, progress=False).model)


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("target", ["litert", "tflm", "power-of-two", "int8-per-tensor"])
def test_auto_is_never_worse_than_the_extremes(recipe: str, target: str) -> None:
    if (recipe, target) == ("w4a8", "power-of-two"):
        target = "litert"
    model, given = models.lowered("depthwise"), models.samples("depthwise", 24)
    parts = divided(given, model, None, is_auto=True)
    setting = Setting(targets.load(target), *parts, ranges="auto")
    start = planned(setting, model, recipes.load(recipe))
    found = choose_ranges(setting, start)
    if isinstance(found, str):
        assert "the extremes" in found
        assert "held-out samples ('mse' for all tensors " in found
        return
    assert "against the extremes" in found.notes[-1]
    again = planned(setting, model, recipes.load(recipe), stats=found.stats, methods=found.methods)
    assert again.plan.params == found.plan.params


def test_tensors_on_one_grid_are_one_group() -> None:
    constants = {"w": weights(4, 8), "b": np.zeros(4, np.float32)}
    layers = [
        dense("x", "w", "b", "p", (1, 4)),
        dense("x", "w", "b", "q", (1, 4)),
        layer("CONCATENATION", ["p", "q"], {"j": (1, 8)}, axis=1),
        unary("ABS", "j", "y", (1, 8)),
    ]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    stats = fw.calibrate(model, samples(6, 8), histograms=True, progress=False)
    made = plan(model, stats, "int8")
    groups = {group.names: [node.op for node in group.readers] for group in groups_of(made, model.main, stats.tensors)}
    assert groups[("p", "q", "j")] == ["ABS"]
    assert groups[("x",)] == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    (shared,) = [group for group in groups_of(made, model.main, stats.tensors) if "j" in group.names]
    exact = exact_values(model, samples(6, 8))
    grids = [params_from_range(-top, top, "int8") for top in (1.0, 100.0)]
    errors = reading_errors(exact, shared, grids, ())
    for params, error in zip(grids, errors, strict=True):
        values = np.concatenate(exact.values["j"])
        expected = np.square(np.abs(rounded(values, params)) - np.abs(values)).sum() / np.square(values).sum()
        assert error == pytest.approx(expected, rel=1e-4)


def test_rules_that_name_a_method_keep_it() -> None:
    rules = (
        Rule("h", weight=Scheme("int8"), activation=Scheme("int8", ranges="clip:0.5")),
        Rule(weight=Scheme("int8"), activation=Scheme("int8", ranges="auto")),
    )
    recipe = recipes.Recipe("mine", rules)
    assert [rule.activation.ranges for rule in opened(recipe, "mse").rules if rule.activation] == ["clip:0.5", None]
    chosen = fw.quantize(unread_outliers(), recipe, calibration=samples(40), progress=False)
    fixed = replace(recipe, rules=(rules[0], replace(rules[1], activation=Scheme("int8"))))
    plain = fw.quantize(unread_outliers(), fixed, calibration=samples(40)[:30], progress=False)
    high = chosen.plan.params["h"].scale[0] / plain.plan.params["h"].scale[0]
    assert 0.9 < high < 1.1


def test_several_signatures_take_the_extremes() -> None:
    model = models_of_two_signatures()
    given = {"first": samples(9, 3), "second": samples(9, 3)}
    result = auto(model, given)
    assert any("are chosen for models of one signature" in note for note in result.plan.notes)


def models_of_two_signatures() -> Model:
    one = tiny.dense(signature=True)
    graph, (signature, *_) = one.main, one.signatures
    renamed = {name: replace(tensor, name=f"other_{name}") for name, tensor in graph.tensors.items()}
    nodes = tuple(
        replace(
            node,
            inputs=tuple(f"other_{n}" if n else n for n in node.inputs),
            outputs=tuple(f"other_{n}" for n in node.outputs),
        )
        for node in graph.nodes
    )
    second = replace(
        graph,
        name="second",
        inputs=tuple(f"other_{n}" for n in graph.inputs),
        outputs=tuple(f"other_{n}" for n in graph.outputs),
        nodes=nodes,
        tensors={tensor.name: tensor for tensor in renamed.values()},
    )
    inputs, outputs = (tuple((k, f"other_{v}") for k, v in each) for each in (signature.inputs, signature.outputs))
    signatures = (
        replace(signature, key="first"),
        replace(signature, key="second", graph=1, inputs=inputs, outputs=outputs),
    )
    return replace(one, graphs=(graph, second), signatures=signatures)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_models_of_other_kinds_are_chosen_for(name: str) -> None:
    result = auto(models.lowered(name), models.samples(name, 12))
    assert any("ranges" in note for note in result.plan.notes)


def test_a_method_that_loses_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, given = models.lowered("convnet"), models.samples("convnet", 16)
    with caplog.at_level(logging.WARNING, "featherweight"):
        result = fw.quantize(model, "int8", calibration=given, ranges="percentile:75", progress=False)
    (note,) = [n for n in result.plan.notes if n.startswith("ranges 'percentile:75' do worse than the extremes")]
    assert "dB at the output, on 16 calibration samples. Use 'minmax', or 'auto'" in note
    assert note in caplog.messages
    silent = fw.quantize(model, "int8", calibration=given, ranges="percentile:75", verify=False, progress=False)
    assert not any("do worse" in n for n in silent.plan.notes)
    fine = fw.quantize(model, "int8", calibration=given, ranges="percentile:100", progress=False)
    assert not any("do worse" in n for n in fine.plan.notes)
