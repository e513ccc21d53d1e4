"""What calibration samples bring to a layer: second moments of its inputs, in bounded memory.

A layer's output is one or several products ``W_g x_g``: every group g has rows of the weight and inputs of its own. Its
squared error is then ``Σ_g tr(ΔW_g H_g ΔW_gᵀ)`` with ``H_g = Σ x_g x_gᵀ``, whatever the operator:

| operator | groups | inputs of a row |
|---|---|---|
| dense, LSTM | 1 | the input; the hidden state of the step before |
| BATCH_MATMUL with a constant | one for each matrix | the rows that it multiplies |
| CONV_2D | its groups | windows, (kh * kw * in / groups) |
| DEPTHWISE_CONV_2D | one for each input channel | windows of that channel, (kh * kw) |
| TRANSPOSE_CONV | 1 | the input's pixels under the taps that meet in an output pixel, (kh * kw * in) |

Each output pixel of a transposed convolution hears of every stride-th tap only: it has stride * stride phases, each of
them an ordinary convolution with taps of its own. H is 0 between taps of different phases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from featherweight.graph import Graph, Model
from featherweight.operators import Call, lookup
from featherweight.operators.kernels.products import Window, window_columns
from featherweight.operators.profiles import find
from featherweight.pruning.prunable import GraphKernel
from featherweight.runtime.litert import Session

# Elements of the inputs that are multiplied at a time: 32 MB in float64.
_ELEMENTS = 1 << 22


class Inputs(NamedTuple):
    """Inputs of some outputs, (groups, count, depth); `columns` of the weight that they meet, None for all of them."""

    values: np.ndarray
    columns: np.ndarray | None = None


class Run(NamedTuple):
    """What one run shows of a layer.

    Attributes:
        graph, kernel: the layer's.
        x: what it is fed.
        y: what it makes of it, where `needs_output` says so.
        step: of a convolution's outputs, every so many-th along both axes is looked at.
        first: the number (of 0 to `step` - 1) of the first one.
    """

    graph: Graph
    kernel: GraphKernel
    x: np.ndarray
    y: np.ndarray
    step: int = 1
    first: int = 0


def is_observable(kernel: GraphKernel) -> bool:
    """True where the inputs of a layer can be had: everywhere but in loops and branches."""
    return kernel.graph == 0


def second_moments(model: Model, kernel: GraphKernel, samples: Sequence[Any], *, diagonal: bool = False) -> np.ndarray:
    """Returns ``Σ x xᵀ`` over all inputs x of each group, float64: (groups, depth, depth).

    The kernel's rows are `methods.as_rows` of it; each group has as many of them, one after the other. With `diagonal`,
    only ``Σ x²``, (groups, depth).
    """
    depth, groups = kernel.depth, kernel.groups
    total = np.zeros((groups, depth) if diagonal else (groups, depth, depth))
    fetched = [] if is_recurrent(model.main, kernel) else [kernel.activation]
    fetched += [kernel.node.outputs[0]] if needs_output(kernel) else []
    with Session(model, outputs=fetched) as session:
        for sample in samples:
            if session.is_stateful:
                session.reset()
            results = list(session.run(sample).values())
            for values, columns in inputs_of(Run(model.main, kernel, results[0], results[-1])):
                x = values.astype(np.float64)
                found = (x * x).sum(axis=1) if diagonal else x.transpose(0, 2, 1) @ x
                if columns is None:
                    total += found
                elif diagonal:
                    total[:, columns] += found
                else:
                    total[:, columns[:, None], columns] += found
    return total


def inputs_of(run: Run) -> Iterator[Inputs]:
    """Yields what the rows of a kernel are multiplied with in one run, some at a time."""
    return (_matmul if lookup(run.kernel.node.op).axes == "product" else _READERS[run.kernel.kernel.kind])(run)


def needs_output(kernel: GraphKernel) -> bool:
    """True where the inputs of a kernel are told by what its operator makes, too."""
    return kernel.kernel.kind in _OF_OUTPUT


def is_recurrent(graph: Graph, kernel: GraphKernel) -> bool:
    """True for a kernel that multiplies the state of its layer, which the end of a run does not show."""
    return graph.tensors[kernel.activation].is_variable


def _dense(run: Run) -> Iterator[Inputs]:
    yield from _in_parts(run.x.reshape(1, -1, run.kernel.depth))


def _in_parts(rows: np.ndarray) -> Iterator[Inputs]:
    count = max(1, _ELEMENTS // max(1, rows.shape[0] * rows.shape[2]))
    yield from (Inputs(rows[:, start : start + count]) for start in range(0, rows.shape[1], count))


def _lstm(run: Run) -> Iterator[Inputs]:
    """A recurrent kernel multiplies the output of the step before; that of the first step is 0."""
    is_time_major = bool(run.kernel.node.attrs.get("time_major"))
    hidden = run.y[:-1] if is_time_major else run.y[:, :-1]
    rows = hidden if is_recurrent(run.graph, run.kernel) else run.x
    yield from _in_parts(rows.reshape(1, -1, run.kernel.depth))


def _matmul(run: Run) -> Iterator[Inputs]:
    """Leading dimensions broadcast; along those that the constant has not, all rows meet the same matrix."""
    x = np.swapaxes(run.x, -1, -2) if run.kernel.node.attrs.get("adj_x") else run.x
    stacked = run.kernel.kernel.layout.shape[:-2]
    stacked = (*[1] * (x.ndim - 2 - len(stacked)), *stacked)
    leading = np.broadcast_shapes(x.shape[:-2], stacked)
    x = np.broadcast_to(x, (*leading, *x.shape[-2:]))
    order = sorted(range(len(leading)), key=lambda axis: stacked[axis] == 1)
    x = x.transpose(*order, x.ndim - 2, x.ndim - 1)
    yield from _in_parts(x.reshape(run.kernel.groups, -1, run.kernel.depth))


def _conv(run: Run) -> Iterator[Inputs]:
    """Channels lie behind each other by groups; a depthwise convolution has one channel in each."""
    node, groups = run.kernel.node, run.kernel.groups
    inputs = tuple(run.graph.tensors[name] if name else None for name in node.inputs)
    outputs = tuple(run.graph.tensors[name] for name in node.outputs)
    call = Call(node, (run.x,), inputs, outputs, find("xnnpack"))
    window = Window.of(call, run.x.shape[1], run.x.shape[2], run.kernel.taps)
    padded, window = _thinned(window.padded(run.x), window, run)
    for columns in _windows(padded, window):
        rows = columns.reshape(-1, math.prod(window.size), groups, run.x.shape[3] // groups)
        yield Inputs(rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1))


def _thinned(padded: np.ndarray, window: Window, run: Run) -> tuple[np.ndarray, Window]:
    """Returns the padded input from the first output on that is looked at, and the window that sees those only."""
    firsts = [run.first % max(1, min(run.step, out)) for out in window.out]
    out = tuple(max(0, -(-(out - first) // run.step)) for out, first in zip(window.out, firsts, strict=True))
    stride = tuple(stride * run.step for stride in window.stride)
    tops = [first * stride for first, stride in zip(firsts, window.stride, strict=True)]
    thinned = Window(window.size, (stride[0], stride[1]), window.dilation, (out[0], out[1]), window.pad)
    return padded[:, tops[0] :, tops[1] :], thinned


def _windows(padded: np.ndarray, window: Window) -> Iterator[np.ndarray]:
    """Yields the columns of some rows of windows at a time: (n, rows, out_w, kh * kw, c), of 1 × 1 without taps."""
    channels = padded.shape[3]
    size = len(padded) * window.out[1] * math.prod(window.size) * channels
    count = max(1, _ELEMENTS // max(1, size))
    for start in range(0, window.out[0], count):
        part = padded[:, start * window.stride[0] :]
        yield window_columns(part, window, min(count, window.out[0] - start), channels, np.float32)


def _transposed(run: Run) -> Iterator[Inputs]:
    """Output q hears of the taps k that `stride` divides ``q + pad - k`` by: input pixel ``(q + pad - k) / stride``."""
    shape, node = run.kernel.kernel.layout.shape, run.kernel.node
    call = Call(node, (), (), (), find("xnnpack"))
    # The padding is that of the convolution from the output's size to the input's.
    way = Window.of(call, run.y.shape[1], run.y.shape[2], run.kernel.taps)
    for row in range(min(way.stride[0], shape[1])):
        for column in range(min(way.stride[1], shape[2])):
            spans = [
                _Phase.of(first, way.size[axis], way.stride[axis], way.pad[axis][0], run.y.shape[1 + axis])
                for axis, first in enumerate((row, column))
            ]
            size, out = (len(spans[0].taps), len(spans[1].taps)), (spans[0].outputs, spans[1].outputs)
            pad = tuple(span.pad(extent) for span, extent in zip(spans, run.x.shape[1:3], strict=True))
            window = Window(size, (1, 1), (1, 1), out, (pad[0], pad[1]))
            padded = window.padded(run.x)[:, spans[0].first :, spans[1].first :]
            taps = spans[0].taps[:, None] * shape[2] + spans[1].taps
            met = (taps.reshape(-1, 1) * shape[3] + np.arange(shape[3])).ravel()
            for columns in _windows(padded, window):
                yield Inputs(columns.reshape(1, -1, len(met)), met)


class _Phase(NamedTuple):
    """One dimension of the outputs of one phase.

    Attributes:
        taps: those that are heard of, the last one first, as input pixels lie.
        first: the input pixel, counted in the padded input, under the first of these taps at the first output.
        outputs: their number.
        last: the input pixel under the last of these taps at the last output.
    """

    taps: np.ndarray
    first: int
    outputs: int
    last: int

    @staticmethod
    def of(tap: int, size: int, stride: int, pad: int, outputs: int) -> _Phase:
        """Returns the phase of the outputs that hear of a tap below the stride."""
        taps = np.arange(tap, size, stride)[::-1]
        first, last = -((tap - pad) // stride), (outputs - 1 + pad - tap) // stride
        return _Phase(taps, first, max(0, last - first + 1), last)

    def pad(self, extent: int) -> tuple[int, int]:
        """Returns the padding with which all outputs lie within an input of that extent."""
        return len(self.taps) - 1, max(0, self.last + 1 - extent)


# By the kind of the kernel; BATCH_MATMUL has a reader of its own.
_READERS: Mapping[str, Callable[[Run], Iterator[Inputs]]] = {
    "dense": _dense,
    "conv": _conv,
    "depthwise": _conv,
    "transposed": _transposed,
    "recurrent": _lstm,
}
# Whose readers look at the output, too.
_OF_OUTPUT = ("transposed", "recurrent")
