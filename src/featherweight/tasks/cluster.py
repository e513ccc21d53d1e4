"""Weight clustering without training: a float model goes in, and comes out with few values in each kernel."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, count, flag, shapes, stream
from featherweight.clustering.choosing import FEWEST, MOST, check_choice, chosen
from featherweight.graph import Model, constant
from featherweight.graph.editor import with_constants
from featherweight.pruning.choosing import ROLES
from featherweight.pruning.criteria import as_rows, from_rows
from featherweight.pruning.moments import is_observable, second_moments
from featherweight.pruning.prunable import GraphKernel, check_float, find_kernels
from featherweight.repair.weights.codebook import Clustered as Rows
from featherweight.repair.weights.codebook import clustered
from featherweight.runtime.progress import track
from featherweight.runtime.samples import feeds
from featherweight.tasks.load import load, peeked
from featherweight.tflite.codings import encodings

_SAMPLES = 128


@dataclass(frozen=True)
class ClusteredKernel:
    """What became of one kernel.

    Attributes:
        name: the constant's.
        op: the operator that multiplies by it.
        elements: how many weights it has.
        levels: the integers that int8 makes of its values; empty where it stays as it is.
        relative_error: of the weights, ``‖w − w'‖ / ‖w‖``.
        decode_bytes: of its int8 weights (as many as elements) as TFLite Micro's DECODE reads them.
        zip_bytes: of the same, deflated.
        reason: why it stays as it is.
    """

    name: str
    op: str
    elements: int
    levels: tuple[int, ...] = ()
    relative_error: float = 0.0
    decode_bytes: int = 0
    zip_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Clustered:
    """A float model with few values in its kernels, and what became of each kernel."""

    model: Model
    kernels: tuple[ClusteredKernel, ...]

    def __repr__(self) -> str:
        done = [kernel for kernel in self.kernels if kernel.levels]
        bytes_now = sum(kernel.elements for kernel in done), sum(kernel.decode_bytes for kernel in done)
        return (
            f"Clustered model: {len(done)} of {len(self.kernels)} kernels\n"
            f"  their weights in int8  {bytes_now[0]:,} bytes, encoded {bytes_now[1]:,}\n{self.model!r}"
        )

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


@checked(
    {"samples": "limit", "number_of_clusters": "clusters", "dense": "keep"},
    clusters=count(FEWEST, MOST),
    calibration=stream,
    per_channel=flag,
    limit=count(way="Data go to calibration=."),
    input_shapes=shapes,
    progress=flag,
)
def cluster(
    source: Any,
    clusters: int = 16,
    *,
    calibration: Iterable[Any] | None = None,
    exclude: str | Sequence[str] = (),
    rules: Mapping[str, int] | Sequence[tuple[str, int]] = (),
    keep: str | Sequence[str] = ROLES,
    per_channel: bool = True,
    limit: int | None = None,
    input_shapes: Any = None,
    progress: bool = True,
) -> Clustered:
    """Gives each kernel at most so many values without training; `quantize` makes as many integers of them.

    Values are levels in units of each output channel's largest weight, so that int8 makes the same integers of them in
    every channel. Levels are the best there are: k-means in one dimension has an optimum that is computed, without
    initial values (`featherweight.clustering.levels`). Weights that are 0 stay 0.

    Args:
        source: what `load` takes; a pruned model keeps its zeros.
        clusters: values in a kernel, 0 among them where it has zeros: 4 to 128.
        calibration: samples from the training split. With them, what weights are multiplied by counts, and weights make
            up for each other's errors (GPTQ, 2210.17323), layer after layer; without, their own errors alone count.
        exclude: shell patterns of kernels that stay as they are, matching their name or a part of it.
        rules: shell pattern → values in the kernels whose name it matches, 0 for none; the first that matches decides.
        keep: what stays as it is unless a rule other than ``*`` names it: the ``first`` convolution, the ``last``
            kernel, ``depthwise``. So do kernels with fewer than 16 weights for each value.
        per_channel: False for targets with one scale for a whole weight: levels are then of its largest weight.
        limit: use at most so many samples (128).
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an option that is not understood, or nothing to cluster.
        DataError: if weights or samples can't be used.
        FormatError: if the model is quantized.
    """
    first, calibration = peeked(calibration)
    model = load(source, samples=first, input_shapes=input_shapes)
    check_float(model, "cluster")
    found = find_kernels(model)
    choice = check_choice(clusters, rules, exclude, keep, "cluster")
    counts, reasons = chosen([kernel.kernel for kernel in found], choice)
    given = [] if calibration is None else [feed.arrays for feed in feeds(calibration, model, limit=limit or _SAMPLES)]
    values, rows = dict[str, np.ndarray](), list[ClusteredKernel]()
    for kernel in track(found, "Clustering", total=len(found), enabled=progress):
        weight = _array(model, kernel)
        if kernel.name in reasons:
            rows.append(ClusteredKernel(kernel.name, kernel.node.op, weight.size, reason=reasons[kernel.name]))
            continue
        prefix = with_constants(model, values)
        moments = second_moments(prefix, kernel, given) if given and is_observable(kernel) else None
        layout = kernel.kernel.layout
        made = clustered(as_rows(weight, layout), counts[kernel.name], moments, per_channel=per_channel)
        values[kernel.name] = from_rows(made.values, layout)
        rows.append(_row(kernel, weight, values[kernel.name], made))
    return Clustered(with_constants(model, values), tuple(rows))


def _row(kernel: GraphKernel, before: np.ndarray, after: np.ndarray, made: Rows) -> ClusteredKernel:
    norm = float(np.linalg.norm(before))
    error = float(np.linalg.norm(after - before)) / norm if norm else 0.0
    coded = min(encodings(constant(kernel.name, made.integers)), key=lambda one: one.stored_bytes, default=None)
    decode_bytes = made.integers.size if coded is None else min(coded.stored_bytes, made.integers.size)
    zip_bytes = len(zlib.compress(made.integers.tobytes(), 6))
    levels = tuple(made.levels.tolist())
    return ClusteredKernel(kernel.name, kernel.node.op, before.size, levels, error, decode_bytes, zip_bytes)


def _array(model: Model, kernel: GraphKernel) -> np.ndarray:
    array = model.graphs[kernel.graph].tensors[kernel.name].array
    assert array is not None
    return array
