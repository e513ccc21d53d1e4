"""A small convolutional net in which faults can be planted, and pictures for it."""

from __future__ import annotations

import numpy as np
from tests.building import CONV, Layer, dense, layer, net

from featherweight.graph import Model

CHANNELS, SIDE, CLASSES = 16, 16, 10
MAP = (1, SIDE, SIDE, CHANNELS)


class Parts:
    """The constants and layers of the net, to be changed before it is built.

    ``stem`` (3 × 3, ReLU6), ``dw`` (depthwise), ``pw`` (1 × 1), ``deep`` (3 × 3), ``pool`` and ``y``, all but the last
    two with an activation.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(1)

        def kernel(*shape: int) -> np.ndarray:
            return random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

        c = CHANNELS
        self.constants: dict[str, np.ndarray] = {
            "stem/w": kernel(c, 3, 3, 3),
            "dw/w": random.normal(0, 0.35, (1, 3, 3, c)).astype(np.float32),
            "pw/w": kernel(c, 1, 1, c),
            "deep/w": kernel(c, 3, 3, c),
            "y/w": kernel(CLASSES, c),
            "axes": np.int32([1, 2]),
            "y/b": random.normal(0, 0.1, CLASSES).astype(np.float32),
        }
        for name in ("stem", "dw", "pw", "deep"):
            self.constants[f"{name}/b"] = random.normal(0, 0.1, c).astype(np.float32)
        self.layers: list[Layer] = [
            _conv("x", "stem", "RELU6"),
            _conv("stem", "dw", "RELU"),
            _conv("dw", "pw", "RELU"),
            _conv("pw", "deep", "RELU"),
            layer("MEAN", ("deep", "axes"), {"pool": (1, c)}, keep_dims=False),
            dense("pool", "y/w", "y/b", "y", (1, CLASSES)),
        ]
        self.outputs = ["y"]

    def rescale(self, name: str, reader: str, channels: list[int], factor: float) -> None:
        """Makes channels of a layer larger, and the weights that read them smaller: the function stays."""
        axis = -1 if name == "dw" else 0
        np.moveaxis(self.constants[f"{name}/w"], axis, 0)[channels] *= factor
        self.constants[f"{name}/b"][channels] *= factor
        self.constants[f"{reader}/w"][..., channels] /= factor

    def model(self) -> Model:
        """Builds it."""
        return net({"x": (1, SIDE, SIDE, 3)}, self.constants, self.layers, self.outputs)


def _conv(read: str, name: str, activation: str) -> Layer:
    op = "DEPTHWISE_CONV_2D" if name == "dw" else "CONV_2D"
    more = {"depth_multiplier": 1} if name == "dw" else {}
    inputs = (read, f"{name}/w", f"{name}/b")
    return layer(op, inputs, {name: MAP}, **CONV, **more, fused_activation_function=activation)


def pictures(count: int = 24, size: float = 1.0, seed: int = 0) -> list[np.ndarray]:
    """Patches of smooth colour with noise, from −size to size."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        patches = np.kron(random.normal(0, 1, (1, 4, 4, 3)), np.ones((1, SIDE // 4, SIDE // 4, 1)))
        found.append((np.tanh(patches + 0.3 * random.normal(0, 1, patches.shape)) * size).astype(np.float32))
    return found
