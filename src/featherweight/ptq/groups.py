"""Tensors that must share their parameters, because operators copy integers from one to the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from featherweight import operators
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators.scale_groups import sharing, united
from featherweight.ptq.forms import Forms
from featherweight.ptq.ranges import Ranges


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

    links: list[tuple[str, str]] = []
    for node, dtype in integer_nodes(graph, forms):
        tied = [name for name in sharing(node) if dtypes.get(name) == dtype]
        links += [(tied[0], other) for other in tied[1:]]
    for values in kept:
        same = [name for name in values if dtypes.get(name) == dtypes.get(values[0])]
        links += [(values[0], other) for other in same[1:]]
    grouped: dict[str, list[str]] = {}
    roots = united(dtypes, (pair for pair in links if not fixed.keys() & pair))
    for name, root in roots.items():
        grouped.setdefault(root, []).append(name)
    # A fixed output passes its parameters on where the group's values fit into its range.
    for first, second in links:
        for source, other in ((first, second), (second, first)):
            if source in fixed and other not in fixed and fits(grouped[roots[other]], fixed[source]):
                fixed |= dict.fromkeys(grouped[roots[other]], fixed[source])
    return [[n for n in names if n not in fixed] for names in grouped.values() if any(n not in fixed for n in names)]
