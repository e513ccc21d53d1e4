"""Orders of operators that need less memory: the least there is, and the same integers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import branched, building

import featherweight as fw
from featherweight.device_code.arena import micro_run
from featherweight.memory.bounds import least_peak
from featherweight.memory.live import Live, live_of, peak_bytes
from featherweight.memory.ordering import best_order, ordered

NETS = {
    "inception": lambda: branched.inception(3),
    "nasnet": lambda: branched.nasnet(1),
    "random": lambda: branched.random_wiring(13, 0),
}


def random_live(seed: int) -> Live:
    """Returns up to nine operators with tensors of any sizes and readers, scratch memory, and other limits of order."""
    rng = random.Random(seed)
    sizes, kept, writer = [], [], []

    def new(by: int | None) -> int:
        sizes.append(16 * rng.randint(0, 8))
        kept.append(rng.random() < 0.1)
        writer.append(by)
        return len(sizes) - 1

    fed = tuple(new(None) for _ in range(rng.randint(0, 2)))
    inputs, outputs, before = [], [], []
    count = rng.randint(1, 9)
    for operator in range(count):
        reads = tuple(rng.sample(range(len(sizes)), min(len(sizes), rng.choice([0, 1, 1, 2, 3]))))
        needed = {writer[tensor] for tensor in reads} - {None}
        if operator and rng.random() < 0.1:
            needed.add(rng.randrange(operator))
        inputs.append(reads)
        before.append(sum(1 << other for other in needed))
        outputs.append(tuple(new(operator) for _ in range(rng.choice([0, 1, 1, 2]))))
    readers = tuple(sum(1 << o for o in range(count) if t in inputs[o]) for t in range(len(sizes)))
    working = tuple(rng.choice([0, 0, 80]) for _ in range(count))
    return Live(tuple(sizes), readers, tuple(kept), tuple(inputs), tuple(outputs), tuple(before), working, fed)


def least_of_all(live: Live) -> int:
    """Returns the lowest peak, by trying every set of operators."""
    reached = {0: (live.begun(), live.begun())}
    for done in range(1 << live.count):
        if done not in reached:
            continue
        peak, held = reached[done]
        for operator in range(live.count):
            if done >> operator & 1 or live.before[operator] & ~done:
                continue
            running, after = live.step(operator, done, held)
            found = max(peak, running), after
            behind = done | 1 << operator
            reached[behind] = min(reached.get(behind, found), found)
    return reached[(1 << live.count) - 1][0]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_the_order_is_one_and_the_best(seed):
    live = random_live(seed)
    order, bound = best_order(live, width=1, most=10**6)
    assert sorted(order) == list(range(live.count))
    done = 0
    for operator in order:
        assert not live.before[operator] & ~done
        done |= 1 << operator
    least = least_of_all(live)
    assert live.peak(order) == bound == least
    assert least_peak(live, range(live.count)) <= least


def test_without_a_proof_the_bound_is_below_and_said():
    live = live_of(branched.nasnet(4).main, {})
    order, bound = best_order(live, width=64, most=0)
    assert bound < live.peak(order) < live.peak(range(live.count))


@pytest.mark.parametrize("name", NETS)
def test_branched_nets_have_the_least_peak_and_the_same_integers(name, tmp_path):
    model = NETS[name]()
    shape = model.main.tensors["x"].shape
    samples = [np.random.default_rng(i).uniform(-1, 1, shape).astype(np.float32) for i in range(3)]
    quantized = [
        fw.quantize(model, calibration=samples, target="tflm", progress=False, verify=False, keep_order=keep).model
        for keep in (True, False)
    ]
    (peak,) = ordered(quantized[0]).peaks
    assert peak.is_proven
    runs = []
    for graph in quantized:
        path = tmp_path / "model.tflite"
        fw.save(graph, path)
        given = [np.random.default_rng(i).integers(-128, 128, shape, np.int8) for i in range(3)]
        runs.append(micro_run(path, [[array] for array in given], 1))
    for before, after in zip(runs[0].outputs, runs[1].outputs, strict=True):
        np.testing.assert_array_equal(before[0], after[0])
    # The interpreter's greedy placement may need a little more than what lives.
    assert peak.after <= runs[1].arena.tensors <= runs[0].arena.tensors
    if name != "nasnet":
        assert peak.after < peak.before
        assert runs[1].arena.tensors < runs[0].arena.tensors


def test_the_plan_says_what_another_order_brings():
    model = branched.random_wiring(13, 0)
    samples = [np.zeros(model.main.tensors["x"].shape, np.float32)]
    given = {"calibration": samples, "progress": False, "verify": False}
    (said,) = [note for note in fw.quantize(model, target="tflm", **given).plan.notes if "order" in note]
    assert "no order needs less" in said
    for found in (fw.quantize(model, **given), fw.quantize(model, target="tflm", keep_order=True, **given)):
        assert not [note for note in found.plan.notes if "order" in note]


def variable_net() -> fw.Model:
    """Returns a net that reads a variable, assigns to it, and reads it again behind a wide branch."""
    handle = fw.Tensor("h", (), "resource")
    shapes = {name: fw.Tensor(name, (1, 64), "float32") for name in ("old", "new", "sum", "wide", "y")}
    layers = [
        building.layer("VAR_HANDLE", (), {"h": handle}, container=b"", shared_name=b"s"),
        building.layer("READ_VARIABLE", ("h",), {"old": shapes["old"]}),
        building.layer("ADD", ("old", "x"), {"sum": shapes["sum"]}),
        building.layer("ASSIGN_VARIABLE", ("h", "sum"), {}),
        building.layer("READ_VARIABLE", ("h",), {"new": shapes["new"]}),
        building.layer("MUL", ("new", "old"), {"y": shapes["y"]}),
    ]
    return building.net({"x": (1, 64)}, {}, layers, ("y",))


def test_variables_keep_their_order():
    model = variable_net()
    live = live_of(model.main, {})
    effects = [i for i, node in enumerate(model.main.nodes) if "VAR" in node.op]
    for first, second in itertools.pairwise(effects):
        assert live.before[second] >> first & 1


def test_a_graph_that_is_called_counts_where_it_is_called():
    inner = branched.random_wiring(13, 0)
    outer = building.net({"x": inner.main.tensors["x"].shape}, {}, [], ("y",))
    y = inner.main.outputs[0]
    node = fw.Node("CALL", ("x",), ("y",), {"subgraph": 1})
    tensors = {"x": replace(inner.main.tensors["x"]), "y": replace(inner.main.tensors[y], name="y")}
    model = fw.Model((replace(outer.main, nodes=(node,), tensors=tensors), inner.main))
    main, called = ordered(model).peaks
    assert called.after < called.before
    assert main.after == called.after + live_of(model.main, {}).peak((0,))


def test_what_is_not_in_order_stays_as_it_is():
    model = branched.random_wiring(13, 0)
    nodes = model.main.nodes
    wrong = replace(model, graphs=(replace(model.main, nodes=(*nodes[1:], nodes[0])),))
    found = ordered(wrong)
    assert found.model is wrong
    assert not found.peaks[0].is_proven


def test_the_peak_of_a_chain_is_its_widest_pair_of_neighbours() -> None:
    layers = [
        building.layer("NEG", ("x",), {"a": (4, 100)}),
        building.layer("MUL", ("a", "c"), {"b": (4, 100)}),
        building.layer("RESHAPE", ("b", "s"), {"y": (400,)}),
    ]
    constants = {"c": np.ones((1, 100), np.float32), "s": np.array([400], np.int32)}
    assert peak_bytes(building.net({"x": (4, 100)}, constants, layers, ["y"])) == 2 * 4 * 100 * 4
