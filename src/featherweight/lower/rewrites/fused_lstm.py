"""Keras LSTM layers as one operator each: UNIDIRECTIONAL_SEQUENCE_LSTM, with its state set back at the start of a run.

`marked` puts a named composite in place of every layer that the operator can compute while a model is traced; `fused`
replaces the composites of the converted graph by the operator. The operator keeps its state between runs in two
variable tensors, so two SLICE of constant zeros before it write them anew. (ZEROS_LIKE would not do in integers: it
writes nought, whatever the zero point.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight import keras_internals, operators
from featherweight.errors import LoweringError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.editor import Editor, without_unused
from featherweight.operators.families.recurrent import LSTM

COMPOSITE = "recurrent.lstm"
_GATES = "ifco"  # input, forget, cell, output: Keras's order and the operator's
_ATTRS = {
    "fused_activation_function": "TANH",
    "cell_clip": 0.0,
    "proj_clip": 0.0,
    "time_major": False,
    "asymmetric_quantize_inputs": False,
    "diagonal_recurrent_tensors": False,
}


def marked(call: Callable[..., Any], notes: list[str], *, unroll: bool) -> Callable[..., Any]:
    """Returns a copy of a function that marks the LSTM layers that it calls, for tracing.

    `notes` takes which recurrent layers are not marked, and why; `unroll` says what becomes of those: they are written
    out, or stay loops.
    """
    keras = sys.modules.get("keras")
    if keras is None:
        return call

    def change(twin: Any, layer: Any) -> None:
        if isinstance(layer, keras.layers.RNN):
            twin.call = _marking(twin, notes, unroll=unroll)

    return keras_internals.twin(call, change)


def _marking(layer: Any, notes: list[str], *, unroll: bool) -> Callable[..., Any]:
    """Returns what computes a recurrent layer: the composite, or what it computes itself, with a note."""
    plain = layer.call

    def call(sequences: Any, initial_state: Any = None, mask: Any = None, **options: Any) -> Any:
        reason = _obstacle(layer, sequences, initial_state, mask)
        if reason is None:
            return _composite(layer, sequences)
        instead = "written out step by step" if unroll or layer.unroll else "a loop"
        note = f"{type(layer).__name__} '{layer.name}' is {instead}, not fused: {reason}."
        if note not in notes:
            notes.append(note)
        return plain(sequences, initial_state=initial_state, mask=mask, **options)

    return call


def _obstacle(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> str | None:
    """Returns why the operator can't compute a layer's call, or None."""
    import keras

    if type(layer) is not keras.layers.LSTM or type(layer.cell) is not keras.layers.LSTMCell:
        return f"only LSTM has a fused operator ({LSTM})"
    for what, wanted in (("activation", keras.activations.tanh), ("recurrent_activation", keras.activations.sigmoid)):
        if getattr(layer, what) is not wanted:
            found = getattr(getattr(layer, what), "__name__", str(getattr(layer, what)))
            return f"its {what} is {found} (allowed: {wanted.__name__})"
    obstacles = {
        "its input has a mask": mask is not None,
        "its initial state is given": initial_state is not None,
        "it returns its state": layer.return_state,
        "it keeps its state between calls (stateful)": layer.stateful,
        f"it computes in {sequences.dtype}": str(sequences.dtype) != "float32" or layer.compute_dtype != "float32",
    }
    return next((text for text, is_there in obstacles.items() if is_there), None)


def _composite(layer: Any, sequences: Any) -> Any:
    """Calls the layer as a composite of (sequences, kernel, recurrent kernel, bias)."""
    import jax.numpy as jnp
    from jax import lax

    def shaped(x: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        # Never run: it gives the output's shape, and reads all operands, so that none is left out.
        some = jnp.sum(x, axis=-1, keepdims=True) + jnp.sum(kernel) + jnp.sum(recurrent) + jnp.sum(bias)
        return jnp.broadcast_to(some, (*x.shape[:2], recurrent.shape[0]))

    cell = layer.cell
    bias = jnp.asarray(cell.bias) if cell.use_bias else jnp.zeros(4 * cell.units, sequences.dtype)
    x = jnp.flip(sequences, 1) if layer.go_backwards else sequences
    weights = (jnp.asarray(cell.kernel), jnp.asarray(cell.recurrent_kernel), bias)
    outputs = lax.composite(shaped, COMPOSITE)(x, *weights)
    return outputs if layer.return_sequences else outputs[:, -1]


def fused(model: Model) -> Model:
    """Returns a converted model with the operator in place of every composite.

    Raises:
        LoweringError: if the converter left a composite whose weights are not constants.
    """
    taken = set(model.tensors)
    stored: dict[tuple[str, ...], list[str]] = {}
    decompositions: set[int] = set()
    graphs: list[Graph] = []
    for graph in model.graphs:
        edit = Editor(graph, taken)
        for node in graph.nodes:
            if node.op == "STABLEHLO_COMPOSITE" and _name(node) == COMPOSITE:
                decompositions.add(int(node.attrs["decomposition_subgraph_index"]))
                _fuse(edit, node, stored)
            else:
                edit.nodes.append(node)
        graphs.append(without_unused(edit.result()))
    return _without_graphs(replace(model, graphs=tuple(graphs)), decompositions) if decompositions else model


def _name(node: Node) -> str:
    name = node.attrs["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _fuse(edit: Editor, node: Node, stored: dict[tuple[str, ...], list[str]]) -> None:
    """Adds the nodes that stand for one composite, with their constants and states.

    `stored` holds the operands made of a layer's weights so far: a layer that is called again has the same.
    """
    x = node.inputs[0]

    def added(tensor: Tensor) -> str:
        return edit.add(replace(tensor, name=f"{node.name}/{tensor.name}"))

    if node.inputs[1:] not in stored:
        stored[node.inputs[1:]] = [added(weight) for weight in _weights(node, edit.graph)]
    operands = stored[node.inputs[1:]]
    shape = (*edit.tensors[x].shape[:1], *edit.tensors[operands[-1]].shape)
    states = [added(Tensor(kind, shape, "float32", is_variable=True)) for kind in ("hidden", "cell")]
    inputs = [x, *operands[:8], *[""] * 3, *operands[8:], *[""] * 2, *states, *[""] * 4]
    begin = added(constant("state_begin", np.zeros(2, np.int32)))
    size = added(constant("state_size", np.asarray(shape, np.int32)))
    for state in states:
        zeros = added(constant("initial_state", np.zeros(shape, np.float32)))
        edit.node("SLICE", (zeros, begin, size), (state,))
    edit.node(LSTM, inputs, node.outputs, **_ATTRS)


def _weights(node: Node, graph: Graph) -> list[Tensor]:
    """Returns the input kernels, recurrent kernels and biases of the gates, by names without that of the layer."""
    arrays = [graph.tensors[name].array for name in node.inputs[1:]]
    if len(arrays) != 3 or any(array is None for array in arrays):
        raise LoweringError(
            f"LSTM '{node.name}' can't be fused: the converter did not keep its weights as constants. "
            "Lower it without fuse."
        )
    return [
        constant(f"{kind}_{gate}", part.T)
        for kind, array in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True)
        for gate, part in zip(_GATES, np.split(np.asarray(array), len(_GATES), axis=-1), strict=True)
    ]


def _without_graphs(model: Model, gone: Collection[int]) -> Model:
    """Returns the model without some of its graphs, which nothing calls any more."""
    kept = [index for index in range(len(model.graphs)) if index not in gone]
    number = {old: new for new, old in enumerate(kept)}

    def renumbered(node: Node) -> Node:
        calls = {field: number[node.attrs[field]] for field in operators.lookup(node.op).calls if field in node.attrs}
        return replace(node, attrs={**node.attrs, **calls}) if calls else node

    graphs = [model.graphs[index] for index in kept]
    graphs = [replace(graph, nodes=tuple(renumbered(node) for node in graph.nodes)) for graph in graphs]
    signatures = tuple(replace(s, graph=number[s.graph]) for s in model.signatures if s.graph in number)
    return replace(model, graphs=tuple(graphs), signatures=signatures)
