"""Feeds samples of real numbers to models that take integers, and reads integers back as real numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.errors import DataError, listed
from featherweight.graph import Graph, Model, Tensor, io_names, replace_graph
from featherweight.graph.numerics import INTEGER_BITS, dequantize, quantize
from featherweight.runtime.progress import track
from featherweight.runtime.samples import as_feeds, has_free_batch, known_length

# What the tensors that are read out of one run may take together.
_FETCHED_BYTES = 128 << 20
_LARGEST_BATCH = 32


def dequantized(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns the real numbers that a tensor's values stand for; values that are no quantized integers unchanged."""
    return dequantize(values, tensor.quant) if tensor.quant is not None and takes_integers(tensor) else values


def stored_numbers(tensor: Tensor, graph: Graph) -> np.ndarray:
    """Returns the real numbers that a constant of a graph stands for; integers in blocks have scales of their own.

    Raises:
        DataError: if the scales of blocks are not stored.
    """
    stored, params = np.asarray(tensor.array), tensor.quant
    if params is None or params.scale_tensor is None:
        return dequantized(stored, tensor)
    scale = graph.tensors[params.scale_tensor].array
    if scale is None or params.block_size is None:
        raise DataError(
            f"The scales '{params.scale_tensor}' of quantized blocks are not stored in the model. Convert it again."
        )
    # scale[row, block] × q along the last axis; LiteRT's blocks have no zero point of their own.
    spread = np.repeat(scale.astype(np.float32).reshape(*stored.shape[:-1], -1), params.block_size, axis=-1)
    return stored.astype(np.float32) * spread


def takes_integers(tensor: Tensor) -> bool:
    """True for quantized integers: values that stand for real numbers."""
    return tensor.quant is not None and bool(tensor.quant.scale) and tensor.dtype in INTEGER_BITS


def real_view(model: Model) -> Model:
    """Returns the model as if its quantized inputs took float32: to check samples of real numbers against."""
    graph = model.main
    tensors = dict(graph.tensors)
    for name in graph.inputs:
        if takes_integers(tensors[name]):
            tensors[name] = replace(tensors[name], dtype="float32", quant=None)
    return replace_graph(model, 0, replace(graph, tensors=tensors))


def real_samples(samples: Iterable[Any], model: Model) -> Iterator[Any]:
    """Yields samples as real numbers: arrays that are in a quantized input's own integer type are dequantized."""
    inputs = {name: model.main.tensors[tensor] for name, tensor in io_names(model)[0].items()}

    def real(value: Any, tensor: Tensor | None) -> Any:
        is_own = tensor is not None and takes_integers(tensor) and str(getattr(value, "dtype", "")) == tensor.dtype
        return dequantized(np.asarray(value), tensor) if tensor is not None and is_own else value

    ordered = list(inputs.values())
    for sample in samples:
        if isinstance(sample, Mapping):
            yield {name: real(value, inputs.get(name)) for name, value in sample.items()}
        elif isinstance(sample, tuple) and len(sample) == len(ordered):
            yield tuple(real(value, tensor) for value, tensor in zip(sample, ordered, strict=True))
        else:
            yield real(sample, ordered[0] if len(ordered) == 1 else None)


def real_feeds(
    samples: Iterable[Any], model: Model, *, limit: int | None, batch: int, label: str, progress: bool
) -> Iterator[dict[str, np.ndarray]]:
    """Yields checked feeds of real numbers, with a progress bar on terminals if wished.

    Raises:
        DataError: if a sample does not fit the model, or there are none.
    """
    if progress:
        length = known_length(samples)
        samples = track(samples, label, total=length if limit is None or length is None else min(limit, length))
    if any(takes_integers(model.main.tensors[name]) for name in model.main.inputs):
        samples, model = real_samples(samples, model), real_view(model)
    return as_feeds(samples, model, limit=limit, batch=batch)


def integer_feeds(feeds: Mapping[str, np.ndarray], model: Model) -> dict[str, np.ndarray]:
    """Returns feeds (by public input name) with real numbers quantized where the model takes integers."""
    inputs = io_names(model)[0]
    result: dict[str, np.ndarray] = {}
    for name, values in feeds.items():
        tensor = model.main.tensors[inputs[name]]
        if tensor.quant is not None and takes_integers(tensor) and values.dtype.kind == "f":
            values = quantize(values, tensor.quant)
        result[name] = values
    return result


def matched_names(before: Model, after: Model) -> dict[str, str]:
    """Maps the first model's public input names to the second's: by name, else, where the names differ, by position.

    Raises:
        DataError: if the numbers of inputs or their shapes differ.
    """
    first, second = io_names(before)[0], io_names(after)[0]
    if len(first) != len(second):
        raise DataError(
            f"The float model has {len(first)} inputs ({listed(first)}), the other {len(second)} ({listed(second)}): "
            "these are not two versions of one model. Give two that are."
        )
    names = {n: n for n in first} if set(first) == set(second) else dict(zip(first, second, strict=True))
    for name, other in names.items():
        shape = before.main.tensors[first[name]].shape
        other_shape = after.main.tensors[second[other]].shape
        if shape[1:] != other_shape[1:]:
            raise DataError(
                f"Input '{name}' has the shape {list(shape)} in the float model, but {list(other_shape)} in the "
                "other: these are not two versions of one model. Give two that are."
            )
    return names


def batch_size(model: Model, fetched: Iterable[str], *others: Model) -> int:
    """Returns how many examples to run at once, so that fetched tensors take little memory: 1 to 32.

    A model of fixed batch wants just its own.
    """
    for other in (model, *others):
        for name in other.main.inputs:
            tensor = other.main.tensors[name]
            if tensor.shape and not has_free_batch(tensor):
                return max(tensor.shape[0], 1)
    per_run = sum(4 * math.prod(model.main.tensors[name].shape) for name in fetched)
    return max(1, min(_LARGEST_BATCH, _FETCHED_BYTES // max(per_run, 1)))
