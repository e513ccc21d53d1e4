"""A copy of a graph that measures itself: the extremes of its tensors are reduced where they are computed.

The values are then still in the processor's cache, every thread of the runtime takes part, and no tensor has
to outlive its use: calibration takes hardly longer than inference, and no more memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.graph import Model, Tensor, replace_graph
from featherweight.graph.editor import Editor
from featherweight.operators import lookup

# SUM is there for NaN, which the runtime's minimum and maximum skip; a sum can't lose one.
_REDUCTIONS = ("REDUCE_MIN", "REDUCE_MAX", "SUM")
_LARGEST_RANK = 6  # XNNPACK's


@dataclass(frozen=True, eq=False)
class Probed:
    """A model with probes.

    Attributes:
        outputs: what to read, one reduction after another: minima of `tensors`, then maxima, then sums.
    """

    model: Model
    tensors: tuple[str, ...]
    outputs: tuple[str, ...]


def can_probe(tensor: Tensor) -> bool:
    """True where reductions work on a tensor: it has axes, and values."""
    return 1 <= len(tensor.shape) <= _LARGEST_RANK and tensor.elements > 0


def with_probes(model: Model, tensors: Sequence[str]) -> Probed:
    """Returns the model with each given tensor's minimum, maximum and sum as its only outputs."""
    graph, edit = model.main, Editor(model.main, set(model.tensors))
    axes: dict[int, str] = {}
    outputs: dict[tuple[str, str], str] = {}
    for name in tensors:
        rank = len(graph.tensors[name].shape)
        if rank not in axes:
            axes[rank] = edit.constant(f"probe_axes_{rank}", np.arange(rank, dtype=np.int32))
        for op in _REDUCTIONS:
            outputs[op, name] = edit.add(Tensor(f"{name}/{op.lower()}", (1,) * rank, "float32"))
    for node in graph.nodes:
        edit.nodes.append(node)
        for op, name in itertools.product(_REDUCTIONS, node.outputs):
            if (op, name) in outputs:
                edit.node(op, (name, axes[len(graph.tensors[name].shape)]), (outputs[op, name],), keep_dims=True)
    flat = tuple(outputs[op, name] for op in _REDUCTIONS for name in tensors)
    probed = replace(edit.result(), outputs=flat)
    signatures = tuple(replace(s, outputs=()) for s in model.signatures if s.graph == 0)[:1]
    return Probed(replace(replace_graph(model, 0, probed), signatures=signatures), tuple(tensors), flat)


def implied(model: Model, tensors: Sequence[str], *, same_size: bool) -> dict[str, str]:
    """Maps tensors whose values are another's, only moved, to the first in that chain, others to themselves.

    With `same_size`, only where every value occurs exactly as often.
    """
    graph = model.main
    wanted = set(tensors)
    origin = {name: name for name in tensors}
    for node in graph.nodes:
        source = next((tensor.name for _, tensor in graph.float_inputs(node)), "")
        if not lookup(node.op).moves_data or source not in wanted:
            continue
        for name in node.outputs:
            if name in wanted and _same_batch_and(graph.tensors[source], graph.tensors[name], same_size=same_size):
                origin[name] = origin[source]
    return origin


def _same_batch_and(source: Tensor, result: Tensor, *, same_size: bool) -> bool:
    """True where both have values, and with `same_size` equally many."""
    return bool(source.elements and result.elements) and (not same_size or source.elements == result.elements)
