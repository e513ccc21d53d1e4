"""Which factors the channels of a graph's tensors may have, so that it computes the same with other weights.

Channel c of a tensor may be divided by a factor where the operators before can divide their weights by it, and those
behind multiply theirs. Every channel has a label; channels that must have one factor have one label: those that are
added, pooled, or laid one behind the other. Some labels are fixed, with the reason: theirs is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from featherweight.channels.labels import Labeling
from featherweight.graph import Graph, Node


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that takes factors up: w becomes ``w · factor[reads] / factor[writes]``.

    Attributes:
        position: of the constant among the node's inputs.
        shape: that the constant is broadcast to.
        writes, reads: labels in shapes that broadcast to that.
        bias: position of what is added to the product, and divided as the outputs are; None where there is none.
        is_diagonal: True of a factor for each channel, False of a matrix.
    """

    node: Node
    position: int
    shape: tuple[int, ...]
    writes: np.ndarray
    reads: np.ndarray
    bias: int | None = None
    is_diagonal: bool = False


@dataclass(frozen=True, eq=False)
class Offset:
    """A constant beside channels, such as one that is added: it is divided as they are."""

    node: Node
    position: int
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Cap:
    """An operator that ends in a bound above zero, which is one for all channels: its output is at most `high`."""

    node: Node
    high: float
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Freedom:
    """What may be done to the channels of one graph.

    Attributes:
        channels: tensor → the label of each index of its last axis.
        fixed: label → why its factor is 1.
        count: one more than the largest label.
    """

    graph: Graph
    weights: tuple[Weight, ...]
    offsets: tuple[Offset, ...]
    caps: tuple[Cap, ...]
    channels: Mapping[str, np.ndarray]
    fixed: Mapping[int, str]
    count: int

    @property
    def is_free(self) -> np.ndarray:
        """True for labels whose factor may be another than 1, (count,)."""
        free = np.ones(self.count, bool)
        free[[0, *self.fixed]] = False
        return free


@dataclass(eq=False)
class Books:
    """What is known of a graph while its operators are followed, in order."""

    graph: Graph
    labels: Labeling
    weights: list[Weight] = field(default_factory=list[Weight])
    offsets: list[Offset] = field(default_factory=list[Offset])
    caps: list[Cap] = field(default_factory=list[Cap])
    channels: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def of(self, name: str) -> np.ndarray:
        """Returns the labels of a tensor's channels; those of what nothing is known of are fixed."""
        if name not in self.channels:
            self.channels[name] = self.bound(name, f"'{name}' is computed from what is no real number")
        return self.channels[name]

    def bound(self, name: str, why: str) -> np.ndarray:
        """Returns new labels for a tensor's channels, fixed for a reason."""
        shape = self.graph.tensors[name].shape
        labels = self.labels.fresh(shape[-1] if shape else 1)
        self.labels.fix(labels, why)
        return labels

    def finished(self) -> Freedom:
        """Returns what was found, with one label for all that were joined."""
        done = self.labels.finished()
        roots = np.array([self.labels.root(label) for label in range(done.count)])
        return Freedom(
            self.graph,
            tuple(
                Weight(w.node, w.position, w.shape, roots[w.writes], roots[w.reads], w.bias, w.is_diagonal)
                for w in self.weights
            ),
            tuple(Offset(o.node, o.position, roots[o.labels]) for o in self.offsets),
            tuple(Cap(cap.node, cap.high, roots[cap.labels]) for cap in self.caps),
            {name: roots[labels] for name, labels in self.channels.items()},
            done.fixed,
            done.count,
        )
