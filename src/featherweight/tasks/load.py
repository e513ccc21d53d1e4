"""A float graph from anywhere: files of any kind, live models, graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from featherweight import tflite
from featherweight.errors import FormatError
from featherweight.graph import Model
from featherweight.lower import Lowered, lower_with_notes
from featherweight.passes.legalization import prepare

_FRAMEWORK_FILES = (".keras", ".h5")
# Samples that a model is lowered with, and that its outputs are measured on afterwards.
_PEEKED = 16


def load(
    source: Any,
    *,
    unroll: bool = False,
    fuse: bool = False,
    samples: Iterable[Any] | None = None,
    input_shapes: Any = None,
) -> Model:
    """Returns the float graph of a model: a ``.tflite`` file, a Keras file, or a live framework model.

    Operators without integer kernels are written in ones that have them (`featherweight.passes.legalization`).

    Args:
        source: a path (``.tflite``, ``.keras``, ``.h5``), the bytes of a ``.tflite`` file, a `Model`, or a live model.
        unroll: write recurrent layers out step by step instead of as loops, which full-integer recipes need.
        fuse: write Keras LSTM layers as one operator each, which integer targets have kernels for.
        samples: inputs to verify a lowered model with; a PyTorch module or JAX function needs at least one. Sizes that
            a Keras model leaves free are those of the first.
        input_shapes: shapes with batch (None: free) for inputs of a Keras model that leave sizes free: one shape, a
            list in order, or a dict by name.

    Raises:
        FormatError: if a file can't be read as a model.
        LoweringError: if a framework model can't be lowered, or the result differs from it.
    """
    return load_with_notes(source, unroll=unroll, fuse=fuse, samples=samples, input_shapes=input_shapes).model


def load_with_notes(
    source: Any,
    *,
    unroll: bool = False,
    fuse: bool = False,
    samples: Iterable[Any] | None = None,
    input_shapes: Any = None,
) -> Lowered:
    """Like `load`, with what lowering noted; what it returns can be quantized as it is."""
    loaded = _read_or_lower(source, unroll, fuse, samples, input_shapes)
    return replace(loaded, model=prepare(loaded.model))


def _read_or_lower(source: Any, unroll: bool, fuse: bool, samples: Iterable[Any] | None, input_shapes: Any) -> Lowered:
    if isinstance(source, (Lowered, Model, bytes, bytearray, memoryview)):
        _refuse_shapes(input_shapes, f"a {type(source).__name__}")
        if isinstance(source, Lowered):
            return source
        return Lowered(source if isinstance(source, Model) else tflite.read(source))
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix not in _FRAMEWORK_FILES:
            _refuse_shapes(input_shapes, f"'{path}'")
            return Lowered(tflite.read(path))
        if not path.is_file():
            raise FormatError(f"'{path}' can't be read: there is no such file. Give a .tflite, .keras or .h5 path.")
    return lower_with_notes(source, unroll=unroll, fuse=fuse, samples=samples, input_shapes=input_shapes)


def _refuse_shapes(input_shapes: Any, what: str) -> None:
    if input_shapes is not None:
        raise FormatError(f"input_shapes has no effect on {what}, which says its shapes. Leave it out.")


def peeked(samples: Iterable[Any] | None) -> tuple[list[Any] | None, Iterable[Any] | None]:
    """Returns the first samples, to lower with, and all of them: an iterator is consumed once only."""
    if samples is None or isinstance(samples, (str, bytes, Path, Mapping)) or not isinstance(samples, Iterable):
        return None, samples  # what calibration will say of it stands
    iterator = iter(samples)
    first = list(islice(iterator, _PEEKED))
    if iterator is samples and first:
        samples = chain(first, iterator)
    return first or None, samples
