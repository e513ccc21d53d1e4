"""Clusters: the operators that XNNPACK computes with channels first, which is where its convolutions run sparsely.

A cluster begins at its stem, the convolution that turns channels last into channels first, and ends in its heads, such
as a global mean. Where one operator can't follow, the whole cluster runs densely.

Source: XNNPACK, src/subgraph.c, xnn_check_nchw_compatibility, xnn_subgraph_rewrite_for_nchw and xnn_subgraph_fusion.
Each condition was tried on LiteRT 2.3 for ARM64, in an emulator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from featherweight import operators
from featherweight.graph import Graph, Node, Tensor, consumers, producers
from featherweight.tflite.sparse_tensors import decoded, is_sparse

# What XNNPACK computes with channels first.
INSIDE = tuple(op.name for op in operators.registered() if op.channels_first)
CONV, DEPTHWISE = (
    next(name for name in INSIDE if operators.lookup(name).weight_kind == kind) for kind in ("conv", "depthwise")
)
BINARY = tuple(name for name in INSIDE if operators.lookup(name).elementwise == 2)
REDUCED = tuple(name for name in INSIDE if operators.lookup(name).is_reduction)
PAD, POOL, DEPTH_TO_SPACE, RESIZE, RESHAPE = "PAD", "AVERAGE_POOL_2D", "DEPTH_TO_SPACE", "RESIZE_BILINEAR", "RESHAPE"
STEM_CHANNELS = 3


@dataclass(frozen=True, eq=False)
class Cluster:
    """Operators in the graph's order, from the stem to the heads: those whose results no other of them reads."""

    nodes: tuple[Node, ...]
    heads: tuple[Node, ...]


@dataclass(frozen=True)
class Padding:
    """How far the windows of a convolution reach over the borders of its input, each as (rows, columns).

    Attributes:
        source: the input, before a PAD that the runtime makes a part of the convolution.
        kernel: the kernel's size, holes of a dilation included.
        before, after: zeros before the first value, and after the last.
        read: zeros after the last value that a window reads; negative where values are left out.
        is_explicit: whether the runtime has numbers for it: it has none for SAME with a stride.
    """

    source: str
    kernel: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    read: tuple[int, int]
    is_explicit: bool


_FOUND: WeakKeyDictionary[Graph, tuple[Cluster, ...]] = WeakKeyDictionary()


def clusters(graph: Graph) -> tuple[Cluster, ...]:
    """Returns the clusters of a graph that have a 1×1 convolution, whether or not they meet the conditions."""
    if graph not in _FOUND:
        made, groups = producers(graph), list[Mapping[str, Node]]()
        for node in graph.nodes:
            if _is_head(node, graph):
                group = _before(node, graph, made)
                groups, joined = [g for g in groups if not g.keys() & group], [g for g in groups if g.keys() & group]
                groups.append({name: n for g in (*joined, group) for name, n in g.items()})
        found = (_cluster(graph, group) for group in groups)
        _FOUND[graph] = tuple(c for c in found if any(is_pointwise(node, graph) for node in c.nodes))
    return _FOUND[graph]


def cluster_of(node: Node, graph: Graph) -> Cluster | None:
    """Returns the cluster that a node belongs to."""
    return next((cluster for cluster in clusters(graph) if node in cluster.nodes), None)


def _cluster(graph: Graph, group: Mapping[str, Node]) -> Cluster:
    nodes = tuple(node for node in graph.nodes if node.name in group)
    read = {name for node in nodes for name in node.inputs}
    return Cluster(nodes, tuple(node for node in nodes if node.name not in read))


def _before(head: Node, graph: Graph, made: Mapping[str, Node]) -> Mapping[str, Node]:
    """Returns name → node of what a head is computed from, back to the stems."""
    found, waiting = dict[str, Node](), [head]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found[node.name] = node
            if not is_stem(node, graph):
                waiting += [made[name] for name in activations(node, graph) if name in made]
    return found


def activations(node: Node, graph: Graph) -> Iterator[str]:
    """Yields the inputs of a node that are neither constants nor weights."""
    op = operators.lookup(node.op)
    for position, name in enumerate(node.inputs):
        if name and position not in (op.weight, op.bias) and not graph.tensors[name].is_constant:
            yield name


def _is_head(node: Node, graph: Graph) -> bool:
    """True for what can end a cluster, and for an AVERAGE_POOL_2D that could be written so."""
    if node.op == POOL:
        return is_global(node, graph)
    return node.op in (*REDUCED, DEPTH_TO_SPACE) and len(graph.tensors[node.inputs[0]].shape) == 4


def is_global(pool: Node, graph: Graph) -> bool:
    """True for pooling with one window, all of its input."""
    sizes = (int(pool.attrs["filter_height"]), int(pool.attrs["filter_width"]))
    x, y = (graph.tensors[name].shape for name in (pool.inputs[0], pool.outputs[0]))
    return sizes == x[1:3] and y[1:3] == (1, 1) and pool.attrs.get("fused_activation_function", "NONE") == "NONE"


def is_stem(node: Node, graph: Graph) -> bool:
    """True for the convolution that a cluster begins with, or is meant to."""
    x = graph.tensors[node.inputs[0]] if node.op == CONV else None
    return x is not None and not is_pointwise(node, graph) and x.shape[3:] <= (STEM_CHANNELS,)


def is_pointwise(node: Node, graph: Graph) -> bool:
    """True for a 1×1 convolution, the operator that runs sparsely."""
    return node.op == CONV and graph.tensors[node.inputs[1]].shape[1:3] == (1, 1)


def strides(node: Node) -> tuple[int, int]:
    """Returns the strides (rows, columns)."""
    return int(node.attrs["stride_h"]), int(node.attrs["stride_w"])


def dilations(node: Node) -> tuple[int, int]:
    """Returns the dilations (rows, columns)."""
    return int(node.attrs.get("dilation_h_factor", 1)), int(node.attrs.get("dilation_w_factor", 1))


def padding_of(node: Node, graph: Graph) -> Padding:
    """Returns the padding of a CONV_2D or DEPTHWISE_CONV_2D."""
    x, weight, y = (graph.tensors[name].shape for name in (node.inputs[0], node.inputs[1], node.outputs[0]))
    kernel = [(k - 1) * d + 1 for k, d in zip(weight[1:3], dilations(node), strict=True)]
    spans = [(out - 1) * s + k for out, s, k in zip(y[1:3], strides(node), kernel, strict=True)]
    is_same = node.attrs["padding"] == "SAME"
    total = [max(span - size, 0) if is_same else 0 for span, size in zip(spans, x[1:3], strict=True)]
    before, after = [size // 2 for size in total], [size - size // 2 for size in total]
    source, added = node.inputs[0], fused_padding(node.inputs[0], graph)
    if added is not None:
        source, rows = added
        before = [size + more for size, (more, _) in zip(before, rows, strict=True)]
        after = [size + more for size, (_, more) in zip(after, rows, strict=True)]
    sizes = graph.tensors[source].shape[1:3]
    read = [span - first - size for span, first, size in zip(spans, before, sizes, strict=True)]
    pairs = ((int(values[0]), int(values[1])) for values in (kernel, before, after, read))
    return Padding(source, *pairs, is_explicit=not is_same or strides(node) == (1, 1))


def fused_padding(name: str, graph: Graph) -> tuple[str, list[tuple[int, int]]] | None:
    """Returns (input, zeros before and after rows and columns) of a PAD whose result one convolution alone reads."""
    pad, readers = producers(graph).get(name), consumers(graph).get(name, ())
    if pad is None or pad.op != PAD or len(readers) != 1 or name in graph.outputs:
        return None
    amounts = graph.tensors[pad.inputs[1]].array
    if readers[0].op not in (CONV, DEPTHWISE) or amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
        return None
    return pad.inputs[0], [(int(first), int(last)) for first, last in amounts[1:3]]


def stored_weight(node: Node, graph: Graph) -> Tensor | None:
    """Returns the constant that holds a convolution's weight, which a DENSIFY may unpack."""
    weight = graph.tensors[node.inputs[1]]
    if not weight.is_constant:
        unpacking = producers(graph).get(weight.name)
        weight = graph.tensors[unpacking.inputs[0]] if unpacking and unpacking.op == "DENSIFY" else weight
    return weight if weight.is_constant else None


def zeros(cluster: Cluster, graph: Graph) -> tuple[int, int]:
    """Returns (zeros, weights) of a cluster's 1×1 convolutions."""
    nothing = total = 0
    for node in cluster.nodes:
        if is_pointwise(node, graph):
            weight = stored_weight(node, graph)
            array = None if weight is None else decoded(weight).array
            total += graph.tensors[node.inputs[1]].elements
            nothing += 0 if array is None else int((array == 0).sum())
    return nothing, total


def has_sparse_weight(cluster: Cluster, graph: Graph) -> bool:
    """True where a convolution's weight is stored sparsely, without which XNNPACK looks no further."""
    weights = (stored_weight(node, graph) for node in cluster.nodes if node.op in (CONV, DEPTHWISE))
    return any(weight is not None and is_sparse(weight) for weight in weights)
