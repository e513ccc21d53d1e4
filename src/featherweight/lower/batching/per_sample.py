"""Writes what a graph does with every sample in operators that fit any number of samples.

Frameworks look up "each sample's own row" by numbering the samples, and join a constant such as a class token to each
of them by repeating it; both know their batch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.graph import Node
from featherweight.graph.editor import Editor
from featherweight.lower.batching.places import Place


def picks_own_rows(indices: np.ndarray | None, batch: int) -> bool:
    """Whether GATHER_ND reads, for every sample, the same places of that sample itself.

    `indices` (batch, …, 2) hold the sample's number and a place behind it.
    """
    if indices is None or indices.ndim < 2 or indices.shape[0] != batch or indices.shape[-1] != 2:
        return False
    samples = np.arange(batch).reshape(batch, *[1] * (indices.ndim - 2))
    return bool((indices[..., 0] == samples).all() and (indices[..., 1] == indices[:1, ..., 1]).all())


def gather_rows(edit: Editor, node: Node) -> None:
    """Adds GATHER_ND of own rows as GATHER along the second axis."""
    indices = np.asarray(edit.graph.tensors[node.inputs[1]].array)
    rows = edit.constant(f"{node.name}/rows", indices[0, ..., 1].astype(np.int32))
    edit.instead(node, "GATHER", (node.inputs[0], rows), axis=1, batch_dims=0)


def pad_and_add(edit: Editor, node: Node, place: Place) -> bool:
    """Adds CONCATENATION of one computed tensor and constants as PAD and ADD, which repeats its constant.

    Adds nothing, and returns False, where several tensors are computed. The editor's tensors are at a batch of 1.
    """
    tensors = edit.tensors
    computed = [name for name in node.inputs if not tensors[name].is_constant]
    output = tensors[node.outputs[0]]
    axis = int(node.attrs.get("axis", 0)) % len(output.shape)
    if len(computed) != 1 or axis == place.axis or not output.is_float:
        return False
    parts = [tensors[name].array if tensors[name].is_constant else None for name in node.inputs]
    sizes = [tensors[name].shape[axis] for name in node.inputs]
    shape = tuple(1 if i == place.axis else size for i, size in enumerate(output.shape))
    added = np.zeros(shape, np.float32)
    front, start = 0, 0
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            front = start
        else:
            added[(slice(None),) * axis + (slice(start, start + size),)] = part
        start += size
    own = sizes[node.inputs.index(computed[0])]
    paddings = np.zeros((len(shape), 2), np.int32)
    paddings[axis] = front, start - front - own
    wide = edit.add(replace(output, name=f"{node.name}/padded", file_name=None))
    table = edit.constant(f"{node.name}/constant", added)
    widths = edit.constant(f"{node.name}/paddings", paddings)
    edit.node("PAD", (computed[0], widths), (wide,))
    edit.node("ADD", (wide, table), node.outputs)
    return True
