"""Groups of channels that are interchangeable: they go through the same tensors, so some of them can stay for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.channels.labels import Labeled
from featherweight.graph import Graph


@dataclass(frozen=True)
class Group:
    """Channels that are on the same axes of the same tensors.

    Attributes:
        labels: of the channels, in the order of their indices.
        kernels: uses of the weights whose outputs they are, as in `Labeled.outputs`.
        members: names of those weights.
        operators: names of the operators that multiply by them.
        rows: how many outputs of a weight one channel has, more than one for heads: of the weight that has most.
        reason: why none of them can be removed; empty where some can.
    """

    labels: tuple[int, ...]
    kernels: tuple[tuple[int, int], ...]
    members: tuple[str, ...]
    operators: tuple[str, ...]
    rows: int
    reason: str

    @property
    def channels(self) -> int:
        """The number of outputs that a weight has of this group."""
        return len(self.labels) * self.rows


def find_groups(graph: Graph, labels: Labeled) -> list[Group]:
    """Returns all groups that a weight has outputs in, in the order of the first weight's use."""
    places: dict[int, list[tuple[str | tuple[int, int], int]]] = {}
    for carrier, axes in (*labels.tensors.items(), *labels.constants.items()):
        for axis, values in enumerate(axes):
            for label in np.unique(values[values > 0]).tolist():
                places.setdefault(label, []).append((carrier, axis))
    found: dict[object, list[int]] = {}
    for label in sorted(places):
        found.setdefault((tuple(places[label]), labels.fixed.get(label, "")), []).append(label)
    groups: list[Group] = []
    for values in found.values():
        on = set(places[values[0]])
        kernels = tuple(use for use, axis in labels.outputs.items() if (use, axis) in on)
        if kernels:
            groups.append(_group(graph, labels, tuple(values), kernels))
    return sorted(groups, key=lambda group: group.kernels)


def _group(graph: Graph, labels: Labeled, values: tuple[int, ...], kernels: tuple[tuple[int, int], ...]) -> Group:
    counts = [int((outputs_of(labels, use) == values[0]).sum()) for use in kernels]
    nodes = [graph.nodes[index] for index, _ in kernels]
    members = tuple(node.inputs[position] for node, (_, position) in zip(nodes, kernels, strict=True))
    reason = labels.fixed.get(values[0], "")
    return Group(values, kernels, members, tuple(node.name for node in nodes), max(counts), reason)


def outputs_of(labels: Labeled, use: tuple[int, int]) -> np.ndarray:
    """Returns the labels of a weight's outputs."""
    return labels.constants[use][labels.outputs[use]]


def rows_of(graph: Graph, labels: Labeled, use: tuple[int, int], values: np.ndarray | None = None) -> np.ndarray:
    """Returns a weight, or other values of its shape, with its outputs first, one row for each: (outputs, depth)."""
    array = graph.tensors[graph.nodes[use[0]].inputs[use[1]]].array if values is None else values
    assert array is not None
    rows = np.moveaxis(array, labels.outputs[use], 0)
    return rows.reshape(len(rows), -1)


def magnitudes(graph: Graph, labels: Labeled, group: Group) -> np.ndarray:
    """Returns a score for each channel of a group: the mean of |w| of its rows.

    Each weight's scores are divided by their mean first, so that weights of a group count alike, and channels of
    different groups can be compared.
    """
    total = np.zeros(len(group.labels))
    for use in group.kernels:
        sums = _by_channel(labels, group, use, np.abs(rows_of(graph, labels, use)).mean(axis=1, dtype=np.float64))
        total += sums / max(sums.mean(), np.finfo(np.float64).tiny)
    return total / len(group.kernels)


def taylor(
    graph: Graph, labels: Labeled, groups: Sequence[Group], batches: Iterable[Mapping[str, np.ndarray]]
) -> list[np.ndarray]:
    """Returns, for each group, a score for each channel: the mean over batches of ``(sum of w * dL/dw)²``.

    Molchanov et al., 1906.10771, equation 8, summed over all rows that a channel has, in all weights of the group.

    Args:
        graph: with the weights.
        labels: of its channels.
        groups: of interchangeable channels.
        batches: for each batch, constant → ``w * dL/dw``.
    """
    totals = [np.zeros(len(group.labels)) for group in groups]
    count = 0
    for batch in batches:
        count += 1
        for group, total in zip(groups, totals, strict=True):
            sums = np.zeros(len(group.labels))
            for use, member in zip(group.kernels, group.members, strict=True):
                rows = rows_of(graph, labels, use, batch[member]).sum(axis=1, dtype=np.float64)
                sums += _by_channel(labels, group, use, rows)
            total += sums**2
    return [total / max(count, 1) for total in totals]


def _by_channel(labels: Labeled, group: Group, use: tuple[int, int], values: np.ndarray) -> np.ndarray:
    """Returns the sums of what the outputs of a weight have, for each channel of a group."""
    return np.bincount(outputs_of(labels, use), values, minlength=labels.count)[list(group.labels)]
