"""Float graphs rewritten so that XNNPACK computes their clusters with channels first; each computes what it did.

SAME padding with stride 2 puts its zeros behind the last row of an even number of rows, XNNPACK puts them before the
first. Mirrored images swap the two: the input is reversed once, and every kernel with it, and since a mean over an axis
does not know its direction, nothing is to be reversed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor, constant, consumers, replace_graph
from featherweight.graph.editor import Editor, without_orphans, without_unused
from featherweight.targets.xnnpack_nchw import (
    BINARY,
    CONV,
    DEPTH_TO_SPACE,
    DEPTHWISE,
    PAD,
    POOL,
    REDUCED,
    RESHAPE,
    RESIZE,
    STEM_CHANNELS,
    Cluster,
    clusters,
    is_pointwise,
    is_stem,
    padding_of,
    strides,
)
from featherweight.targets.xnnpack_nchw_obstacles import OF_WEIGHTS, missed
from featherweight.tflite.sparse_tensors import is_sparse

Axes = tuple[int, ...]


def with_channels_first(model: Model) -> Model:
    """Returns the model with its clusters in the form that XNNPACK wants; a cluster that can't have it stays as it is.

    Equal up to the order of sums, and idempotent.
    """
    taken = set(model.tensors)
    for index, original in enumerate(model.graphs):
        for cluster in clusters(original):
            axes = None if _is_met(cluster, original) else _mirrored(cluster, model.graphs[index])
            if axes is None:
                continue
            graph = _ClusterEditor(model.graphs[index], cluster, axes, taken).rewritten()
            made = {node.name for node in cluster.nodes}
            if all(_is_met(other, graph) for other in clusters(graph) if made & {node.name for node in other.nodes}):
                model = replace_graph(model, index, graph)
    return model


def _is_met(cluster: Cluster, graph: Graph) -> bool:
    return all(name in OF_WEIGHTS for name, _, _ in missed(cluster, graph))


def _mirrored(cluster: Cluster, graph: Graph) -> Axes | None:
    """Returns the axes to reverse so that all windows of the cluster lie as XNNPACK's do; None if that is not so."""
    axes = list[int]()
    convolutions = [node for node in cluster.nodes if node.op in (CONV, DEPTHWISE)]
    kernels = [graph.tensors[node.inputs[1]] for node in convolutions if not is_pointwise(node, graph)]
    if any(not kernel.is_constant or is_sparse(kernel) for kernel in kernels):
        return None
    for number, axis in enumerate((1, 2)):
        as_is = is_reversed = True
        for node in convolutions:
            padding = padding_of(node, graph)
            half = padding.kernel[number] // 2
            size = (graph.tensors[padding.source].shape[axis] - 1) // strides(node)[number] + 1
            is_whole = graph.tensors[node.name].shape[axis] == size
            as_is &= is_whole and padding.before[number] == half
            is_reversed &= is_whole and padding.read[number] == half
        if not as_is and not is_reversed:
            return None
        axes += [] if as_is else [axis]
    return tuple(axes) if all(_is_symmetric(node, graph, axes) for node in cluster.nodes) else None


def _is_symmetric(node: Node, graph: Graph, axes: Sequence[int]) -> bool:
    """True where an operator other than a convolution gives the reversed result for reversed inputs."""
    if node.op in REDUCED:
        reduced = graph.tensors[node.inputs[1]].array
        return reduced is not None and set(axes) <= {int(axis) % 4 for axis in reduced.reshape(-1)}
    if node.op == RESIZE:
        return not axes or bool(node.attrs.get("half_pixel_centers") or node.attrs.get("align_corners"))
    if node.op in BINARY:
        constants = [tensor for tensor in map(graph.tensors.__getitem__, node.inputs) if tensor.is_constant]
        return all(_of_rank_4(tensor.shape)[axis] == 1 for tensor in constants for axis in axes)
    return node.op != DEPTH_TO_SPACE or not axes


def _of_rank_4(shape: Sequence[int]) -> tuple[int, ...]:
    return (*[1] * (4 - len(shape)), *shape)


class _ClusterEditor(Editor):
    """A graph whose cluster is being rewritten, `axes` of its images reversed."""

    def __init__(self, graph: Graph, cluster: Cluster, axes: Axes, taken: set[str]) -> None:
        super().__init__(graph, taken)
        self.cluster, self.axes = cluster, axes

    def rewritten(self) -> Graph:
        """Returns the graph with the cluster rewritten."""
        for node in self.graph.nodes:
            if node not in self.cluster.nodes:
                self.nodes.append(node)
            elif node.op in (CONV, DEPTHWISE) and not is_pointwise(node, self.graph):
                self._convolution(node)
            elif node.op == POOL or (node in self.cluster.heads and node.op in REDUCED):
                self._mean(node)
            elif node.op in BINARY:
                self._constant_first(node)
            else:
                self.nodes.append(node)
        # What padded a convolution before is a part of it now.
        return without_unused(without_orphans(self.result(), self.graph, (PAD,)), before=self.graph)

    def _convolution(self, node: Node) -> None:
        """Reverses the kernel, and its input where the cluster begins, and writes the padding as a PAD."""
        padding, weight = padding_of(node, self.graph), self.graph.tensors[node.inputs[1]]
        array, source = np.flip(np.asarray(weight.array), self.axes), padding.source
        if is_stem(node, self.graph):
            if self.axes:
                shape = self.graph.tensors[source].shape
                source = self._added("REVERSE_V2", source, np.array(self.axes), "reversed", shape)
            missing = STEM_CHANNELS - array.shape[3]
            if missing:
                source = self._padded(source, np.array([[0, 0], [0, 0], [0, 0], [0, missing]]))
                array = np.pad(array, [(0, 0), (0, 0), (0, 0), (0, missing)])
        is_same = padding.is_explicit and node.attrs["padding"] == "SAME" and source == node.inputs[0]
        if not is_same:
            rows, columns = (size // 2 for size in padding.kernel)
            source = self._padded(source, np.array([[0, 0], [rows, rows], [columns, columns], [0, 0]]))
            node = replace(node, attrs={**node.attrs, "padding": "VALID"})
        if len(consumers(self.graph)[weight.name]) > 1:
            name = self.constant(weight.name, array)
        else:
            name, self.tensors[weight.name] = weight.name, constant(weight.name, array)
        self.nodes.append(replace(node, inputs=(source, name, *node.inputs[2:])))

    def _mean(self, node: Node) -> None:
        """Writes pooling as a MEAN, and the dimensions that a head keeps as a RESHAPE behind it."""
        source, result = node.inputs[0], self.graph.tensors[node.name]
        if len(result.shape) != 4:
            self.nodes.append(node)
            return
        reduced = np.array([1, 2]) if node.op == POOL else np.asarray(self.graph.tensors[node.inputs[1]].array)
        axes = self.constant(f"{node.name}/axes", reduced.reshape(-1).astype(np.int32))
        op = "MEAN" if node.op == POOL else node.op
        if node not in self.cluster.heads:
            self.node(op, (source, axes), node.outputs, keep_dims=True)
            return
        kept = [size for axis, size in enumerate(result.shape) if axis not in {int(a) % 4 for a in reduced.reshape(-1)}]
        flat = self._computed(f"{node.name}/flat", result, kept)
        self.node(op, (source, axes), (flat,), keep_dims=False)
        shape = self.constant(f"{node.name}/shape", np.array([-1, *result.shape[1:]], np.int32))
        self.node(RESHAPE, (flat, shape), node.outputs)

    def _constant_first(self, node: Node) -> None:
        """Writes a constant as the first input, in 4 dimensions."""
        first, second = (self.graph.tensors[name] for name in node.inputs)
        if second.is_constant and not first.is_constant:
            first, second = second, first
        name = first.name
        if first.is_constant and len(first.shape) < 4:
            name = self.constant(name, np.asarray(first.array).reshape(_of_rank_4(first.shape)))
        self.nodes.append(replace(node, inputs=(name, second.name)))

    def _padded(self, source: str, amounts: np.ndarray) -> str:
        shape = [size + int(more) for size, more in zip(self.tensors[source].shape, amounts.sum(1), strict=True)]
        return self._added(PAD, source, amounts, "padded", shape)

    def _added(self, op: str, source: str, values: np.ndarray, what: str, shape: Sequence[int]) -> str:
        """Adds an operator with a constant second input; returns its result."""
        result = self._computed(f"{source}/{what}", self.tensors[source], shape)
        second = self.constant(f"{result}/{'paddings' if op == PAD else 'axes'}", values.astype(np.int32))
        self.node(op, (source, second), (result,))
        return result

    def _computed(self, wish: str, like: Tensor, shape: Sequence[int]) -> str:
        """Adds a float tensor, free in the same dimensions as another."""
        signature = None if like.shape_signature is None else (like.shape_signature[0], *shape[1:])
        return self.add(Tensor(wish, tuple(shape), "float32", shape_signature=signature))
