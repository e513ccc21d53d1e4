"""Small float nets with a stem, a depthwise convolution, 1×1 convolutions and a mean, each with a thing of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tests.building import Layer, dense, layer, net, weights

from featherweight.graph import Model

Shape = tuple[int, ...]
_PLAIN = {"dilation_h_factor": 1, "dilation_w_factor": 1, "fused_activation_function": "RELU6"}


class Net:
    """A net in the making; each method adds a layer that reads the last one, and returns the net."""

    def __init__(self, *shape: int) -> None:
        self.inputs = {"x": (1, *shape)}
        self.constants: dict[str, np.ndarray] = {}
        self.layers: list[Layer] = []
        self.outputs: list[str] = []
        self.last, self.shape = "x", (1, *shape)

    def add(self, op: str, shape: Shape, *more: str, first: str = "", **attrs: Any) -> Net:
        name = f"{op.lower()}_{len(self.layers)}"
        inputs = (first, self.last) if first else (self.last, *more)
        self.layers.append(layer(op, inputs, {name: shape}, **attrs))
        self.last, self.shape = name, shape
        return self

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def conv(self, width: int, kernel: int = 1, stride: int = 1, padding: str = "SAME", zeros: float = 0.8) -> Net:
        w = weights(width, kernel, kernel, self.shape[3], seed=len(self.layers))
        if kernel == 1:
            w[np.random.default_rng(len(self.layers)).random(w.shape) < zeros] = 0
        return self._window("CONV_2D", w, width, kernel, stride, padding)

    def depthwise(self, kernel: int = 3, stride: int = 1, padding: str = "SAME", multiplier: int = 1) -> Net:
        width = self.shape[3] * multiplier
        w = weights(1, kernel, kernel, width, seed=len(self.layers))
        return self._window("DEPTHWISE_CONV_2D", w, width, kernel, stride, padding, depth_multiplier=multiplier)

    def _window(self, op: str, w: np.ndarray, width: int, kernel: int, stride: int, padding: str, **more: Any) -> Net:
        lost = 0 if padding == "SAME" else kernel - 1
        h, wide = (-(-(size - lost) // stride) for size in self.shape[1:3])
        names = self.constant(w), self.constant(weights(width, seed=3))
        attrs = {"stride_h": stride, "stride_w": stride, "padding": padding, **_PLAIN, **more}
        return self.add(op, (1, h, wide, width), *names, **attrs)

    def pad(self, top: int, bottom: int, left: int, right: int, channels: int = 0) -> Net:
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, channels]], np.int32)
        shape = tuple(int(size + more) for size, more in zip(self.shape, amounts.sum(1), strict=True))
        return self.add("PAD", shape, self.constant(amounts))

    def binary(self, op: str, other: str | np.ndarray, *, first: bool = False) -> Net:
        name = other if isinstance(other, str) else self.constant(other)
        return self.add(op, self.shape, name, first=name if first else "", fused_activation_function="NONE")

    def pool(self) -> Net:
        n, h, w, c = self.shape
        sizes = {"filter_height": h, "filter_width": w, "stride_h": h, "stride_w": w, "padding": "VALID"}
        attrs = {"fused_activation_function": "NONE", **sizes}
        return self.add("AVERAGE_POOL_2D", (n, 1, 1, c), **attrs)

    def pooled(self, size: int) -> Net:
        n, h, w, c = self.shape
        sizes = {"filter_height": size, "filter_width": size, "stride_h": size, "stride_w": size, "padding": "VALID"}
        attrs = {"fused_activation_function": "NONE", **sizes}
        return self.add("MAX_POOL_2D", (n, h // size, w // size, c), **attrs)

    def mean(self, *, keep: bool = False) -> Net:
        n, _, _, c = self.shape
        axes = self.constant(np.array([1, 2], np.int32))
        return self.add("MEAN", (n, 1, 1, c) if keep else (n, c), axes, keep_dims=keep)

    def dense(self, width: int) -> Net:
        names = self.constant(weights(width, self.shape[1], seed=8)), self.constant(weights(width, seed=9))
        self.layers.append(dense(self.last, *names, "y", (1, width)))
        self.last = "y"
        return self

    def model(self) -> Model:
        return net(self.inputs, self.constants, self.layers, (*self.outputs, self.last))


def body(size: Shape = (32, 32), stem: str = "SAME") -> Net:
    """A stem of stride 2, a depthwise convolution, and a 1×1 convolution."""
    made = Net(*size, 3)
    made = made.conv(8, 3, 2) if stem == "SAME" else made.pad(1, 1, 1, 1).conv(8, 3, 2, "VALID")
    return made.depthwise().conv(16)


def begun() -> Net:
    """The same, with the padding that XNNPACK wants."""
    return body(stem="PAD")


def squeeze(made: Net, pool: Callable[[Net], Net]) -> Net:
    """Adds squeeze and excitation."""
    source, shape = made.last, made.shape
    made = pool(made).conv(4).conv(16)
    made.add("LOGISTIC", made.shape)
    gate = made.last
    made.last, made.shape = source, shape
    return made.binary("MUL", gate)


def vector(width: int = 16, *shape: int) -> np.ndarray:
    return weights(*shape, width, seed=30)


# What can be written so that it meets all conditions.
MET: Mapping[str, Callable[[], Net]] = {
    "even": lambda: body().mean(),
    "odd": lambda: body((33, 33)).mean(),
    "even and odd": lambda: body((33, 32)).mean(),
    "explicit": lambda: body((33, 33), "PAD").mean().dense(5),
    "explicit, even": lambda: body(stem="PAD").mean().dense(5),
    "zeros behind": lambda: Net(32, 32, 3).pad(0, 1, 0, 1).conv(8, 3, 2, "VALID").conv(16).mean(),
    "strided depthwise": lambda: body().depthwise(3, 2).conv(16).depthwise(5, 2).conv(16).mean().dense(5),
    "depthwise on odd rows": lambda: body((34, 34), "PAD").depthwise(5, 2).conv(16).mean(),
    "pooling": lambda: body().pool(),
    "pooling, classifier": lambda: body().pool().conv(5),
    "mean, kept": lambda: body().mean(keep=True),
    "sum of squares": lambda: body().add("SQUARE", (1, 16, 16, 16)).mean(),
    "grey": lambda: Net(32, 32, 1).conv(8, 3, 2).depthwise().conv(16).mean().dense(5),
    "constants": lambda: body().binary("ADD", vector()).binary("MUL", np.float32(0.5)).mean(),
    "constant first": lambda: body().binary("ADD", vector(16, 1, 1, 1), first=True).mean(),
    "squeeze": lambda: squeeze(body(), lambda made: made.mean(keep=True)).conv(16).mean().dense(5),
    "squeeze by pooling": lambda: squeeze(body(), Net.pool).conv(16).mean().dense(5),
    "residual": lambda: residual(body()).mean(),
    "resized": lambda: resize(body(), half_pixel_centers=True).mean(),
}


# What can't: the check that names it, and a part of what it says.
MISSED: Mapping[str, tuple[Callable[[], Net], str, str]] = {
    "stem of stride 1": (lambda: Net(16, 16, 3).conv(8, 3).conv(16).mean(), "cluster_convolution", "stride 1×1"),
    "stem of 5×5": (
        lambda: Net(16, 16, 3).pad(2, 2, 2, 2).conv(8, 5, 2, "VALID").conv(16).mean(),
        "cluster_convolution",
        "kernel is 5×5",
    ),
    "no stem": (lambda: Net(16, 16, 3).conv(8).depthwise().conv(16).mean(), "cluster_stem", "reads the input 'x'"),
    "3×3 inside": (lambda: begun().conv(8, 3).conv(16).mean(), "cluster_convolution", "3×3 on 16 channels, its stride"),
    "strided 1×1": (lambda: begun().conv(16, 1, 2).mean(), "cluster_convolution", "1×1 on 16 channels, its stride 2×2"),
    "multiplier": (lambda: begun().depthwise(multiplier=2).conv(8).mean(), "cluster_depthwise", "32 channels of 16"),
    "7×7": (lambda: begun().depthwise(7).conv(16).mean(), "cluster_depthwise", "kernel is 7×7"),
    "stride 3": (
        lambda: begun().pad(1, 1, 1, 1).depthwise(3, 3, "VALID").conv(16).mean(),
        "cluster_depthwise",
        "stride 3×3",
    ),
    "no padding": (lambda: begun().depthwise(3, 1, "VALID").conv(16).mean(), "cluster_padding", r"is 0 \+ 0 rows"),
    "padding of both kinds": (
        lambda: begun().depthwise(3, 2).conv(16).mean(),
        "cluster_padding",
        "padding is SAME with stride 2×2",
    ),
    "pooling inside": (lambda: begun().pooled(2).conv(16).mean(), "cluster_operator", "channels first"),
    "padding alone": (lambda: begun().pad(1, 1, 1, 1).conv(16).mean(), "cluster_padding", r"is 1 \+ 1 rows"),
    "padding of channels": (
        lambda: begun().pad(0, 0, 0, 0, 4).conv(16).mean(),
        "cluster_operator",
        "no padding of rows",
    ),
    "subtraction": (lambda: begun().binary("SUB", vector()).mean(), "cluster_operator", "channels first"),
    "a map of constants": (lambda: begun().binary("ADD", vector(16, 16, 16)).mean(), "cluster_operands", "constant 'c"),
    "one operand twice": (lambda: (made := begun()).binary("ADD", made.last).mean(), "cluster_operands", "twice"),
    "read elsewhere": (lambda: branch(begun()).mean(), "cluster_reader", "read by SOFTMAX 'softmax_.', outside"),
    "no mean": (lambda: begun(), "cluster_end", "no mean follows it"),
    "few zeros": (
        lambda: Net(32, 32, 3).pad(1, 1, 1, 1).conv(8, 3, 2, "VALID").conv(64, zeros=0.6).mean(),
        "cluster_zeros",
        "of 512 weights",
    ),
    "reversed upsampling": (lambda: resize(body()).mean(), "cluster_padding", "SAME with stride 2×2"),
}


def residual(made: Net) -> Net:
    source = made.last
    return made.conv(16).binary("ADD", source)


def resize(made: Net, **attrs: bool) -> Net:
    n, h, w, c = made.shape
    size = made.constant(np.array([2 * h, 2 * w], np.int32))
    options = {"align_corners": False, "half_pixel_centers": False, **attrs}
    return made.add("RESIZE_BILINEAR", (n, 2 * h, 2 * w, c), size, **options)


def branch(made: Net) -> Net:
    """Adds a SOFTMAX, an output of its own, that reads what comes next reads, too."""
    source, shape = made.last, made.shape
    made.add("SOFTMAX", shape, beta=1.0)
    made.outputs.append(made.last)
    made.last = source
    return made
