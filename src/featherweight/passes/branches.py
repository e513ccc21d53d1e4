"""The pass that merges parallel linear branches: what networks are trained with, and one convolution computes.

Sums of convolutions of one tensor, of its batch norm and of itself (Ding et al., 2101.03697), and what scales and
shifts channels behind them.
"""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np

from featherweight import operators
from featherweight.graph import Graph, Model, Node, Tensor, consumers, producers
from featherweight.graph.editor import Editor, without_orphans, without_unused
from featherweight.operators.call import fused_activation
from featherweight.passes.linear_forms import Form, behind, form_of, identity, is_convolution, total
from featherweight.passes.merged_convolutions import Merged, Place, kernel_of, place_of, power, ways, written

Names = Set[str]
_SUMS = ("ADD", "SUB")
_ROOTS = (*_SUMS, "MUL")
_LINEAR = frozenset({*_ROOTS, "PAD"})
# A tree of branches has no more operators than this.
_LONGEST = 64
# Weights of which more are zero are pruned; of so few values, clustered: merged ones would be neither.
_MANY_ZEROS = 0.25
_FEW_VALUES = 256
# What eight bits may lose of merged weights, times what they lose of the branches' (1 dB); and what of all they may.
_MOST_LOST = 10**0.1
_NEVER_LOST = 10**-4.2


def merged_branches(graph: Graph, taken: Names = frozenset()) -> Graph:
    """Trees of linear operators over one tensor become one convolution of it, where it costs no more than they do.

    It has no more multiply-accumulates and weights than the operators that nothing else reads, of which it leaves
    fewer. Where one branch's weights are so much larger than another's that a scale for each channel would not hold
    both in eight bits, what each channel counts of itself stays a product of its own, and single pixels a convolution;
    or all does. Weights that are pruned or clustered are left alone, and what adds a tensor to one convolution of it.
    """
    while (merged := _merged_once(graph, taken)) is not graph:
        graph = merged
    return graph


def _merged_once(graph: Graph, taken: Names) -> Graph:
    edit, trees = Editor(graph, set(taken)), _Trees(graph)
    gone: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in gone:
            continue
        found = trees.merged(node) if node.op in _ROOTS else None
        if found is None:
            edit.nodes.append(node)
        else:
            source, merged, replaced = found
            gone |= replaced
            edit.nodes += reversed(written(edit, node, source, merged))
    edit.nodes.reverse()
    return without_unused(without_orphans(edit.result(), graph), before=graph) if gone else graph


class _Trees:
    """Finds what can be merged in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made, self.read = producers(graph), consumers(graph)
        self.position = {node.name: index for index, node in enumerate(graph.nodes)}

    def merged(self, root: Node) -> tuple[str, Merged, frozenset[str]] | None:
        """Returns (source of a tree, what takes the place of the tree, the operators that go with it).

        It is the largest tree that ends in a node and can be merged, into as few operators as hold its weights.
        """
        for source, tree in self._candidates(root):
            gone = self._read_by_none_else(root, tree)
            weighted = [node for node in tree if node.name in gone and is_convolution(node)]
            is_residual = len(weighted) == 1 and len(gone) == 2 and len(self._operands(root)) == 2
            form = self._form(tree, source) if weighted and not is_residual else None
            place = None if form is None else place_of(form)
            if form is None or place is None or not self._may_be_cheaper(form, place, gone):
                continue
            if any(_is_compressed(self.graph.tensors[node.inputs[1]]) for node in weighted):
                continue
            kernel, rounded = kernel_of(form, place), self._form(tree, source, rounded=True)
            before = 0.0 if rounded is None else power(kernel_of(rounded, place) - kernel)
            allowed = max(_MOST_LOST * before, _NEVER_LOST * power(kernel))
            for merged in ways(form, kernel, place):
                if merged.lost <= allowed and self._is_cheaper(form, merged, source, gone):
                    return source, merged, gone
        return None

    def _candidates(self, root: Node) -> list[tuple[str, list[Node]]]:
        """Returns (source, operators in order) of the trees that end in a node; the largest first."""
        front, tree, found = {root.name}, list[Node](), list[tuple[str, list[Node]]]()
        while len(tree) < _LONGEST:
            last = max(front, key=lambda name: self.position[self.made[name].name] if name in self.made else -1)
            link = self.made.get(last)
            if link is None or not self._is_link(link, root):
                break
            tree.append(link)
            front.remove(last)
            front |= set(self._operands(link))
            if len(front) == 1:
                found.append((next(iter(front)), tree[::-1]))
        return [(source, tree) for source, tree in reversed(found) if self._is_image(source)]

    def _is_link(self, node: Node, root: Node) -> bool:
        if (
            not (node.op in _LINEAR or is_convolution(node))
            or len(node.outputs) != 1
            or len(node.inputs) < 2
            or not self._operands(node)
        ):
            return False
        is_plain = node is root or fused_activation(node) == "NONE"
        return is_plain and self._is_image(node.name) and all(map(self._is_image, self._operands(node)))

    def _operands(self, node: Node) -> list[str]:
        """Returns what an operator reads that is computed."""
        return [name for name in node.inputs if name and not self.graph.tensors[name].is_constant]

    def _is_image(self, name: str) -> bool:
        tensor = self.graph.tensors[name]
        free = tensor.shape_signature or tensor.shape
        sizes = len(tensor.shape) == len(free) == 4 and all(size > 0 for size in (*tensor.shape, *free[1:]))
        return sizes and tensor.is_float and not tensor.is_variable

    def _read_by_none_else(self, root: Node, tree: list[Node]) -> frozenset[str]:
        """Returns the operators of a tree that go with its root."""
        dead = {root.name}
        for node in reversed(tree[:-1]):
            readers = self.read.get(node.name, ())
            if node.name not in self.graph.outputs and all(reader.name in dead for reader in readers):
                dead.add(node.name)
        return frozenset(dead)

    def _form(self, tree: list[Node], source: str, *, rounded: bool = False) -> Form | None:
        """Returns what a tree makes of its source; `rounded` with integers for weights."""
        forms = {source: identity(self.graph.tensors[source])}
        for node in tree:
            operands = self._operands(node)
            if len(operands) == 2:
                one, other = (forms[name] for name in node.inputs[:2])
                form = total(one, other, -1 if node.op == "SUB" else 1) if node.op in _SUMS else None
            else:
                outer = form_of(node, operands[0], self.graph, rounded=rounded)
                form = None if outer is None else behind(outer, forms[operands[0]])
            shape = self.graph.tensors[node.name].shape
            if form is None or (*form.extents, form.channels[1]) != shape[1:]:
                return None
            forms[node.name] = form
        return forms[tree[-1].name]

    def _may_be_cheaper(self, form: Form, place: Place, gone: Names) -> bool:
        """True unless the kernel alone is larger than all weights that go: before any number is computed."""
        weights = math.prod(place.size) * form.channels[0] // form.groups * form.channels[1]
        return weights <= self._weights(gone)

    def _is_cheaper(self, form: Form, merged: Merged, source: str, gone: Names) -> bool:
        """True where it has no more multiply-accumulates and weights than what goes, and fewer operators."""
        pixels = self.graph.tensors[source].shape[0] * math.prod(form.extents)
        products = sum(branch.kernel.size for branch in merged.branches if branch.stored)
        work = pixels * (products + (len(merged.branches) - 1) * form.channels[1])
        before = sum(self._work(self.made[name]) for name in gone)
        stored = sum(branch.stored for branch in merged.branches)
        return 0 < merged.operators < len(gone) and stored <= self._weights(gone) and work <= before

    def _weights(self, gone: Names) -> int:
        """Returns how many numbers are stored for these operators alone."""
        names = {name for each in gone for name in self.made[each].inputs if name}
        own = [name for name in names if all(reader.name in gone for reader in self.read[name])]
        return sum(t.elements for t in (self.graph.tensors[name] for name in own) if t.is_constant)

    def _work(self, node: Node) -> int:
        """Returns the multiply-accumulates of an operator, and those that elementwise ones would be."""
        elements = self.graph.tensors[node.name].elements if node.op in _ROOTS else 0
        return operators.macs(node, self.graph) or elements


def _is_compressed(weight: Tensor) -> bool:
    values = np.asarray(weight.array)
    if np.count_nonzero(values) < (1 - _MANY_ZEROS) * values.size:
        return True
    return values.size >= 4 * _FEW_VALUES and len(np.unique(values)) <= _FEW_VALUES


def count_merged(before: Model, after: Model) -> int:
    """Returns how many convolutions of one model stand for trees of operators of another."""
    known = before.tensors.keys()
    nodes = [node for graph in after.graphs for node in graph.nodes if is_convolution(node)]
    return sum(node.inputs[1] not in known for node in nodes)
