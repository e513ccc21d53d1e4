"""Weights chosen layer by layer: what the rewriter makes of them, what each layer is fed, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.graph import Model, consumers, replace_graph
from featherweight.graph.editor import Editor
from featherweight.graph.numerics import dequantize
from featherweight.operators import lookup
from featherweight.ptq import planning
from featherweight.ptq.rewrite import rewrite
from featherweight.repair.weights.layerwise import Choices, round_weights
from featherweight.repair.weights.places import find_places, with_own_biases
from featherweight.repair.weights.prefix import Prefix, most_runs
from featherweight.runtime.samples import as_feeds
from featherweight.targets import target as targets

EVERYTHING = Choices(scales=True, gptq=True, bias=True, spread=True, regress=True)


def _planned(name: str, recipe: str, target: str = "litert", *, fuse=False, unroll=False, count=10):
    model = models.lowered(name, unroll=unroll, fuse=fuse)
    samples = list(as_feeds(models.samples(name, count), model))
    stats = fw.calibrate(model, samples, progress=False)
    return model, planning.plan(model, stats, recipe, target), samples


def _level(model: Model, other: Model, samples) -> float:
    pairs = [(np.asarray(fw.run(model, sample)), np.asarray(fw.run(other, sample))) for sample in samples]
    signal, noise = (
        float(sum(np.square(v).sum() for v in each)) for each in zip(*((x, x - y) for x, y in pairs), strict=True)
    )
    return 10 * float(np.log10(signal / noise))


@pytest.mark.parametrize(
    ("name", "recipe", "target"),
    [
        ("depthwise", "int8", "litert"),
        ("depthwise", "w4a8", "litert"),
        ("depthwise", "weights4", "litert"),
        ("depthwise", "int8", "power-of-two"),
        ("depthwise", "int16x8", "litert"),
        ("transformer", "w4a8", "litert"),
        ("transformer", "weights4", "litert"),
        ("upsampling", "w4a8", "litert"),
        ("upsampling", "dynamic", "litert"),
    ],
)
def test_the_rewriter_makes_the_chosen_integers(name, recipe, target):
    model, plan, samples = _planned(name, recipe, target, count=3)
    found = round_weights(model, plan, samples, EVERYTHING, targets.load(target))
    assert any(layer.operator for layer in found.layers)
    integers = rewrite(found.model, found.plan).main
    for layer in found.layers:
        assert not layer.reason
        stored, wanted = integers.tensors[layer.weight], found.model.main.tensors[layer.weight].array
        assert stored.dtype in ("int8", "int4")
        if stored.quant.block_size:
            scales = np.asarray(integers.tensors[stored.quant.scale_tensor].array, np.float32)
            blocks = np.asarray(stored.array, np.float32).reshape(*scales.shape, stored.quant.block_size)
            assert np.array_equal((blocks * scales[..., None]).reshape(wanted.shape), wanted)
        else:
            assert np.array_equal(dequantize(stored.array, stored.quant), wanted)
        if target == "power-of-two":
            assert {float(np.log2(s)) % 1 for s in stored.quant.scale} == {0.0}


@pytest.mark.parametrize(("recipe", "gain_db"), [("int8", 2), ("w4a8", 12), ("weights4", 12)])
def test_outputs_on_other_samples_are_nearer_to_the_float_ones(recipe, gain_db):
    model, plan, samples = _planned("depthwise", recipe)
    unseen = models.samples("depthwise", 8, seed=5)
    before = _level(model, rewrite(model, plan), unseen)
    found = round_weights(model, plan, samples, Choices(bias=True, gptq=True, scales=True), targets.load("litert"))
    assert _level(model, rewrite(found.model, found.plan), unseen) > before + gain_db


def test_the_same_samples_give_the_same_file():
    model, plan, samples = _planned("depthwise", "w4a8")
    once, again = (round_weights(model, plan, samples, EVERYTHING, targets.load("litert")) for _ in range(2))
    assert fw.write(rewrite(once.model, once.plan)) == fw.write(rewrite(again.model, again.plan))


def test_without_a_choice_the_integers_are_those_of_the_plan():
    model, plan, samples = _planned("depthwise", "int8")
    found = round_weights(model, plan, samples, Choices(), targets.load("litert"))
    assert found.plan == plan
    assert fw.write(rewrite(found.model, found.plan)) == fw.write(rewrite(model, plan))


@pytest.mark.parametrize(
    ("name", "unroll", "fuse"), [("depthwise", False, False), ("transformer", False, False), ("lstm", False, True)]
)
def test_each_operator_is_fed_what_it_is_fed_in_the_whole_models(name, unroll, fuse):
    model, plan, samples = _planned(name, "int8", fuse=fuse, unroll=unroll)
    integer = rewrite(model, replace(plan, io="float32"))
    prefix = Prefix(model, plan, samples[:3])
    for position, node in enumerate(model.main.nodes):
        if not lookup(node.op).has_integer_weights:
            continue
        prefix.advance(position)
        wanted = node.inputs[lookup(node.op).activation]
        for run, pairs in enumerate(prefix.pairs([wanted])):
            exact = (
                samples[run][wanted]
                if wanted in samples[run]
                else fw.run(model, samples[run], tensors=[wanted])[wanted]
            )
            assert np.allclose(pairs[wanted].exact, exact, rtol=1e-5, atol=1e-5)
            if wanted in model.main.inputs:
                continue
            tensor = integer.main.tensors[wanted]
            values = fw.run(integer, samples[run], tensors=[wanted])[wanted]
            values = dequantize(values, tensor.quant) if tensor.quant is not None else values
            assert np.array_equal(pairs[wanted].rounded, values), node.name


def test_fewer_runs_are_kept_where_values_are_large(monkeypatch):
    model, _, samples = _planned("depthwise", "int8")
    assert most_runs(model, samples) == len(samples)
    monkeypatch.setattr("featherweight.repair.weights.prefix.MOST_KEPT_BYTES", 1)
    assert most_runs(model, samples) == 1


def test_fused_recurrent_kernels_are_chosen_by_the_states_that_they_meet():
    model, plan, samples = _planned("lstm", "int8", fuse=True)
    found = round_weights(model, plan, samples, Choices(gptq=True), targets.load("litert"))
    names = {node.inputs[role.weight] for node in model.main.nodes for role in lookup(node.op).weights}
    assert {layer.weight for layer in found.layers} >= {n for n in names if n in plan.params}
    assert all(layer.after_db >= layer.before_db for layer in found.layers)


def test_weights_in_loops_are_left_alone_with_a_reason():
    model, plan, samples = _planned("gru", "dynamic")
    found = round_weights(model, plan, samples, EVERYTHING, targets.load("litert"))
    assert {layer.reason for layer in found.layers if layer.reason} == {
        "it is in a loop, a branch or another signature, whose inputs are not seen together"
    }


def test_a_weight_of_unrolled_steps_is_chosen_by_all_of_them():
    model, plan, samples = _planned("gru", "dynamic", unroll=True)
    places, _ = find_places(model, plan)
    assert max(len(place.kernels) for place in places) > 2
    found = round_weights(model, plan, samples, Choices(gptq=True, scales=True), targets.load("litert"))
    assert not any(layer.reason for layer in found.layers)
    shared = next(place.kernel.name for place in places if len(place.kernels) > 2)
    readers = consumers(rewrite(found.model, found.plan).main)[shared]
    assert len(readers) > 2


def test_a_table_that_a_layer_shares_stays_as_it_is():
    model, plan, _ = _planned("depthwise", "int8")
    graph, places = model.main, find_places(model, plan)[0]
    name = places[-1].kernel.name
    edit = Editor(graph, set(model.tensors))
    edit.nodes += graph.nodes
    place = edit.constant("row", np.int32([0]))
    edit.tensors["picked"] = replace(
        graph.tensors[name], name="picked", data=None, shape=(1, *graph.tensors[name].shape[1:])
    )
    edit.node("GATHER", (name, place), ("picked",))
    tied = replace_graph(model, 0, edit.result())
    assert find_places(tied, plan)[1] == {name: "GATHER 'picked' reads it, too, as a table"}


def test_infinite_inputs_leave_a_weight_as_it_is():
    model, plan, samples = _planned("depthwise", "weights4")
    large = [{name: values * np.float32(1e25) for name, values in sample.items()} for sample in samples]
    found = round_weights(model, plan, large, EVERYTHING, targets.load("litert"))
    assert "what it is fed holds infinite values" in {layer.reason for layer in found.layers}
    assert np.isfinite(next(iter(rewrite(found.model, found.plan).main.tensors.values())).shape).all()


def test_few_inputs_are_said_to_be_few():
    model, plan, samples = _planned("dense", "int8")
    found = round_weights(model, plan, samples[:2], Choices(gptq=True), targets.load("litert"))
    assert any("by 2 inputs; give about" in layer.note for layer in found.layers)


def test_biases_of_their_own_change_nothing():
    model, plan, samples = _planned("transformer", "int8")
    layers = [place.kernel.node for place in find_places(model, plan)[0] if place.bias]
    shapes = [model.tensors[node.inputs[2]].shape for node in layers]
    first, *others = (node for node, shape in zip(layers, shapes, strict=True) if shapes.count(shape) > 2)
    inputs = {others[0].name: (*others[0].inputs[:2], first.inputs[2]), others[1].name: others[1].inputs[:2]}
    nodes = tuple(replace(node, inputs=inputs.get(node.name, node.inputs)) for node in model.main.nodes)
    odd = replace_graph(model, 0, replace(model.main, nodes=nodes))
    places = find_places(odd, plan)[0]
    assert sum(not place.bias for place in places) == 3
    other = with_own_biases(odd, places)
    assert all(place.bias for place in find_places(other, plan)[0])
    for sample in samples[:2]:
        assert np.array_equal(fw.run(odd, sample), fw.run(other, sample))
