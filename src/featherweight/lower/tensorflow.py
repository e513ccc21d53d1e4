"""The second route for Keras models, where TensorFlow is installed: its own converter."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import keras_internals
from featherweight.errors import LoweringError
from featherweight.graph import Model, Signature
from featherweight.lower import names
from featherweight.lower.checking import Check, Lowered, checked, unfused, with_recurrent_styles
from featherweight.lower.converter import SIGNATURE
from featherweight.lower.keras import Live
from featherweight.lower.source import Input, first_samples


def lower_keras(model: Any, *, unroll: bool, fuse: bool, samples: Sequence[Any] | None, input_shapes: Any) -> Lowered:
    """Lowers a live Keras model through `tf.lite.TFLiteConverter`, verified against the model.

    It is lowered at a fixed batch that is freed afterwards. A model on another backend is saved, and lowered in a
    process with the TensorFlow backend.

    Raises:
        LoweringError: if TensorFlow is not installed or its converter fails, or if the result differs.
    """
    from featherweight.lower import keras as keras_models
    from featherweight.lower import worker

    if keras_models.backend() != "tensorflow":
        with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            options: dict[str, Any] = {"unroll": unroll, "fuse": fuse, "samples": samples, "input_shapes": input_shapes}
            return worker.lower_file(path, **options, route="tensorflow")
    layers = [layer for layer in keras_internals.layers_of(model) if hasattr(layer, "unroll")]
    traced = keras_internals.twin(model, _unroll) if unroll and layers else model
    source = keras_models.read_live(traced, samples, input_shapes)
    source.call(*[np.zeros(item.at(1), item.dtype) for item in source.inputs])  # Names the outputs.
    given = first_samples(samples, source.inputs)
    check = Check(source.title, source.inputs, source.outputs, lambda arrays, _: source.call(*arrays), samples=given)
    lowered = checked(check, lambda size: _converted(source, size))
    lowered = with_recurrent_styles(lowered, is_unrolled=unroll and bool(layers))
    return unfused(lowered, "TensorFlow's converter") if fuse and layers else lowered


def _converted(source: Live, size: int) -> Model:
    from featherweight.tflite import read

    tf = _tensorflow()
    specs = [tf.TensorSpec(item.at(size), item.dtype, name=f"input_{i}") for i, item in enumerate(source.inputs)]

    def call(*arrays: Any) -> dict[str, Any]:
        return {f"output_{i}": output for i, output in enumerate(source.trace(*arrays))}

    module = tf.Module()
    module.held = list(source.variables)  # A saved function may use only what its module holds.
    module.call = tf.function(call, input_signature=specs, autograph=False)
    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        try:
            tf.saved_model.save(module, folder, signatures=module.call.get_concrete_function())
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            data = converter.convert()
        except Exception as error:  # The converter raises several types, none of them documented.
            said = " ".join(str(error).split())[:400].rstrip(".")
            raise LoweringError(
                f"TensorFlow's converter refused the {source.title}: {said}. "
                "Register its own classes with keras.saving.register_keras_serializable, so that it can be lowered on "
                "Keras's JAX backend, or write loops out (unroll=True)."
            ) from error
    return _named(read(data), source.inputs, source.outputs)


def _named(model: Model, inputs: Sequence[Input], outputs: Sequence[str]) -> Model:
    """Puts the public names into the signature, in order."""
    found = model.signatures[0]
    by_name, results = dict(found.inputs), dict(found.outputs)
    named_inputs = tuple((item.name, by_name[f"input_{i}"]) for i, item in enumerate(inputs))
    named_outputs = tuple((name, results[f"output_{i}"]) for i, name in enumerate(outputs))
    graph = replace(
        model.main,
        inputs=tuple(tensor for _, tensor in named_inputs),
        outputs=tuple(tensor for _, tensor in named_outputs),
    )
    signature = Signature(SIGNATURE, named_inputs, named_outputs)
    graphs = (graph, *model.graphs[1:])
    return names.renamed(replace(model, graphs=graphs, signatures=(signature,), metadata={}))


def _unroll(twin: Any, layer: Any) -> None:
    """Sets `unroll` on a copy of a recurrent layer."""
    if hasattr(layer, "unroll"):
        twin.unroll = True


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise LoweringError(
            f"TensorFlow's converter needs TensorFlow, which can't be imported ({error}). "
            "Install it with: pip install 'featherweight[tensorflow]'."
        ) from error
    return tensorflow
