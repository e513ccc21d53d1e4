"""Files of several signatures: each is calibrated by its own samples, quantized, and shares its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import featherweight as fw
from featherweight import tflite
from featherweight.errors import DataError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.operators.entries import entries, with_main

_RANDOM = np.random.default_rng(0)
_SHARED = _RANDOM.normal(size=(64, 64)).astype(np.float32)
_OWN = _RANDOM.normal(size=(5, 64)).astype(np.float32)


def _dense(x: str, weight: str, y: str, activation: str = "NONE") -> Node:
    return Node("FULLY_CONNECTED", (x, weight, ""), (y,), {"fused_activation_function": activation})


def _graph(prefix: str, nodes: tuple[Node, ...], weights: dict[str, np.ndarray]) -> Graph:
    x, y = f"{prefix}/x", nodes[-1].outputs[0]
    tensors = {x: Tensor(x, (1, 64), "float32", shape_signature=(-1, 64))}
    tensors |= {name: constant(name, values) for name, values in weights.items()}
    for node in nodes:
        size = weights[node.inputs[1]].shape[0]
        tensors[node.name] = Tensor(node.name, (1, size), "float32", shape_signature=(-1, size))
    return Graph(prefix, (x,), (y,), nodes, tensors)


@pytest.fixture
def two() -> Model:
    """Signatures 'encode' (a shared dense layer) and 'decode' (the same, and one of its own)."""
    encode = _graph("encode", (_dense("encode/x", "encode/w", "code", "RELU"),), {"encode/w": _SHARED})
    layers = (_dense("decode/x", "decode/w", "hidden", "RELU"), _dense("hidden", "decode/v", "out"))
    decode = _graph("decode", layers, {"decode/w": _SHARED.copy(), "decode/v": _OWN})
    signatures = (
        Signature("encode", (("x", "encode/x"),), (("code", "code"),), 0),
        Signature("decode", (("code", "decode/x"),), (("out", "out"),), 1),
    )
    return Model((encode, decode), signatures)


@pytest.fixture
def samples() -> dict[str, list[np.ndarray]]:
    """Of signatures with unlike ranges."""
    return {name: list(_RANDOM.normal(size=(16, 1, 64)).astype(np.float32) * s) for name, s in _SCALES.items()}


_SCALES = {"encode": 1.0, "decode": 30.0}


def _run(model: Model, samples: dict[str, list[np.ndarray]], **options: str) -> dict[str, np.ndarray]:
    """Signature → what its graph gives for its samples."""
    named = {name: index for index, name in entries(model).items()}
    return {
        name: np.asarray(fw.run(with_main(model, named[name]), np.concatenate(part), **options))
        for name, part in samples.items()
    }


def _db(right: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(right).sum() / np.square(right - found).sum()))


@pytest.mark.parametrize("recipe", ["float16", "dynamic", "weights8", "weights4", "int8", "int16x8", "w4a8"])
def test_every_signature_is_quantized_and_what_they_share_is_stored_once(recipe, two, samples):
    done = fw.quantize(two, recipe, calibration=samples, integers=True, progress=False)
    assert not done.plan.kept_float
    written = tflite.read(tflite.write(done.model))
    assert [(s.key, [name for name, _ in s.inputs]) for s in written.signatures] == [
        ("encode", ["x"]),
        ("decode", ["code"]),
    ]
    weights = {name: written.tensors[name] for name in ("encode/w", "decode/w", "decode/v")}
    assert weights["encode/w"].data is weights["decode/w"].data
    params = [weights[name].quant for name in ("encode/w", "decode/w")]
    assert len({each and replace(each, scale_tensor=None) for each in params}) == 1
    floats, found = _run(two, samples), _run(done.model, samples)
    assert all(_db(floats[name], found[name]) > (15 if "4" in recipe else 30) for name in samples)


def test_the_reference_kernels_agree_with_litert_on_each(two, samples):
    done = fw.quantize(two, "int8", calibration=samples, integers=True, progress=False)
    found, again = _run(done.model, samples), _run(done.model, samples, runtime="reference")
    assert all(np.array_equal(found[name], again[name]) for name in samples)


def test_each_signature_has_the_ranges_of_its_own_samples(two, samples):
    stats = fw.calibrate(two, samples, progress=False)
    assert stats.samples == 32
    for name, part in samples.items():
        assert stats.tensors[f"{name}/x"].high == np.max(part)


def test_int8_borders_of_every_signature(two, samples):
    done = fw.quantize(two, "int8", calibration=samples, io="int8", integers=True, progress=False)
    ends = [graph.tensors[name].dtype for graph in done.model.graphs for name in (*graph.inputs, *graph.outputs)]
    assert ends == ["int8"] * 4


def test_a_signature_without_samples_stays_float_and_says_so(two, samples):
    for given in (samples["encode"], {"encode": samples["encode"]}):
        done = fw.quantize(two, "int8", calibration=given, integers=True, progress=False)
        assert list(done.plan.forms) == ["code"]
        assert list(done.plan.kept_float) == ["hidden", "out"]
        reason = done.plan.kept_float["out"]
        assert "signature 'decode' has no calibration samples (those given are for 'encode')" in reason
    second = fw.quantize(two, "int8", calibration={"decode": samples["decode"]}, integers=True, progress=False)
    assert list(second.plan.kept_float) == ["code"]
    assert _db(_run(two, samples)["decode"], _run(second.model, samples)["decode"]) > 30


def test_an_unknown_signature_is_named_with_those_that_there_are(two, samples):
    with pytest.raises(
        DataError, match=r"name 'docode', which is no signature of the model \(allowed: encode, decode\)"
    ):
        fw.quantize(two, "int8", calibration={"docode": samples["decode"]}, progress=False)


def test_noise_of_a_signature_is_announced_with_its_name(two, samples):
    tensors = {**two.graphs[1].tensors, "decode/v": constant("decode/v", np.float32(1e-3) * _OWN)}
    # A channel that outweighs the others by far, and cancels.
    shared = _SHARED.copy()
    shared[0] *= 1e4
    tensors["decode/w"] = constant("decode/w", shared)
    tensors["decode/v"] = constant("decode/v", np.where(np.arange(64) == 0, 0, _OWN).astype(np.float32))
    graph = Graph("decode", two.graphs[1].inputs, two.graphs[1].outputs, two.graphs[1].nodes, tensors)
    noisy = Model((two.graphs[0], graph), two.signatures)
    done = fw.quantize(noisy, "int8", calibration=samples, integers=True, progress=False)
    assert [note for note in done.plan.notes if note.startswith("signature 'decode': output 'out' is only")]


def test_with_main_keeps_what_graphs_call():
    loop = Node("WHILE", ("x",), ("y",), {"cond_subgraph_index": 2, "body_subgraph_index": 3})
    graphs = tuple(Graph(name, (), (), (loop,) if name == "b" else (), {}) for name in "abcd")
    model = Model(graphs, (Signature("one", (), ()), Signature("two", (), (), 1), Signature("body", (), (), 3)))
    assert entries(model) == {0: "one", 1: "two"}
    moved = with_main(model, 1)
    assert [graph.name for graph in moved.graphs] == ["b", "a", "c", "d"]
    assert [(s.key, s.graph) for s in moved.signatures] == [("one", 1), ("two", 0), ("body", 3)]
    assert moved.main.nodes[0].attrs == loop.attrs
    assert with_main(moved, 3).graphs[3].nodes[0].attrs["body_subgraph_index"] == 0
