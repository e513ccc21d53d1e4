"""What calibration samples bring to a layer: second moments of its inputs, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featherweight.graph import Graph, Model
from featherweight.ops import Call
from featherweight.ops.products import Window, window_columns
from featherweight.profiles import find
from featherweight.runtime.litert import Session
from featherweight.sparsity.kernels import GraphKernel

# Rows of inputs that are multiplied at a time.
_ROWS = 4096
_OBSERVED = ("FULLY_CONNECTED", "CONV_2D")


def is_observable(kernel: GraphKernel, model: Model) -> bool:
    """True where a layer's inputs can be had: of dense layers and convolutions, in the main graph, without groups."""
    if kernel.graph != 0 or kernel.node.op not in _OBSERVED:
        return False
    weight = kernel.kernel.layout.shape
    return kernel.node.op != "CONV_2D" or model.main.tensors[kernel.activation].shape[3] == weight[3]


def second_moments(model: Model, kernel: GraphKernel, samples: Sequence[Any], *, diagonal: bool = False) -> np.ndarray:
    """Returns ``Σ x xᵀ`` over all rows x that a kernel's rows are multiplied with, float64: (depth, depth).

    A convolution's rows are its windows, (kh * kw * in). With `diagonal`, only ``Σ x²``, (depth,).
    """
    depth = int(np.prod(kernel.kernel.layout.shape[1:]))
    total = np.zeros(depth if diagonal else (depth, depth))
    with Session(model, outputs=(kernel.activation,)) as session:
        for sample in samples:
            x = next(iter(session.run(sample).values()))
            for rows in _rows(model.main, kernel, x, depth):
                rows = rows.astype(np.float64)
                total += (rows * rows).sum(axis=0) if diagonal else rows.T @ rows
    return total


def _rows(graph: Graph, kernel: GraphKernel, x: np.ndarray, depth: int) -> Iterator[np.ndarray]:
    """Yields the rows of a layer's input, some at a time."""
    if kernel.node.op == "FULLY_CONNECTED":
        flat = x.reshape(-1, depth)
        yield from (flat[start : start + _ROWS] for start in range(0, len(flat), _ROWS))
        return
    node, shape = kernel.node, kernel.kernel.layout.shape
    inputs = tuple(graph.tensors[name] if name else None for name in node.inputs)
    call = Call(node, (x,), inputs, tuple(graph.tensors[name] for name in node.outputs), find("xnnpack"))
    window = Window.of(call, x.shape[1], x.shape[2], (shape[1], shape[2]))
    padded = window.padded(x)
    count = max(1, _ROWS // max(1, window.out[1] * len(x)))
    for start in range(0, window.out[0], count):
        part = padded[:, start * window.stride[0] :]
        rows = window_columns(part, window, min(count, window.out[0] - start), x.shape[3], np.float32)
        yield rows.reshape(-1, depth)
