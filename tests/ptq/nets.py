"""Small float graphs built by hand, and what the tests ask of their quantized forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from tests.building import conv, dense, net, unary

from featherweight.calibration import Stats, TensorStats, calibrate
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.runtime import run

X = (1, 4, 4, 8)
INT8 = Rule(weight=Scheme("int8"), activation=Scheme("int8"))


def recipe(*rules: Rule) -> Recipe:
    """Returns a recipe of rules."""
    return Recipe("mine", rules)


def single(op: str, shape: tuple[int, ...] = X) -> Model:
    """Returns a model of one operator without options."""
    return net({"x": shape}, {}, [unary(op, "x", "y", shape)], ["y"])


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
