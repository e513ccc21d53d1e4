"""What an edit adds has names of its own, what it replaces stays what it was, and what it leaves alone is shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.editor import (
    Editor,
    is_plain,
    with_constants,
    with_values,
    with_zeros,
    without_orphans,
    without_unused,
)
from featherweight.graph.numerics import QuantParams
from featherweight.tflite import read, write

NAMES = st.text("ab#1", max_size=4)
PARAMS = QuantParams("int8", (0.5,), (3,))


def real(name: str) -> Tensor:
    return Tensor(name, (2,), "float32")


def graph(*nodes: Node, constants: tuple[Tensor, ...] = (), outputs: tuple[str, ...] = ("y",)) -> Graph:
    """A graph of vectors of 2 from `x` to `outputs`."""
    named = dict.fromkeys(["x", *(name for node in nodes for name in (*node.inputs, *node.outputs)), *outputs])
    tensors = {name: real(name) for name in named} | {tensor.name: tensor for tensor in constants}
    return Graph("main", ("x",), outputs, nodes, tensors)


def relu(x: str, y: str) -> Node:
    return Node("RELU", (x,), (y,))


def bias(values: list[float]) -> Tensor:
    return constant("b", np.float32(values))


@given(st.lists(NAMES), st.lists(NAMES, max_size=6), st.lists(NAMES, max_size=6))
def test_fresh_names_never_collide(held: list[str], first: list[str], second: list[str]) -> None:
    parts = Graph("main", (), (), (), {name: real(name) for name in held}), graph(relu("x", "y"))
    taken = set(Model(parts).tensors)
    editors = [Editor(part, taken) for part in parts]
    made = [edit.fresh(wish) for edit, wishes in zip(editors, (first, second), strict=True) for wish in wishes]
    assert len({*made, *held, "x", "y"}) == len(made) + len({*held, "x", "y"})
    assert all(name.startswith(wish) for name, wish in zip(made, [*first, *second], strict=True))


def test_what_is_added_has_its_own_name_or_the_next_free() -> None:
    edit = Editor(graph(relu("x", "y")))
    unnamed = replace(real("z"), file_name="")
    assert [edit.add(unnamed), edit.add(unnamed), edit.constant("y", np.zeros(2))] == ["z", "z#1", "y#1"]
    assert list(edit.tensors) == ["x", "y", "z", "z#1", "y#1"]
    assert [(edit.tensors[name].name, edit.tensors[name].file_name) for name in ("z", "z#1")] == [
        ("z", ""),
        ("z#1", None),
    ]


def test_nodes_stay_in_the_order_in_which_they_are_given() -> None:
    before = graph(relu("x", "a"), relu("a", "y"))
    edit = Editor(before)
    for node in before.nodes:
        edit.node("MUL", (node.inputs[0], edit.constant(f"{node.name}/factor", np.float32(2))), (edit.add(real("p")),))
        edit.nodes.append(node)
    after = edit.result()
    assert [node.op for node in after.nodes] == ["MUL", "RELU", "MUL", "RELU"]
    assert after.nodes[1] is before.nodes[0]
    assert list(after.tensors) == ["x", "a", "y", "a/factor", "p", "y/factor", "p#1"]
    assert list(before.tensors) == ["x", "a", "y"]


def test_an_edit_that_changes_nothing_gives_the_same_graph() -> None:
    before = graph(relu("x", "y"))
    edit = Editor(before)
    edit.nodes += before.nodes
    assert edit.result() is before
    edit.constant("c", np.zeros(2))
    assert edit.result() is not before


def test_what_the_file_says_of_a_node_stays_when_another_takes_its_place() -> None:
    before = graph(Node("NEG", ("x",), ("y",), extras={"options": "NegOptions", "debug_metadata_index": 7}))
    edit = Editor(before)
    edit.instead(before.nodes[0], "MUL", ("x", edit.constant("c", np.float32(-1))), fused_activation_function="RELU")
    (node,) = edit.result().nodes
    assert (node.op, node.inputs, node.outputs) == ("MUL", ("x", "c"), ("y",))
    assert node.extras["debug_metadata_index"] == 7
    assert not is_plain(node, "MUL")


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("MUL", ("x", "c"), {"fused_activation_function": "RELU6"}),
        ("SUM", ("x", "axes"), {"keep_dims": True}),
        ("REDUCE_MAX", ("x", "axes"), {"keep_dims": True}),
        ("REVERSE_V2", ("x", "axes"), {}),
        ("STRIDED_SLICE", ("x", "axes", "axes", "axes"), {"begin_mask": 1, "offset": False}),
        ("GATHER", ("c", "axes"), {"axis": 0, "batch_dims": 0}),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", ("x",), {"fused_activation_function": "TANH", "time_major": True}),
    ],
)
def test_new_nodes_can_be_written(op: str, inputs: tuple[str, ...], attrs: dict[str, object]) -> None:
    edit = Editor(graph(outputs=("y",)))
    edit.constant("c", np.ones(2, np.float32))
    edit.constant("axes", np.zeros(1, np.int32))
    edit.node(op, inputs, ("y",), **attrs)
    (node,) = read(write(Model((edit.result(),)))).main.nodes
    assert (node.op, node.inputs, node.outputs) == (op, inputs, ("y",))
    assert {key: node.attrs[key] for key in attrs} == attrs


@given(st.sampled_from(["int8", "int4", "int32", "float32", "float16", "bool"]), st.integers(0, 3), st.booleans())
def test_replaced_values_keep_all_else(dtype: str, size: int, is_quantized: bool) -> None:
    made = constant("w", np.zeros(size, np.int8), dtype)
    before = replace(made, quant=PARAMS if is_quantized else None, file_name="", shape_signature=(-1,), extras={"a": 1})
    values = np.ones(size, "bool" if dtype == "bool" else np.int8)
    after = with_values(before, values)
    assert replace(after, data=None).__dict__ == replace(before, data=None).__dict__
    np.testing.assert_array_equal(np.asarray(after.array).astype(np.float32), 1)


@pytest.mark.parametrize(
    ("tensor", "values", "message"),
    [
        (bias([1, 2]), np.ones(3, np.float32), r"'b' is float32\[2\]; float32\[3\] can't take"),
        (constant("b", np.ones(2, np.int8)), np.ones(2, np.float32), r"'b' is int8\[2\]; float32\[2\] can't take"),
        (replace(bias([1, 2]), extras={"sparsity": object()}), np.ones(2, np.float32), "'b' is sparse float32"),
    ],
)
def test_values_that_do_not_fit_are_refused(tensor: Tensor, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_values(tensor, values)


def test_constants_of_all_graphs_get_other_values() -> None:
    body = replace(graph(relu("p", "q"), constants=(constant("w", np.ones(2, np.float32)),)), name="body")
    model = Model((graph(Node("ADD", ("x", "b"), ("y",)), constants=(bias([1, 2]),)), body))
    changed = with_constants(model, {"b": np.float64([3, 4]), "w": np.zeros(2, np.float32)})
    assert [np.asarray(g.tensors[n].array).tolist() for g, n in zip(changed.graphs, "bw", strict=True)] == [
        [3, 4],
        [0, 0],
    ]
    assert list(changed.main.tensors) == list(model.main.tensors)
    assert changed.main.tensors["x"] is model.main.tensors["x"]
    assert with_constants(model, {"b": np.float32([3, 4])}).graphs[1] is body
    with pytest.raises(DataError, match="no tensor 'c', 'd'"):
        with_constants(model, {"b": np.zeros(2), "d": np.zeros(2), "c": np.zeros(2)})


def test_zeros_take_the_place_of_stored_values() -> None:
    stored = constant("b", np.int8([1, 2, 3]), "int4", replace(PARAMS, dtype="int4"))
    (made,) = with_zeros(Model((Graph("main", (), (), (), {"b": stored}),)), {"b"}).main.tensors.values()
    assert (made.dtype, made.quant, np.asarray(made.array).tolist()) == ("int4", stored.quant, [0, 0, 0])


def test_unused_tensors_go() -> None:
    scaled = replace(bias([1, 2]), quant=QuantParams("int4", (), (), 0, 2, "scales"))
    node = Node("ADD", ("x", "b"), ("y",), extras={"intermediates": ("i",)})
    rest = tuple(constant(name, np.zeros(2, np.float32)) for name in ("scales", "unused", "i"))
    before = graph(node, constants=(scaled, *rest))
    assert list(without_unused(before).tensors) == ["x", "b", "y", "scales", "i"]
    used = without_unused(before)
    assert without_unused(used) is used


def test_what_was_unused_before_an_edit_stays() -> None:
    unused = constant("unused", np.zeros(2, np.float32))
    before = graph(Node("ADD", ("x", "b"), ("y",)), constants=(bias([1, 2]), unused))
    after = replace(before, nodes=(relu("x", "y"),))
    assert list(without_unused(after, before).tensors) == ["x", "y", "unused"]
    assert without_unused(before, before) is before


def test_orphans_go_with_those_that_only_they_read() -> None:
    before = graph(relu("x", "a"), Node("NEG", ("a",), ("b",)), Node("ADD", ("x", "b"), ("y",)), relu("x", "dead"))
    after = replace(before, nodes=(*before.nodes[:2], relu("x", "y"), before.nodes[3]))
    assert [node.name for node in without_orphans(after, before).nodes] == ["y", "dead"]
    assert list(without_orphans(after, before).tensors) == ["x", "y", "dead"]
    assert [node.name for node in without_orphans(after, before, ("NEG",)).nodes] == ["a", "y", "dead"]
    assert without_orphans(after, before, ("ADD",)) is after


def test_outputs_and_what_is_read_again_are_no_orphans() -> None:
    before = graph(relu("x", "a"), Node("NEG", ("a",), ("y",)), outputs=("a", "y"))
    after = replace(before, nodes=(before.nodes[0], Node("NEG", ("x",), ("y",))))
    assert without_orphans(after, before) is after
