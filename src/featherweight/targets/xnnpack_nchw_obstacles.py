"""What XNNPACK's sparse convolutions want of a cluster: one check for each condition, named in target files.

Source: that of `xnnpack_nchw`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from featherweight.errors import listed
from featherweight.graph import Graph, Node, consumers
from featherweight.operators import lookup
from featherweight.operators.zeros import absorbing
from featherweight.targets.constraints import constraint_check
from featherweight.targets.xnnpack_nchw import (
    BINARY,
    CONV,
    DEPTH_TO_SPACE,
    DEPTHWISE,
    INSIDE,
    PAD,
    POOL,
    REDUCED,
    STEM_CHANNELS,
    Cluster,
    activations,
    cluster_of,
    clusters,
    dilations,
    fused_padding,
    has_sparse_weight,
    is_pointwise,
    is_stem,
    padding_of,
    strides,
    zeros,
)

ClusterCheck = Callable[[Node, Graph, Cluster], str | None]
CHECKS: dict[str, ClusterCheck] = {}
# Those that are about the numbers in the weights, and not about the graph.
OF_WEIGHTS = ("cluster_zeros", "cluster_stored")


def missed(cluster: Cluster, graph: Graph) -> Iterator[tuple[str, Node, str]]:
    """Yields (check, node, what was found) for each condition that a cluster misses."""
    for node in cluster.nodes:
        for name, function in CHECKS.items():
            found = function(node, graph, cluster)
            if found:
                yield name, node, found


def misread(graph: Graph) -> str:
    """Returns what makes LiteRT 2.3 for ARM64 give wrong numbers once a weight is stored sparsely; empty if nothing.

    Behind a stem that meets the conditions, XNNPACK switches operators up to one that can't follow, which then reads
    channels in the wrong order. (Seen in an emulator: errors of 2 to 11 % of the largest output, or no run at all.)
    """
    if not any(is_stem(node, graph) and _is_followed(node, graph) for node in graph.nodes):
        return ""
    rows = [row for cluster in clusters(graph) for row in missed(cluster, graph) if row[0] not in OF_WEIGHTS]
    ends = [("", node, found) for node in graph.nodes if (found := _check_cluster_end(node, graph, {}))]
    return listed([f"{node.op} '{node.name}': {found}" for _, node, found in (*rows, *ends)], 3)


def _is_followed(stem: Node, graph: Graph) -> bool:
    alone = Cluster((stem,), ())
    return not (_check_cluster_convolution(stem, graph, alone) or _check_cluster_padding(stem, graph, alone))


def _cluster_check(function: ClusterCheck) -> ClusterCheck:
    """Registers a check of the operators of clusters."""
    name = function.__name__.removeprefix("_check_")

    def check(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
        cluster = cluster_of(node, graph)
        return None if cluster is None else function(node, graph, cluster)

    check.__name__ = function.__name__
    constraint_check()(check)
    CHECKS[name] = function
    return function


@constraint_check()
def _check_cluster_end(node: Node, graph: Graph, limits: Mapping[str, int]) -> str | None:
    is_map = is_pointwise(node, graph) and graph.tensors[node.inputs[0]].shape[1:3] != (1, 1)
    return "no mean follows it" if is_map and cluster_of(node, graph) is None else None


@_cluster_check
def _check_cluster_floats(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    weights = node.inputs[1:2] if node.op in (CONV, DEPTHWISE) else ()
    names = (*activations(node, graph), *weights, *node.outputs)
    other = sorted({graph.tensors[name].dtype for name in names} - {"float32"})
    return f"it computes with {listed(other)}" if other else None


@_cluster_check
def _check_cluster_operator(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op in INSIDE or (node.op == DEPTH_TO_SPACE and node in cluster.heads):
        return None
    if node.op == PAD:
        return None if fused_padding(node.name, graph) else "it is no padding of rows and columns for one convolution"
    return "it can't be computed with channels first"


@_cluster_check
def _check_cluster_convolution(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op != CONV:
        return None
    x, weight = (graph.tensors[name].shape for name in node.inputs[:2])
    kernel, stride, dilation = weight[1:3], strides(node), dilations(node)
    is_whole = dilation == (1, 1) and weight[3] == x[3]
    is_first = (kernel, stride, x[3]) == ((3, 3), (2, 2), STEM_CHANNELS)
    if is_whole and (is_first or (kernel, stride) == ((1, 1), (1, 1))):
        return None
    groups = "" if weight[3] == x[3] else f" in {x[3] // weight[3]} groups"
    return f"its kernel is {_by(kernel)} on {x[3]} channels{groups}, its stride {_by(stride)}{_dilated(dilation)}"


@_cluster_check
def _check_cluster_depthwise(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op != DEPTHWISE:
        return None
    x, weight = (graph.tensors[name].shape for name in node.inputs[:2])
    kernel, stride, dilation = weight[1:3], strides(node), dilations(node)
    is_kept = weight[3] == x[3] and dilation == (1, 1)
    if is_kept and kernel in ((3, 3), (5, 5)) and stride in ((1, 1), (2, 2)):
        return None
    made = f"it makes {weight[3]} channels of {x[3]}"
    return f"its kernel is {_by(kernel)}, its stride {_by(stride)}{_dilated(dilation)}, {made}"


@_cluster_check
def _check_cluster_padding(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op not in (CONV, DEPTHWISE):
        return None
    padding = padding_of(node, graph)
    half = tuple(size // 2 for size in padding.kernel)
    if not padding.is_explicit and padding.kernel != (1, 1):
        return f"its padding is SAME with stride {_by(strides(node))}"
    if padding.before == padding.after == half:
        return None
    (top, left), (bottom, right) = padding.before, padding.after
    return f"its padding is {top} + {bottom} rows and {left} + {right} columns"


@_cluster_check
def _check_cluster_operands(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op not in BINARY:
        return None
    if not absorbing(node.op) and node.inputs[0] == node.inputs[1]:  # a product becomes a square
        return f"it reads '{node.inputs[0]}' twice"
    for position, tensor in enumerate(graph.tensors[name] for name in node.inputs):
        is_vector = len(tensor.shape) == 4 and sum(size > 1 for size in tensor.shape) <= 1
        if tensor.is_constant and (position or not is_vector):
            return f"its constant '{tensor.name}' {list(tensor.shape)} is input {position}"
        if len(tensor.shape) != 4:
            return f"'{tensor.name}' has {len(tensor.shape)} dimensions"
    return None


@_cluster_check
def _check_cluster_stem(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    made = {name for other in graph.nodes for name in other.outputs}
    read = [] if is_stem(node, graph) else [f"'{name}'" for name in activations(node, graph) if name not in made]
    return f"it reads the input {listed(read)}" if read else None


@_cluster_check
def _check_cluster_reader(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node in cluster.heads:
        return None
    others = [o for o in consumers(graph).get(node.name, ()) if o not in cluster.nodes]
    if others:
        return f"it is read by {_named(others)}, outside"
    return "it is an output of the model" if node.name in graph.outputs else None


@_cluster_check
def _check_cluster_head(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node.op == POOL:
        return "it is a pooling operator"
    if node not in cluster.heads or node.op not in REDUCED or len(graph.tensors[node.name].shape) != 4:
        return None
    others = [other for other in consumers(graph).get(node.name, ()) if lookup(other.op).axes != "reshape"]
    if others:
        return f"it keeps 4 dimensions and is read by {_named(others)}"
    return "it keeps 4 dimensions and is an output of the model" if node.name in graph.outputs else None


@_cluster_check
def _check_cluster_zeros(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node is not cluster.heads[-1]:
        return None
    nothing, total = zeros(cluster, graph)
    return None if 3 * nothing > 2 * total else f"{nothing:,} of {total:,} weights of the 1×1 convolutions are 0"


@_cluster_check
def _check_cluster_stored(node: Node, graph: Graph, cluster: Cluster) -> str | None:
    if node is not cluster.heads[-1] or has_sparse_weight(cluster, graph):
        return None
    return "all weights of its convolutions are stored densely"


def _named(nodes: Iterable[Node]) -> str:
    return listed([f"{node.op} '{node.name}'" for node in nodes])


def _dilated(dilation: tuple[int, ...]) -> str:
    return "" if dilation == (1, 1) else f", its dilation {_by(dilation)}"


def _by(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))
