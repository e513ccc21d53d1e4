"""Random fused LSTMs: shapes, scales, states that are written in the graph or left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import Case, case, integers, params, random_of

from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
ABSENT = Tensor("", (), "float32")
ATTRS: dict[str, Any] = {
    "fused_activation_function": "TANH",
    "cell_clip": 0.0,
    "proj_clip": 0.0,
    "time_major": False,
    "asymmetric_quantize_inputs": False,
    "diagonal_recurrent_tensors": False,
}


@dataclass
class Layer(Case):
    """An LSTM under construction. `tensors` are its 24 inputs, absent ones without a name."""

    intermediates: list[Tensor] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)  # what the states are reset to, if they are

    def model(self) -> Model:
        """Returns the model, with its states written from constants first where `starts` says so."""
        states = [tensor for tensor in self.tensors if tensor.is_variable]
        nodes: list[Node] = []
        tensors = [tensor for tensor in self.tensors if tensor.name]
        for state, start in zip(states, self.starts, strict=False):
            reset = [
                constant(f"{state.name}_start", start, quant=state.quant),
                constant(f"{state.name}_begin", np.zeros(start.ndim, np.int32)),
                constant(f"{state.name}_size", np.array(start.shape, np.int32)),
            ]
            tensors += reset
            version = 4 if state.dtype == "int16" else 2
            nodes.append(Node("SLICE", tuple(t.name for t in reset), (state.name,), {}, version))
        named = tuple(tensor.name for tensor in self.intermediates)
        extras = {"intermediates": named} if named else {}
        version = {"float32*int8": 3 if self.attrs["asymmetric_quantize_inputs"] else 2}.get(self.form, 1)
        inputs, outputs = (tuple(t.name for t in part) for part in (self.tensors, self.outputs))
        nodes.append(Node(self.op, inputs, outputs, self.attrs, version, extras=extras))
        everything = {t.name: t for t in (*tensors, *self.intermediates, *self.outputs)}
        return Model((Graph("main", tuple(self.feeds), outputs, tuple(nodes), everything),))


@dataclass(frozen=True)
class Sizes:
    batch: int
    steps: int
    features: int
    units: int
    time_major: bool

    @property
    def x(self) -> tuple[int, ...]:
        return (self.steps, self.batch, self.features) if self.time_major else (self.batch, self.steps, self.features)

    @property
    def y(self) -> tuple[int, ...]:
        return (*self.x[:2], self.units)


def _sizes(draw: Callable[..., Any]) -> Sizes:
    units, features = st.sampled_from((1, 3, 8, 16, 21)), st.sampled_from((1, 4, 7, 16, 33))
    return Sizes(draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(features), draw(units), draw(st.booleans()))


def _layer(draw: Callable[..., Any], op: str, sizes: Sizes, asymmetric: bool = False) -> Layer:
    changed = {"cell_clip": draw(st.sampled_from((0.0, 0.0, 0.0, 0.75))), "time_major": sizes.time_major}
    changed["asymmetric_quantize_inputs"] = asymmetric
    return Layer(op, ATTRS | changed)


def _filled(
    built: Layer, kernels: list[Tensor], recurrents: list[Tensor], biases: list[Tensor], states: list[Tensor]
) -> Layer:
    built.tensors += [*kernels, *recurrents, *[ABSENT] * 3, *biases, *[ABSENT] * 2, *states, *[ABSENT] * 4]
    return built


def integer_layer(
    built: Layer,
    sizes: Sizes,
    random: np.random.Generator,
    x_params: QuantParams,
    hidden: QuantParams,
    cell: QuantParams,
) -> Layer:
    """Fills in an integer LSTM whose gates are about one in magnitude: neither all closed nor all open."""
    built.fed("x", integers(random, sizes.x, "int8"), x_params)
    spread = 74.0 * 74.0 * np.sqrt(sizes.features)

    def weight(name: str, shape: tuple[int, int], scale: float) -> Tensor:
        quant = QuantParams("int8", (float(np.float32(scale * 2.0 ** random.uniform(-2, 2))),), (0,))
        return constant(name, random.integers(-127, 128, shape).astype(np.int8), quant=quant)

    kernels = [weight(f"k{g}", (sizes.units, sizes.features), 1 / (x_params.scale[0] * spread)) for g in "ifco"]
    own = 1 / (hidden.scale[0] * 74.0 * 74.0 * np.sqrt(sizes.units))
    recurrents = [weight(f"r{g}", (sizes.units, sizes.units), own) for g in "ifco"]
    biases = [
        constant(
            f"b{g}",
            np.round(random.normal(0, spread, sizes.units)).astype(np.int32),
            quant=QuantParams("int32", (x_params.scale[0] * k.quant.scale[0],), (0,)) if k.quant else None,
        )
        for g, k in zip("ifco", kernels, strict=True)
    ]
    shape = (sizes.batch, sizes.units)
    states = [
        Tensor("h", shape, "int8", quant=hidden, is_variable=True),
        Tensor("c", shape, "int16", quant=cell, is_variable=True),
    ]
    gates = [Tensor(f"t{i}", (0,), "int16", quant=QuantParams("int16", (2.0**-12,), (0,))) for i in range(4)]
    built.intermediates = [*gates, Tensor("t4", (0,), "int8", quant=hidden)]
    built.outputs = [Tensor("y0", sizes.y, "int8", quant=hidden)]
    return _filled(built, kernels, recurrents, biases, states)


@case(LSTM, forms=("int8",))
def _integer(draw: Callable[..., Any], op: str, dtype: str) -> Layer:
    sizes, random = _sizes(draw), random_of(draw)
    hidden = replace(params(draw, dtype), scale=(draw(st.sampled_from((1 / 127, 1 / 128, 1 / 90, 1 / 300))),))
    cell = QuantParams("int16", (2.0 ** -draw(st.integers(9, 15)),), (0,))
    built = integer_layer(_layer(draw, op, sizes), sizes, random, params(draw, dtype, -8, 0), hidden, cell)
    if draw(st.booleans()):
        shape = (sizes.batch, sizes.units)
        built.starts = [integers(random, shape, "int8"), random.integers(-9000, 9000, shape).astype(np.int16)]
    return built


@case(f"{LSTM} (asymmetric)", LSTM, forms=("float32*int8",))
@case(LSTM, forms=("float32",))
def _real(draw: Callable[..., Any], op: str, form: str) -> Layer:
    sizes, random = _sizes(draw), random_of(draw)
    built = _layer(draw, LSTM, sizes, asymmetric="asymmetric" in op)
    x = random.normal(0, draw(st.sampled_from((0.1, 1.0, 3.0))), sizes.x).astype(np.float32)
    if draw(st.integers(0, 3)) == 0:
        x[:] = 0
    built.fed("x", x, None)

    def weight(name: str, shape: tuple[int, int]) -> Tensor:
        values = random.normal(0, 1 / np.sqrt(shape[1]), shape).astype(np.float32)
        if form == "float32":
            return constant(name, values)
        scale = np.float32(np.abs(values).max() / 127)
        return constant(name, np.rint(values / scale).astype(np.int8), quant=QuantParams("int8", (float(scale),), (0,)))

    kernels = [weight(f"k{g}", (sizes.units, sizes.features)) for g in "ifco"]
    recurrents = [weight(f"r{g}", (sizes.units, sizes.units)) for g in "ifco"]
    biases = [constant(f"b{g}", random.normal(0, 1, sizes.units).astype(np.float32)) for g in "ifco"]
    shape = (sizes.batch, sizes.units)
    states = [Tensor(name, shape, "float32", is_variable=True) for name in "hc"]
    if draw(st.booleans()):
        built.starts = [random.normal(0, 1, shape).astype(np.float32) for _ in "hc"]
    built.outputs = [Tensor("y0", sizes.y, "float32")]
    return _filled(built, kernels, recurrents, biases, states)


@dataclass
class Nested(Case):
    """An operator that calls other graphs. `tensors` are its inputs."""

    called: list[Graph] = field(default_factory=list)

    def model(self) -> Model:
        inputs, outputs = (tuple(t.name for t in part) for part in (self.tensors, self.outputs))
        node = Node(self.op, inputs, outputs, self.attrs)
        main = Graph("main", tuple(self.feeds), outputs, (node,), {t.name: t for t in (*self.tensors, *self.outputs)})
        return Model((main, *self.called))


def _graph(name: str, inputs: list[Tensor], nodes: list[Node], others: list[Tensor], outputs: tuple[str, ...]) -> Graph:
    """A graph whose tensors are named for it; names in `nodes` and `outputs` are without that prefix."""

    def named(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{name}/{part}" for part in names)

    tensors = [replace(tensor, name=f"{name}/{tensor.name}") for tensor in (*inputs, *others)]
    nodes = [replace(node, inputs=named(node.inputs), outputs=named(node.outputs)) for node in nodes]
    fed = named(tuple(tensor.name for tensor in inputs))
    return Graph(name, fed, named(outputs), tuple(nodes), {tensor.name: tensor for tensor in tensors})


_ARITHMETIC = {"attrs": {"fused_activation_function": "NONE"}}


@case("WHILE", forms=("int8",))
def _loop(draw: Callable[..., Any], op: str, dtype: str) -> Nested:
    """Adds to x as often as the limit says; the count is a float."""
    random, quant = random_of(draw), params(draw, dtype, -4, 0)
    x, z = (integers(random, (2, draw(st.integers(1, 9))), dtype) for _ in "xz")
    z = z[:, : x.shape[1]] if z.shape[1] >= x.shape[1] else z[:, :1]
    attrs = {"cond_subgraph_index": 1, "body_subgraph_index": 2}
    built = Nested(op, attrs)
    built.constant("start", np.zeros((), np.float32))
    built.fed("limit", np.asarray(draw(st.integers(0, 4)), np.float32), None).fed("x", x, quant)
    count = Tensor("i", (), "float32")
    state = [count, replace(count, name="limit"), Tensor("x", x.shape, dtype, quant=quant)]
    less = Node("LESS", ("i", "limit"), ("more",))
    cond = _graph("cond", state, [less], [Tensor("more", (), "bool")], ("more",))
    others = [
        constant("one", np.ones((), np.float32)),
        constant("z", z, quant=params(draw, dtype, -6, -3)),
        replace(count, name="next"),
        replace(state[2], name="y"),
    ]
    nodes = [
        Node("ADD", ("i", "one"), ("next",), **_ARITHMETIC),
        Node("ADD", ("x", "z"), ("y",), version=2, **_ARITHMETIC),
    ]
    built.called = [cond, _graph("body", state, nodes, others, ("next", "limit", "y"))]
    built.outputs = [replace(t, name=f"y{i}") for i, t in enumerate(state)]
    return built


@case("IF", forms=("int8",))
def _branch(draw: Callable[..., Any], op: str, dtype: str) -> Nested:
    """Adds or multiplies. The scales are such that no product wraps around."""
    random, quant, out = random_of(draw), params(draw, dtype, -4, -1), params(draw, dtype, -1, 1)
    attrs = {"then_subgraph_index": 1, "else_subgraph_index": 2}
    built = Nested(op, attrs)
    built.fed("condition", np.asarray(draw(st.booleans())), None)
    for name in "xz":
        built.fed(name, integers(random, (3, 5), dtype), quant)
    inputs = built.tensors[1:]
    result = Tensor("y", (3, 5), dtype, quant=out)
    for name, version in (("ADD", 2), ("MUL", 3)):
        node = Node(name, ("x", "z"), ("y",), version=version, **_ARITHMETIC)
        built.called.append(_graph(name.lower(), inputs, [node], [result], ("y",)))
    built.outputs = [replace(result, name="y0")]
    return built
