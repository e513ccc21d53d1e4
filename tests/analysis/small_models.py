"""Small float models built by hand: no framework needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.building import Layer, layer, net

from featherweight.graph import Model, Signature, Tensor

FEATURES, HIDDEN, CLASSES = 8, 16, 6


def _value(name: str, *shape: int) -> Tensor:
    return Tensor(name, (1, *shape), "float32", shape_signature=(-1, *shape))


def _constants(name: str, units: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weight = random.normal(0, 0.5, units).astype(np.float32)
    return {f"{name}/kernel": weight, f"{name}/bias": random.normal(0, 0.1, units[0]).astype(np.float32)}


def _dense(name: str, read: str, written: Tensor, activation: str = "NONE") -> Layer:
    inputs = (read, f"{name}/kernel", f"{name}/bias")
    return layer("FULLY_CONNECTED", inputs, {written.name: written}, fused_activation_function=activation)


def classifier(hidden_activation: str = "RELU") -> Model:
    """Two dense layers, 8 features to 6 classes, free batch, public names `features` and `scores`."""
    constants = _constants("one", (HIDDEN, FEATURES), 1) | _constants("two", (CLASSES, HIDDEN), 2)
    layers = [
        _dense("one", "x", _value("hidden", HIDDEN), hidden_activation),
        _dense("two", "hidden", _value("logits", CLASSES)),
    ]
    made = net({"x": _value("x", FEATURES)}, constants, layers, ("logits",))
    return replace(made, signatures=(Signature("serving_default", (("features", "x"),), (("scores", "logits"),)),))


def two_headed() -> Model:
    """Two inputs `left` and `right`, summed; two outputs `small` (n, 2) and `large` (n, 6)."""
    constants = _constants("one", (2, FEATURES), 3) | _constants("two", (CLASSES, FEATURES), 4)
    total = {"total": _value("total", FEATURES)}
    layers = [
        layer("ADD", ("left", "right"), total, fused_activation_function="NONE"),
        _dense("one", "total", _value("small", 2)),
        _dense("two", "total", _value("large", CLASSES)),
    ]
    inputs = {name: _value(name, FEATURES) for name in ("left", "right")}
    return net(inputs, constants, layers, ("small", "large"))


def features(count: int = 64, seed: int = 0) -> np.ndarray:
    """Inputs of `classifier`, float32 (count, 8)."""
    return np.random.default_rng(seed).normal(0, 1, (count, FEATURES)).astype(np.float32)
