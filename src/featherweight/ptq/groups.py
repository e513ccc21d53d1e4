"""Tensors that must share their parameters, because operators copy integers from one to the other."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from featherweight import operators
from featherweight.errors import listed
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators.scale_groups import sharing, united
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.ranges import Ranges

# How much wider than a tensor those must be that share its grid for it to keep its own: what that wins its other
# readers (12 dB in 8 bits; in 16 bits, those beyond what 8-bit weights leave), for one conversion.
_MUCH_WIDER = {"int8": 4.0, "int16": 32.0}
# Below so many steps, 15 dB are left of a part of an output at best.
_FEWEST_STEPS = 8
# The same where float costs no more than a conversion of the parts instead of the whole.
_FEWEST_STEPS_OF_FLOAT = 32

Links = list[tuple[str, str]]


class Join(NamedTuple):
    """An operator that brings several tensors onto the grid of its output, and one of them."""

    node: Node
    source: str
    result: str


def integer_nodes(graph: Graph, forms: Forms) -> Iterator[tuple[Node, str]]:
    """Yields (node, its activation type) of all nodes that compute in integers."""
    for node in graph.nodes:
        if dtype := forms.activation(node):
            yield node, dtype


def fixed_outputs(graph: Graph, forms: Forms) -> dict[str, QuantParams]:
    """Returns the outputs whose parameters kernels prescribe."""
    fixed: dict[str, QuantParams] = {}
    for node, dtype in integer_nodes(graph, forms):
        if found := operators.lookup(node.op).fixed_output.get(dtype):
            scale, zero_point = found
            fixed |= {name: QuantParams(dtype, (scale,), (zero_point,)) for name in node.outputs}
    return fixed


def tied_groups(
    graph: Graph,
    forms: Forms,
    dtypes: Mapping[str, str],
    ranges: Ranges,
    fixed: dict[str, QuantParams],
    kept: Iterable[Sequence[str]] = (),
) -> list[list[str]]:
    """Returns the tensors in groups that must share parameters; a fixed output only joins where it fits.

    Where an operator joins a narrow tensor with wide ones, it is one group only if nothing is gained by two.

    Args:
        graph: a float graph.
        forms: what its operators compute in.
        dtypes: the integer types of its tensors.
        ranges: of its tensors.
        fixed: parameters that kernels prescribe; those of groups that take them over are added.
        kept: for each variable, the tensors that hold its value.
    """

    def fits(names: list[str], params: QuantParams) -> bool:
        """True if the ranges of all tensors lie within what the parameters can hold, or they are fixed themselves."""
        qmin, qmax = integer_range(params.dtype)
        low, high = (params.scale[0] * (q - params.zero_point[0]) for q in (qmin - 1, qmax + 1))
        measured = [ranges.of(name, dtypes[name]) for name in names if name not in fixed]
        return all(low <= a and b <= high for a, b in measured)

    links: Links = []
    joins: list[Join] = []
    for node, dtype in integer_nodes(graph, forms):
        tied = [name for name in sharing(node) if dtypes.get(name) == dtype]
        if ranges.stats is not None and _joins(node, graph) and tied[:1] == [node.outputs[0]]:
            joins += [Join(node, name, tied[0]) for name in dict.fromkeys(tied[1:])]
        else:
            links += [(tied[0], other) for other in tied[1:]]
    for values in kept:
        same = [name for name in values if dtypes.get(name) == dtypes.get(values[0])]
        links += [(values[0], other) for other in same[1:]]
    free = [join for join in joins if not fixed.keys() & {join.source, join.result}]
    free_links = [pair for pair in links if not fixed.keys() & set(pair)]
    shared = _worth_sharing(graph, dtypes, ranges, free_links, free)
    grouped: dict[str, list[str]] = {}
    roots = united(dtypes, [*free_links, *shared])
    for name, root in roots.items():
        grouped.setdefault(root, []).append(name)
    # A fixed output passes its parameters on where the group's values fit into its range.
    for first, second in (*links, *((join.result, join.source) for join in joins if join not in free)):
        for source, other in ((first, second), (second, first)):
            if source in fixed and other not in fixed and fits(grouped[roots[other]], fixed[source]):
                fixed |= dict.fromkeys(grouped[roots[other]], fixed[source])
    return [[n for n in names if n not in fixed] for names in grouped.values() if any(n not in fixed for n in names)]


def notes_on_parts(graph: Graph, ranges: Ranges, params: Mapping[str, QuantParams]) -> list[str]:
    """Returns a note for each output that joins parts of unlike range, if its grid leaves hardly anything of one."""
    notes: list[str] = []
    for output in dict.fromkeys(graph.outputs):
        if hidden := _hidden(output, graph, ranges, params, _FEWEST_STEPS):
            parts = listed([f"'{name}' ({low:.3g} to {high:.3g})" for name, (low, high) in hidden.items()], 3)
            notes.append(
                f"output '{output}' mixes parts of unlike range: in steps of {params[output].scale[0]:.3g}, hardly "
                f"anything is left of {parts}; give them an output of their own"
            )
    return notes


def unlike_tails(graph: Graph, ranges: Ranges, params: Mapping[str, QuantParams]) -> list[tuple[Node, str]]:
    """Returns the operators that join parts of unlike range at an output, with the reason to keep them float there.

    What is joined has its own steps then, and the operators only copy.
    """
    found: dict[str, tuple[Node, str]] = {}
    for output in dict.fromkeys(graph.outputs):
        if hidden := _hidden(output, graph, ranges, params, _FEWEST_STEPS_OF_FLOAT):
            reason = f"it brings '{next(iter(hidden))}' and wider ranges to one output: in float each keeps its steps"
            waiting = [output]
            while waiting:
                node = ranges.made[waiting.pop()]
                parts = [name for name in _tied(node, graph, params) if _parts(name, graph, ranges, params)]
                found[node.name] = node, reason
                waiting += parts
    return list(found.values())


def _hidden(
    output: str, graph: Graph, ranges: Ranges, params: Mapping[str, QuantParams], steps: int
) -> dict[str, tuple[float, float]]:
    """Returns the parts of an output that have less than so many steps on its grid, with their ranges."""
    if output not in params:
        return {}
    spans = {name: ranges.of(name, params[output].dtype) for name in _parts(output, graph, ranges, params)}
    return {name: span for name, span in spans.items() if 0 < span[1] - span[0] < steps * params[output].scale[0]}


def _parts(name: str, graph: Graph, ranges: Ranges, params: Mapping[str, QuantParams]) -> list[str]:
    """Returns the tensors that a tensor's values were joined from, on its grid; none where nothing was joined."""
    node = ranges.made.get(name)
    op = operators.lookup(node.op) if node is not None else None
    if node is None or op is None or not op.is_mover:
        return []
    tied = _tied(node, graph, params)
    deeper = [_parts(part, graph, ranges, params) or ([part] if len(tied) > 1 else []) for part in tied]
    return list(dict.fromkeys(part for parts in deeper for part in parts))


def _tied(node: Node, graph: Graph, params: Mapping[str, QuantParams]) -> list[str]:
    """Returns the computed inputs of a node that its output's parameters are for, too."""
    tied = operators.lookup(node.op).same_scale
    return [t.name for i, t in graph.float_inputs(node) if i in tied and not t.is_constant and t.name in params]


def _joins(node: Node, graph: Graph) -> bool:
    """True for an operator whose output holds values of several tensors of one scale."""
    same_scale = operators.lookup(node.op).same_scale
    return sum(position in same_scale for position, _ in graph.float_inputs(node)) > 1


class _Grids:
    """Groups of tensors that share a grid, as they grow: how wide each is, and how narrow what would gain by its own.

    A group gains where something else than a join reads it. Both are by the name that stands for the group.
    """

    def __init__(
        self, graph: Graph, dtypes: Mapping[str, str], ranges: Ranges, links: Links, joins: list[Join]
    ) -> None:
        self.roots = united(dtypes, links)
        self.dtypes = dtypes
        self.widths: dict[str, float] = dict.fromkeys(self.roots.values(), 0.0)
        self.narrowest: dict[str, float] = dict.fromkeys(self.roots.values(), math.inf)
        joined = {(join.node.name, join.source) for join in joins}
        concerned = {self.roots[name] for join in joins for name in (join.source, join.result)}
        members = [name for name, root in self.roots.items() if root in concerned]
        for name in members:
            spans = [ranges.of(name, dtypes[name]), *ranges.compared(name)]
            width = max(max(high, 0.0) - min(low, 0.0) for low, high in spans)
            self.widths[self.roots[name]] = max(self.widths[self.roots[name]], width)
        for name in members:
            root, readers = self.roots[name], ranges.read.get(name, ())
            is_read = any(
                (node.name, name) not in joined and all(self.roots.get(o) != root for o in node.outputs)
                for node in readers
            )
            if (is_read or name in graph.outputs) and self.widths[root]:
                self.narrowest[root] = self.widths[root]

    def find(self, name: str) -> str:
        """Returns the name that stands for a tensor's group."""
        root = self.roots[name]
        while self.roots[root] != root:
            root = self.roots[root]
        return root

    def loss(self, join: Join) -> float:
        """Returns how much coarser the grid of both of a join's groups is than that of what would gain by its own."""
        source, result = self.find(join.source), self.find(join.result)
        gains = [self.narrowest[source]]
        # What comes from coarse integers stays coarse: a finer grid serves only other values that are joined with them.
        others = [self.find(j) for j in join.node.inputs if j in self.roots]
        if any(self.widths[j] * _MUCH_WIDER[self.dtypes[source]] <= self.widths[source] for j in others):
            gains.append(self.narrowest[result])
        return max(self.widths[source], self.widths[result]) / min(gains) if source != result else 0.0

    def unite(self, join: Join) -> None:
        """Makes a join's groups one."""
        source, result = self.find(join.source), self.find(join.result)
        self.roots[source] = result
        self.widths[result] = max(self.widths[source], self.widths[result])
        self.narrowest[result] = min(self.narrowest[source], self.narrowest[result])


def _worth_sharing(graph: Graph, dtypes: Mapping[str, str], ranges: Ranges, links: Links, joins: list[Join]) -> Links:
    """Returns the pairs (output, input) of joined tensors that share a grid; inputs are converted to it elsewhere.

    The most alike come first, so that a tensor shares the grid of the narrowest of those that it is joined with.
    """
    if not joins:
        return []
    grids = _Grids(graph, dtypes, ranges, links, joins)
    kept: Links = []
    waiting = [(grids.loss(join), index) for index, join in enumerate(joins)]
    heapq.heapify(waiting)
    while waiting:
        loss, index = heapq.heappop(waiting)
        join = joins[index]
        current = grids.loss(join)
        if current > loss:  # groups have grown since
            heapq.heappush(waiting, (current, index))
        elif current < _MUCH_WIDER[dtypes[join.source]]:
            grids.unite(join)
            kept.append((join.result, join.source))
    return kept
