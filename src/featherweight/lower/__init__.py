"""Lowers a model to the float graph that everything else works on, and verifies it against its source.

Keras 3 models and JAX functions go through StableHLO and `litert-converter`; PyTorch modules through `litert-torch`;
TensorFlow's own converter is the second route for Keras models that TensorFlow runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from featherweight.errors import LoweringError
from featherweight.graph import Model
from featherweight.lower import jax as _jax
from featherweight.lower import keras as _keras
from featherweight.lower import worker as _worker
from featherweight.lower.checking import Lowered
from featherweight.lower.precision import in_float32

__all__ = ["Lowered", "lower", "lower_with_notes"]

_ROUTES = ("auto", "jax", "tensorflow")
# Samples that are kept to verify with.
_KEPT = 3


def lower(
    source: Any,
    *,
    unroll: bool = False,
    fuse: bool = False,
    samples: Iterable[Any] | None = None,
    input_shapes: Any = None,
    route: str = "auto",
) -> Model:
    """Returns the float graph of a model, verified: its outputs equal the source's to float32 rounding.

    Args:
        source: a ``.tflite``, ``.keras`` or ``.h5`` path, a Keras model (any backend), a `torch.nn.Module`, a JAX
            function, or a `Model`, which is returned as it is.
        unroll: write recurrent layers out step by step instead of as loops.
        fuse: write Keras LSTM layers as one operator each, which the integer kernels of microcontrollers know. Layers
            that it can't compute (a mask, another activation, a given state, GRU …) become what `unroll` says, and are
            in the notes of `lower_with_notes`.
        samples: inputs to verify with: an iterable of arrays, tuples in the order of the inputs, or dicts by name.
            The first three are used. A torch module or JAX function needs one to know its shapes; everything else
            is verified with random inputs where none are given.
        input_shapes: shapes with batch (None: free) for inputs of a Keras model that do not say theirs: one shape, a
            list, or a dict. Sizes that stay free, but the batch, are those of the first sample, with a note.
        route: ``auto``; ``jax`` or ``tensorflow`` to choose the converter of a Keras model.

    The batch is free where it is in the source; a batch that had to stay fixed is logged as a warning (and is in the
    notes of `lower_with_notes`).

    Raises:
        LoweringError: if the model can't be loaded, traced or converted, or if the result differs from it.
        FormatError: if a ``.tflite`` file is damaged.

    >>> import numpy as np
    >>> model = lower(lambda x: np.float32(2) * x, samples=[np.ones((1, 4), np.float32)])
    >>> [node.op for node in model.main.nodes]
    ['MUL']
    """
    lowered = lower_with_notes(
        source, unroll=unroll, fuse=fuse, samples=samples, input_shapes=input_shapes, route=route
    )
    return lowered.model


def lower_with_notes(
    source: Any,
    *,
    unroll: bool = False,
    fuse: bool = False,
    samples: Iterable[Any] | None = None,
    input_shapes: Any = None,
    route: str = "auto",
) -> Lowered:
    """Like `lower`, with the notes: what a user should know about the graph besides its being right."""
    if route not in _ROUTES:
        raise LoweringError(f"Unknown route '{route}' (allowed: {', '.join(_ROUTES)}).")
    if isinstance(source, Model):
        return Lowered(source)
    kept = list(islice(samples, _KEPT)) if samples is not None else None
    if isinstance(source, (str, Path)):
        return _lower_path(Path(source), unroll, fuse, kept, input_shapes, route)
    if _keras.is_keras_model(source):
        return _lower_keras(source, unroll, fuse, kept, input_shapes, route)
    if input_shapes is not None and callable(source):
        raise LoweringError(
            f"input_shapes has no effect on a {type(source).__name__}: its shapes are those of the samples. Pass "
            "samples of the shape that you want, and leave input_shapes out."
        )
    if _is_torch_module(source):
        from featherweight.lower import torch

        return torch.lower_module(source, kept, fuse=fuse)
    if callable(source):
        return _lower_function(source, unroll, fuse, kept)
    raise LoweringError(
        f"Can't lower a {type(source).__module__}.{type(source).__qualname__} (allowed: a path to a .tflite, .keras or "
        ".h5 file, a Keras model, a torch.nn.Module, a JAX function)."
    )


def _lower_path(path: Path, unroll: bool, fuse: bool, samples: list[Any] | None, shapes: Any, route: str) -> Lowered:
    suffix = path.suffix.lower()
    if suffix == ".tflite":
        from featherweight.tflite import read

        return Lowered(read(path))
    if suffix not in _keras.SUFFIXES:
        raise LoweringError(
            f"'{path}' has the suffix '{suffix}' (allowed: .tflite, {', '.join(_keras.SUFFIXES)}). "
            "Save a PyTorch module as it is live: pass it to lower()."
        )
    if not path.is_file():
        raise LoweringError(f"There is no file '{path}'. Give the path of a .keras, .h5 or .tflite file.")
    if route == "auto" and _keras.backend() != "jax":
        return _worker.lower_file(path, unroll=unroll, fuse=fuse, samples=samples, input_shapes=shapes)
    return _lower_keras(_keras.load(path), unroll, fuse, samples, shapes, route)


def _lower_keras(model: Any, unroll: bool, fuse: bool, samples: list[Any] | None, shapes: Any, route: str) -> Lowered:
    """Lowers in float32, whatever the layers of the model compute in."""
    _keras.build(model, samples, shapes)
    computing, notes = in_float32(model)
    lowered = _lower_by_route(computing, unroll, fuse, samples, shapes, route)
    return replace(lowered, notes=(*notes, *lowered.notes))


def _lower_by_route(
    model: Any, unroll: bool, fuse: bool, samples: list[Any] | None, shapes: Any, route: str
) -> Lowered:
    """Picks the route: JAX in this process, in another one, or the converter of the backend that the model is on."""
    backend = _keras.backend()
    if route == "tensorflow":
        from featherweight.lower import tensorflow

        return tensorflow.lower_keras(model, unroll=unroll, fuse=fuse, samples=samples, input_shapes=shapes)
    if backend == "jax":
        return _jax.lower_source(_keras.read(model, samples, shapes), unroll=unroll, fuse=fuse, samples=samples)
    return _worker.lower_live(model, unroll=unroll, fuse=fuse, samples=samples, input_shapes=shapes, route=route)


def _lower_function(function: Callable[..., Any], unroll: bool, fuse: bool, samples: list[Any] | None) -> Lowered:
    if not samples:
        raise LoweringError(
            "A JAX function does not say the shapes of its arguments. Pass an example of them: samples=[(x, …)]."
        )
    return _jax.lower_function(function, samples[0], unroll=unroll, fuse=fuse)


def _is_torch_module(source: object) -> bool:
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)
