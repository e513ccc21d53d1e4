"""Parallel linear branches become one convolution: the same numbers, never more work, nothing that can be seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.building import Layer, layer, net, unary, weights
from tests.ptq.nets import operators

import featherweight as fw
from featherweight.graph import Model
from featherweight.operators import macs
from featherweight.passes.branches import merged_branches
from featherweight.runtime import run
from featherweight.tflite import write

SIZE, CHANNELS = 9, 4
X = (1, SIZE, SIZE, CHANNELS)
_ELEMENTWISE = ("ADD", "SUB", "MUL")


class Branches:
    """A graph of linear operators over x, put together step by step."""

    def __init__(self, seed: int = 0, shape: tuple[int, ...] = X) -> None:
        self.random = np.random.default_rng(seed)
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}
        self.constants: dict[str, np.ndarray] = {}
        self.layers: list[Layer] = []

    def _constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def _values(self, *shape: int) -> str:
        return self._constant(self.random.normal(0, 0.5, shape).astype(np.float32))

    def _result(self, op: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs: Any) -> str:
        name = f"{op.lower()}{len(self.layers)}"
        self.layers.append(layer(op, inputs, {name: shape}, **attrs))
        self.shapes[name] = shape
        return name

    def conv(
        self,
        x: str,
        size: tuple[int, int] = (3, 3),
        *,
        out: int | None = None,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        padding: str = "SAME",
        bias: bool = True,
        weight: np.ndarray | None = None,
    ) -> str:
        """Adds a convolution; of as many groups as channels, a depthwise one."""
        n, h, w, c = self.shapes[x]
        made = out or c
        reach = [(taps - 1) * dilation + 1 for taps in size]
        extents = [
            -(-a // stride) if padding == "SAME" else -(-(a - r + 1) // stride)
            for a, r in zip((h, w), reach, strict=True)
        ]
        is_depthwise = groups == c
        shape = (1, *size, made) if is_depthwise else (made, *size, c // groups)
        kernel = self._values(*shape) if weight is None else self._constant(weight)
        inputs = (x, kernel, *([self._values(made)] if bias else []))
        attrs = {"padding": padding, "stride_h": stride, "stride_w": stride}
        attrs |= {"dilation_h_factor": dilation, "dilation_w_factor": dilation}
        if is_depthwise:
            return self._result("DEPTHWISE_CONV_2D", inputs, (n, *extents, made), depth_multiplier=made // c, **attrs)
        return self._result("CONV_2D", inputs, (n, *extents, made), **attrs)

    def pad(self, x: str, top: int, left: int, bottom: int, right: int) -> str:
        """Adds a PAD."""
        n, h, w, c = self.shapes[x]
        pads = self._constant(np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
        return self._result("PAD", (x, pads), (n, h + top + bottom, w + left + right, c))

    def constant(self, op: str, x: str, *, first: bool = False, number: bool = False) -> str:
        """Adds a sum, difference or product with a number for each channel, or one for all."""
        values = self._values() if number else self._values(1, 1, 1, self.shapes[x][3])
        return self._result(op, (values, x) if first else (x, values), self.shapes[x])

    def norm(self, x: str) -> str:
        """Adds a batch norm, as it is written where it stands alone."""
        return self.constant("ADD", self.constant("MUL", self.constant("SUB", x)))

    def join(self, op: str, one: str, other: str, activation: str = "NONE") -> str:
        """Adds a sum or difference of two tensors."""
        return self._result(op, (one, other), self.shapes[one], fused_activation_function=activation)

    def model(self, *outputs: str) -> Model:
        """Returns the model of all that was added."""
        return net({"x": self.shapes["x"]}, self.constants, self.layers, outputs)


def merged(model: Model) -> Model:
    """Returns the model with its branches merged."""
    return replace(model, graphs=(merged_branches(model.main, set(model.tensors)),))


def values(model: Model) -> list[np.ndarray]:
    """Returns the outputs that a model makes of some noise."""
    x = np.random.default_rng(7).normal(0.3, 1, model.main.tensors["x"].shape).astype(np.float32)
    found = run(model, x)
    return list(found.values()) if isinstance(found, dict) else [found]


def work(model: Model) -> int:
    """Returns the multiply-accumulates of a model, elementwise ones too."""
    graph = model.main
    return sum(
        macs(node, graph) + (graph.tensors[node.name].elements if node.op in _ELEMENTWISE else 0)
        for node in graph.nodes
    )


def stored(model: Model) -> int:
    """Returns the bytes of a model's constants."""
    return sum(tensor.stored_bytes for tensor in model.main.tensors.values())


def assert_same(model: Model, other: Model) -> None:
    """Both compute the same, up to what float32 rounds."""
    assert other.main.outputs == model.main.outputs
    for one, two in zip(values(model), values(other), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-5 * max(1.0, float(np.abs(one).max())))


@st.composite
def trees(draw: st.DrawFn) -> Model:
    """Returns a model of random linear operators over x, some of which are read twice or are outputs."""
    build = Branches(draw(st.integers(0, 2**20)))
    known = ["x"]

    def drawn_convolution(x: str) -> str:
        size = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1), (2, 2), (5, 5)]))
        stride, dilation = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1)]))
        groups = draw(st.sampled_from([1, 2, build.shapes[x][3]]))
        if draw(st.booleans()):
            x = build.pad(x, *(draw(st.integers(0, 3)) for _ in range(4)))
        _, h, w, _ = build.shapes[x]
        fits = all(extent > (taps - 1) * dilation for extent, taps in zip((h, w), size, strict=True))
        padding = draw(st.sampled_from(["SAME", "VALID"])) if fits else "SAME"
        return build.conv(x, size, groups=groups, stride=stride, dilation=dilation, padding=padding)

    for _ in range(draw(st.integers(2, 9))):
        x = draw(st.sampled_from([*known[-4:], "x"]))
        others = [name for name in known if build.shapes[name] == build.shapes[x]]
        kind = draw(st.sampled_from(["conv", "conv", "constant", "norm", "join", "join", "join"]))
        if kind == "conv":
            known.append(drawn_convolution(x))
        elif kind == "norm":
            known.append(build.norm(x))
        elif kind == "constant":
            op = draw(st.sampled_from(_ELEMENTWISE))
            known.append(build.constant(op, x, first=draw(st.booleans()), number=draw(st.booleans())))
        else:
            activation = draw(st.sampled_from(["NONE", "NONE", "NONE", "RELU"]))
            known.append(
                build.join(draw(st.sampled_from(["ADD", "SUB"])), x, draw(st.sampled_from(others)), activation)
            )
    seen = draw(st.lists(st.sampled_from(known[1:]), max_size=2, unique=True))
    return build.model(*dict.fromkeys([known[-1], *seen]))


@given(trees())
def test_random_trees_compute_the_same_with_no_more_work(model: Model) -> None:
    less = merged(model)
    assert_same(model, less)
    assert merged(less).main is less.main
    assert len(less.main.nodes) <= len(model.main.nodes)
    assert work(less) <= work(model)
    assert stored(less) <= stored(model) + 64 * len(less.main.nodes)  # amounts of padding, where one is new


def rep_vgg(build: Branches, stride: int = 1, large: float = 1.0) -> str:
    """Adds a 3 x 3 and a 1 x 1 convolution, and with stride 1 a batch norm, of x; a ReLU behind their sum."""
    padded = build.pad("x", 1, 1, 1, 1)
    one = build.conv(padded, stride=stride, padding="VALID")
    other = build.conv("x", (1, 1), stride=stride, padding="VALID")
    if stride > 1:
        return build.join("ADD", one, other, "RELU")
    return build.join("ADD", build.join("ADD", one, other), build.norm("x"), "RELU")


@pytest.mark.parametrize("stride", [1, 2])
def test_a_repvgg_block_is_one_convolution(stride: int) -> None:
    build = Branches()
    model = build.model(rep_vgg(build, stride))
    less = merged(model)
    assert operators(less)["CONV_2D"] == 1
    assert sum(operators(less).values()) <= 2
    node = less.main.nodes[-1]
    assert (node.outputs, node.attrs["fused_activation_function"]) == (model.main.outputs, "RELU")
    assert_same(model, less)


def test_what_a_mixer_adds_and_takes_away_again_is_gone() -> None:
    build = Branches(1)
    norm = build.norm("x")
    mixed = build.join(
        "ADD", build.join("ADD", build.conv("x", (1, 1), groups=CHANNELS), norm), build.conv("x", groups=CHANNELS)
    )
    scaled = build.constant("MUL", build.join("SUB", mixed, norm))
    model = build.model(build.join("ADD", "x", scaled))
    less = merged(model)
    assert operators(less) == {"DEPTHWISE_CONV_2D": 1}
    assert_same(model, less)


def test_crossed_and_dilated_kernels_are_merged_where_they_lie_on_each_other() -> None:
    build = Branches(2)
    cross = build.join("ADD", build.conv("x", (1, 3)), build.conv("x", (3, 1)))
    model = build.model(build.join("ADD", cross, build.conv("x")))
    assert operators(merged(model)) == {"CONV_2D": 1}
    dilated = Branches(2)
    model = dilated.model(dilated.join("ADD", dilated.conv("x", dilation=2), dilated.conv("x", (1, 1))))
    (node,) = merged(model).main.nodes
    assert (node.op, node.attrs["dilation_h_factor"]) == ("CONV_2D", 2)
    # 3 x 3 with a step of 2 and 3 x 3 lie in 5 x 5, which costs more
    dilated = Branches(2)
    model = dilated.model(dilated.join("ADD", dilated.conv("x", dilation=2), dilated.conv("x")))
    assert merged(model).main is model.main


def test_scales_go_into_the_convolution_before_them() -> None:
    build = Branches(3)
    model = build.model(build.norm(build.conv("x", out=8)))
    less = merged(model)
    assert operators(less) == {"CONV_2D": 1}
    assert_same(model, less)


def test_a_norm_before_padding_stays() -> None:
    build = Branches(4)
    norm = build.norm("x")
    model = build.model(build.join("ADD", build.conv(norm), build.conv(norm, (1, 1))))
    less = merged(model)
    assert operators(less) == {"SUB": 1, "MUL": 1, "ADD": 1, "CONV_2D": 1}
    assert_same(model, less)


def test_large_weights_of_one_branch_stay_apart_from_small_ones_of_another() -> None:
    shape = (1, SIZE, SIZE, 64)
    small = np.random.default_rng(5).normal(0, 0.01, (64, 3, 3, 64)).astype(np.float32)

    def block(spread: float) -> Model:
        build = Branches(5, shape)
        three, one = build.conv("x", weight=small), build.conv("x", (1, 1), weight=spread * small[:, :1, :1])
        return build.model(build.join("ADD", build.join("ADD", three, one), build.norm("x")))

    less = merged(block(1))
    assert operators(less) == {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "ADD": 1}  # the norm's factors are near one
    assert_same(block(1), less)
    less = merged(block(100))
    assert operators(less) == {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 1, "ADD": 2}
    assert_same(block(100), less)


def _block(**options: Any) -> Branches:
    build = Branches(6)
    build.join("ADD", build.conv("x", out=8, **options), build.conv("x", (1, 1), out=8))
    return build


def _last(build: Branches) -> str:
    return build.layers[-1][0].name


def test_pruned_and_clustered_weights_stay() -> None:
    random = np.random.default_rng(0)
    pruned = weights(8, 3, 3, CHANNELS) * (random.random((8, 3, 3, CHANNELS)) < 0.5)
    build = _block(weight=pruned)
    model = build.model(_last(build))
    assert merged(model).main is model.main
    wide = Branches(6, (1, 4, 4, 32))
    clustered = random.choice(np.asarray([-0.2, -0.1, 0.1, 0.3], np.float32), (32, 3, 3, 32))
    model = wide.model(wide.join("ADD", wide.conv("x", weight=clustered), wide.conv("x", (1, 1))))
    assert merged(model).main is model.main


def test_what_is_seen_stays() -> None:
    build = _block()
    first = next(iter(build.layers))[0].name
    model = build.model(_last(build), first)
    assert merged(model).main is model.main
    build = _block()
    build.layers.append(unary("RELU", first, "seen", build.shapes[first]))
    model = build.model("add2", "seen")
    assert merged(model).main is model.main


def test_sizes_that_are_free_stay() -> None:
    build = _block()
    model = build.model(_last(build))
    free = {
        name: replace(t, shape_signature=(-1, -1, *t.shape[2:])) if t.is_float and not t.is_constant else t
        for name, t in model.main.tensors.items()
    }
    model = replace(model, graphs=(replace(model.main, tensors=free),))
    assert merged(model).main is model.main


def test_numbers_that_are_not_finite_stay() -> None:
    for value in (np.inf, np.nan, 3e38):
        weight = np.full((CHANNELS, 3, 3, CHANNELS), value, np.float32)
        build = Branches()
        model = build.model(build.join("ADD", build.conv("x", weight=weight), build.conv("x", weight=weight)))
        assert merged(model).main is model.main


def test_loading_merges_and_says_so() -> None:
    build = Branches()
    model = build.model(rep_vgg(build))
    x = np.random.default_rng(0).normal(0, 1, (4, *X[1:])).astype(np.float32)
    quantized = fw.quantize(write(model), "int8", calibration=x, progress=False)
    assert operators(quantized.model)["CONV_2D"] == 1 == sum(operators(quantized.model).values()) - 2
    assert any("convolutions stand for parallel branches" in note for note in quantized.plan.notes)
    again = fw.quantize(fw.load(write(model)), "int8", calibration=x, progress=False)
    assert not any("parallel branches" in note for note in again.plan.notes)
    assert operators(fw.load(model)) == operators(model)  # a graph was loaded before, maybe of a Keras model
