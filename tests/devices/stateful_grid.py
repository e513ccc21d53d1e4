"""Recurrent layers, loops, branches, and variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tests.devices.grid import EVERY, SHAPES, Entries, grid, params, values
from tests.operators.building import Case
from tests.operators.recurrent_cases import ABSENT, ATTRS, LSTM, Layer, Sizes

from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams

SIZES = Sizes(1, 5, 6, 8, False)
LSTM_FORMS = ("int8*int8", "float32", "float32*int8")


# ------------------------------------------------------------------------------------------------ recurrent layers


def _weight(name: str, shape: tuple[int, int], dtype: str, scale: float) -> Tensor:
    if dtype == "float32":
        return constant(name, values(shape, "float32", name) * np.float32(0.4))
    return constant(
        name, values(shape, "int8", name).clip(-127, 127), quant=QuantParams("int8", (float(np.float32(scale)),), (0,))
    )


def _lstm(
    form: str,
    sizes: Sizes = SIZES,
    *,
    cell: float = 2.0**-11,
    per_channel: bool = False,
    **attrs: Any,
) -> Layer:
    activation, _, kind = form.partition("*")
    made = Layer(LSTM, {**ATTRS, "time_major": sizes.time_major, **attrs}, form=form)
    is_integer = activation != "float32"
    x_quant = params(activation, 0.02, -5)
    hidden = params(activation, 1 / 127, 3)
    made.fed("x", values(sizes.x, activation, "x"), x_quant)
    kernels = [_weight(f"k{g}", (sizes.units, sizes.features), kind or "float32", 0.02) for g in "ifco"]
    recurrents = [_weight(f"r{g}", (sizes.units, sizes.units), kind or "float32", 0.01) for g in "ifco"]
    if per_channel and kind:
        scales = tuple(float(np.float32(0.01 + 0.001 * i)) for i in range(sizes.units))
        kernels = [replace(k, quant=QuantParams("int8", scales, (0,) * sizes.units, 0)) for k in kernels]
    biases = [constant(f"b{g}", values((sizes.units,), "float32", f"b{g}")) for g in "ifco"]
    if is_integer:
        unit = x_quant.scale[0] * 0.02 if x_quant else 1.0
        dtype = "int32" if activation == "int8" else "int64"
        biases = [
            constant(
                f"b{g}",
                (values((sizes.units,), "int32", g) * 20).astype(dtype),
                quant=QuantParams(dtype, (unit,), (0,)),
            )
            for g in "ifco"
        ]
    shape = (sizes.batch, sizes.units)
    states = [
        Tensor("h", shape, activation, quant=hidden, is_variable=True),
        Tensor(
            "c",
            shape,
            "int16" if is_integer else "float32",
            quant=QuantParams("int16", (cell,), (0,)) if is_integer else None,
            is_variable=True,
        ),
    ]
    if is_integer:
        gates = [Tensor(f"t{i}", (0,), "int16", quant=QuantParams("int16", (2.0**-12,), (0,))) for i in range(4)]
        made.intermediates = [*gates, Tensor("t4", (0,), activation, quant=hidden)]
    made.outputs = [Tensor("y0", sizes.y, activation, quant=hidden)]
    made.tensors += [*kernels, *recurrents, *[ABSENT] * 3, *biases, *[ABSENT] * 2, *states, *[ABSENT] * 4]
    return made


def _with(made: Layer, **tensors: Tensor) -> Layer:
    """Returns a layer with optional operands, by their places (`i20` is operand 20)."""
    for place, tensor in tensors.items():
        made.tensors[int(place[1:])] = tensor
    return made


@grid(LSTM, forms=LSTM_FORMS)
def _recurrent(op: str, form: str) -> Entries:
    for batch, steps, features, units in ((1, 5, 6, 8), (1, 1, 1, 1), (3, 4, 5, 7), (2, 6, 16, 16), (1, 3, 33, 21)):
        for time_major in (False, True):
            sizes = Sizes(batch, steps, features, units, time_major)
            what = f"batch {batch}, {steps} steps, {features} features, {units} units, time major {time_major}"
            yield what, _lstm(form, sizes)
    for activation in ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH"):
        yield f"then {activation}", _lstm(form, fused_activation_function=activation)
    for clip in (0.75, 3.0):
        yield f"cell_clip {clip}", _lstm(form, cell_clip=clip)
    yield "proj_clip", _lstm(form, proj_clip=1.0)
    yield "diagonal recurrent weights", _lstm(form, diagonal_recurrent_tensors=True)
    yield "asymmetric", _lstm(form, asymmetric_quantize_inputs=True)
    yield "scales per channel", _lstm(form, per_channel=True)
    for exponent in (-15, -9, -8):
        yield f"cell of scale 2^{exponent}", _lstm(form, cell=2.0**exponent)
    yield "cell of another scale", _lstm(form, cell=0.003)
    kind = form.partition("*")[2] or "float32"
    vector = _weight("p", (1, 8), kind, 0.01)
    peephole = replace(vector, shape=(8,))
    yield (
        "peephole",
        _with(_lstm(form), i9=peephole, i10=replace(peephole, name="p2"), i11=replace(peephole, name="p3")),
    )
    coupled = _lstm(form)
    yield "coupled gates", _with(coupled, i1=ABSENT, i5=ABSENT, i12=ABSENT)
    yield "projection", _with(_lstm(form), i16=_weight("pw", (8, 8), kind, 0.01))
    yield "projection with a bias", _with(_lstm(form), i16=_weight("pw", (8, 8), kind, 0.01), i17=vector)
    norms = {f"i{20 + at}": replace(peephole, name=f"n{at}") for at in range(4)}
    yield "normalized layers", _with(_lstm(form), **norms)
    yield "no biases", _with(_lstm(form), i12=ABSENT, i13=ABSENT, i14=ABSENT, i15=ABSENT)
    started = _lstm(form)
    started.starts = [values((1, 8), state.dtype, "start") for state in started.tensors if state.is_variable]
    yield "states that are written first", started


# ------------------------------------------------------------------------------------------------ called graphs


@dataclass
class Calls(Case):
    """Operators that call other graphs of the model, or keep variables."""

    nodes: list[Node] = field(default_factory=list)
    inner: list[Tensor] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)

    def model(self) -> Model:
        """Returns the model; without other nodes, the operator alone."""
        names = tuple(t.name for t in self.tensors)
        outputs = tuple(t.name for t in self.outputs)
        nodes = tuple(self.nodes) or (Node(self.op, names, outputs, self.attrs),)
        tensors = {t.name: t for t in (*self.tensors, *self.inner, *self.outputs)}
        return Model((Graph("main", tuple(self.feeds), outputs, nodes, tensors), *self.graphs))

    def shaped(self, shapes: Sequence[tuple[int, ...]]) -> Model:
        """Returns the model: its shapes are known."""
        return self.model()


def _graph(
    name: str, inputs: Sequence[Tensor], nodes: Sequence[Node], others: Sequence[Tensor], *outputs: str
) -> Graph:
    """Returns a graph whose tensors are named for it."""

    def named(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name}/{part}" for part in names)

    tensors = {f"{name}/{t.name}": replace(t, name=f"{name}/{t.name}") for t in (*inputs, *others)}
    inside = tuple(replace(node, inputs=named(node.inputs), outputs=named(node.outputs)) for node in nodes)
    return Graph(name, named([t.name for t in inputs]), named(outputs), inside, tensors)


ADDED = {"fused_activation_function": "NONE"}


@grid("WHILE", forms=EVERY)
def _while(op: str, form: str) -> Entries:
    """A count goes up to a limit; beside it a tensor is carried along, or transposed back and forth."""
    for shape in SHAPES:
        for rounds in (0, 1, 3):
            yield f"{list(shape)}, {rounds} rounds", _loop(form, shape, rounds)
    yield "two carried, swapped", _loop(form, (2, 5), 3, swapped=True)
    yield "a constant carried", _loop(form, (2, 5), 3, is_constant=True)
    yield "a limit that is fed", _loop(form, (2, 5), 3, is_fed=True)
    yield "a count in a vector", _loop(form, (2, 5), 2, count=(1,))


def _loop(
    form: str, shape: tuple[int, ...], rounds: int, *, swapped=False, is_constant=False, is_fed=False, count=()
) -> Calls:
    made = Calls("WHILE", {"cond_subgraph_index": 1, "body_subgraph_index": 2}, form=form)
    made.constant("start", np.zeros(count, np.float32))
    limit = np.full(count, rounds, np.float32)
    made = made.fed("limit", limit, None) if is_fed else made.constant("limit", limit)
    array = values(shape, form, "x")
    made = made.constant("x", array, params(form)) if is_constant else made.fed("x", array, params(form))
    if is_constant:  # a file needs something to be fed
        made = made.fed("z", values(shape, form, "z"), params(form))
    elif swapped:
        made.fed("z", values(shape, form, "z"), params(form))
    step = Tensor("i", count, "float32")
    carried = [replace(t, data=None) for t in made.tensors[2:]]
    state = [step, replace(step, name="limit"), *carried]
    less = Node("LESS", ("i", "limit"), ("more",))
    cond = _graph("cond", state, [less], [Tensor("more", count, "bool")], "more")
    add = Node("ADD", ("i", "one"), ("next",), ADDED)
    results = ["next", "limit", *([t.name for t in reversed(carried)] if swapped else [t.name for t in carried])]
    body = _graph(
        "body", state, [add], [constant("one", np.ones((), np.float32)), replace(step, name="next")], *results
    )
    made.graphs = [cond, body]
    made.outputs = [replace(t, name=f"y{at}") for at, t in enumerate(state)]
    return made


@grid("IF", forms=EVERY)
def _if(op: str, form: str) -> Entries:
    """One of two operands goes out."""
    for shape in SHAPES:
        for truth in (False, True):
            made = Calls("IF", {"then_subgraph_index": 1, "else_subgraph_index": 2}, form=form)
            made.fed("condition", np.asarray(truth), None)
            made.fed("x", values(shape, form, "x"), params(form)).fed("z", values(shape, form, "z"), params(form))
            state = [replace(t, data=None) for t in made.tensors[1:]]
            made.graphs = [_graph(name, state, [], [], chosen) for name, chosen in (("then", "x"), ("else", "z"))]
            made.outputs = [replace(state[0], name="y0")]
            yield f"{list(shape)}, {truth}", made


# ------------------------------------------------------------------------------------------------ variables


def _handle(name: str) -> tuple[Node, Tensor]:
    attrs = {"container": b"", "shared_name": name.encode()}
    return Node("VAR_HANDLE", (), (name,), attrs), Tensor(name, (), "resource")


def _initial(name: str, array: np.ndarray, quant: QuantParams | None) -> Graph:
    node, tensor = _handle(name)
    value = constant("value", array, quant=quant)
    return _graph("init", [], [node, Node("ASSIGN_VARIABLE", (name, "value"), ())], [tensor, value])


@grid("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", forms=EVERY)
def _variable(op: str, form: str) -> Entries:
    """A variable is assigned what is fed, read back, or begins with a value that is given once."""
    for shape in SHAPES:
        quant = params(form)
        for is_initial in (False, True):
            made = Calls(op, form=form)
            made.fed("x", values(shape, form, "x"), quant)
            node, tensor = _handle("state")
            made.nodes, made.inner = [node], [tensor]
            out = Tensor("y0", shape, form, quant=quant)
            read, assign = Node("READ_VARIABLE", ("state",), ("y0",)), Node("ASSIGN_VARIABLE", ("state", "x"), ())
            made.outputs = [out]
            if is_initial:
                once = Node("CALL_ONCE", (), (), {"init_subgraph_index": 1})
                made.graphs = [_initial("state", values(shape, form, "start"), quant)]
                made.nodes = [once, node, read, assign]
            else:
                made.nodes = [node, assign, read]
            if (op == "READ_VARIABLE") == is_initial or op == "VAR_HANDLE":
                yield f"{list(shape)}, {'read first' if is_initial else 'assigned first'}", made
