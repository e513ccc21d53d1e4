"""First and second moments of what a layer is fed, in the float model and in the integer model beside it.

With the inputs x of the float layer and x̂ of the integer one, the error of an output is ``e = W x − V x̂`` for integer
weights V; its mean and its variance over all outputs follow from Σx, Σx̂, Σx xᵀ, Σx x̂ᵀ and Σx̂ x̂ᵀ alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.graph import Graph
from featherweight.operators import lookup
from featherweight.pruning.moments import Inputs, Run, inputs_of, is_recurrent, needs_output
from featherweight.pruning.prunable import GraphKernel
from featherweight.repair.weights.gptq import row_parts
from featherweight.repair.weights.prefix import Pair, Prefix

# Rows of inputs that are looked at, for each weight of a row: more bring no digit that matters.
_ROWS_PER_WEIGHT = 32
_LEAST_ROWS = 16384
# Elements of inputs that are multiplied at a time.
_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Sums over the inputs of a layer, float64, for each group of its rows.

    Attributes:
        count: how many inputs were seen by each group.
        sums: Σx, (groups, depth).
        rounded_sums: Σx̂.
        rounded_squares: Σx̂ x̂ᵀ, (groups, depth, depth).
        squares: Σx xᵀ; None where it was not asked for.
        mixed: Σx x̂ᵀ; None where it was not asked for.
    """

    count: int
    sums: np.ndarray
    rounded_sums: np.ndarray
    rounded_squares: np.ndarray
    squares: np.ndarray | None = None
    mixed: np.ndarray | None = None

    @property
    def is_finite(self) -> bool:
        """False where an input held infinity or NaN, or was so large that its square does."""
        parts = (self.sums, self.rounded_squares, self.squares, self.mixed)
        return all(np.isfinite(part).all() for part in parts if part is not None)

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """E[x] and E[x̂], (groups, depth)."""
        return self.sums / max(1, self.count), self.rounded_sums / max(1, self.count)

    def plus(self, other: InputMoments) -> InputMoments:
        """Returns the moments of both sets of inputs."""

        def added(one: np.ndarray | None, another: np.ndarray | None) -> np.ndarray | None:
            return None if one is None or another is None else one + another

        return InputMoments(
            self.count + other.count,
            self.sums + other.sums,
            self.rounded_sums + other.rounded_sums,
            self.rounded_squares + other.rounded_squares,
            added(self.squares, other.squares),
            added(self.mixed, other.mixed),
        )

    def about(self, x: np.ndarray, y: np.ndarray) -> InputMoments:
        """Returns the moments of x − `x` and x̂ − `y`, (groups, depth): what is left once a bias has taken the means."""

        def moved(part: Any, left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> Any:
            # Σ (a − a0)(b − b0)ᵀ = Σ a bᵀ − Σa b0ᵀ − a0 Σbᵀ + n a0 b0ᵀ
            (a, a0), (b, b0) = left, right
            if part is None:
                return None
            taken = np.stack([a, a0], axis=2) @ np.stack([b0, b - self.count * b0], axis=1)
            return np.subtract(part, taken, out=taken)

        exact, rounded = (self.sums, x), (self.rounded_sums, y)
        return InputMoments(
            self.count,
            self.sums - self.count * x,
            self.rounded_sums - self.count * y,
            moved(self.rounded_squares, rounded, rounded),
            moved(self.squares, exact, exact),
            moved(self.mixed, exact, rounded),
        )


def input_moments(prefix: Prefix, kernel: GraphKernel, *, both: bool = False) -> tuple[InputMoments, InputMoments]:
    """Returns the moments of a kernel's inputs over every other run, and over those between; the prefix stands there.

    With `both`, second moments of the float model's inputs, too, and of theirs with the integer model's.
    """
    graph, output = prefix.exact.main, kernel.node.outputs[0]
    names = [] if is_recurrent(graph, kernel) else [kernel.activation]
    names += [output] if needs_output(kernel) else []
    sums = [_Sums(kernel.groups, kernel.depth, both=both) for _ in range(2)]
    step = _step(graph, kernel, len(prefix.samples))
    for index, pairs in enumerate(prefix.pairs(names)):
        runs = [
            Run(graph, kernel, _of(pairs[names[0]], which), _of(pairs[names[-1]], which), step, index // 2 % step)
            for which in (0, 1)
        ]
        for exact, rounded in zip(*map(inputs_of, runs), strict=True):
            sums[index % 2].add(exact, rounded)
    one, another = (each.moments() for each in sums)
    return one, another


class _Sums:
    """Adds inputs up, many at a time: a product of few rows costs as much as adding it to the sum of all."""

    def __init__(self, groups: int, depth: int, *, both: bool) -> None:
        self.first = [np.zeros((groups, depth)) for _ in range(2)]
        self.second = [np.zeros((groups, depth, depth)) for _ in range(3 if both else 1)]
        self.count, self.waiting = 0, 0
        self.exact: list[Inputs] = []
        self.rounded: list[Inputs] = []

    def add(self, exact: Inputs, rounded: Inputs) -> None:
        if exact.columns is not None:
            self.flush()
        self.exact.append(exact)
        self.rounded.append(rounded)
        self.waiting += exact.values.size
        if self.waiting >= _ELEMENTS or exact.columns is not None:
            self.flush()

    def moments(self) -> InputMoments:
        """Returns the sums of all that was added."""
        self.flush()
        return InputMoments(self.count, *self.first, *self.second)

    def flush(self) -> None:
        """Multiplies what waits."""
        if not self.exact:
            return
        columns = self.exact[0].columns
        at = slice(None) if columns is None else columns
        x, y = (np.concatenate([part.values for part in parts], axis=1) for parts in (self.exact, self.rounded))
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite is seen in the sums
            for total, part in zip(self.first, (x, y), strict=True):
                total[:, at] += (np.ones((1, part.shape[1]), part.dtype) @ part)[:, 0]  # much faster than its sum
            for total, (left, right) in zip(self.second, ((y, y), (x, x), (x, y)), strict=False):
                found = left.transpose(0, 2, 1) @ right
                if columns is None:
                    total += found
                else:
                    total[:, columns[:, None], columns] += found
        self.count += x.shape[1]
        self.waiting = 0
        self.exact.clear()
        self.rounded.clear()


def _of(pair: Pair, which: int) -> np.ndarray:
    return np.asarray(pair[which], np.float32)


def _step(graph: Graph, kernel: GraphKernel, runs: int) -> int:
    """Returns which of a convolution's outputs to look at, along each axis, for enough of them in all."""
    if lookup(kernel.node.op).weight_kind not in ("conv", "depthwise"):
        return 1
    shape = graph.tensors[kernel.node.outputs[0]].shape
    pixels, most = shape[1] * shape[2] * runs, max(_LEAST_ROWS, _ROWS_PER_WEIGHT * kernel.depth)
    step = 1
    while pixels // (step + 1) ** 2 >= most:
        step += 1
    return step


def too_few(count: int, depth: int) -> str:
    """Returns what to say of too few inputs, or nothing."""
    if count >= depth:
        return ""
    more = f"give about {math.ceil(depth / max(1, count))} times as many samples"
    return f"its {depth} weights a row were chosen by {count} inputs; {more}"


def groups_of(rows: np.ndarray, groups: int) -> np.ndarray:
    """Returns (rows, depth) as (groups, rows of a group, depth)."""
    return rows.reshape(groups, -1, rows.shape[-1])


def total_error(difference: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Returns ``d H dᵀ`` of every row d, (groups, rows)."""
    found = np.empty(difference.shape[:2])
    for part in row_parts(difference):
        found[:, part] = np.einsum("grd,grd->gr", difference[:, part] @ moments, difference[:, part])
    return found
