"""Where the dropout layers of a Keras model were in the graph that it was lowered to.

Places are not guessed from names. A layer's input is the tensor of the graph that has its values; where that leaves a
choice (several tensors, or several readers), the layer's output is changed, and the place is the one where the same
change gives the graph the Keras model's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from featherweight import keras_internals
from featherweight.errors import FeatherweightError
from featherweight.graph import Model, replace_graph
from featherweight.graph.editor import Editor
from featherweight.runtime import run
from featherweight.training.graph.exposed import Exposed
from featherweight.training.graph.registry import ops
from featherweight.training.qat.dropout import LAYERS, Noise, noise_of

# The same function in float32, in another order.
_AGREES = 1e-3
_Edges = tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Found:
    """The noise that has a place, and what is to be said of the noise that has none."""

    noises: tuple[Noise, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Called:
    """One call of a layer: which of the layer's it is, and its input; None where that could not be read."""

    layer: Any
    index: int
    value: np.ndarray | None


def has_dropout(keras_model: Any) -> bool:
    """True for a model with layers that do something in training only, cells of recurrent layers included."""
    return any(True for _ in _layers(keras_model)) or any(True for _ in _others(keras_model))


def dropout_of(
    keras_model: Any,
    call: Callable[[Any], Sequence[np.ndarray]],
    exposed: Exposed,
    inputs: Mapping[str, np.ndarray],
) -> Found:
    """Returns the dropout and noise of a Keras model, with its places in the float graph.

    Args:
        keras_model: the source.
        call: runs the source, or a copy of it, on the inputs, layer by layer, and returns its outputs in order.
        exposed: the float graph.
        inputs: of the graph, by public name, a few examples.
    """
    layers = list(_layers(keras_model))
    notes = [f"dropout: {what} is left out in training" for what in _others(keras_model)]
    if not layers:
        return Found((), tuple(notes))
    if exposed.batch is not None:
        left = f"dropout: {len(layers)} layer(s) are left out in training, since the graph runs at a fixed batch"
        return Found((), (*notes, left))
    calls: list[_Called] = []
    call(_intercepted(keras_model, layers, calls))
    search = _Search(keras_model, call, exposed, inputs)
    found: list[Noise] = []
    for number, called in enumerate(calls):
        shape = () if called.value is None else called.value.shape[1:]
        noise = noise_of(called.layer, shape, number)
        if noise is None:
            continue
        edges, reason = search.place(called)
        if edges:
            found.append(replace(noise, edges=edges))
        else:
            notes.append(f"dropout: '{called.layer.name}' is left out in training: {reason}")
    return Found(tuple(found), tuple(notes))


class _Search:
    """Looks for places in one graph."""

    def __init__(
        self,
        keras_model: Any,
        call: Callable[[Any], Sequence[np.ndarray]],
        exposed: Exposed,
        inputs: Mapping[str, np.ndarray],
    ) -> None:
        self._keras_model, self._call, self._model, self._inputs = keras_model, call, exposed.model, inputs
        fed = {tensor: inputs[name] for name, tensor in exposed.inputs.items()}
        values: Any = run(exposed.model, inputs, tensors="all")
        self._values: dict[str, np.ndarray] = {**fed, **values}

    def place(self, called: _Called) -> tuple[_Edges, str]:
        """Returns what reads the layer's output; or nothing, and why."""
        if called.value is None:
            return (), "it is inside a loop"
        if called.value.size and np.ptp(called.value) == 0:
            return (), "its input is the same number everywhere on the first sample, which tells no tensor from others"
        tensors = [name for name, value in self._values.items() if _is_same(value, called.value)]
        choices = [edges for name in tensors for edges in self._choices(name)]
        if not choices:
            return (), "nothing in the graph reads a tensor that holds its input"
        if len(choices) == 1:
            return choices[0], ""
        return self._tried(called, choices)

    def _choices(self, tensor: str) -> Iterator[_Edges]:
        """Yields sets of readers of a tensor: all, then each."""
        readers = tuple(
            (node.name, position)
            for node in self._model.main.nodes
            for position, name in enumerate(node.inputs)
            if name == tensor
        )
        if readers:
            yield readers
        if len(readers) > 1:
            yield from ((reader,) for reader in readers)

    def _tried(self, called: _Called, choices: Sequence[_Edges]) -> tuple[_Edges, str]:
        """Returns the choice at which a change of the layer's output gives the Keras model's outputs."""
        assert called.value is not None
        factors = np.random.default_rng(0).uniform(0.5, 1.5, called.value.shape[1:]).astype(np.float32)
        wanted = self._call(_intercepted(self._keras_model, [called.layer], [], factors, called.index))
        differences: list[float] = []
        for edges in choices:
            try:
                results = run(_scaled(self._model, edges, factors), self._inputs)
            except FeatherweightError:  # A change that the graph can't take is not the place.
                differences.append(np.inf)
                continue
            outputs = list(results.values()) if isinstance(results, dict) else [results]
            differences.append(max(_difference(a, b) for a, b in zip(outputs, wanted, strict=True)))
        best = int(np.argmin(differences))
        if differences[best] <= _AGREES:
            return choices[best], ""
        return (), "no place in the graph has the effect that it has in the Keras model"


def _layers(model: Any) -> Iterator[Any]:
    for layer in keras_internals.layers_of(model, with_self=False):
        if isinstance(layer, LAYERS):
            yield layer


def _others(model: Any) -> Iterator[str]:
    """Yields what of a model's noise has no counterpart in `dropout`."""
    cells = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
    for layer in keras_internals.layers_of(model, with_self=False):
        if isinstance(layer, keras.layers.AlphaDropout) and layer.rate:
            yield f"AlphaDropout '{layer.name}'"
        elif isinstance(layer, cells) and (layer.dropout or layer.recurrent_dropout):
            yield f"that inside the recurrent layer of '{layer.path}'"


def _intercepted(
    model: Any,
    layers: Collection[Any],
    calls: list[_Called],
    factors: np.ndarray | None = None,
    index: int | None = None,
) -> Any:
    """Returns a copy of a Keras model that notes the inputs of layers in `calls`, in their order.

    Call number `index` of each of the layers multiplies its input by factors.
    """

    def change(twin: Any, layer: Any) -> None:
        def call(inputs: Any, *_: Any, **__: Any) -> Any:
            number = sum(called.layer is layer for called in calls)
            calls.append(_Called(layer, number, _array(inputs)))
            return inputs if factors is None or number != index else ops.multiply(inputs, factors)

        if layer in layers:
            twin.call = call

    return keras_internals.twin(model, change)


def _array(value: Any) -> np.ndarray | None:
    """Returns a value as an array; None for one that a compiler traces."""
    try:
        return np.asarray(ops.convert_to_numpy(value))
    except (TypeError, RuntimeError):
        return None


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """True for values that agree element by element, whatever their shapes."""
    if one.size != other.size or one.dtype.kind != "f":
        return False
    return _difference(one, other) <= _AGREES


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value."""
    one, other = np.asarray(one, np.float64).reshape(-1), np.asarray(other, np.float64).reshape(-1)
    return float(np.abs(one - other).max(initial=0.0) / max(float(np.abs(other).max(initial=0.0)), 1e-12))


def _scaled(model: Model, edges: _Edges, factors: np.ndarray) -> Model:
    """Returns the graph with one of its tensors multiplied by factors where these edges read it."""
    graph, edit = model.main, Editor(model.main, set(model.tensors))
    tensor = next(
        graph.tensors[node.inputs[position]] for node in graph.nodes for name, position in edges if node.name == name
    )
    weight = edit.constant("dropout_factors", factors.reshape((1, *tensor.shape[1:]) if tensor.shape else ()))
    product = edit.add(replace(tensor, name="dropout_product", data=None, file_name=None))
    for node in graph.nodes:
        at = [position for name, position in edges if name == node.name]
        if at and product not in (made.name for made in edit.nodes):
            edit.node("MUL", (tensor.name, weight), (product,))
        inputs = tuple(product if position in at else name for position, name in enumerate(node.inputs))
        edit.nodes.append(replace(node, inputs=inputs))
    return replace_graph(model, 0, edit.result())
