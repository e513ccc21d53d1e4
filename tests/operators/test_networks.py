"""Whole networks against LiteRT: every tensor, integer for integer."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from tests import models
from tests.operators import networks
from tests.operators.oracle import RESOLVERS

import featherweight as fw
from featherweight.graph import Node, io_names, producers

SESSION = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}
BUILT = {"style": networks.style, "detector": networks.detector}
EVERY = ["convnet", "depthwise", "dense", "multi_input", "multi_output", "upsampling", "transformer", *BUILT]
# Sums of floats in other orders, in ulps of the tensor's largest magnitude.
FLOAT_ULPS = 64


def source(name: str) -> fw.Model:
    return BUILT[name]() if name in BUILT else models.lowered(name)


def samples(name: str, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    if name not in BUILT:
        return models.samples(name, count, seed)
    graph, random = source(name).main, np.random.default_rng(seed)
    shapes = {public: graph.tensors[tensor].shape for public, tensor in io_names(source(name))[0].items()}
    return [{public: random.random(shape, np.float32) for public, shape in shapes.items()} for _ in range(count)]


@functools.cache
def quantized(name: str, recipe: str) -> fw.Model:
    calibration = None if recipe in ("dynamic", "weights8", "weights4", "float16") else samples(name, 16, seed=1)
    return fw.quantize(source(name), recipe, calibration=calibration, progress=False).model


def both(name: str, recipe: str, profile: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, ours, LiteRT's) of every tensor that the main graph computes."""
    model = quantized(name, recipe)
    arrays = samples(name, 1 if name == "detector" else 3, seed=2)
    inputs: Any = {key: np.concatenate([sample[key] for sample in arrays]) for key in arrays[0]}
    computed = [o for node in model.main.nodes for o in node.outputs if not is_folded(model, node)]
    found = fw.run(model, inputs, runtime="reference", profile=profile, tensors=computed)
    expected = fw.run(model, inputs, resolver=SESSION[profile], tensors=computed, threads=1)
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert list(found) == list(expected)
    return [(tensor, found[tensor], array) for tensor, array in expected.items()]


def is_folded(model: fw.Model, node: Node) -> bool:
    """True for constants that are stored smaller: the delegate unpacks them itself, and never writes the tensor."""
    return node.op == "DEQUANTIZE" and model.main.tensors[node.inputs[0]].is_constant


def assert_near(tensor: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Floats up to the order of their sums, all else exactly."""
    if expected.dtype == np.float32:
        step = np.spacing(np.abs(expected).max(initial=0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT_ULPS * step, err_msg=tensor)
    else:
        np.testing.assert_array_equal(found, expected, err_msg=tensor)


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("recipe", ["int8", "int16x8", "w4a8"])
@pytest.mark.parametrize("name", EVERY)
def test_every_tensor_is_litert_s(name: str, recipe: str, profile: str) -> None:
    floats = {"HARD_SWISH"} if recipe == "int16x8" else set()  # what stays float, for want of a kernel
    writers = producers(quantized(name, recipe).main)
    for tensor, found, expected in both(name, recipe, profile):
        if writers[tensor].op in floats:
            assert_near(tensor, found, expected)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=tensor)


@pytest.mark.parametrize(
    ("recipe", "profile"),
    # Only XNNPACK computes rightly with all the blocks of weights4.
    [*itertools.product(["dynamic", "weights8", "float16"], RESOLVERS), ("weights4", "xnnpack")],
)
@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense", "transformer", "style", "detector"])
def test_floats_are_litert_s_up_to_the_order_of_sums(name: str, recipe: str, profile: str) -> None:
    for tensor, found, expected in both(name, recipe, profile):
        assert_near(tensor, found, expected)


@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense"])
def test_float_graphs_run_too(name: str) -> None:
    inputs = models.batch(name, 2, seed=2)
    found = fw.run(models.lowered(name), inputs, runtime="reference")
    np.testing.assert_allclose(found, fw.run(models.lowered(name), inputs), rtol=1e-4, atol=1e-5)
