"""Pruned weights stored sparsely, where the runtime's kernels take that; each file is tried before it is returned."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import operators, tflite
from featherweight.arguments import checked, choice
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor
from featherweight.graph.editor import Editor
from featherweight.operators.families.quantize import DENSIFY
from featherweight.processes.apart import run_apart
from featherweight.runtime.sizes import sizes_bytes
from featherweight.sparse_files.channels_first import with_channels_first
from featherweight.targets import target as targets
from featherweight.targets.xnnpack_nchw_obstacles import misread
from featherweight.tflite.sparse_tensors import encoded, is_sparse

# A sparse layer that is called faster takes at most so much of the dense one's time: clocks waver by less.
_FASTER = 0.95
# XNNPACK leaves a dense layer of this version to LiteRT's own kernels; of any other it reads sparse weights as dense.
_VERSION = 8
PREFERENCES = ("size", "speed")
# What float outputs may differ by, of the largest: sparse kernels add in another order, and n numbers in float32 may be
# off by n * 2**-24 of their magnitudes (Higham, 2002, section 3.1), 6e-5 of 1024. Integers have no order.
_FLOAT_TOLERANCE = 1e-4
_SECONDS = 300


@dataclass(frozen=True)
class StoredTensor:
    """What became of one weight.

    Attributes:
        name: the constant's.
        op: the operator that reads it.
        form: in which types that computes.
        dense_bytes, stored_bytes: before, and as it is stored now, indices included.
        block: consecutive values that are stored together; 0 where it stays dense.
        reason: why it stays dense.
        milliseconds: of the layer alone, dense and in its quickest sparse form; None where that was not measured.
    """

    name: str
    op: str
    form: str
    dense_bytes: int
    stored_bytes: int
    block: int = 0
    reason: str = ""
    milliseconds: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Stored:
    """A model with sparse weights, what became of each, and what the target that was named would have otherwise.

    Attributes:
        tensors: a row for each weight.
        file_bytes: of the whole file, before and now.
        compressed_bytes: the same of the file deflated at level 6, as zip does it to the files of an app.
        violations: conditions of the target that are missed.
    """

    model: Model
    tensors: tuple[StoredTensor, ...]
    file_bytes: tuple[int, int]
    compressed_bytes: tuple[int, int]
    violations: tuple[targets.Violation, ...] = ()

    def __repr__(self) -> str:
        sparse = sum(bool(row.block) for row in self.tensors)
        return (
            f"Model with sparse weights: {sparse} of {len(self.tensors)} are stored sparsely\n"
            f"  bytes of the file  {self.file_bytes[0]:,} → {self.file_bytes[1]:,}\n"
            f"  compressed         {self.compressed_bytes[0]:,} → {self.compressed_bytes[1]:,}\n"
            f"  violations         {len(self.violations)}\n{self.model!r}"
        )

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


@checked(prefer=choice(*PREFERENCES))
def store_sparse(
    model: ModelLike, *, prefer: str = "size", target: str | Path | targets.Target | None = None
) -> Stored:
    """Stores the zeros of a float or quantized model by leaving them out, wherever that makes it smaller.

    Dense layers then run on LiteRT's sparse kernels: float ones in blocks of 4 are several times faster at batch 1,
    integer and hybrid ones in blocks of 16 smaller, but slower than XNNPACK's dense kernels on CPUs with dot products.
    Weights of float convolutions are unpacked when the file is loaded: smaller, as fast.

    The file is loaded and run in a process of its own, with LiteRT's own kernels and with the default delegate, beside
    a dense one whose layers are left to the same kernels. Where the sparse weights are integers, each bit of the
    outputs must be the same; floats may differ by the order of their sums. A weight whose sparse form does not load, or
    gives other numbers, stays dense, with the reason.

    Args:
        model: what `load` takes.
        prefer: ``size``: every weight that gets smaller; ``speed``: only those that get faster, too: each layer is
            timed by itself, dense and sparse in turns, on this machine, one thread, and at the file's batch.
        target: for one that runs convolutions sparsely under conditions (``litert-arm``), graphs are written so that
            they meet these, where that computes the same; `Stored.violations` says what is missed after all.

    Raises:
        RecipeError: if `prefer` or `target` is unknown.
    """
    chip = None if target is None else targets.load(target)
    original = tflite.read(model)
    model = with_channels_first(original) if chip is not None and chip.has_clusters else original
    rows: dict[str, StoredTensor] = {}
    chosen: dict[str, int] = {}
    for node, graph in _readers(model):
        name = _weight_of(node)
        if name not in rows:
            rows[name] = _decided(node, graph, prefer)
            if rows[name].block:
                chosen[name] = rows[name].block
    _keep_misread_dense(model, rows, chosen)
    if chosen and (problem := _problem(original, model, chosen)):
        for name in list(chosen):
            problem = _problem(original, model, {name: chosen[name]})
            if problem:
                del chosen[name]
                rows[name] = replace(rows[name], block=0, stored_bytes=rows[name].dense_bytes, reason=problem)
        if chosen and (problem := _problem(original, model, chosen)):
            kept = {name: replace(row, block=0, stored_bytes=row.dense_bytes) for name, row in rows.items()}
            rows = {n: replace(r, reason=r.reason or f"not together with others: {problem}") for n, r in kept.items()}
            chosen = {}
    made = _with_sparse(model, chosen) if chosen else original
    sizes = [sizes_bytes(one) for one in (original, made)]
    file_bytes, compressed_bytes = ((sizes[0][at] or 0, sizes[1][at] or 0) for at in (0, 1))
    violations = () if chip is None else targets.check(made, chip)
    return Stored(made, tuple(rows.values()), file_bytes, compressed_bytes, violations)


def _keep_misread_dense(model: Model, rows: dict[str, StoredTensor], chosen: dict[str, int]) -> None:
    """Takes convolutions off the choice whose graph LiteRT would misread on ARM64 once one of them is sparse."""
    for graph in model.graphs:
        problem = misread(graph)
        for node in graph.nodes:
            name = _weight_of(node)
            if problem and _is_unpacked(node) and name in chosen:
                del chosen[name]
                reason = f"LiteRT for ARM64 would read it wrongly: {problem} (see `check` for target 'litert-arm')"
                rows[name] = replace(rows[name], block=0, stored_bytes=rows[name].dense_bytes, reason=reason)


def _readers(model: Model) -> Iterator[tuple[Node, Graph]]:
    """Yields the nodes that have a constant weight, with their graph."""
    for graph in model.graphs:
        for node in graph.nodes:
            tensor = graph.tensors.get(_weight_of(node))
            if tensor is not None and tensor.is_constant and len(tensor.shape) > 1:
                yield node, graph


def _decided(node: Node, graph: Graph, prefer: str) -> StoredTensor:
    """Returns the smallest form of a weight that its operator has a kernel for."""
    tensor = graph.tensors[_weight_of(node)]
    form, size = operators.lookup(node.op).form(node, graph), tensor.stored_bytes
    row = StoredTensor(tensor.name, node.op, form, size, size)
    if is_sparse(tensor):
        return replace(row, reason="it is stored sparsely already")
    blocks = operators.lookup(node.op).sparse_blocks.get(form, ())
    if not blocks:
        return replace(row, reason=f"LiteRT has no sparse kernel for {node.op} in {form}")
    array = tensor.array
    if array is None or not (array == 0).any():
        return replace(row, reason="it has no zeros")
    if tensor.quant is not None and any(tensor.quant.zero_point):
        return replace(row, reason="its zero point is not 0")
    sizes = {block: _bytes(encoded(tensor, block)) for block in blocks if tensor.shape[-1] % block == 0}
    if not sizes:
        return replace(row, reason="no block that kernels take divides it")
    block = min(sizes, key=lambda block: (sizes[block], -block))
    if sizes[block] >= size:
        return replace(row, reason=f"sparse it would take {sizes[block]:,} bytes, in blocks of {block}")
    if prefer == "speed":
        smaller = [block for block in sizes if sizes[block] < size]
        times = {block: found for block in smaller if (found := _milliseconds(node, graph, block)) is not None}
        if not times:
            return replace(row, reason="LiteRT can't run it by itself, so that no time could be measured")
        block = min(times, key=lambda block: times[block][1] / times[block][0])
        row = replace(row, milliseconds=times[block])
        if times[block][1] > _FASTER * times[block][0]:
            before, after = times[block]
            return replace(row, reason=f"sparse it would take {after:.3g} ms instead of {before:.3g} ms")
    return replace(row, stored_bytes=sizes[block], block=block)


def _milliseconds(node: Node, graph: Graph, block: int) -> tuple[float, float] | None:
    """Returns how long a node takes by itself with its weight dense, and in blocks; None where it can't run."""
    names = dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name)
    fed = tuple(name for name in names if name in node.inputs and not graph.tensors[name].is_constant)
    alone = Graph("main", fed, node.outputs, (node,), {name: graph.tensors[name] for name in names})
    dense = Model((alone,))
    found, _ = _in_a_process("timing", dense, _with_sparse(dense, {_weight_of(node): block}))
    return None if found is None else (found[0], found[1])


def _bytes(tensor: Tensor) -> int:
    """Returns what a sparse tensor takes in the file, indices included."""
    vectors = [
        getattr(part, name)
        for part in tensor.extras["sparsity"].dimMetadata
        for name in ("arraySegments", "arrayIndices")
    ]
    return tensor.stored_bytes + sum(np.asarray(vector.values).nbytes for vector in vectors if vector is not None)


def _left_to_litert(model: Model, chosen: Mapping[str, int]) -> Model:
    """Returns the model with the readers of these weights left to LiteRT's own kernels, where sparse ones are."""
    graphs = tuple(
        replace(
            graph,
            nodes=tuple(
                replace(node, version=_VERSION) if _weight_of(node) in chosen and not _is_unpacked(node) else node
                for node in graph.nodes
            ),
        )
        for graph in model.graphs
    )
    return replace(model, graphs=graphs)


def _weight_of(node: Node) -> str:
    op = operators.lookup(node.op)
    return op.input_of(node, op.weight)


def _is_unpacked(node: Node) -> bool:
    """True where a sparse weight is unpacked by a DENSIFY when the file is loaded; dense layers read it as it is."""
    return operators.lookup(node.op).weight_kind != "dense"


def _with_sparse(model: Model, chosen: Mapping[str, int]) -> Model:
    """Returns the model with these weights stored sparsely: constant → block."""
    graphs, taken = list[Graph](), set(model.tensors)
    for graph in _left_to_litert(model, chosen).graphs:
        edit = Editor(graph, taken)
        for node in graph.nodes:
            name = _weight_of(node)
            if name in chosen and edit.tensors[name] is graph.tensors[name]:
                sparse = encoded(graph.tensors[name], chosen[name])
                if _is_unpacked(node):
                    edit.tensors[name] = replace(graph.tensors[name], data=None)
                    edit.node(DENSIFY, (edit.add(replace(sparse, name=f"{name}/sparse")),), (name,))
                else:
                    edit.tensors[name] = sparse
            edit.nodes.append(node)
        graphs.append(edit.result())
    return replace(model, graphs=tuple(graphs))


def _problem(original: Model, model: Model, chosen: Mapping[str, int]) -> str:
    """Returns why a sparse file can't be used: it does not load or run, or gives other numbers; empty if it can."""
    rows, problem = _in_a_process("trial", _left_to_litert(original, chosen), _with_sparse(model, chosen))
    if rows is None:
        return problem
    is_float = any(model.tensors[name].is_float for name in chosen)
    for resolver, worst, largest in rows:
        limit = _FLOAT_TOLERANCE * largest if is_float else 0.0
        if not worst <= limit:
            kernels = "LiteRT's own kernels" if resolver == "no_delegate" else "the default delegate"
            return f"with {kernels}, its outputs differ by {worst:.3g} from the dense model's (allowed: {limit:.3g})"
    return ""


def _in_a_process(module: str, dense: Model, sparse: Model) -> tuple[Any, str]:
    """Returns what a module of this package finds out about two files, and why it could not."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "dense.tflite"), Path(folder, "sparse.tflite"), Path(folder, "found.json")
        tflite.save(dense, paths[0])
        tflite.save(sparse, paths[1])
        command = [sys.executable, "-m", f"{__package__}.{module}", *map(str, paths)]
        done = run_apart(command, _SECONDS)
        if done.status != 0 or not paths[2].is_file():
            return None, f"LiteRT can't run it: {done}"
        return json.loads(paths[2].read_text(encoding="utf-8")), ""
