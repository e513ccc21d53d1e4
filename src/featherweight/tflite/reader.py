"""Reads a .tflite file into a `Model`: memory-mapped, every field kept, no code per operator."""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, fresh_name
from featherweight.graph.numerics import QuantParams
from featherweight.operators import lookup
from featherweight.tflite import names
from featherweight.tflite.absent_inputs import fill_absent_inputs
from featherweight.tflite.equal_buffers import as_one
from featherweight.tflite.memory_plan import fitted
from featherweight.tflite.names import schema

# Arrays from here on are worth a file of their own.
_LARGE_BYTES = 1 << 20
_DAMAGE = (
    struct.error,
    IndexError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    RecursionError,
)


def read(source: Model | bytes | bytearray | memoryview | str | Path) -> Model:
    """Returns the model that a ``.tflite`` file (or its bytes) holds; a file is mapped, not copied.

    A `Model` is returned as it is.

    Raises:
        FormatError: if the file is missing, empty, truncated, or not a ``.tflite`` model.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, (str, Path)):
        return _parse(_map(Path(source)), f"'{source}'")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(memoryview(source), "the given bytes")
    raise FormatError(
        f"read: source is {shown(source)} (allowed: the path or the bytes of a .tflite file). What featherweight "
        "returned holds its graph in .model; live models and .keras files are for `load`."
    )


def _map(path: Path) -> mmap.mmap | bytes:
    if path.is_dir():
        raise FormatError(
            f"'{path}' can't be read: it is a folder. Give the path of a .tflite file; of a SavedModel, make one with "
            "tf.lite.TFLiteConverter.from_saved_model, or load the Keras model and pass it live."
        )
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        said = getattr(error, "strerror", None) or error
        raise FormatError(f"'{path}' can't be read: {said}. Give the path of a .tflite file.") from error


def _parse(content: Any, where: str) -> Model:
    size = len(content)
    if size < 8 or bytes(content[4:8]) != b"TFL3":
        found = "it is empty" if size == 0 else f"its {size} bytes carry no 'TFL3' identifier"
        raise FormatError(f"{where} is not a .tflite model: {found}. {_way(where)}")
    try:
        return _Reader(fill_absent_inputs(schema.ModelT.InitFromPackedBuf(content, 0)), content).model()
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    except _DAMAGE as error:
        raise FormatError(
            f"{where} is damaged or truncated ({size} bytes; {type(error).__name__}: {error}). Copy or convert it "
            "again."
        ) from error


def _way(where: str) -> str:
    """Returns how to come from another kind of file to one that can be read."""
    suffix = Path(where.strip("'")).suffix.lower()
    if suffix in {".pt", ".pth", ".bin", ".safetensors", ".ckpt"}:
        return "Build the torch module, load the weights into it, and pass the module itself (with samples)."
    if suffix == ".onnx":
        return "Pass the torch module or Keras model that it was exported from, or convert it to .tflite."
    return "Convert the model to .tflite first, or pass the live Keras model, torch module or JAX function."


def release_pages(array: np.ndarray | None) -> None:
    """Gives a memory-mapped constant's pages back to the system; they are read again when next needed."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    if array is None or owner is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = array.__array_interface__["data"][0] - np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        owner.madvise(mmap.MADV_DONTNEED, first, length)


def outside(array: np.ndarray) -> np.ndarray:
    """Returns a read-only copy of a large array in a temporary file, the pages of which can be released; else itself.

    The file has no name, and is gone with the array.
    """
    if array.nbytes < _LARGE_BYTES:
        return array
    with tempfile.TemporaryFile() as file:
        array.tofile(file)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, array.dtype).reshape(array.shape)


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value or ""


def _integers(values: Sequence[int] | None) -> tuple[int, ...]:
    return () if values is None else tuple(int(v) for v in values)


class _Reader:
    """Holds what the parts of one file refer to by index, while they become parts that refer by name."""

    def __init__(self, packed: Any, content: Any) -> None:
        self.packed = packed
        self.bytes = np.frombuffer(content, np.uint8)
        written = {t.buffer for sub in packed.subgraphs or () for t in sub.tensors or () if t.isVariable}
        self.buffers = as_one([self.buffer(b) for b in packed.buffers or ()], written)
        self.taken: set[str] = set()
        self.repeated: dict[str, int] = {}

    def model(self) -> Model:
        """Returns the whole file."""
        packed = self.packed
        if not packed.subgraphs:
            raise FormatError("it has no subgraph. Convert the model again.")
        tensor_names = [self.tensor_names(sub) for sub in packed.subgraphs]
        graphs = tuple(self.graph(sub, own) for sub, own in zip(packed.subgraphs, tensor_names, strict=True))
        metadata: dict[str, bytes] = {}
        for entry in packed.metadata or ():
            metadata[fresh_name(_text(entry.name), metadata)] = self.buffers[entry.buffer]
        extras: dict[str, Any] = {"version": packed.version}
        originals = zip(metadata, packed.metadata or (), strict=True)
        if renamed := {name: _text(entry.name) for name, entry in originals if name != _text(entry.name)}:
            extras["metadata_names"] = renamed
        if packed.metadataBuffer is not None:  # read by nobody: tools leave numbers in it of buffers that are gone
            known = [i for i in packed.metadataBuffer if 0 <= i < len(self.buffers)]
            extras["metadata_buffer"] = tuple(self.buffers[i] for i in known)
        for field in ("externalBufferGroups", "externalBuffers"):
            if getattr(packed, field) is not None:
                extras[field] = getattr(packed, field)
        signatures = tuple(self.signature(s, tensor_names) for s in packed.signatureDefs or ())
        return fitted(Model(graphs, signatures, metadata, _text(packed.description), extras))

    def buffer(self, packed: Any) -> np.ndarray | None:
        """Returns a buffer's bytes, wherever the file keeps them, or None where it has none."""
        if packed.offset > 1:
            return self.outside(packed.offset, packed.size)
        return packed.data if packed.data is None else np.asarray(packed.data, np.uint8)

    def outside(self, offset: int, size: int) -> np.ndarray:
        """Returns bytes that lie after the flatbuffer."""
        if offset + size > self.bytes.size:
            raise FormatError(
                f"a buffer of {size} bytes at offset {offset} lies beyond the file's {self.bytes.size} bytes: it is "
                "truncated. Copy it again."
            )
        return self.bytes[offset : offset + size]

    def tensor_names(self, sub: Any) -> list[str]:
        """Returns a unique name for every tensor of a subgraph, in order."""
        result: list[str] = []
        for index, tensor in enumerate(sub.tensors if sub.tensors is not None else ()):
            wish = name = _text(tensor.name) or f"tensor_{index}"
            while name in self.taken:
                self.repeated[wish] = self.repeated.get(wish, 0) + 1
                name = f"{wish}#{self.repeated[wish]}"
            self.taken.add(name)
            result.append(name)
        return result

    def graph(self, sub: Any, own: list[str]) -> Graph:
        """Returns one subgraph; `own` are its tensors' names."""
        tensors = {name: self.tensor(t, name, own) for name, t in zip(own, sub.tensors or (), strict=True)}
        fed = {*_named(sub.inputs, own), *(n for o in sub.operators or () for n in _named(o.outputs, own))}
        tensors |= {n: replace(t, data=None) for n, t in tensors.items() if _is_absent(t, is_fed=n in fed)}
        nodes = tuple(self.node(operator, own) for operator in sub.operators or ())
        extras = {"debug_metadata_index": sub.debugMetadataIndex} if sub.debugMetadataIndex != -1 else {}
        inputs, outputs = _named(sub.inputs, own), _named(sub.outputs, own)
        if "" in (*inputs, *outputs):
            raise FormatError("an input or output of a subgraph is no tensor. Convert the model again.")
        return Graph(_text(sub.name), inputs, outputs, nodes, tensors, extras)

    def tensor(self, packed: Any, name: str, own: list[str]) -> Tensor:
        """Returns one tensor."""
        if packed.type not in names.DTYPES:
            raise FormatError(f"tensor '{name}' has the unknown type {packed.type}. Update featherweight to read it.")
        extras: dict[str, Any] = {}
        for field, empty in (
            ("sparsity", None),
            ("variantTensors", None),
            ("hasRank", False),
            ("externalBuffer", 0),
        ):
            if getattr(packed, field) != empty:
                extras[field] = getattr(packed, field)
        dtype = names.DTYPES[packed.type]
        quant = _quant(packed.quantization, dtype, own, extras)
        file_name = _text(packed.name)
        return Tensor(
            name,
            _integers(packed.shape),
            dtype,
            self.buffers[packed.buffer],
            quant,
            None if packed.shapeSignature is None else _integers(packed.shapeSignature),
            bool(packed.isVariable),
            None if file_name == name else file_name,
            extras,
        )

    def node(self, packed: Any, own: list[str]) -> Node:
        """Returns one operator."""
        code = self.packed.operatorCodes[packed.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if number not in names.OPS:
            raise FormatError(f"operator code {number} is unknown. Update featherweight to read it.")
        extras: dict[str, Any] = {}
        attrs: dict[str, Any] = {}
        table, options = "", packed.builtinOptions if packed.builtinOptions is not None else packed.builtinOptions2
        if options is not None:
            table, attrs = names.options_to_attrs(options)
        elif packed.builtinOptionsType or packed.builtinOptions2Type:
            raise FormatError(
                f"{names.OPS[number]}: its options are of an unknown kind. Update featherweight to read it."
            )
        if table != lookup(names.OPS[number]).options:
            extras["options"] = table
        if packed.largeCustomOptionsOffset > 1:
            extras["custom_options"] = self.outside(packed.largeCustomOptionsOffset, packed.largeCustomOptionsSize)
        elif packed.customOptions is not None:
            extras["custom_options"] = packed.customOptions
        if packed.intermediates is not None:
            extras["intermediates"] = _named(packed.intermediates, own)
        if packed.mutatingVariableInputs is not None:
            extras["mutating_variable_inputs"] = tuple(bool(v) for v in packed.mutatingVariableInputs)
        if packed.debugMetadataIndex != -1:
            extras["debug_metadata_index"] = packed.debugMetadataIndex
        custom_code = None if code.customCode is None else _text(code.customCode)
        inputs, outputs = _named(packed.inputs, own), _named(packed.outputs, own)
        return Node(names.OPS[number], inputs, outputs, attrs, code.version, custom_code, extras)

    def signature(self, packed: Any, tensor_names: list[list[str]]) -> Signature:
        """Returns one signature."""
        own = tensor_names[packed.subgraphIndex]

        def pairs(maps: Any) -> tuple[tuple[str, str], ...]:
            return tuple((_text(entry.name), own[entry.tensorIndex]) for entry in maps or ())

        return Signature(_text(packed.signatureKey), pairs(packed.inputs), pairs(packed.outputs), packed.subgraphIndex)


def _is_absent(tensor: Tensor, *, is_fed: bool) -> bool:
    """True where the buffer of a tensor holds nothing that is its value: LiteRT takes no bytes for no constant."""
    has_nothing = tensor.data is not None and tensor.data.size == 0 and "externalBuffer" not in tensor.extras
    return has_nothing and (is_fed or tensor.is_variable or tensor.elements > 0)


def _named(indices: Sequence[int] | None, own: list[str]) -> tuple[str, ...]:
    return tuple("" if i < 0 else own[i] for i in _integers(indices))


def _quant(packed: Any, dtype: str, own: list[str], extras: dict[str, Any]) -> QuantParams | None:
    """Returns the tensor's parameters; what `QuantParams` does not model goes to `extras`."""
    if packed is None:
        return None
    details = packed.details
    if isinstance(details, schema.BlockwiseQuantizationT):
        if details.zeroPoints > 0:
            extras["block_zero_points"] = own[details.zeroPoints]
        if details.blockShape is not None:
            extras["block_shape"] = _integers(details.blockShape)
        axis = packed.quantizedDimension
        return QuantParams(dtype, (), (), axis, details.blockSize, own[details.scales])
    if details is not None or packed.min is not None or packed.max is not None:
        extras["quantization"] = _format_only(packed)
    if packed.scale is None or not len(packed.scale):
        return None
    scale = tuple(np.asarray(packed.scale, np.float32).tolist())
    zero_point = _integers(packed.zeroPoint) or (0,)
    if len(zero_point) == 1:  # LiteRT for Microcontrollers takes one for all channels
        zero_point *= len(scale)
    axis = packed.quantizedDimension if len(scale) > 1 or packed.quantizedDimension else None
    return QuantParams(dtype, scale, zero_point, axis)


def _format_only(packed: Any) -> Any:
    """Returns the parts of a quantization record that only the file format knows: min, max and custom details."""
    kept = schema.QuantizationParametersT()
    kept.min, kept.max = packed.min, packed.max
    kept.details, kept.detailsType = packed.details, packed.detailsType
    return kept
