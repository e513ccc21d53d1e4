"""Reads a Keras 3 model as a `Source`: a pure JAX function over its named inputs, with its weights inside."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import keras_internals
from featherweight.errors import LoweringError, listed
from featherweight.lower.source import Input, Source, Stateful, shape_list, sized, unique_names, with_input_shapes

# The type of seeds: what random layers do to them is no state that a file keeps.
_SEED = "uint32"
SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras_model(source: object) -> bool:
    """Whether `source` is a live Keras model, without importing Keras for the question."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, keras.Model)


def backend() -> str:
    """The backend of Keras in this process; Keras is imported, on JAX unless the caller chose another.

    Raises:
        LoweringError: if Keras, or the backend, is not installed.
    """
    chosen = os.environ.get("KERAS_BACKEND")
    try:
        if "keras" not in sys.modules and not chosen:
            os.environ["KERAS_BACKEND"] = "jax"
        import keras
    except ImportError as error:
        raise LoweringError(
            f"Lowering a Keras model needs Keras and JAX, which can't be imported ({error}). "
            "Install them with: pip install 'featherweight[keras]'."
        ) from error
    finally:
        if not chosen:
            os.environ.pop("KERAS_BACKEND", None)
    return str(keras.config.backend())


def load(path: str | Path) -> Any:
    """Loads a saved model for inference.

    Raises:
        LoweringError: if the file is missing, damaged, or needs a class that is not known here.
    """
    import keras

    if not Path(path).is_file():
        raise LoweringError(f"There is no file '{path}'. Give the path of a .keras or .h5 file.")
    try:
        with keras.saving.custom_object_scope(_legacy_layers()):
            return _loaded(path)
    except Exception as error:  # Keras raises ValueError, TypeError, KeyError, OSError and zipfile's errors.
        said = " ".join(str(error).split())[:400].rstrip(".")
        raise LoweringError(
            f"Keras can't load '{path}': {said}. If it holds classes or functions of your own, load it yourself "
            "(with custom_objects, or safe_mode=False for lambdas) and pass the model instead of the path."
        ) from error


def _legacy_layers() -> dict[str, Any]:
    """Layers whose configuration in files of Keras 2 has a key that Keras 3 refuses."""
    import keras

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
        """Ignores `groups`, which files of Keras 2 give, always as 1."""

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return keras.layers.DepthwiseConv2D(**{k: v for k, v in config.items() if (k, v) != ("groups", 1)})

    return {"DepthwiseConv2D": DepthwiseConv2D}


def build(model: Any, samples: Sequence[Any] | None = None, input_shapes: Any = None) -> None:
    """Builds a live model that is not built yet.

    Args:
        model: of any backend.
        samples: inputs as `lower` takes them.
        input_shapes: shapes with batch: a dict by input name, a list in order, or one shape.

    Raises:
        LoweringError: if the shapes of its inputs are nowhere to be found, or it can't be built on them.
    """
    import keras

    if model.built:
        return
    inputs, pack = _inputs(model, samples, input_shapes)
    arrays = [keras.KerasTensor((item.shape[0] or 1, *item.shape[1:]), item.dtype) for item in inputs]
    try:
        model(*pack(arrays))
    except Exception as error:  # Whatever the model's own code raises.
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise LoweringError(
            f"Keras model '{model.name}' can't be built on {_listed_shapes(inputs)}: {said}."
        ) from error


def read(model: Any, samples: Sequence[Any] | None = None, input_shapes: Any = None) -> Source:
    """Reads a live, built model of the JAX backend; the model stays as it is.

    Args:
        model: built, by `build` for example.
        samples: inputs as `lower` takes them.
        input_shapes: shapes with batch: a dict by input name, a list in order, or one shape.

    Raises:
        LoweringError: if the shapes of its inputs are nowhere to be found.
    """
    inputs, pack = _inputs(model, samples, input_shapes)
    names = _declared_outputs(model)
    assigned: list[Any] = []
    title = f"Keras model '{model.name}'"

    def call(*arrays: Any) -> list[Any]:
        import keras

        with keras_internals.recording_scope() as scope:
            outputs = model(*pack(arrays), training=False)
        names[:] = _declared_outputs(model) or _output_names(outputs)
        assigned[:] = scope.assigned
        return keras.tree.flatten(outputs)

    def stateful() -> Stateful | None:
        kept = [variable for variable in assigned if str(variable.dtype) != _SEED]
        if not kept:
            return None
        named = unique_names([*(item.name for item in inputs), *names, *(variable.path for variable in kept)])
        initial, notes = _initial_values(model, kept, named[-len(kept) :])
        fixed = tuple(replace(i, shape=(1, *i.shape[1:])) if i.has_free_batch else i for i in inputs)
        if fixed != inputs:
            notes += (f"The batch of the {title} is fixed at 1: it keeps state between calls.",)

        def step(*arrays: Any) -> list[Any]:
            import keras

            pairs = list(zip(kept, arrays[len(inputs) :], strict=True))
            with keras.StatelessScope(state_mapping=pairs) as scope:
                outputs = model(*pack(arrays[: len(inputs)]), training=False)
            return [*keras.tree.flatten(outputs), *(scope.get_current_value(variable) for variable in kept)]

        items = [Input(name, value.shape, value.dtype.name) for name, value in initial.items()]
        outputs = (*names, *(f"{name}/next" for name in initial))
        return Source(step, (*fixed, *items), outputs, title, model.name), initial, notes

    return Source(call, inputs, names, title, model.name, stateful)


def _initial_values(
    model: Any, variables: Sequence[Any], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns what variables are when their layers have reset them, by name, and a note on those that none resets."""
    import keras

    with keras.StatelessScope() as scope:
        for layer in keras_internals.layers_of(model):
            name = next((n for n in ("reset_state", "reset_states") if callable(getattr(layer, n, None))), None)
            try:
                getattr(layer, name)() if name else None
            except Exception as error:  # Whatever the layer's own code raises.
                raise LoweringError(
                    f"'{name}' of layer '{layer.name}' raises {type(error).__name__}: {error}. It must set the state "
                    "that the layer begins with."
                ) from error
    found: dict[str, np.ndarray] = {}
    as_now: list[str] = []
    for name, variable in zip(names, variables, strict=True):
        value = scope.get_current_value(variable)
        if value is None:
            value = variable.value
            as_now.append(name)
        found[name] = np.asarray(keras.ops.convert_to_numpy(value))
    note = (
        f"State of the Keras model '{model.name}' begins with the values that it has now ({listed(as_now, 3)}): its "
        "layers have no method reset_state."
    )
    return found, (note,) if as_now else ()


@dataclass(frozen=True)
class Live:
    """A live model of any backend: `call` takes and returns arrays, `trace` the backend's tensors, both flat."""

    title: str
    inputs: tuple[Input, ...]
    outputs: Sequence[str]
    call: Callable[..., list[np.ndarray]]
    trace: Callable[..., list[Any]]
    variables: Sequence[Any]


def read_live(model: Any, samples: Sequence[Any] | None = None, input_shapes: Any = None) -> Live:
    """Reads a live, built model of any backend, to convert or to compare with; arguments and errors as `read`.

    The list of output names fills when it is called first.
    """
    import keras

    inputs, pack = _inputs(model, samples, input_shapes)
    names = _declared_outputs(model)

    def trace(*tensors: Any) -> list[Any]:
        outputs = model(*pack(tensors), training=False)
        names[:] = _declared_outputs(model) or _output_names(outputs)
        return keras.tree.flatten(outputs)

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        with keras.device("cpu"):
            tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
            return [np.asarray(keras.ops.convert_to_numpy(value)) for value in trace(*tensors)]

    variables = [variable.value for variable in model.variables]
    return Live(f"Keras model '{model.name}'", inputs, names, call, trace, variables)


_Inputs = tuple[tuple[Input, ...], Callable[[Sequence[Any]], tuple[Any, ...]]]


def _inputs(model: Any, samples: Sequence[Any] | None, input_shapes: Any) -> _Inputs:
    """Returns the inputs in order, and what packs flat arrays into the arguments that the model is called with."""
    import keras

    structure = keras_internals.structure_of_inputs(model)
    if structure is not None and len(keras.tree.flatten(structure)):
        tensors = keras.tree.flatten(structure)
        named = unique_names(tensor.name for tensor in tensors)
        known = tuple(Input(n, tuple(t.shape), t.dtype) for n, t in zip(named, tensors, strict=True))
        single = len(tensors) == 1 and not isinstance(structure, Mapping)
        pack = _pack_single if single else lambda flat: (keras.tree.pack_sequence_as(structure, list(flat)),)
        return sized(with_input_shapes(known, input_shapes), samples), pack
    if samples:
        return _from_sample(model, samples[0], input_shapes)
    shapes = input_shapes if input_shapes is not None else _shapes_seen(model)
    if shapes is None:
        raise LoweringError(
            f"Keras model '{model.name}' does not say the shapes of its inputs (it is subclassed, or not built). "
            "Pass input_shapes=(None, …), or samples=."
        )
    if isinstance(shapes, Mapping):
        keys = list(shapes)
        inputs = tuple(Input(key, tuple(shapes[key]), model.compute_dtype) for key in keys)
        return inputs, lambda flat: (dict(zip(keys, flat, strict=True)),)
    listed = shape_list(shapes)
    return _unnamed(model, listed, [model.compute_dtype] * len(listed))


def _pack_single(flat: Sequence[Any]) -> tuple[Any, ...]:
    return (flat[0],)


def _from_sample(model: Any, sample: Any, input_shapes: Any) -> _Inputs:
    """Inputs as a sample has them; its first dimension is the batch."""
    if isinstance(sample, Mapping):
        keys = list(sample)
        arrays = [np.asarray(sample[key]) for key in keys]
        found = tuple(Input(k, (None, *a.shape[1:]), a.dtype.name) for k, a in zip(keys, arrays, strict=True))
        return with_input_shapes(found, input_shapes), lambda flat: (dict(zip(keys, flat, strict=True)),)
    arrays = [np.asarray(a) for a in (sample if isinstance(sample, (tuple, list)) else [sample])]
    found, pack = _unnamed(model, [(None, *a.shape[1:]) for a in arrays], [a.dtype.name for a in arrays])
    return with_input_shapes(found, input_shapes), pack


def _unnamed(model: Any, shapes: Sequence[Sequence[int | None]], dtypes: Sequence[str]) -> _Inputs:
    """Several inputs are the arguments of `call`, where it has that many, else one list."""
    arguments = [p.name for p in inspect.signature(model.call).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    arguments = [name for name in arguments if name not in {"training", "mask"}]
    if len(shapes) == 1:
        names, pack = ["input"], _pack_single
    elif len(arguments) >= len(shapes):
        names, pack = arguments[: len(shapes)], tuple
    else:
        names, pack = [f"input_{i}" for i in range(len(shapes))], lambda flat: (list(flat),)
    return tuple(Input(n, tuple(s), d) for n, s, d in zip(names, shapes, dtypes, strict=True)), pack


def _shapes_seen(model: Any) -> Any:
    """The shapes that a subclassed model was built with, its batch made free; None if Keras kept none."""
    config = model.get_build_config() if model.built else None
    shapes = (config or {}).get("input_shape") or (config or {}).get("shapes_dict")
    if shapes is None:
        return None
    if isinstance(shapes, Mapping) and "shapes_dict" not in (config or {}):
        return {key: (None, *shape[1:]) for key, shape in shapes.items()}
    return [
        (None, *shape[1:]) for shape in shape_list(list(shapes.values()) if isinstance(shapes, Mapping) else shapes)
    ]


def _listed_shapes(inputs: Sequence[Input]) -> str:
    """The inputs with their shapes, for a message."""
    return ", ".join(f"{item.name}: {list(item.shape)}" for item in inputs)


def _declared_outputs(model: Any) -> list[str]:
    """Output names of a functional model whose outputs are a list or a single tensor."""
    names = keras_internals.names_of_outputs(model)
    if names is None or isinstance(keras_internals.structure_of_outputs(model), Mapping):
        return []
    return list(unique_names(names))


def _output_names(outputs: Any) -> list[str]:
    """Names from the structure of outputs: dict keys, else numbers."""
    import keras

    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    if paths == [()]:
        return ["output"]
    named = ["_".join(str(part) for part in path) for path in paths]
    return list(unique_names(f"output_{name}" if name[:1].isdigit() else name for name in named))


def _loaded(path: str | Path) -> Any:
    """Loads a model without computing initial values, which the file's replace at once.

    (JAX would compile one program per shape of weight: 13 s of the 15 s that loading a MobileNetV2 took.) Where a
    variable must have its value at once, a state for example, all get theirs.
    """
    import keras

    if keras.config.backend() == "jax":
        with contextlib.suppress(ValueError), keras.StatelessScope() as scope:
            model: Any = keras.saving.load_model(path, compile=False)
            for variable in model.variables:
                value = scope.get_current_value(variable)
                if value is not None:
                    keras_internals.set_initial_value(variable, value)
            return model
    return keras.saving.load_model(path, compile=False)
