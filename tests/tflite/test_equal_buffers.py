"""What a converter stored twice is one constant here; what is written to keeps a place of its own."""

from __future__ import annotations

import flatbuffers
import numpy as np
from tests.building import add, dense, net, weights

import featherweight as fw
from featherweight.tflite.equal_buffers import as_one
from featherweight.tflite.names import schema


def doubled(content: bytes) -> bytes:
    """Returns the file with a buffer of its own for each tensor."""
    packed = schema.ModelT.InitFromPackedBuf(content, 0)
    for sub in packed.subgraphs:
        for tensor in sub.tensors:
            copy = schema.BufferT()
            copy.data = packed.buffers[tensor.buffer].data
            tensor.buffer = len(packed.buffers)
            packed.buffers.append(copy)
    builder = flatbuffers.Builder(1024)
    builder.Finish(packed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_equal_bytes_are_one_array_and_what_is_written_stays_apart() -> None:
    first, second, third = (np.arange(200, dtype=np.uint8) for _ in range(3))
    other = first.copy()
    other[100] = 0  # the ends are the same
    empty = np.zeros(0, np.uint8)
    found = as_one([None, first, second, other, third, empty, empty.copy()], apart={4})
    assert [each is first for each in found] == [False, True, True, False, False, False, False]
    assert found[3] is other
    assert found[4] is third


def test_weights_that_a_file_holds_twice_are_stored_once_in_every_recipe() -> None:
    layers = [
        dense("x", "w", "b", "h", (1, 64)), dense("h", "w", "b", "g", (1, 64)), add("h", "g", "y", (1, 64)),
    ]  # fmt: skip
    constants = {"w": weights(64, 64), "b": np.zeros(64, np.float32)}
    shared = fw.write(net({"x": (1, 64)}, constants, layers, ["y"]))
    content = doubled(shared)
    samples = list(weights(8, 1, 64, spread=1.0))
    for recipe in ("weights4", "weights8", "dynamic", "float16", "int8", "w4a8"):
        needs = {"calibration": samples} if recipe in ("int8", "w4a8") else {}
        files = [fw.write(fw.quantize(source, recipe, progress=False, **needs).model) for source in (shared, content)]
        assert files[0] == files[1]
