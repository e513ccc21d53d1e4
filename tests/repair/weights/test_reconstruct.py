"""Block-wise reconstruction: where blocks end, that training helps what was rounded badly, and what is left alone."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from tests import models
from tests.building import CONV, layer, net, weights

import featherweight as fw
from featherweight.graph.numerics import dequantize
from featherweight.ptq import planning
from featherweight.ptq.rewrite import rewrite
from featherweight.repair.weights.reconstruct import blocks, reconstructed
from featherweight.targets import target as targets


def _conv(x: str, name: str, activation: str = "RELU"):
    node = layer(
        "CONV_2D", (x, f"{name}_w", f"{name}_b"), {name: (1, 6, 6, 4)}, fused_activation_function=activation, **CONV
    )
    return node, {f"{name}_w": weights(4, 3, 3, 4, seed=len(name)), f"{name}_b": weights(4, seed=7)}


def _net():
    """A layer, then a residual sum of two."""
    (a, of_a), (bb, of_b), (ccc, of_c) = _conv("x", "a"), _conv("a", "bb"), _conv("bb", "ccc", "NONE")
    add = layer("ADD", ("a", "ccc"), {"sum": (1, 6, 6, 4)}, fused_activation_function="NONE")
    return net({"x": (1, 6, 6, 4)}, of_a | of_b | of_c, [a, bb, ccc, add], ["sum"])


def _samples(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(1, 6, 6, 4)).astype(np.float32)} for _ in range(count)]


def test_blocks_end_where_one_tensor_leads_on():
    assert list(blocks(_net().main)) == [(0, 1), (1, 4)]
    whole = models.lowered("depthwise").main
    found = list(blocks(whole))
    assert [first for first, _ in found] == sorted({first for first, _ in found})
    assert all(stop == first for (_, stop), (first, _) in pairwise(found))


def test_training_makes_up_for_bad_rounding_and_stays_on_the_grid(monkeypatch):
    monkeypatch.setattr("featherweight.repair.weights.reconstruct._STEPS", 120)
    monkeypatch.setattr("featherweight.training.courses.blocks._RATE", 0.02)
    model, samples = _net(), _samples(40)
    plan = planning.plan(model, fw.calibrate(model, samples, progress=False), "w4a8", "litert")
    found, rows = reconstructed(model, model, plan, samples, targets.load("litert"))
    assert [(row.first, row.last) for row in rows] == [("a", "a"), ("bb", "sum")]
    done = [row for row in rows if not row.reason]
    assert done
    assert all(row.after_db > row.before_db for row in done)
    integers = rewrite(found, plan).main
    for name in ("a_w", "bb_w", "ccc_w") if len(done) == 2 else ():
        stored = integers.tensors[name]
        assert np.array_equal(dequantize(stored.array, stored.quant), found.main.tensors[name].array)


def test_without_keras_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "featherweight.training.courses.blocks", None)
    model = _net()
    plan = planning.plan(model, fw.calibrate(model, _samples(4), progress=False), "int8", "litert")
    with pytest.raises(fw.FeatherweightError, match=r"pip install 'featherweight\[keras\]'"):
        reconstructed(model, model, plan, _samples(8), targets.load("litert"))


def test_few_samples_are_a_reason():
    model = _net()
    plan = planning.plan(model, fw.calibrate(model, _samples(4), progress=False), "int8", "litert")
    _, rows = reconstructed(model, model, plan, _samples(5), targets.load("litert"))
    assert {row.reason for row in rows} == {"5 samples are too few (at least 8)"}
