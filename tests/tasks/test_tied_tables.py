"""A table that is looked up in and multiplied by is stored once, in every recipe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import featherweight as fw
from featherweight import tflite
from featherweight.graph import Graph, Model, Node, Tensor, constant

_WORDS, _SIZE = 500, 32
_RANDOM = np.random.default_rng(0)
_IDS = [_RANDOM.integers(0, _WORDS, (1, 6)).astype(np.int32) for _ in range(8)]


def _tied(table: np.ndarray) -> Model:
    """Ids → rows of the table → a dense layer → products with all rows."""
    none = {"fused_activation_function": "NONE", "keep_num_dims": True}
    tensors = [
        Tensor("ids", (1, 6), "int32"),
        constant("table", table),
        constant("inner", (_RANDOM.normal(size=(_SIZE, _SIZE)) / 6).astype(np.float32)),
        Tensor("rows", (1, 6, _SIZE), "float32"),
        Tensor("hidden", (1, 6, _SIZE), "float32"),
        Tensor("scores", (1, 6, _WORDS), "float32"),
    ]
    nodes = (
        Node("GATHER", ("table", "ids"), ("rows",), {"axis": 0, "batch_dims": 0}),
        Node("FULLY_CONNECTED", ("rows", "inner", ""), ("hidden",), {**none, "fused_activation_function": "RELU"}),
        Node("FULLY_CONNECTED", ("hidden", "table", ""), ("scores",), none),
    )
    return Model((Graph("main", ("ids",), ("scores",), nodes, {tensor.name: tensor for tensor in tensors}),))


@pytest.fixture(scope="module")
def tied() -> Model:
    return _tied(_RANDOM.normal(size=(_WORDS, _SIZE)).astype(np.float32))


def _tables(model: Model) -> list[tuple[str, int]]:
    """(type, bytes) of the buffers as large as the table is at 4 bits or more."""
    written = tflite.read(tflite.write(model))
    buffers = {id(t.data): (t.dtype, t.stored_bytes) for t in written.tensors.values() if t.is_constant}
    return [found for found in buffers.values() if found[1] >= _WORDS * _SIZE // 2]


@pytest.mark.parametrize(
    ("recipe", "dtype", "least"),
    [
        ("float16", "float16", 60),
        ("weights8", "int8", 38),
        ("dynamic", "int8", 35),
        ("int8", "int8", 30),
        ("int16x8", "int8", 36),
        ("weights4", "int8", 18),
        ("w4a8", "int8", 18),
    ],
)
def test_the_table_is_stored_once(recipe, dtype, least, tied):
    done = fw.quantize(tied, recipe, calibration=_IDS, integers=True, progress=False)
    bytes_each = {"float16": 2, "int8": 1}[dtype]
    assert _tables(done.model) == [(dtype, _WORDS * _SIZE * bytes_each)]
    assert not done.plan.kept_float
    feed = np.concatenate(_IDS)
    right, found = (np.concatenate([np.asarray(fw.run(m, row[None])) for row in feed]) for m in (tied, done.model))
    assert 10 * np.log10(np.square(right).sum() / np.square(right - found).sum()) > least
    if recipe in ("int8", "w4a8", "dynamic"):
        reference = fw.run(done.model, feed[:1], runtime="reference")
        assert np.allclose(reference, found[:1], atol=0 if recipe != "dynamic" else 1e-5)


def test_a_table_in_blocks_has_those_of_the_layer_that_reads_it(tied):
    """Though tables alone have larger ones."""
    graph = tied.main
    looking = Node("EMBEDDING_LOOKUP", ("flat", "table"), ("rows",), {})
    nodes = (
        Node("RESHAPE", ("ids", "shape"), ("flat",), {}),
        looking,
        *(replace(node, attrs={**node.attrs, "keep_num_dims": False}) for node in graph.nodes[1:]),
    )
    tensors = {
        **graph.tensors,
        "shape": constant("shape", np.array([6], np.int32)),
        "flat": Tensor("flat", (6,), "int32"),
        "rows": Tensor("rows", (6, _SIZE), "float32"),
        "hidden": Tensor("hidden", (6, _SIZE), "float32"),
        "scores": Tensor("scores", (6, _WORDS), "float32"),
    }
    model = replace(tied, graphs=(replace(graph, nodes=nodes, tensors=tensors),))
    done = fw.quantize(model, "weights4", progress=False)
    assert _tables(done.model) == [("int4", _WORDS * _SIZE // 2)]
    assert done.plan.params["table"].block_size == 32
    assert [done.plan.forms[name] for name in ("rows", "scores")] == ["float32*int4"] * 2
    right, found = (np.asarray(fw.run(each, _IDS[0])) for each in (model, done.model))
    assert 10 * np.log10(np.square(right).sum() / np.square(right - found).sum()) > 14


def test_a_table_whose_rows_are_too_unlike_is_stored_twice_and_says_so():
    table = _RANDOM.normal(size=(_WORDS, _SIZE)).astype(np.float32)
    table[3] *= 100
    done = fw.quantize(_tied(table), "dynamic", progress=False)
    assert len(_tables(done.model)) == 2
    assert any("its weight 'table' is stored twice" in note for note in done.plan.notes)


def test_a_table_that_stays_float_for_another_has_no_copy_in_integers(tied):
    """TFLite Micro multiplies by floats there: a copy of the table in int8 would make the file larger."""
    with pytest.raises(
        fw.RecipeError, match=r"changes nothing of this model: .*FULLY_CONNECTED 'scores' reads it in float"
    ):
        fw.quantize(tied, "dynamic", target="tflm", progress=False)
    named = fw.Recipe("named", rules=(fw.Rule(op="GATHER", match="rows", weight=fw.Scheme("int8")), fw.Rule()))
    asked = fw.quantize(tied, named, target="tflm", progress=False)
    assert asked.plan.forms == {"rows": "int8"}
