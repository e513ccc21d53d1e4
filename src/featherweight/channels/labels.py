"""Labels of channels: which indices of which axes stand for the same channel, and so must go together.

Each axis of each float tensor gets one integer for each index. Equal labels are one channel: a convolution's output c,
what a residual addition adds to it, and the column of the weight that reads it. Label 0 is on what can't be removed
from an axis: batches, positions, features of the model's inputs. What a label may be joined with is the business of
the rules (`channels.rules_of_products`, `channels.rules_of_movers`); this module keeps the books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featherweight.graph import Graph, Node, Tensor

Axes = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Labeled:
    """The labels of one graph, once all rules have been applied.

    Attributes:
        tensors: tensor computed or fed → labels, one array per axis.
        constants: (index of the node, position of the input) → labels of a constant in this use.
        outputs: position of a weight, as in `constants` → the axis of its outputs.
        fixed: label → why the channel can't be removed.
        count: one more than the largest label.
    """

    tensors: dict[str, Axes]
    constants: dict[tuple[int, int], Axes]
    outputs: dict[tuple[int, int], int]
    fixed: dict[int, str]
    count: int


def unlabeled(shape: Sequence[int]) -> Axes:
    """Returns label 0 for each index.

    >>> [axis.tolist() for axis in unlabeled((1, 2))]
    [[0], [0, 0]]
    """
    return tuple(np.zeros(size, np.int64) for size in shape)


@dataclass(eq=False)
class Labeling:
    """Labels while rules are applied: a union-find over channels.

    Attributes:
        graph: whose tensors are labeled.
        index: of the node that is looked at.
        tensors, constants, outputs: as in `Labeled`, before joined labels are replaced.
    """

    graph: Graph
    index: int = 0
    tensors: dict[str, Axes] = field(default_factory=dict[str, Axes])
    constants: dict[tuple[int, int], Axes] = field(default_factory=dict[tuple[int, int], Axes])
    outputs: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    _parents: list[int] = field(default_factory=lambda: [0])
    _fixed: dict[int, str] = field(default_factory=dict[int, str])
    _kernel_axes: dict[tuple[str, int], np.ndarray] = field(default_factory=dict[tuple[str, int], np.ndarray])
    _kernel_uses: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def fresh(self, count: int) -> np.ndarray:
        """Returns new labels."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tensor(self, node: Node, position: int) -> Tensor | None:
        """Returns an input of a node, None where it has none."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        return self.graph.tensors[name] if name else None

    def of(self, node: Node, position: int) -> Axes:
        """Returns the labels of an input; 0 for constants."""
        tensor = self.tensor(node, position)
        assert tensor is not None
        return self.tensors.get(tensor.name) or unlabeled(tensor.shape)

    def label_constant(self, position: int, axes: Axes) -> None:
        """Labels a constant in this use of it."""
        self.constants[self.index, position] = axes

    def kernel(self, node: Node, position: int, axis: int, labels: np.ndarray | None = None) -> np.ndarray:
        """Labels one axis of a weight, with new labels by default, and returns them; a shared weight's are joined.

        An axis of one index gets label 0: what is left of a layer can't be removed.
        """
        name = node.inputs[position]
        self._kernel_uses.append((self.index, position))
        known = self._kernel_axes.get((name, axis))
        if known is None:
            size = self.graph.tensors[name].shape[axis]
            known = (self.fresh(size) if size > 1 else np.zeros(1, np.int64)) if labels is None else labels
        elif labels is not None:
            known = self.join(known, labels, f"the weight '{name}' is shared with {node.op} '{node.name}'")
        self._kernel_axes[name, axis] = known
        return known

    def join(self, a: np.ndarray, b: np.ndarray, why: str) -> np.ndarray:
        """Makes labels one, index by index, and returns them; what is joined with 0 becomes fixed, and says why."""
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            if one and other:
                self._unite(one, other)
            elif one or other:
                self._fix(one or other, why)
        return np.where(a == 0, b, a)

    def fix(self, labels: np.ndarray, why: str) -> np.ndarray:
        """Makes channels fixed, and returns label 0 for their axis."""
        for label in set(labels.tolist()) - {0}:
            self._fix(label, why)
        return np.zeros_like(labels)

    def is_fixed(self, labels: np.ndarray) -> bool:
        """True where one of these channels can't be removed, as far as is known."""
        return any(self.root(label) in self._fixed for label in set(labels.tolist()))

    def unite_all(self, labels: np.ndarray, why: str) -> int:
        """Makes all these labels one, and returns it; 0, and the others fixed, if there is a 0 among them."""
        if (labels == 0).any():
            self.fix(labels, why)
            return 0
        values = labels.ravel().tolist()
        for other in values[1:]:
            self._unite(values[0], other)
        return values[0]

    def root(self, label: int) -> int:
        """Returns the label that stands for all that were joined with it."""
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def finished(self) -> Labeled:
        """Returns the labels, each replaced by the one that stands for it."""
        roots = np.array([self.root(label) for label in range(len(self._parents))])

        def rooted(axes: Axes) -> Axes:
            return tuple(roots[axis] for axis in axes)

        constants = dict(self.constants)
        for index, position in self._kernel_uses:
            tensor = self.graph.tensors[self.graph.nodes[index].inputs[position]]
            empty = unlabeled(tensor.shape)
            constants[index, position] = tuple(
                self._kernel_axes.get((tensor.name, axis), empty[axis]) for axis in range(len(empty))
            )
        return Labeled(
            {name: rooted(axes) for name, axes in self.tensors.items()},
            {use: rooted(axes) for use, axes in constants.items()},
            dict(self.outputs),
            dict(self._fixed),
            len(roots),
        )

    def _unite(self, one: int, other: int) -> None:
        a, b = self.root(one), self.root(other)
        if a == b:
            return
        a, b = min(a, b), max(a, b)
        self._parents[b] = a
        if (why := self._fixed.pop(b, None)) is not None:
            self._fixed.setdefault(a, why)

    def _fix(self, label: int, why: str) -> None:
        self._fixed.setdefault(self.root(label), why)
