from __future__ import annotations

import dataclasses
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featherweight.errors import FormatError
from featherweight.graph import (
    Graph,
    Model,
    Node,
    Signature,
    Tensor,
    constant,
    consumers,
    fresh_name,
    io_names,
    producers,
    replace_graph,
)


def raw(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def small_graph() -> Graph:
    tensors = {n: Tensor(n, (2,), "float32") for n in ("x", "y", "z")} | {"w": constant("w", np.ones(2, np.float32))}
    nodes = (Node("ADD", ("x", "w"), ("y",)), Node("MUL", ("y", "y"), ("z",)))
    return Graph("main", ("x",), ("z",), nodes, tensors)


def test_everything_is_frozen() -> None:
    graph = small_graph()
    for value, field in (
        (graph, "nodes"),
        (graph.nodes[0], "op"),
        (graph.tensors["x"], "shape"),
        (Model((graph,)), "graphs"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, ())


# ------------------------------------------------------------------------------------------------ constants


NUMBERS = "float32 float16 float64 bfloat16 float8_e4m3fn float8_e5m2 complex64 complex128 bool"
INTEGERS = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 int4 uint4 int2"


@pytest.mark.parametrize("dtype", f"{NUMBERS} {INTEGERS}".split())
def test_constants_of_every_type_come_back(dtype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(getattr(ml_dtypes, dtype, None) or np.dtype(dtype))
    tensor = constant("w", values, dtype)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("w", (2, 3), dtype)
    assert tensor.is_constant
    array = tensor.array
    assert array is not None
    assert array.dtype == values.dtype
    assert array.tolist() == values.tolist()


def test_uint4_keeps_large_values() -> None:
    array = constant("w", np.array([0, 7, 8, 15], np.uint8), "uint4").array
    assert array is not None
    assert array.astype(int).tolist() == [0, 7, 8, 15]


def test_the_type_is_taken_from_the_array() -> None:
    assert constant("w", np.zeros(3, np.int16)).dtype == "int16"
    assert constant("w", np.zeros((), np.float32)).shape == ()


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_constants_keep_every_bit(values: np.ndarray) -> None:
    array = constant("w", values).array
    assert array is not None
    assert array.shape == values.shape
    assert array.tobytes() == values.tobytes()


def test_constants_are_read_only_and_not_copied_again() -> None:
    tensor = constant("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    array = tensor.array
    assert array is not None
    assert tensor.data is not None
    assert np.shares_memory(array, tensor.data)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    assert tensor.stored_bytes == 24


def test_transposed_arrays_are_stored_in_order() -> None:
    array = constant("w", np.arange(6, dtype=np.int8).reshape(2, 3).T).array
    assert array is not None
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 8), ("float32", 16), ("float32", 7), ("float32", 0), ("int4", 1), ("int8", 4)]
)
def test_data_that_does_not_fit_its_shape_is_damage(dtype: str, size: int) -> None:
    tensor = Tensor("conv/kernel", (3,), dtype, raw(size))
    with pytest.raises(
        FormatError, match=rf"^Tensor 'conv/kernel': {size} bytes are stored, but {dtype}\[3\] needs 3 elem"
    ):
        _ = tensor.array


def test_strings_and_sparse_tensors_have_no_array() -> None:
    with pytest.raises(FormatError, match=r"^Tensor 's' holds strings; it has no plain array\."):
        _ = Tensor("s", (1,), "string", raw(8)).array
    with pytest.raises(FormatError, match=r"^Tensor 'w' is stored sparsely; it has no plain array\."):
        _ = Tensor("w", (4,), "float32", raw(8), extras={"sparsity": object()}).array


@pytest.mark.parametrize("dtype", ["resource", "variant"])
def test_handles_have_no_array(dtype: str) -> None:
    with pytest.raises(FormatError, match=r"^Tensor 'r'"):
        _ = Tensor("r", (1,), dtype, raw(8)).array


def test_computed_tensors_have_no_array() -> None:
    tensor = Tensor("x", (2, 3), "float32")
    assert tensor.array is None
    assert not tensor.is_constant
    assert (tensor.elements, tensor.stored_bytes) == (6, 0)


# ------------------------------------------------------------------------------------------------ edges


def test_producers_and_consumers() -> None:
    graph = small_graph()
    add, mul = graph.nodes
    assert producers(graph) == {"y": add, "z": mul}
    assert consumers(graph) == {"x": (add,), "w": (add,), "y": (mul,)}


def test_absent_inputs_and_outputs_are_no_edges() -> None:
    node = Node("CUSTOM", ("", "x", ""), ("", "y"))
    tensors = {n: Tensor(n, (1,), "float32") for n in ("x", "y")}
    graph = Graph("main", ("x",), ("y",), (node,), tensors)
    assert producers(graph) == {"y": node}
    assert consumers(graph) == {"x": (node,)}
    assert node.name == "y"
    assert [(i, t.name) for i, t in graph.float_inputs(node)] == [(1, "x")]
    assert Node("CALL_ONCE", (), ()).name == "CALL_ONCE()"


def test_replacing_a_graph_shares_the_rest() -> None:
    first, second = small_graph(), small_graph()
    model = Model((first, second), description="d")
    edited = replace_graph(model, 1, dataclasses.replace(second, name="body"))
    assert edited.graphs[0] is first
    assert edited.graphs[1].name == "body"
    assert model.graphs[1].name == "main"
    assert edited.description == "d"


# ------------------------------------------------------------------------------------------------ names


@given(st.lists(st.sampled_from(["", "a", "a#1", "b"]), max_size=12))
def test_fresh_names_are_unique(wishes: list[str]) -> None:
    taken: set[str] = set()
    for wish in wishes:
        name = fresh_name(wish, taken)
        assert name not in taken
        assert name
        taken.add(name)


def test_fresh_name_keeps_a_free_wish() -> None:
    assert fresh_name("conv", {"dense"}) == "conv"
    assert fresh_name("conv", ["conv", "conv#1"]) == "conv#2"


def two_ports() -> Graph:
    tensors = {n: Tensor(n, (1,), "float32") for n in ("a:0", "b:0", "p:0", "q:0")}
    nodes = (Node("NEG", ("a:0",), ("p:0",)), Node("NEG", ("b:0",), ("q:0",)))
    return Graph("main", ("a:0", "b:0"), ("p:0", "q:0"), nodes, tensors)


def test_public_names_are_tensor_names_without_a_signature() -> None:
    inputs, outputs = io_names(Model((two_ports(),)))
    assert list(inputs.items()) == [("a:0", "a:0"), ("b:0", "b:0")]
    assert list(outputs.items()) == [("p:0", "p:0"), ("q:0", "q:0")]


def test_public_names_come_from_the_first_signature_of_the_main_graph() -> None:
    other = Signature("other", (("body", "a:0"),), (), graph=1)
    first = Signature("serve", (("b", "b:0"), ("a", "a:0")), (("q", "q:0"), ("p", "p:0")))
    second = Signature("later", (("c", "a:0"), ("d", "b:0")), (("r", "p:0"), ("s", "q:0")))
    inputs, outputs = io_names(Model((two_ports(),), (other, first, second)))
    assert list(inputs.items()) == [("a", "a:0"), ("b", "b:0")]
    assert outputs == {"p": "p:0", "q": "q:0"}


def test_public_outputs_are_in_the_order_of_the_graph() -> None:
    signature = Signature("serve", (), (("q", "q:0"), ("p", "p:0")))
    assert list(io_names(Model((two_ports(),), (signature,)))[1]) == ["p", "q"]


def test_what_a_signature_leaves_out_keeps_its_own_name() -> None:
    signature = Signature("serve", (("a", "a:0"),), (("q", "q:0"),))
    inputs, outputs = io_names(Model((two_ports(),), (signature,)))
    assert inputs == {"a": "a:0", "b:0": "b:0"}
    assert outputs == {"p:0": "p:0", "q": "q:0"}


def test_one_tensor_may_have_several_public_outputs() -> None:
    signature = Signature("serve", (), (("label", "p:0"), ("class", "p:0"), ("q", "q:0")))
    assert io_names(Model((two_ports(),), (signature,)))[1] == {"label": "p:0", "class": "p:0", "q": "q:0"}


def test_an_output_that_is_given_twice_is_named_in_its_places() -> None:
    graph = replace(two_ports(), outputs=("p:0", "q:0", "p:0"))
    signature = Signature("serving", (), (("first", "p:0"), ("second", "q:0"), ("third", "p:0")))
    assert list(io_names(Model((graph,), (signature,)))[1]) == ["first", "second", "third"]
    assert list(io_names(Model((graph,), (replace(signature, outputs=(("only", "p:0"),)),)))[1]) == ["only", "q:0"]


def test_a_public_name_never_hides_another_input() -> None:
    signature = Signature("serve", (("b:0", "a:0"),), ())
    inputs, _ = io_names(Model((two_ports(),), (signature,)))
    assert sorted(inputs.values()) == ["a:0", "b:0"]
