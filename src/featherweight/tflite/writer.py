"""Writes a `Model` as a .tflite file, without copying its constants, atomically.

The flatbuffer proper is built with empty buffers; the constants follow it as vectors that the buffers' offset
fields are then pointed at. Files over 2 GB keep their constants outside of the flatbuffer (`Buffer.offset`),
as the format prescribes.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.arguments import checked, count
from featherweight.arguments import path as path_of
from featherweight.errors import FeatherweightError, FormatError, listed
from featherweight.graph import Graph, Model, ModelLike, Node, Signature, Tensor
from featherweight.operators import lookup
from featherweight.tflite import names
from featherweight.tflite.buffers import Buffers
from featherweight.tflite.lean import lean
from featherweight.tflite.names import schema
from featherweight.tflite.reader import release_pages
from featherweight.tflite.sharing import Shared, SharingBuilder

# Flatbuffer offsets are 31 bits; leave room for everything that is not a constant.
_LARGEST_INLINE_BYTES = (1 << 31) - (64 << 20)
_ALIGNMENT = 16


@checked(inline_limit_bytes=count(0, _LARGEST_INLINE_BYTES))
def write(model: ModelLike, *, inline_limit_bytes: int = _LARGEST_INLINE_BYTES) -> bytes:
    """Returns the model (what `load` takes) as the bytes of a ``.tflite`` file; the same model gives the same bytes.

    Constants of more than `inline_limit_bytes` together are placed after the flatbuffer.
    """
    file = io.BytesIO()  # joined at the end, constants would be read again after their pages were released
    for chunk in _chunks(model, inline_limit_bytes):
        file.write(memoryview(chunk).cast("B"))
    return file.getvalue()


@checked(path=path_of, inline_limit_bytes=count(0, _LARGEST_INLINE_BYTES))
def save(model: ModelLike, path: str | Path, *, inline_limit_bytes: int = _LARGEST_INLINE_BYTES) -> int:
    """Writes the model, whatever `load` takes, to `path` atomically and returns the file's size in bytes.

    Raises:
        FeatherweightError: if the file can't be written; one that was there is left as it was.
    """
    return write_atomically(path, _chunks(model, inline_limit_bytes))


def write_atomically(path: str | Path, chunks: Iterable[Any]) -> int:
    """Writes bytes to a temporary file beside `path`, syncs it, and renames it; returns the number of bytes.

    Raises:
        FeatherweightError: if that fails; the file that was there stays, no other is left.
    """
    path = path_of(path, "save: path")
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(memoryview(chunk).cast("B"))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise FeatherweightError(
            f"'{path}' can't be written: {error.strerror or error}. Nothing was changed; choose another path or "
            "make room."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return size


def _chunks(model: Model, inline_limit_bytes: int) -> Iterator[Any]:
    """Yields the file piece by piece: the flatbuffer, then padding and constants in turn."""
    packed, buffers = _Writer(model).pack()
    inline = sum(b.size for b in buffers if b is not None) <= inline_limit_bytes
    for record, data in zip(packed.buffers, buffers, strict=True):
        if data is not None and inline:
            record.data = np.zeros(0, np.uint8)
        elif data is not None:
            record.offset = record.size = 2  # placeholders: values of 0 are left out of the table
    builder = SharingBuilder(1 << 16)
    builder.Finish(packed.Pack(builder), b"TFL3")
    head = builder.Output()
    tables = _buffer_tables(head)
    pieces: list[bytes | np.ndarray] = []
    position = len(head)
    for table, data in zip(tables, buffers, strict=True):
        if data is None:
            continue
        prefix = 4 if inline else 0
        start = -(-(position + prefix) // _ALIGNMENT) * _ALIGNMENT
        padding = bytes(start - prefix - position)
        if inline:
            slot = _field(head, table, 0)
            struct.pack_into("<I", head, slot, start - 4 - slot)
            padding += struct.pack("<I", data.size)
        else:
            struct.pack_into("<Q", head, _field(head, table, 1), start)
            struct.pack_into("<Q", head, _field(head, table, 2), data.size)
        pieces += [padding, data]
        position = start + data.size
    yield bytes(head)
    for piece in pieces:
        yield piece
        if isinstance(piece, np.ndarray):
            release_pages(piece)
    yield bytes(-position % _ALIGNMENT)


def _buffer_tables(head: bytearray) -> list[int]:
    """Returns where the tables of the flatbuffer's `buffers` vector lie."""
    root = struct.unpack_from("<I", head, 0)[0]
    slot = _field(head, root, 4)
    vector = slot + struct.unpack_from("<I", head, slot)[0]
    count = struct.unpack_from("<I", head, vector)[0]
    slots = range(vector + 4, vector + 4 + 4 * count, 4)
    return [slot + struct.unpack_from("<I", head, slot)[0] for slot in slots]


def _field(head: bytearray, table: int, field: int) -> int:
    """Returns where a table keeps one of its fields (FlatBuffers internals: vtable lookup)."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    return table + struct.unpack_from("<H", head, vtable + 4 + 2 * field)[0]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Writer:
    """Collects buffers and operator codes by number, while parts that refer by name become the schema's objects."""

    def __init__(self, model: Model) -> None:
        self.model = lean(model)
        self.buffers = Buffers()
        self.codes: dict[tuple[str, int, str | None], int] = {}

    def pack(self) -> tuple[Any, list[np.ndarray | None]]:
        """Returns the schema's model, with empty buffers, and the buffers' contents."""
        model, packed = self.model, schema.ModelT()
        packed.version = model.extras.get("version", 3)
        packed.description = _encoded(model.description)
        indices = [{"": -1} | {name: i for i, name in enumerate(graph.tensors)} for graph in model.graphs]
        packed.subgraphs = [self.graph(g, index) for g, index in zip(model.graphs, indices, strict=True)]
        packed.operatorCodes = [_operator_code(*code) for code in self.codes]
        if model.signatures:
            packed.signatureDefs = [_signature(s, indices[s.graph]) for s in model.signatures]
        if model.metadata:
            file_names = model.extras.get("metadata_names", {})
            packed.metadata = [self.metadata(file_names.get(k, k), v) for k, v in model.metadata.items()]
        if "metadata_buffer" in model.extras:
            packed.metadataBuffer = [self.buffers.number(data) for data in model.extras["metadata_buffer"]]
        for field in ("externalBufferGroups", "externalBuffers"):
            setattr(packed, field, model.extras.get(field))
        packed.buffers = [schema.BufferT() for _ in self.buffers.contents]
        return packed, self.buffers.contents

    def metadata(self, name: str, content: bytes | np.ndarray) -> Any:
        """Returns one metadata entry."""
        entry = schema.MetadataT()
        data = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        entry.name, entry.buffer = _encoded(name), self.buffers.number(data)
        return entry

    def graph(self, graph: Graph, index: dict[str, int]) -> Any:
        """Returns one subgraph."""
        packed = schema.SubGraphT()
        packed.name = _encoded(graph.name)
        packed.debugMetadataIndex = graph.extras.get("debug_metadata_index", -1)
        where = f"Graph '{graph.name}'"
        packed.inputs, packed.outputs = _numbers(graph.inputs, index, where), _numbers(graph.outputs, index, where)
        packed.tensors = [self.tensor(tensor, index) for tensor in graph.tensors.values()]
        packed.operators = [self.node(node, index) for node in graph.nodes]
        return packed

    def tensor(self, tensor: Tensor, index: dict[str, int]) -> Any:
        """Returns one tensor."""
        packed = schema.TensorT()
        packed.name = _encoded(tensor.name if tensor.file_name is None else tensor.file_name)
        packed.shape = np.asarray(tensor.shape, np.int32)
        packed.type = names.DTYPE_CODES[tensor.dtype]
        packed.buffer = self.buffers.number_of(tensor)
        packed.isVariable = tensor.is_variable
        if tensor.shape_signature is not None:
            packed.shapeSignature = np.asarray(tensor.shape_signature, np.int32)
        for field in ("sparsity", "variantTensors", "hasRank", "externalBuffer"):
            if field in tensor.extras:
                setattr(packed, field, tensor.extras[field])
        quantization = _quantization(tensor, index)
        packed.quantization = None if quantization is None else Shared(quantization)
        return packed

    def node(self, node: Node, index: dict[str, int]) -> Any:
        """Returns one operator."""
        packed = schema.OperatorT()
        packed.opcodeIndex = self.codes.setdefault((node.op, node.version, node.custom_code), len(self.codes))
        where = f"{node.op} '{node.name}'"
        packed.inputs, packed.outputs = _numbers(node.inputs, index, where), _numbers(node.outputs, index, where)
        kind = str(node.extras.get("options", lookup(node.op).options))
        unheld = node.attrs.keys() - (names.option_fields(kind).keys() if kind else ())
        if unheld:
            what = f"its table {kind} lacks them" if kind else "no table of the file format is known that holds them"
            raise FormatError(
                f"{where} has attributes ({listed(sorted(unheld))}), but {what}. Name the table that does: "
                "Node(…, extras={'options': 'Conv2DOptions'}), for example."
            )
        if kind:
            options = Shared(names.attrs_to_options(kind, dict(node.attrs)))
            if kind in names.OPTIONS:
                packed.builtinOptions, packed.builtinOptionsType = options, names.OPTIONS[kind]
            else:
                packed.builtinOptions2, packed.builtinOptions2Type = options, names.OPTIONS_2[kind]
        packed.customOptions = node.extras.get("custom_options")
        if "intermediates" in node.extras:
            packed.intermediates = _numbers(node.extras["intermediates"], index, where)
        if "mutating_variable_inputs" in node.extras:
            packed.mutatingVariableInputs = list(node.extras["mutating_variable_inputs"])
        packed.debugMetadataIndex = node.extras.get("debug_metadata_index", -1)
        return packed


def _numbers(tensors: Iterable[str], index: dict[str, int], where: str) -> np.ndarray:
    return np.asarray([_number(name, index, where) for name in tensors], np.int32)


def _number(tensor: str, index: dict[str, int], where: str) -> int:
    if tensor not in index:
        raise FormatError(
            f"{where} refers to the tensor '{tensor}', which its graph lacks. Add it to the graph's tensors."
        )
    return index[tensor]


def _operator_code(op: str, version: int, custom_code: str | None) -> Any:
    packed = schema.OperatorCodeT()
    packed.builtinCode = names.OP_CODES[op]
    # Readers of the schema before version 3a know only codes below 127 (PLACEHOLDER_FOR_GREATER_OP_CODES).
    packed.deprecatedBuiltinCode = min(packed.builtinCode, 127)
    packed.version = version
    packed.customCode = None if custom_code is None else _encoded(custom_code)
    return packed


def _signature(signature: Signature, index: dict[str, int]) -> Any:
    def maps(pairs: Iterable[tuple[str, str]]) -> list[Any]:
        result: list[Any] = []
        for name, tensor in pairs:
            entry = schema.TensorMapT()
            entry.name = _encoded(name)
            entry.tensorIndex = _number(tensor, index, f"Signature '{signature.key}'")
            result.append(entry)
        return result

    packed = schema.SignatureDefT()
    packed.signatureKey, packed.subgraphIndex = _encoded(signature.key), signature.graph
    packed.inputs, packed.outputs = maps(signature.inputs), maps(signature.outputs)
    return packed


def _quantization(tensor: Tensor, index: dict[str, int]) -> Any:
    packed = tensor.extras.get("quantization")
    quant = tensor.quant
    if quant is None:
        return packed
    kept, packed = packed, schema.QuantizationParametersT()
    if kept is not None:
        packed.min, packed.max, packed.details, packed.detailsType = (
            kept.min,
            kept.max,
            kept.details,
            kept.detailsType,
        )
    packed.quantizedDimension = quant.axis or 0
    if quant.scale_tensor is None:
        packed.scale = np.asarray(quant.scale, np.float32)
        packed.zeroPoint = np.asarray(quant.zero_point, np.int64)
        return packed
    details = schema.BlockwiseQuantizationT()
    details.scales, details.blockSize = index[quant.scale_tensor], quant.block_size
    details.zeroPoints = index[tensor.extras["block_zero_points"]] if "block_zero_points" in tensor.extras else 0
    if "block_shape" in tensor.extras:
        details.blockShape = list(tensor.extras["block_shape"])
    packed.details, packed.detailsType = details, schema.QuantizationDetails.BlockwiseQuantization
    return packed
