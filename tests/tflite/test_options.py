"""Which table of the file format holds an operator's attributes: the record says it, a file may say otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from tests.tflite.files import litert_outputs

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.operators import Op, registered
from featherweight.tflite import names, read, write

_TABLES = names.OPTIONS | names.OPTIONS_2
# Converters and the rewriter leave these out: they have no fields.
_LEFT_OUT = {"QUANTIZE", "DEQUANTIZE"}
_RECORDS = [op for op in registered() if op.name in names.OP_CODES]


def _model(node: Node) -> Model:
    tensors = {name: Tensor(name, (1,), "float32") for name in ("x", "y")}
    return Model((Graph("main", ("x",), ("y",), (node,), tensors),))


@pytest.mark.parametrize("op", _RECORDS, ids=lambda op: op.name)
def test_a_record_s_table_is_written_and_goes_without_saying_when_read(op: Op) -> None:
    fields = names.option_fields(op.options) if op.options else {}
    (node,) = read(write(_model(Node(op.name, ("x",), ("y",))))).main.nodes
    assert node.op == op.name
    assert dict(node.extras) == {}
    assert node.attrs.keys() == fields.keys()


@pytest.mark.parametrize("op", _RECORDS, ids=lambda op: op.name)
def test_a_file_without_the_table_stays_without(op: Op) -> None:
    content = write(_model(Node(op.name, ("x",), ("y",), extras={"options": ""})))
    model = read(content)
    assert dict(model.main.nodes[0].extras) == ({"options": ""} if op.options else {})
    assert write(model) == content


def test_records_name_the_schema_s_tables() -> None:
    own = {name.lower().removesuffix("options"): name for name in _TABLES}
    for op in _RECORDS:
        table = own.get(op.name.lower().replace("_", ""))
        if op.name in _LEFT_OUT:
            assert table is not None
            assert not names.option_fields(table)
        elif table is not None:
            assert op.options == table, op.name
        assert not op.options or op.options in _TABLES, op.name


def test_a_file_s_other_table_is_kept() -> None:
    content = write(_model(Node("NEG", ("x",), ("y",), {"beta": 0.5}, extras={"options": "SoftmaxOptions"})))
    model = read(content)
    assert model.main.nodes[0].extras["options"] == "SoftmaxOptions"
    assert write(model) == content


def test_a_node_made_by_hand_runs() -> None:
    attrs = {"padding": "VALID", "stride_h": 1, "stride_w": 2, "fused_activation_function": "RELU"}
    tensors = {
        "x": constant("x", np.ones((1, 3, 5, 1), np.float32)),
        "w": constant("w", np.arange(18, dtype=np.float32).reshape(2, 3, 3, 1)),
        "b": constant("b", np.array([1, -200], np.float32)),
        "y": Tensor("y", (1, 1, 2, 2), "float32"),
    }
    graph = Graph("main", (), ("y",), (Node("CONV_2D", ("x", "w", "b"), ("y",), attrs),), tensors)
    (found,) = litert_outputs(write(Model((graph,))))
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([37, 0], np.float32), (1, 1, 2, 2)))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node("SEGMENT_SUM", ("x",), ("y",), {"axis": 1}), "no table of the file format is known that holds them"),
        (Node("RELU", ("x",), ("y",), {"axis": 1}), "no table of the file format is known that holds them"),
        (Node("ABS", ("x",), ("y",), {"axis": 1}), "its table AbsOptions lacks them"),
    ],
    ids=lambda value: value.op if isinstance(value, Node) else "",
)
def test_attributes_that_no_table_holds_say_the_way_out(node: Node, said: str) -> None:
    message = rf"^{node.op} 'y' has attributes \(axis\), but {said}\. Name the table that does: Node\(…, extras="
    with pytest.raises(FormatError, match=message):
        write(_model(node))


def test_the_way_out_leads_out() -> None:
    node = Node("LSH_PROJECTION", ("x",), ("y",), {"type": 1}, extras={"options": "LSHProjectionOptions"})
    (found,) = read(write(_model(node))).main.nodes
    assert (dict(found.attrs), dict(found.extras)) == ({"type": 1}, {"options": "LSHProjectionOptions"})
