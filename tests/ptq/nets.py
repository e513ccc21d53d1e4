"""Small float graphs built by hand, and what the tests ask of their quantized forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.calibration import Stats, TensorStats, calibrate
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.ptq.plan import Plan
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.runtime import run

X = (1, 4, 4, 8)
INT8 = Rule(weight=Scheme("int8"), activation=Scheme("int8", symmetric=False))
CONV = {"stride_h": 1, "stride_w": 1, "padding": "SAME", "dilation_h_factor": 1, "dilation_w_factor": 1}
Layer = tuple[Node, dict[str, tuple[int, ...]]]


def layer(op: str, inputs: Sequence[str], outputs: dict[str, tuple[int, ...]], **attrs: Any) -> Layer:
    """Returns a node with the shapes of its outputs."""
    return Node(op, tuple(inputs), tuple(outputs), attrs), outputs


def conv(x: str, w: str, b: str, y: str, shape: tuple[int, ...]) -> Layer:
    """Returns a convolution with SAME padding; an empty `b` is no bias."""
    return layer("CONV_2D", (x, w, b) if b else (x, w), {y: shape}, **CONV)


def dense(x: str, w: str, b: str, y: str, shape: tuple[int, ...], activation: str = "NONE") -> Layer:
    """Returns a dense layer."""
    return layer("FULLY_CONNECTED", (x, w, b), {y: shape}, fused_activation_function=activation)


def unary(op: str, x: str, y: str, shape: tuple[int, ...]) -> Layer:
    """Returns an operator without options."""
    return layer(op, (x,), {y: shape})


def softmax(x: str, y: str, shape: tuple[int, ...]) -> Layer:
    """Returns a SOFTMAX."""
    return layer("SOFTMAX", (x,), {y: shape}, beta=1.0)


def add(x: str, z: str, y: str, shape: tuple[int, ...]) -> Layer:
    """Returns an ADD."""
    return layer("ADD", (x, z), {y: shape})


def reshape(x: str, s: str, y: str, shape: tuple[int, ...]) -> Layer:
    """Returns a RESHAPE."""
    return layer("RESHAPE", (x, s), {y: shape})


def net(
    inputs: dict[str, tuple[int, ...]],
    constants: dict[str, np.ndarray],
    layers: Sequence[Layer],
    outputs: Sequence[str],
) -> Model:
    """Returns a model of float layers."""
    tensors = {name: Tensor(name, shape, "float32") for name, shape in inputs.items()}
    tensors |= {name: constant(name, array) for name, array in constants.items()}
    for _, shapes in layers:
        tensors |= {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    graph = Graph("main", tuple(inputs), tuple(outputs), tuple(node for node, _ in layers), tensors)
    return Model((graph,))


def recipe(*rules: Rule) -> Recipe:
    """Returns a recipe of rules."""
    return Recipe("mine", rules)


def single(op: str, shape: tuple[int, ...] = X) -> Model:
    """Returns a model of one operator without options."""
    return net({"x": shape}, {}, [unary(op, "x", "y", shape)], ["y"])


def concat(*inputs: str, y: str = "y", shape: tuple[int, ...] = (1, 4, 4, 16)) -> Layer:
    """Returns a concatenation of channels."""
    return layer("CONCATENATION", inputs, {y: shape}, axis=3)


def one_conv(w: np.ndarray, b: np.ndarray | None = None, size: int = 4) -> Model:
    """Returns a model of one convolution, with zeros for a bias where none is given."""
    constants = {"w": w, "b": np.zeros(w.shape[0], np.float32) if b is None else b}
    layers = [conv("x", "w", "b", "y", (1, size, size, w.shape[0]))]
    return net({"x": (1, size, size, w.shape[-1])}, constants, layers, ["y"])


def one_dense(w: np.ndarray, b: np.ndarray | None = None) -> Model:
    """Returns a model of one dense layer."""
    constants = {"w": w} | ({} if b is None else {"b": b})
    layers = [dense("x", "w", "" if b is None else "b", "y", (1, w.shape[0]))]
    return net({"x": (1, w.shape[1])}, constants, layers, ["y"])


def weights(*shape: int, seed: int = 0, spread: float = 0.3) -> np.ndarray:
    """Returns float32 weights."""
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def samples(
    model: Model, count: int = 8, seed: int = 0, low: float = -2.0, high: float = 2.0
) -> list[dict[str, np.ndarray]]:
    """Returns random samples by input name."""
    random = np.random.default_rng(seed)
    return [
        {
            name: random.uniform(low, high, model.main.tensors[name].shape).astype(np.float32)
            for name in model.main.inputs
        }
        for _ in range(count)
    ]


def ranges(**bounds: tuple[float, float]) -> Stats:
    """Returns statistics with the given ranges."""
    return Stats(1, {name: TensorStats(1, low, high) for name, (low, high) in bounds.items()})


def planned(model: Model, recipe: Any = "int8", target: Any = "litert", **more: Any) -> tuple[Plan, Model]:
    """Calibrates on random samples where the recipe needs ranges, plans and rewrites."""
    stats = more.pop("stats", None)
    if stats is None and recipes.load(recipe).needs_ranges:
        stats = calibrate(model, samples(model), progress=False)
    decided = plan(model, stats, recipe, target, **more)
    return decided, rewrite(model, decided)


def operators(model: Model, graph: int = 0) -> Counter[str]:
    """Counts the operators of a graph."""
    return Counter(node.op for node in model.graphs[graph].nodes)


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the signal-to-quantization-noise ratio in dB."""
    reference = reference.astype(np.float64)
    noise = np.sum((reference - other) ** 2)
    return float(10 * np.log10(np.sum(reference**2) / max(noise, 1e-30)))


def agreement_db(model: Model, quantized: Model, seed: int = 1, **bounds: float) -> float:
    """Returns the worst SQNR over the outputs, on LiteRT, for inputs that calibration has not seen."""
    (feed,) = samples(model, 1, seed, **bounds)
    expected, found = (_by_position(run(m, feed)) for m in (model, quantized))
    return min(sqnr_db(a, b) for a, b in zip(expected, found, strict=True))


def _by_position(outputs: np.ndarray | dict[str, np.ndarray]) -> list[np.ndarray]:
    return [outputs] if isinstance(outputs, np.ndarray) else list(outputs.values())
