"""Constants as TFLite Micro's operator DECODE reads them: encoded values, and what says how to decode them.

The second constant begins with 16 bytes: the coding, version 1, two bytes of nothing, and twelve of the coding's own,
the first of them its version, 1. Source: tensorflow/lite/micro/kernels/decode_state*.{h,cc} and
tensorflow/lite/micro/compression/decode.py of tensorflow/tflite-micro.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.errors import FormatError, listed
from featherweight.graph import Tensor
from featherweight.tflite import huffman

LOOKUP_TABLE, HUFFMAN, PRUNED = "lookup-table", "huffman", "pruned"
_NUMBERS = {LOOKUP_TABLE: 0, HUFFMAN: 1, PRUNED: 2}
_NAMES = {number: name for name, number in _NUMBERS.items()}
CODINGS = tuple(_NUMBERS)

_HEADER_BYTES, _VERSION, _VERSION_AT, _OPTIONS_AT, _STRIDE_AT = 16, 1, 4, 5, 6
_MOST_VALUES = 128  # a table's index has 7 bits
_WIDE_TABLE, _FIRST_TABLE_SHIFT = 1, 4
# By type, what holds the same bits as whole numbers: values are told apart by their bits, -0.0 and NaN too.
_BITS: Mapping[str, type[np.unsignedinteger]] = {
    "bool": np.uint8,
    "int8": np.uint8,
    "int16": np.uint16,
    "int32": np.uint32,
    "int64": np.uint64,
    "float32": np.uint32,
}
_HUFFMAN_LAYOUTS = {"int8": huffman.NARROW, "int16": huffman.WIDE}


@dataclass(frozen=True, eq=False)
class Coded:
    """A constant in one coding.

    Attributes:
        coding: of `CODINGS`.
        values: the encoded values, as bytes.
        ancillary: what says how to decode them, as bytes.
    """

    coding: str
    values: np.ndarray
    ancillary: np.ndarray

    @property
    def stored_bytes(self) -> int:
        """Bytes of both."""
        return self.values.size + self.ancillary.size


def encodings(tensor: Tensor) -> tuple[Coded, ...]:
    """Returns a plain constant in every coding that has a form for it; empty where `obstacle` says why none has."""
    if obstacle(tensor):
        return ()
    found = (encode(tensor) for encode in (_lookup_table, _shared_table, _huffman, _pruned))
    return tuple(coded for coded in found if coded is not None)


def obstacle(tensor: Tensor) -> str:
    """Returns why a constant can't be encoded, or nothing."""
    if tensor.dtype not in _BITS:
        return f"DECODE makes no {tensor.dtype} (it makes {listed(_BITS)})"
    if "sparsity" in tensor.extras:
        return "it is stored sparsely"
    quant = tensor.quant
    if quant is not None and quant.block_size is not None:
        return "it has scales for blocks"
    if quant is not None and any(quant.zero_point):
        return "its zero point is not 0"
    if tensor.elements < 2:
        return "it is one value"
    axis = 0 if quant is None else quant.axis or 0
    channels = _channels(tensor)
    if axis and not (channels > 1 and axis == len(tensor.shape) - 1):
        return f"its scales lie along axis {axis}, and DECODE knows the first and the last"
    return ""


def decoded(tensor: Tensor, values: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    """Returns the array that DECODE makes of two constants.

    Args:
        tensor: the result: its shape, type and scales.
        values: the encoded values, as bytes.
        ancillary: what says how to decode them, as bytes.

    Raises:
        FormatError: for a coding that is not known, or constants that are damaged.
    """
    coding = coding_of(ancillary)
    problem = "" if coding else f"coding {_number_of(ancillary)} is unknown (allowed: {listed(CODINGS)})"
    if coding and ancillary[_VERSION_AT] != _VERSION:
        problem = f"version {ancillary[_VERSION_AT]} of coding '{coding}' is unknown (allowed: {_VERSION})"
    if not problem and tensor.dtype not in _BITS:
        problem = f"its type is {tensor.dtype} (allowed: {listed(_BITS)})"
    if not problem:
        if 0 <= tensor.elements <= 8 * values.size:  # no coding takes less than a bit for each
            try:
                bits = _DECODERS[coding](tensor, values, ancillary)
                return bits.view(np.dtype(tensor.dtype)).reshape(tensor.shape)
            except (IndexError, ValueError, OverflowError):
                pass
        problem = f"its {coding} is damaged"
    raise FormatError(f"Tensor '{tensor.name}' is encoded, and can't be decoded: {problem}. Use the file before that.")


def coding_of(ancillary: np.ndarray) -> str:
    """Returns the coding that a constant of this kind is about; empty where it is unknown."""
    if ancillary.size < _HEADER_BYTES or ancillary[1] != _VERSION:
        return ""
    return _NAMES.get(int(ancillary[0]), "")


def _number_of(ancillary: np.ndarray) -> str:
    return str(int(ancillary[0])) if ancillary.size else "of nothing"


def _coded(coding: str, values: np.ndarray, options: Mapping[int, int], table: np.ndarray) -> Coded:
    header = np.zeros(_HEADER_BYTES, np.uint8)
    header[0], header[1], header[_VERSION_AT] = _NUMBERS[coding], _VERSION, _VERSION
    for place, option in options.items():
        header[place] = option
    return Coded(coding, values, np.concatenate([header, np.ascontiguousarray(table).reshape(-1).view(np.uint8)]))


def _bits(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.array).reshape(-1).view(_BITS[tensor.dtype])


def _channels(tensor: Tensor) -> int:
    return 1 if tensor.quant is None else max(len(tensor.quant.scale), 1)


def _channel_of(tensor: Tensor) -> np.ndarray:
    """Returns the channel of each element, in order, as DECODE counts them: along the last axis, or the first."""
    channels, places = _channels(tensor), np.arange(tensor.elements)
    is_last = tensor.quant is not None and tensor.quant.axis == len(tensor.shape) - 1 and channels > 1
    return places % channels if is_last else places // (tensor.elements // channels)


def _lookup_table(tensor: Tensor) -> Coded | None:
    """A table of values for each channel, and which of them each element is."""
    bits, channels, channel_of = _bits(tensor), _channels(tensor), _channel_of(tensor)
    rows, places = list[np.ndarray](), np.zeros(bits.size, np.int64)
    for channel in range(channels):
        is_own = channel_of == channel
        values, places[is_own] = np.unique(bits[is_own], return_inverse=True)
        rows.append(values)
        if len(values) > _MOST_VALUES:
            return None
    size = max(map(len, rows))
    table = np.stack([np.pad(row, (0, size - len(row))) for row in rows])
    return _indexed(places, table, size)


def _shared_table(tensor: Tensor) -> Coded | None:
    """One table of values for all channels: their tables begin 0 values behind each other."""
    values, places = np.unique(_bits(tensor), return_inverse=True)
    return None if _channels(tensor) == 1 or len(values) > _MOST_VALUES else _indexed(places, values, 0)


def _indexed(places: np.ndarray, table: np.ndarray, stride: int) -> Coded:
    width = max(int(places.max()).bit_length(), 1)
    shifts = np.arange(width)[::-1]
    indices = np.packbits(((places[:, None] >> shifts) & 1).astype(np.uint8))
    return _coded(LOOKUP_TABLE, indices, {_OPTIONS_AT: width, _STRIDE_AT: stride}, table)


def _huffman(tensor: Tensor) -> Coded | None:
    """Short codes for frequent values."""
    return next(iter(huffman_together([tensor])), None)


def huffman_together(tensors: Sequence[Tensor]) -> tuple[Coded, ...]:
    """Returns constants of one type in one Huffman code, so that files hold its tables once; empty without a form."""
    layout = _HUFFMAN_LAYOUTS.get(tensors[0].dtype)
    found = None if layout is None else huffman.encode([_bits(tensor) for tensor in tensors], layout)
    if layout is None or found is None:
        return ()
    streams, tables, first_bits = found
    options = (first_bits - 1) << _FIRST_TABLE_SHIFT | (_WIDE_TABLE if layout is huffman.WIDE else 0)
    return tuple(_coded(HUFFMAN, stream, {_OPTIONS_AT: options}, tables) for stream in streams)


def _pruned(tensor: Tensor) -> Coded | None:
    """A bit for each element that says whether it is there, and those that are."""
    bits = _bits(tensor)
    return _coded(PRUNED, np.packbits(bits != 0), {}, bits[bits != 0])


def _decoded_table(tensor: Tensor, values: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    width, stride, count = int(ancillary[_OPTIONS_AT]) & 7, int(ancillary[_STRIDE_AT]), tensor.elements
    flags = np.unpackbits(values)[: count * width].reshape(count, width).astype(np.int64)
    places = flags @ (1 << np.arange(width, dtype=np.int64)[::-1])
    return _table(tensor, ancillary)[_channel_of(tensor) * stride + places]


def _decoded_huffman(tensor: Tensor, values: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    options = int(ancillary[_OPTIONS_AT])
    layout = huffman.WIDE if options & _WIDE_TABLE else huffman.NARROW
    first_bits = (options >> _FIRST_TABLE_SHIFT) + 1
    symbols = huffman.decode(values, ancillary[_HEADER_BYTES:], first_bits, tensor.elements, layout)
    return symbols.astype(_BITS[tensor.dtype])  # as the kernel does: the low bits


def _decoded_pruned(tensor: Tensor, values: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    is_kept = np.unpackbits(values)[: tensor.elements].astype(bool)
    found = np.zeros(tensor.elements, _BITS[tensor.dtype])
    if tensor.quant is not None and any(tensor.quant.zero_point):
        zeros = np.asarray(tensor.quant.zero_point, np.dtype(tensor.dtype)).view(found.dtype)
        found = zeros[_channel_of(tensor)]
    kept = _table(tensor, ancillary)[: np.count_nonzero(is_kept)]
    if kept.size != np.count_nonzero(is_kept):
        raise ValueError("the values end")
    found[is_kept] = kept
    return found


def _table(tensor: Tensor, ancillary: np.ndarray) -> np.ndarray:
    """Returns what lies behind the header, as values of the tensor's type."""
    dtype = np.dtype(_BITS[tensor.dtype])
    table = ancillary[_HEADER_BYTES:]
    return table[: table.size - table.size % dtype.itemsize].copy().view(dtype)


_Decoder = Callable[[Tensor, np.ndarray, np.ndarray], np.ndarray]
_DECODERS: Mapping[str, _Decoder] = {
    LOOKUP_TABLE: _decoded_table,
    HUFFMAN: _decoded_huffman,
    PRUNED: _decoded_pruned,
}
