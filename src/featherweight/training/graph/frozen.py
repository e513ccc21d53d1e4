"""Which constants of a float graph stay as they are, because their weights are frozen in the source.

A weight of the source is found again by its values, in any layout; a kernel also where a batch norm was folded into it,
which multiplies each of its output channels. Biases that are found nowhere (zeros, those of folded norms) go with the
kernel, all others with the layer that names tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from featherweight.errors import listed
from featherweight.graph import Node
from featherweight.operators import lookup
from featherweight.training.graph.exposed import Exposed
from featherweight.training.graph.source_weights import SourceWeight
from featherweight.training.graph.weights import Entry

# Channels of fewer elements could be those of any kernel.
_TELLING = 4
# Folding multiplies in float32.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Frozen:
    """What is frozen: the paths of its variables, and notes for the plan."""

    variables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class _Found:
    """The weights of the source that stand behind variables; `folded` are kernels that others were multiplied into."""

    owners: dict[str, list[SourceWeight]] = field(default_factory=dict[str, list[SourceWeight]])
    folded: set[str] = field(default_factory=set[str])


def frozen_in_source(exposed: Exposed, weights: Sequence[SourceWeight]) -> Frozen:
    """Returns which variables of a graph are frozen in the model that it was lowered from.

    Args:
        exposed: the graph.
        weights: of the source.
    """
    if not any(weight.is_frozen for weight in weights):
        return Frozen()
    nodes = {node.name: node for graph in exposed.model.graphs for node in graph.nodes}
    entries = [entry for entry in exposed.table if entry.variable is not None]
    found, variables = _found(exposed, entries, nodes, weights), dict[str, str]()
    for entry in entries:
        variables[entry.tensor] = entry.variable or ""
    for entry in entries:  # kernels are known by now
        kernel = variables.get(_kernel_of(nodes[entry.node], entry.tensor), "")
        if entry.variable not in found.owners:
            owners = found.owners.get(kernel) or _by_name(entry.layer, weights)
            if owners:
                found.owners[entry.variable or ""] = owners
    frozen = tuple(name for name, owners in found.owners.items() if any(weight.is_frozen for weight in owners))
    return Frozen(frozen, tuple(_notes(found, set(frozen), weights)))


def _found(
    exposed: Exposed, entries: Sequence[Entry], nodes: Mapping[str, Node], weights: Sequence[SourceWeight]
) -> _Found:
    """Returns the weights that values tell."""
    by_value: dict[bytes, list[SourceWeight]] = {}
    for weight in weights:
        by_value.setdefault(_digest(weight.value), []).append(weight)
    found, tensors = _Found(), exposed.model.tensors
    for entry in entries:
        array = tensors[entry.tensor].array
        if array is None or entry.variable is None or entry.variable in found.owners or not np.ptp(array):
            continue
        owners = by_value.get(_digest(array))
        if owners is None and (axis := _channel_axis(nodes[entry.node], entry.tensor)) is not None:
            owners = _in_proportion(array, axis, weights)
            found.folded.update([entry.variable] if owners else ())
        if owners:
            found.owners[entry.variable] = owners
    return found


def _digest(array: np.ndarray) -> bytes:
    """Returns what tells values from others, in whatever order they are."""
    return hashlib.blake2b(np.sort(array.astype(np.float32), axis=None).tobytes()).digest()


def _channel_axis(node: Node, name: str) -> int | None:
    op = lookup(node.op)
    return (op.axis or 0) if name == op.input_of(node, op.weight) else None


def _kernel_of(node: Node, name: str) -> str:
    """Returns the kernel that a bias belongs to, or nothing."""
    op = lookup(node.op)
    return op.input_of(node, op.weight) if op.weight is not None and name == op.input_of(node, op.bias) else ""


def _in_proportion(array: np.ndarray, axis: int, weights: Sequence[SourceWeight]) -> list[SourceWeight]:
    """Returns the weights whose output channels are those of a kernel, each times a factor."""
    channels = _shape_of_channels(np.moveaxis(array, axis, 0))
    if channels is None:
        return []
    return [
        weight
        for weight in weights
        if weight.value.size == array.size
        and any(
            other is not None and np.allclose(other, channels, rtol=_TOLERANCE)
            for other in map(_shape_of_channels, _laid_out(weight.value, len(channels)))
        )
    ]


def _laid_out(value: np.ndarray, channels: int) -> Iterator[np.ndarray]:
    """Yields a weight with its output channels first, for each way in which it may have so many."""
    for axis in range(value.ndim):
        if value.shape[axis] == channels:
            yield np.moveaxis(value, axis, 0)
    if value.ndim > 2 and value.shape[-1] * value.shape[-2] == channels:  # depthwise: (kh, kw, in, multiplier)
        yield np.moveaxis(value.reshape(*value.shape[:-2], channels), -1, 0)


def _shape_of_channels(array: np.ndarray) -> np.ndarray | None:
    """Returns two numbers for each channel that a factor does not change; None where they tell nothing."""
    rows = np.abs(array.reshape(len(array), -1).astype(np.float64))
    if rows.shape[1] < _TELLING:
        return None
    largest = np.maximum(rows.max(axis=1), np.finfo(np.float64).tiny)
    return np.stack([rows.sum(axis=1) / largest, np.square(rows / largest[:, None]).sum(axis=1)], axis=1)


def _by_name(layer: str, weights: Sequence[SourceWeight]) -> list[SourceWeight]:
    """Returns the weights of the layer that names tell; its path may begin with a model's name, or lack it."""
    return [
        weight
        for weight in weights
        if weight.layer and (f"/{weight.layer}".endswith(f"/{layer}") or f"/{layer}".endswith(f"/{weight.layer}"))
    ]


def _notes(found: _Found, frozen: set[str], weights: Sequence[SourceWeight]) -> Iterator[str]:
    """Yields what stays, and which layers are trained, or not, with what they were folded into."""
    layers = list(dict.fromkeys(weight.layer or weight.path for weight in weights if weight.is_frozen))
    yield f"frozen in the source, and not trained ({len(frozen)} weights): {listed(map(repr, layers), 5)}"
    known = {id(weight) for owners in found.owners.values() for weight in owners}
    known_layers = {weight.layer for weight in weights if id(weight) in known}
    for is_frozen, others in ((True, found.folded - frozen), (False, found.folded & frozen)):
        lost = [w.layer for w in weights if w.is_frozen == is_frozen and w.layer not in known_layers]
        if lost and others:
            names, words = listed(map(repr, dict.fromkeys(lost)), 5), "frozen" if is_frozen else "trainable"
            yield (
                f"{words} layers {names} have no weights of their own in the graph: what they were folded into is "
                "trained where the layer that it belongs to is"
            )
