"""A float graph from anywhere: files of any kind, live models, graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from featherweight import tflite
from featherweight.analysis.places import Pair
from featherweight.arguments import can_iterate, checked, flag, shapes, shown, stream
from featherweight.errors import FormatError, LoweringError, listed
from featherweight.graph import Graph, Model
from featherweight.lower import Lowered, keras, lower_with_notes
from featherweight.lower.source import as_row
from featherweight.passes.branches import count_merged
from featherweight.passes.composites import composites
from featherweight.passes.fusing import count_fused
from featherweight.passes.legalization import prepare
from featherweight.repair.factors.units import in_units_of
from featherweight.runtime.samples import by_signature

_ALLOWED = (
    "the path of a .tflite, .keras or .h5 file, the bytes of a .tflite file, a Model, what a function of featherweight "
    "returned, or a live Keras model, torch module or JAX function"
)
# Samples that a model is lowered with, and that its outputs are measured on afterwards.
_PEEKED = 16


@checked(unroll=flag, fuse=flag, samples=stream, input_shapes=shapes)
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
        source: a path (``.tflite``, ``.keras``, ``.h5``), the bytes of a ``.tflite`` file, a `Model`, what a function
            here returned (`Pruned`, `Quantized`, a trained model …), a live Keras model, torch module or JAX function.
        unroll: write recurrent layers out step by step instead of as loops, which full-integer recipes need.
        fuse: write Keras LSTM layers as one operator each, which integer targets have kernels for.
        samples: inputs to verify a lowered model with, an array of examples or any iterable; a PyTorch module or JAX
            function needs at least one. Sizes that a Keras model leaves free are those of the first.
        input_shapes: shapes with batch (None: free) for inputs of a Keras model that leave sizes free: one shape, a
            list in order, or a dict by name.

    Raises:
        FormatError: if a file can't be read as a model.
        LoweringError: if a framework model can't be lowered, or the result differs from it.
    """
    first = peeked(samples)[0] or samples
    return load_with_notes(source, unroll=unroll, fuse=fuse, samples=first, input_shapes=input_shapes).model


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
    layered = _has_layers(source if loaded.source is None else loaded.source)
    model, notes = prepare(loaded.model, keep_layers=layered), loaded.notes
    if gone := [name for name in composites(loaded.model) if name not in composites(model)]:
        notes += (f"Composites were written out in plain operators: {listed(gone)}; a delegate may know their names.",)
    if merged := count_merged(loaded.model, model):
        notes += (f"{merged} convolutions stand for parallel branches, merged with norms and scales; exact in float.",)
    if fused := count_fused(loaded.model, model):
        notes += (f"{fused} activations that were operators of their own are fused into those before them; exact.",)
    return replace(loaded, model=model, notes=notes, source=source if loaded.source is None else loaded.source)


def opened(source: Any, where: str, samples: Iterable[Any] | None = None) -> Model | bytes | Path:
    """Returns a model that runs as it is: a graph, or a ``.tflite`` file; a live model or Keras file is lowered.

    Args:
        source: what `load` takes.
        where: the argument that it was given as, for messages.
        samples: inputs to lower with; without, a torch module or JAX function can't be lowered here.

    Raises:
        FormatError: if it is no model.
        LoweringError: if it can't be lowered.
    """
    source = _held(source, where)
    if isinstance(source, Model):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, Path)) and not _is_framework_file(source):
        return Path(source)
    if samples is None and not isinstance(source, (str, Path)) and not keras.is_keras_model(source):
        raise LoweringError(
            f"{where} is {shown(source)}, whose shapes nothing here tells. Load it first: "
            "fw.load(source, samples=[example]), and pass what that returns."
        )
    return load_with_notes(source, samples=samples).model


def nearest_form(model: Model, other: Model, lower: Callable[[bool], Model]) -> Model:
    """Returns the form of a float model that another was made from: the one in which most of what that rounds is found.

    Recurrent layers may be loops in one, and written out or one operator each in the other; channels may be divided by
    factors.

    Args:
        model: as it was loaded.
        other: what was made of it.
        lower: returns it with recurrent layers written out, or (True) as one operator each where that can be.
    """
    forms = [model]
    if len(model.graphs) > len(other.graphs):
        forms += [lower(False), lower(True)]
    return in_units_of(max(forms, key=lambda form: len(Pair(form, other).places)), other)


def lowered_anew(source: Any, model: Model, samples: Any = None, input_shapes: Any = None) -> Callable[[bool], Model]:
    """Returns what `nearest_form` lowers with: a Keras model in another form, and any other source as it was loaded."""
    is_keras = _is_of_keras(source)

    def lower(fuse: bool) -> Model:
        if not is_keras:
            return model
        return load_with_notes(source, unroll=True, fuse=fuse, samples=samples, input_shapes=input_shapes).model

    return lower


def _held(source: Any, where: str) -> Any:
    """Returns the graph of what a function here returned, and anything else that is a model as it is.

    Raises:
        FormatError: if it is none.
    """
    if isinstance(held := getattr(source, "model", None), Model):
        return held
    if isinstance(source, (Model, bytes, bytearray, memoryview)):
        return source
    if isinstance(source, (str, Path)):
        if not str(source).strip() or "\0" in str(source):
            raise FormatError(f"{where} is {shown(source)} (allowed: {_ALLOWED}).")
        return source
    if keras.is_keras_model(source):
        return _trained(source)
    if isinstance(source, type) or not callable(source):
        hint = " Call the class, and pass what it makes." if isinstance(source, type) else ""
        raise FormatError(f"{where} is {shown(source)} (allowed: {_ALLOWED}).{hint}")
    return source


def _trained(model: Any) -> Any:
    """Returns the file of a model in training, or its graph; other Keras models as they are."""
    from featherweight.training import GraphModel, QuantizedModel, SeveralTargets, float_graph

    if isinstance(model, SeveralTargets):
        names = list(model.models)
        raise FormatError(
            f"The model holds one for each of several targets ({listed(names)}). Pass one, "
            f"model.models['{names[0]}'], or what finalize returns for it."
        )
    if isinstance(model, QuantizedModel):
        from featherweight.tasks.finalize import finalize

        return finalize(model).model
    return float_graph(model) if isinstance(model, GraphModel) else model


def _has_layers(source: Any) -> bool:
    """True for Keras models, by whose layers training places dropout and `unfold` weights, and for graphs: of them."""
    return isinstance(source, Model) or isinstance(getattr(source, "model", None), Model) or _is_of_keras(source)


def _is_of_keras(source: Any) -> bool:
    return keras.is_keras_model(source) or (isinstance(source, (str, Path)) and _is_framework_file(source))


def _is_framework_file(path: str | Path) -> bool:
    return Path(path).suffix.lower() in keras.SUFFIXES


def _read_or_lower(source: Any, unroll: bool, fuse: bool, samples: Iterable[Any] | None, input_shapes: Any) -> Lowered:
    if isinstance(source, Lowered):
        _refuse_shapes(input_shapes, "a lowered model")
        return source
    source = _held(source, "the model")
    if isinstance(source, (Model, bytes, bytearray, memoryview)):
        _refuse_shapes(input_shapes, f"a {type(source).__name__}")
        return Lowered(source if isinstance(source, Model) else tflite.read(source))
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not _is_framework_file(path):
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
    if samples is None or isinstance(samples, (str, bytes, Path, Mapping)) or not can_iterate(samples):
        return None, samples  # what calibration will say of it stands
    if hasattr(samples, "shape") and hasattr(samples, "dtype"):  # an array of examples: each becomes a batch of one
        array: Any = samples
        return [array[i : i + 1] for i in range(min(len(array), _PEEKED))] or None, samples
    iterator = iter(samples)
    first = list(islice(iterator, _PEEKED))
    if iterator is samples and first:
        samples = chain(first, iterator)
    return first or None, samples


def as_fed(first: list[Any] | None, graph: Graph) -> list[Any] | None:
    """Returns the first samples, of `peeked`, as a graph takes them."""
    if first is None or not graph.inputs:
        return first
    rank = len(graph.tensors[graph.inputs[0]].shape)
    return [as_row(sample, rank) for sample in first]


def peeked_parts(samples: Any, model: Model) -> dict[int, tuple[list[Any] | None, Any]]:
    """Returns graph → (its first samples, all of them), for the graphs that samples are given for."""
    parts = by_signature(samples, model)
    found = {index: peeked([part] if isinstance(part, Mapping) else part) for index, part in parts.items()}
    return {index: (as_fed(first, model.graphs[index]), part) for index, (first, part) in found.items()}
