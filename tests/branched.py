"""Networks whose layers branch and meet, as searched and hand-made ones do: in what order they run is a choice."""

from __future__ import annotations

import random

import numpy as np

from featherweight.graph import Model, Tensor
from tests import building

_POOL = {"filter_height": 3, "filter_width": 3, "stride_h": 1, "stride_w": 1, "padding": "SAME"}


class _Net:
    """Layers under construction: each method adds one and returns the name of what it computes."""

    def __init__(self, side: int) -> None:
        self.shapes = {"x": (1, side, side, 3)}
        self.constants: dict[str, np.ndarray] = {}
        self.layers: list[building.Layer] = []

    def op(self, op: str, inputs: list[str], shape: building.Shape, constants: dict[str, np.ndarray], **attrs) -> str:
        name = f"{op.lower()}_{len(self.layers)}"
        named = {f"{name}/{key}": array for key, array in constants.items()}
        self.constants |= named
        self.shapes[name] = shape
        self.layers.append(building.layer(op, (*inputs, *named), {name: shape}, **attrs))
        return name

    def conv(self, x: str, channels: int, kernel: int = 1) -> str:
        shape, seed = self.shapes[x], len(self.layers)
        spread = (2 / (kernel * kernel * shape[3])) ** 0.5
        w = building.weights(channels, kernel, kernel, shape[3], seed=seed, spread=spread)
        constants = {"w": w, "b": building.weights(channels, seed=seed, spread=0.1)}
        attrs = building.CONV | {"fused_activation_function": "RELU"}
        return self.op("CONV_2D", [x], (*shape[:3], channels), constants, **attrs)

    def depthwise(self, x: str) -> str:
        shape, seed = self.shapes[x], len(self.layers)
        w = building.weights(1, 3, 3, shape[3], seed=seed, spread=0.4)
        constants = {"w": w, "b": building.weights(shape[3], seed=seed, spread=0.1)}
        return self.op("DEPTHWISE_CONV_2D", [x], shape, constants, depth_multiplier=1, **building.CONV)

    def separable(self, x: str, channels: int) -> str:
        return self.conv(self.depthwise(self.conv(self.depthwise(x), channels)), channels)

    def average(self, x: str) -> str:
        return self.op("AVERAGE_POOL_2D", [x], self.shapes[x], {}, **_POOL)

    def halved(self, x: str) -> str:
        n, h, w, c = self.shapes[x]
        return self.op("MAX_POOL_2D", [x], (n, h // 2, w // 2, c), {}, **building.POOL)

    def add(self, x: str, z: str) -> str:
        return self.op("ADD", [x, z], self.shapes[x], {}, fused_activation_function="NONE")

    def joined(self, names: list[str]) -> str:
        channels = sum(self.shapes[name][3] for name in names)
        shape = (*self.shapes[names[0]][:3], channels)
        return self.op("CONCATENATION", names, shape, {}, axis=3, fused_activation_function="NONE")

    def model(self, x: str) -> Model:
        y = self.op("MEAN", [x], (1, self.shapes[x][3]), {"axes": building.ints(1, 2)}, keep_dims=False)
        inputs = {"x": Tensor("x", self.shapes["x"], "float32")}
        return building.net(inputs, self.constants, self.layers, (y,))


def inception(cells: int, side: int = 32) -> Model:
    """Cells of four branches that are joined (Szegedy et al. 2015), every second one halving the image."""
    net = _Net(side)
    x = net.conv("x", 16, 3)
    for cell in range(cells):
        branches = [
            net.conv(x, 24),
            net.conv(net.conv(x, 16), 32, 3),
            net.conv(net.conv(net.conv(x, 16), 24, 3), 24, 3),
            net.conv(net.average(x), 16),
        ]
        x = net.joined(branches)
        x = net.halved(x) if cell % 2 else x
    return net.model(x)


def nasnet(cells: int, channels: int = 16, side: int = 32) -> Model:
    """Normal cells of NASNet-A, which read the two before (Zoph et al. 2018)."""
    net = _Net(side)
    before = x = net.conv("x", channels, 3)
    for _ in range(cells):
        h, p = net.conv(x, channels), net.conv(before, channels)
        added = [
            net.add(net.separable(h, channels), net.separable(p, channels)),
            net.add(net.separable(p, channels), net.separable(p, channels)),
            net.add(net.average(h), p),
            net.add(net.average(p), net.average(p)),
            net.add(net.separable(h, channels), h),
        ]
        before, x = x, net.joined([p, *added])
    return net.model(x)


def random_wiring(nodes: int, seed: int, channels: int = 8, side: int = 16) -> Model:
    """Separable convolutions over sums of some of those before, as in SwiftNet's and randomly wired cells."""
    rng, net = random.Random(seed), _Net(side)
    found = [net.conv("x", channels, 3)]
    for _ in range(nodes):
        recent = found[-8:]
        first, *others = rng.sample(recent, min(len(recent), rng.choice([1, 2, 2, 3])))
        for other in others:
            first = net.add(first, other)
        found.append(net.conv(net.depthwise(first), channels))
    read = {name for node, _ in net.layers for name in node.inputs}
    ends = [name for name in found if name not in read]
    while len(ends) > 1:  # TFLite Micro joins ten at most
        ends = [*ends[8:], net.joined(ends[:8])]
    return net.model(ends[0])
