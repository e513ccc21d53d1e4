"""Sparse tensors of the .tflite format: compressed rows of single values or of blocks.

Source: TensorFlow Lite's schema, SparsityParameters. Of the encodings that the format allows, these are the ones that
runtimes have kernels for: all axes dense but the last, whose stored columns (or blocks of C of them) are listed for
each row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.errors import FormatError
from featherweight.graph import Tensor, constant
from featherweight.graph.editor import with_values
from featherweight.graph.numerics import storage_dtype

_DENSE, _COMPRESSED = 0, 1
# Smallest index vectors first, by the number of the schema's union SparseIndexVector.
_VECTORS = ((2, "Uint16VectorT", np.uint16), (1, "Int32VectorT", np.int32))
_BYTES = (3, "Uint8VectorT", np.uint8)


def is_sparse(tensor: Tensor) -> bool:
    """True for a constant that is stored sparsely."""
    return tensor.extras.get("sparsity") is not None


def encoded(tensor: Tensor, block: int = 1) -> Tensor:
    """Returns a constant stored sparsely: all blocks of `block` consecutive values of the last axis that hold any.

    Raises:
        FormatError: if it is stored sparsely already, has no last axis, or blocks do not divide it.
    """
    array = tensor.array
    if array is None or not array.ndim or array.shape[-1] % block:
        raise FormatError(
            f"Tensor '{tensor.name}' {list(tensor.shape)} can't be stored in blocks of {block}: they must divide its "
            "last axis."
        )
    rows = array.reshape(-1, array.shape[-1] // block, block)
    is_kept = (rows != 0).any(axis=2)
    segments = np.concatenate([[0], np.cumsum(is_kept.sum(axis=1))])
    indices = np.nonzero(is_kept)[1]
    dense = [_dense(size) for size in array.shape[:-1]]
    sparsity: Any = _schema().SparsityParametersT()
    sparsity.traversalOrder = list(range(array.ndim + (block > 1)))
    sparsity.blockMap = [array.ndim - 1] if block > 1 else None
    sparsity.dimMetadata = [*dense, _compressed(segments, indices), *([_dense(block)] if block > 1 else [])]
    kept = constant(tensor.name, rows[is_kept].reshape(-1), tensor.dtype)
    return replace(tensor, data=kept.data, extras={**tensor.extras, "sparsity": sparsity})


def decoded(tensor: Tensor) -> Tensor:
    """Returns a constant that is stored sparsely in dense form; others as they are.

    Raises:
        FormatError: for an encoding other than those of `encoded`, or indices that do not fit the shape.
    """
    sparsity: Any = tensor.extras.get("sparsity")
    if sparsity is None or tensor.data is None:
        return tensor
    *dense, last = tensor.shape or (1,)
    metadata = list(sparsity.dimMetadata or [])
    has_block = len(metadata) == len(tensor.shape) + 1
    block = int(metadata[-1].denseSize) if has_block else 1
    order = [int(axis) for axis in _listed(sparsity.traversalOrder)]
    is_known = (
        order == list(range(len(metadata)))
        and len(metadata) in (len(tensor.shape), len(tensor.shape) + 1)
        and [part.format for part in metadata[: len(dense)]] == [_DENSE] * len(dense)
        and metadata[len(dense)].format == _COMPRESSED
        and (not has_block or _listed(sparsity.blockMap) == [len(tensor.shape) - 1])
    )
    rows = int(np.prod(dense))
    nothing = np.zeros(0, np.int64)
    segments, indices = (_values(metadata[len(dense)], name) if is_known else nothing for name in _PARTS)
    values = tensor.data.view(storage_dtype(tensor.dtype))
    fits = (
        is_known
        and last % block == 0
        and len(segments) == rows + 1
        and segments[0] == 0
        and segments[-1] == len(indices) == values.size // block
        and (np.diff(segments) >= 0).all()
        and (len(indices) == 0 or 0 <= indices.min() <= indices.max() < last // block)
    )
    if not fits:
        raise FormatError(
            f"Tensor '{tensor.name}' is stored in a sparse form that is not understood (understood: the last axis "
            "compressed, in blocks or not). Densify it with the tool that wrote it."
        )
    full = np.zeros((rows, last // block, block), values.dtype)
    full[np.repeat(np.arange(rows), np.diff(segments)), indices] = values.reshape(-1, block)
    extras = {name: value for name, value in tensor.extras.items() if name != "sparsity"}
    return with_values(replace(tensor, extras=extras), full.reshape(tensor.shape))


def _listed(values: Any) -> list[int]:
    """Returns a field that may be left out."""
    return [] if values is None else list(values)


_PARTS = ("arraySegments", "arrayIndices")


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def _dense(size: int) -> Any:
    metadata = _schema().DimensionMetadataT()
    metadata.format, metadata.denseSize = _DENSE, int(size)
    return metadata


def _compressed(segments: np.ndarray, indices: np.ndarray) -> Any:
    metadata = _schema().DimensionMetadataT()
    metadata.format, metadata.denseSize = _COMPRESSED, 0
    for name, values in zip(_PARTS, (segments, indices), strict=True):
        kind, vector = _vector(values)
        setattr(metadata, name, vector)
        setattr(metadata, f"{name}Type", kind)
    return metadata


def _vector(values: np.ndarray) -> tuple[int, Any]:
    """Returns (the union's number, the smallest vector that holds the values)."""
    largest = int(values.max(initial=0))
    kind, name, dtype = next(row for row in (_BYTES, *_VECTORS) if largest <= np.iinfo(row[2]).max)
    vector = getattr(_schema(), name)()
    vector.values = values.astype(dtype)
    return kind, vector


def _values(metadata: Any, name: str) -> np.ndarray:
    vector = getattr(metadata, name)
    return np.zeros(0, np.int64) if vector is None else np.asarray(vector.values).astype(np.int64)
