"""Places of tensors in the arena, predicted and planned, against TFLite Micro's interpreter."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests import branched, building, models

import featherweight as fw
from featherweight.device_code.arena import micro_run
from featherweight.device_code.places import with_places
from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams
from featherweight.memory.packing import packed
from featherweight.memory.placing import Buffer, arena_bytes, by_size, height, placed
from featherweight.tflite.memory_plan import PLAN


def measured(model, path):
    fw.save(model, path / "model.tflite")
    random = np.random.default_rng(0)
    tensors = [model.main.tensors[name] for name in model.main.inputs]
    feeds = [[random.integers(-99, 99, t.shape).astype(t.dtype) for t in tensors] for _ in range(2)]
    return micro_run(path / "model.tflite", feeds, len(model.main.outputs))


def transposed():
    values = building.weights(3, 2, 2, 4)
    sizes = np.array([1, 8, 8, 3], np.int32)
    net = building.net(
        {"x": (1, 4, 4, 4)},
        {"s": sizes, "w": values},
        [
            building.layer(
                "TRANSPOSE_CONV", ("s", "w", "x"), {"y": (1, 8, 8, 3)}, stride_h=2, stride_w=2, padding="SAME"
            )
        ],
        ("y",),
    )
    return quantized(net, "int16x8")


def reduced():
    axes = building.ints(1, 2)
    layers = [
        building.layer("MEAN", ("x", "axes"), {"m": (1, 40)}, keep_dims=False),
        building.layer("REDUCE_MAX", ("x", "axes"), {"n": (1, 40)}, keep_dims=False),
        building.add("m", "n", "y", (1, 40)),
    ]
    return quantized(building.net({"x": (1, 3, 3, 40)}, {"axes": axes}, layers, ("y",)), "int8")


def mirrored():
    pads = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    padded = building.layer("MIRROR_PAD", ("x", "p"), {"y": (1, 5, 5, 2)}, mode=0)
    return building.net({"x": (1, 3, 3, 2)}, {"p": pads}, [padded], ("y",))


def joined():
    joint = building.layer("ADD_N", ("x", "z", "x"), {"y": (1, 5)})
    return building.net({"x": (1, 5), "z": (1, 5)}, {}, [joint], ("y",))


def narrow():
    quant = QuantParams("int4", (0.1,), (0,))
    weight = constant("w", np.ones((7, 33), np.int8), "int4", quant)
    of = {
        n: fw.Tensor(n, shape, "int8", quant=QuantParams("int8", (0.5,), (0,)))
        for n, shape in (("x", (1, 33)), ("y", (1, 7)))
    }
    layer = building.layer("FULLY_CONNECTED", ("x", "w"), {"y": of["y"]})
    return building.net({"x": of["x"]}, {"w": weight}, [layer], ("y",))


def unused():
    net = building.net({"x": (1, 4), "u": (1, 9)}, {}, [building.unary("TANH", "x", "y", (1, 4))], ("y",))
    graph = fw.Graph(
        "main",
        net.main.inputs,
        net.main.outputs,
        net.main.nodes,
        {**net.main.tensors, "lost": fw.Tensor("lost", (1, 90), "float32")},
    )
    return fw.Model((graph,))


def quantized(net, recipe):
    shape = net.main.tensors["x"].shape
    samples = [np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in range(2)]
    return fw.quantize(net, recipe, calibration=samples, target="tflm", progress=False, verify=False).model


def looped():
    return models.lowered("gru")


def fused():
    made = fw.quantize(
        models.lowered("lstm", fuse=True),
        calibration=models.samples("lstm", 2),
        target="tflm",
        progress=False,
        verify=False,
    )
    return made.model


def wide():
    return quantized(branched.random_wiring(13, 0), "int8")


@pytest.mark.parametrize("make", [transposed, reduced, mirrored, joined, narrow, unused, looped, fused, wide])
def test_the_arena_is_known_before_the_interpreter_runs(make, tmp_path):
    model = make()
    assert arena_bytes(model) == measured(model, tmp_path).arena.tensors


def test_a_plan_of_places_needs_less_and_computes_the_same(tmp_path):
    model = wide()
    planned = with_places(model)
    before, after = measured(model, tmp_path), measured(planned, tmp_path)
    assert after.arena.tensors < before.arena.tensors
    for one, other in zip(before.outputs, after.outputs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    sheet = fw.prove(planned, vectors=2, runtimes=["tflm", "xnnpack"], target="tflm", progress=False)
    assert sheet.is_proven, str(sheet)
    assert PLAN in fw.read(fw.write(planned)).metadata


def test_no_plan_where_nothing_is_won_or_graphs_are_several():
    assert with_places(reduced()) is None
    assert with_places(looped()) is None


@pytest.mark.parametrize("seed", range(30))
def test_what_lives_at_once_lies_apart(seed):
    rng = random.Random(seed)
    buffers = []
    for _ in range(rng.randint(1, 25)):
        first = rng.randint(-1, 12)
        buffers.append(Buffer(16 * rng.randint(1, 9), first, first + rng.choice([0, 1, 1, 2, 5])))
    own, better = placed(buffers, by_size(buffers)), packed(buffers)
    assert height(buffers, better) <= height(buffers, own)
    for places in (own, better):
        for i, (a, x) in enumerate(zip(buffers, places, strict=True)):
            for b, y in list(zip(buffers, places, strict=True))[:i]:
                together = a.first <= b.last and b.first <= a.last
                assert not together or x + a.size <= y or y + b.size <= x
