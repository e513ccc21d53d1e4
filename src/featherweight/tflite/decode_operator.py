"""TFLite Micro's operator DECODE, which makes weights of encoded constants while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.editor import Editor, with_values, without_unused
from featherweight.tflite.codings import Coded, coding_of, decoded
from featherweight.tflite.lean import ZERO_POINTS

_CUSTOM, _CODE = "CUSTOM", "TFLM_DECODE"


def is_decode(node: Node) -> bool:
    """True for the operator DECODE."""
    return node.op == _CUSTOM and node.custom_code == _CODE


def has_decode(model: Model) -> bool:
    """True where a model has weights that are decoded while it runs."""
    return any(is_decode(node) for graph in model.graphs for node in graph.nodes)


def decode_node(pairs: Sequence[tuple[str, str]], results: Sequence[str]) -> Node:
    """Returns the operator that makes tensors, by name, of (values, ancillary) constants."""
    inputs = tuple(name for pair in pairs for name in pair)
    return Node(_CUSTOM, inputs, tuple(results), custom_code=_CODE)


def decodings(node: Node, graph: Graph) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields (result, values, ancillary) of a DECODE.

    Raises:
        FormatError: if the operator has not two constants for each result.
    """
    inputs = [graph.tensors.get(name) for name in node.inputs]
    parts = [part for part in inputs if part is not None and part.is_constant]
    if len(node.inputs) != 2 * len(node.outputs) or len(parts) != len(inputs):
        raise FormatError(
            f"DECODE '{node.name}' has not two constants for each of its {len(node.outputs)} results. The file is "
            "damaged: copy or convert it again."
        )
    for index, name in enumerate(node.outputs):
        yield graph.tensors[name], parts[2 * index], parts[2 * index + 1]


def codings_of(node: Node, graph: Graph) -> tuple[str, ...]:
    """Returns the codings that a DECODE reads; an empty name for one that is unknown.

    Raises:
        FormatError: as `decodings`.
    """
    return tuple(coding_of(_stored(ancillary)) for _, _, ancillary in decodings(node, graph))


def with_plain_weights(model: Model) -> Model:
    """Returns the model with the constants that its DECODE operators make; without one, the very model.

    Raises:
        FormatError: for a coding that is not known, or a damaged file.
    """
    if not has_decode(model):
        return model
    unread = tuple(what for what in model.extras.get("unread", ()) if what != ZERO_POINTS)  # LiteRT reads them all
    return replace(model, graphs=tuple(map(_plain, model.graphs)), extras={**model.extras, "unread": unread})


def _plain(graph: Graph) -> Graph:
    edit = Editor(graph)
    for node in graph.nodes:
        if not is_decode(node):
            edit.nodes.append(node)
            continue
        for result, values, ancillary in decodings(node, graph):
            array = decoded(result, _stored(values), _stored(ancillary))
            edit.tensors[result.name] = with_values(result, array)
    return without_unused(edit.result(), before=graph)


def _stored(tensor: Tensor) -> np.ndarray:
    assert tensor.data is not None
    return tensor.data


def encoded_constants(name: str, coded: Coded) -> tuple[Tensor, Tensor]:
    """Returns the two constants that a tensor of that name is made of."""
    return constant(f"{name}/encoded", coded.values), constant(f"{name}/ancillary", coded.ancillary)
