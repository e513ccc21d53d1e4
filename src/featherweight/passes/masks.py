"""The pass that takes the largest value of each row away from masks that are added to the scores of a softmax.

A mask of −10,000 may lie over a whole row: a padded position asks, and nothing may answer. The softmax of floats is
then that of the scores alone, for it is the same for ``x`` and ``x − c``; integers that hold such a sum have no room
for the scores in it. Without the row's largest value, a mask of a whole row is 0, and the softmax is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np

from featherweight.calibration.infinity import holding_infinity
from featherweight.graph import Graph, Node, Tensor, consumers, producers
from featherweight.graph.editor import Editor, is_plain, without_orphans
from featherweight.operators import lookup
from featherweight.operators.relevance import LARGEST_ORDINARY

Names = Set[str]
# A float beside a number as large as this has steps of 1/16 and more: its sum holds nothing of scores, integers or not.
_LARGEST_MASK = float(1 << 20)
_SUMS, _CHOICES = ("ADD", "SUB"), ("SELECT_V2", "SELECT")


def masks_without_row_maxima(graph: Graph, taken: Names = frozenset()) -> Graph:
    """``softmax(x + m)`` becomes ``softmax(x + (m − max m))``, the maximum of each row; the same but for rounding.

    It is done where m is a constant with a row of nothing but large negative numbers, or is computed for each row from
    what is kept: ``(1 − keep) · −1e4``, a choice between 0 and −1e4.
    """
    masks = holding_infinity(graph)
    made, read, edit = producers(graph), consumers(graph), Editor(graph, set(taken))
    if not any(lookup(node.op).normalizes_rows for node in graph.nodes):
        return graph
    ahead: dict[str, Node] = {}
    for node in graph.nodes:
        if lookup(node.op).normalizes_rows and (found := _masked_sum(node, graph, made, read, masks)) is not None:
            ahead[found.name] = found
    rows = _Rows(graph, made, edit)
    for node in graph.nodes:
        position = _mask_position(ahead[node.name], graph, masks) if node.name in ahead else None
        name = None if position is None else rows.without_maximum(node.inputs[position], -1 if _is_taken(node) else 1)
        if position is None or name is None:
            edit.nodes.append(node)
        else:
            inputs = tuple(name if index == position else given for index, given in enumerate(node.inputs))
            edit.nodes.append(replace(node, inputs=inputs))
    return without_orphans(edit.result(), graph)


def _is_taken(node: Node) -> bool:
    """True for a difference: what is masked is taken away from the scores."""
    return node.op == "SUB"


def _masked_sum(
    node: Node, graph: Graph, made: Mapping[str, Node], read: Mapping[str, tuple[Node, ...]], masks: Set[str]
) -> Node | None:
    """Returns the sum of scores and mask that a softmax reads, and nothing else does, if it reads one."""
    row, name = graph.tensors[node.inputs[0]].shape[-1:], node.inputs[0]
    while name in made and len(read[name]) == 1 and name not in graph.outputs:
        before = made[name]
        if before.op in _SUMS and is_plain(before, before.op):
            is_found = graph.tensors[name].shape[-1:] == row and _mask_position(before, graph, masks) is not None
            return before if is_found else None
        if lookup(before.op).axes != "reshape" or graph.tensors[before.inputs[0]].shape[-1:] != row:
            return None
        name = before.inputs[0]
    return None


def _mask_position(node: Node, graph: Graph, masks: Set[str]) -> int | None:
    """Returns which operand of a sum is a mask of whole rows; None where none is, or both are."""
    is_mask = [
        name in masks and graph.tensors[name].shape[-1:] == graph.tensors[node.name].shape[-1:] for name in node.inputs
    ]
    found = [index for index, each in enumerate(is_mask) if each]
    allowed = (1,) if _is_taken(node) else (0, 1)
    return found[0] if len(found) == 1 and found[0] in allowed else None


@dataclass
class _Rows:
    """Writes tensors without the largest (1) or smallest (−1) value of each row, once each."""

    graph: Graph
    made: Mapping[str, Node]
    edit: Editor
    known: dict[tuple[str, int], str | None] = field(default_factory=dict[tuple[str, int], "str | None"])

    def without_maximum(self, name: str, sense: int) -> str | None:
        """Returns what holds a mask without its rows' largest values (smallest where it is taken away), or None."""
        if (name, sense) not in self.known:
            tensor = self.graph.tensors[name]
            found = self._constant(tensor, sense) if tensor.is_constant else self._computed(name, sense)
            self.known[name, sense] = found
        return self.known[name, sense]

    def _constant(self, tensor: Tensor, sense: int) -> str | None:
        if "sparsity" in tensor.extras:
            return None
        values = sense * np.asarray(tensor.array, np.float32)
        largest = values.max(axis=-1, keepdims=True)
        is_masked = (largest <= -LARGEST_ORDINARY) & (values.min(axis=-1, keepdims=True) >= -_LARGEST_MASK)
        if not is_masked.any():
            return None
        return self.edit.constant(f"{tensor.name}/rows", sense * np.where(is_masked, values - largest, values))

    def _computed(self, name: str, sense: int) -> str | None:
        node, tensor = self.made.get(name), self.graph.tensors[name]
        if node is None or not _has_rows(tensor):
            return None
        if lookup(node.op).axes == "reshape":
            whole = self.graph.tensors[node.inputs[0]]
            before = self.without_maximum(whole.name, sense) if whole.shape[-1:] == tensor.shape[-1:] else None
            return None if before is None else self._again(node, (before, *node.inputs[1:]))
        if is_plain(node, "MUL"):
            return self._product(node, sense)
        return self._choice(node, sense) if node.op in _CHOICES else None

    def _product(self, node: Node, sense: int) -> str | None:
        """A mask ``u · c``: of u, what is kept is the end that c makes the largest of the row."""
        for u, factor in (node.inputs, node.inputs[::-1]):
            c = _number(self.graph.tensors[factor])
            if c is None or not LARGEST_ORDINARY <= abs(c) <= _LARGEST_MASK:
                continue
            tensor = self.graph.tensors[u]
            if tensor.is_constant or tensor.shape != self.graph.tensors[node.name].shape or self._is_done(u):
                return None
            end = self._new(tensor, "end", (*tensor.shape[:-1], 1))
            axes = self.edit.constant(f"{u}/axis", np.array([len(tensor.shape) - 1], np.int32))
            self.edit.node("REDUCE_MAX" if sense * c > 0 else "REDUCE_MIN", (u, axes), (end,), keep_dims=True)
            rest = self._new(tensor, "rows", tensor.shape)
            self.edit.node("SUB", (u, end), (rest,))
            return self._again(node, tuple(rest if name == u else name for name in node.inputs))
        return None

    def _choice(self, node: Node, sense: int) -> str | None:
        """A mask ``c ? a : b`` of two numbers: where it would take the lower one in a whole row, it takes the other."""
        condition, shape = self.graph.tensors[node.inputs[0]], self.graph.tensors[node.name].shape
        a, b = (_number(self.graph.tensors[name]) for name in node.inputs[1:])
        if a is None or b is None or condition.is_constant or condition.shape != shape or self._is_done(condition.name):
            return None
        lower, higher = sorted((sense * a, sense * b))
        if not (-_LARGEST_MASK <= lower <= -LARGEST_ORDINARY < higher):
            return None
        is_kept = sense * a > sense * b  # where the condition is true; else that is what is masked
        masked, end = condition.name, self._new(condition, "end", (*shape[:-1], 1))
        if is_kept:
            masked = self._new(condition, "no", shape)
            self.edit.node("LOGICAL_NOT", (condition.name,), (masked,))
        axes = self.edit.constant(f"{condition.name}/axis", np.array([len(shape) - 1], np.int32))
        self.edit.node("REDUCE_ALL", (masked, axes), (end,), keep_dims=True)
        rows = self._new(condition, "rows", shape)
        if is_kept:
            self.edit.node("LOGICAL_OR", (condition.name, end), (rows,))
        else:
            some = self._new(condition, "some", (*shape[:-1], 1))
            self.edit.node("LOGICAL_NOT", (end,), (some,))
            self.edit.node("LOGICAL_AND", (condition.name, some), (rows,))
        return self._again(node, (rows, *node.inputs[1:]))

    def _is_done(self, name: str) -> bool:
        """True for what this pass has written: it depends on an end of its own rows."""
        node = self.made.get(name)
        ends = [self.made.get(other) for other in node.inputs] if node is not None else []
        return any(end is not None and _is_of_rows(end, self.made, self.graph) for end in ends)

    def _new(self, like: Tensor, suffix: str, shape: Iterable[int]) -> str:
        signature = None if like.shape_signature is None else (*like.shape_signature[:-1], tuple(shape)[-1])
        name = f"{like.name}/{suffix}"
        return self.edit.add(replace(like, name=name, shape=tuple(shape), shape_signature=signature, file_name=None))

    def _again(self, node: Node, inputs: tuple[str, ...]) -> str:
        result = self.edit.add(replace(self.graph.tensors[node.name], name=f"{node.name}/rows", file_name=None))
        self.edit.nodes.append(replace(node, inputs=inputs, outputs=(result,)))
        return result


def _is_of_rows(node: Node, made: Mapping[str, Node], graph: Graph) -> bool:
    """True for a reduction of each row to one value, or its opposite."""
    if node.op == "LOGICAL_NOT" and node.inputs[0] in made:
        node = made[node.inputs[0]]
    shape = graph.tensors[node.name].shape
    return lookup(node.op).is_reduction and shape == (*graph.tensors[node.inputs[0]].shape[:-1], 1)


def _has_rows(tensor: Tensor) -> bool:
    """True for a mask of rows of their own: one row for all is masked as a whole in no sample that says anything."""
    return len(tensor.shape) > 1 and tensor.shape[-1] > 1 and tensor.shape[-2] > 1


def _number(tensor: Tensor) -> float | None:
    """Returns the one value that a float constant holds, if it is finite."""
    values = tensor.array if tensor.is_constant and tensor.is_float and "sparsity" not in tensor.extras else None
    if values is None or not values.size or not np.isfinite(values).all() or values.min() != values.max():
        return None
    return float(values.flat[0])
