"""Whatever bytes come in: a model, or a FormatError that says what is wrong; never another exception, never a hang."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tflite import files

from featherweight.analysis.inspection import inspect
from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.tflite import read, write

SMALL = write(files.dense_model(2, 3))
OUTSIDE = write(files.dense_model(2, 3), inline_limit_bytes=0)
FILES = {"small": SMALL, "outside": OUTSIDE, "while": write(files.while_model()), "conv": files.every_file()["CONV_2D"]}


def readable(content: bytes) -> Model | None:
    """Returns the model that the bytes hold, with all that `inspect` reads of it, or None for a FormatError.

    Any other exception fails the test that asks, and so does a model without a graph.
    """
    try:
        model = read(content)
        inspect(content, compress=False)
        for tensor in model.tensors.values():
            _ = tensor.array
    except FormatError:
        return None
    assert model.graphs
    return model


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"^the given bytes is not a \.tflite model: it is empty\. Convert the model"):
        read(b"")
    path = tmp_path / "empty.tflite"
    path.touch()
    with pytest.raises(FormatError, match=rf"^'{path}' is not a \.tflite model: it is empty\. Convert the model"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"TFL3",
        b"PK\x03\x04" + bytes(60),
        b"\x89HDF\r\n\x1a\n" + bytes(99),
        b"<html><body>404</body></html>",
        bytes(1000),
    ],
    ids=["byte", "identifier", "zip", "hdf5", "html", "zeros"],
)
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    message = (
        rf"^'{path}' is not a \.tflite model: its {len(content)} bytes carry no 'TFL3' identifier\. Convert the model"
    )
    with pytest.raises(FormatError, match=message):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.tflite"
    with pytest.raises(FormatError, match=rf"^'{path}' can't be read: No such file or directory\. Give the path"):
        read(path)
    with pytest.raises(FormatError, match=r"can't be read: No such file or directory"):
        read(str(path))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=rf"^'{tmp_path}' can't be read: it is a folder\. Give the path of a \.tflite file"
    ):
        read(tmp_path)


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="can't be read: Not a directory"):
        read(tmp_path / "file" / "model.tflite")


@pytest.mark.parametrize("name", FILES)
def test_truncated_at_every_length(name: str) -> None:
    content = FILES[name]
    # The end of a file is padding to 16 bytes: what lacks only that is whole.
    for length in range(len(content) - 16):
        with pytest.raises(FormatError):
            read(content[:length])


@pytest.mark.parametrize("length", [7, 8, 100, len(SMALL) // 2, len(SMALL) - 17])
def test_the_message_about_a_truncated_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(SMALL[:length])
    with pytest.raises(
        FormatError, match=rf"^'{path}' is (damaged or truncated \({length} bytes|not a \.tflite model)"
    ):
        read(path)


def test_a_constant_beyond_the_end() -> None:
    with pytest.raises(
        FormatError, match=r"^the given bytes: a buffer of \d+ bytes at offset \d+ lies beyond the file's"
    ):
        read(OUTSIDE[: len(OUTSIDE) - 32])


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_damaged_bytes(name: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(FILES[name])
    for where, value in changes:
        content[int(where * len(content))] = value
    readable(bytes(content))


@pytest.mark.parametrize("name", FILES)
def test_damage_of_every_single_byte(name: str) -> None:
    content = FILES[name]
    random = np.random.default_rng(0)
    found: set[bool] = set()
    for position in range(8, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= int(random.integers(1, 256))
        found.add(readable(bytes(damaged)) is None)
    assert found == {True, False}


@pytest.mark.parametrize("value", [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x01\x00"])
def test_offsets_and_lengths_that_are_far_off(value: bytes) -> None:
    for position in range(8, len(SMALL) - 4, 4):
        readable(SMALL[:position] + value + SMALL[position + 4 :])


@given(st.binary(max_size=200))
def test_garbage_behind_the_identifier(garbage: bytes) -> None:
    readable(b"\x1c\x00\x00\x00TFL3" + garbage)
    readable(SMALL[:8] + garbage + SMALL[8 + len(garbage) :])


@given(st.integers(0, len(SMALL)), st.integers(0, len(SMALL)))
def test_pieces_out_of_order(first: int, second: int) -> None:
    readable(SMALL[:8] + SMALL[first:] + SMALL[8:second])


def test_a_model_without_subgraphs() -> None:
    content = files.to_bytes(files.packed_model([], [], [files.packed_buffer(None)]))
    with pytest.raises(FormatError, match=r"^the given bytes: it has no subgraph\. Convert the model again"):
        read(content)


def test_a_border_that_is_no_tensor() -> None:
    packed = files.unpacked(SMALL)
    packed.subgraphs[0].inputs = [-1]
    with pytest.raises(FormatError, match="an input or output of a subgraph is no tensor"):
        read(files.to_bytes(packed))


@pytest.mark.parametrize("op", ["CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED"])
def test_an_operator_without_what_its_arithmetic_is_counted_by(op: str) -> None:
    graph = Graph("main", ("x",), ("y",), (Node(op, ("x",), ("y",)),), {n: Tensor(n, (1,), "float32") for n in "xy"})
    with pytest.raises(FormatError, match=rf"^{op} 'y' lacks an input, a dimension or an attribute"):
        inspect(Model((graph,)))


@pytest.mark.parametrize("shape", [(1,) * 98, (-2, -3)], ids=["98 axes", "negative"])
def test_a_constant_of_a_shape_that_no_array_has(shape: tuple[int, ...]) -> None:
    values = np.zeros(math.prod(shape) * 4, np.uint8)
    with pytest.raises(FormatError, match=r"^Tensor 'w': \d+ bytes are stored, but float32\["):
        _ = Tensor("w", shape, "float32", values).array
