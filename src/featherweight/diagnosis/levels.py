"""What an error comes to at the outputs of a model, and which tensors stand for outputs that are no real numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.calibration.infinity import holding_infinity
from featherweight.graph import Graph, Model, io_names, producers
from featherweight.operators import lookup
from featherweight.operators.relevance import LARGEST_ORDINARY

# Outputs with so few columns have a meaning for each: they count column by column, each in units of its own spread.
_MOST_COLUMNS = 64
# Of one column, fewer values than this may be small by chance.
_LEAST_ROWS = 8
# An output at this ratio needs no repair; of columns in units of their spread, which leaves out what is constant.
_ENOUGH_DB, _ENOUGH_COLUMNS_DB = 25.0, 15.0
# A single column at this ratio needs none either: its error has half of its own deviation.
ENOUGH_COLUMN_DB = 6.0
# Columns that vary by less than this part of the usual one are taken for constant.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Output:
    """A tensor of real numbers by which errors are judged.

    Attributes:
        name: the public name of the output, or of the integer one (a class, an index) that is computed from it.
        has_columns: its columns count one by one, as soon as enough rows of them were seen.
        is_masked: it may hold masks or infinities, which say nothing.
    """

    name: str
    tensor: str
    has_columns: bool
    is_masked: bool = False


def judged_outputs(model: Model, stand_ins: Mapping[str, str]) -> tuple[Output, ...]:
    """Returns the outputs of a float model that are real numbers; for others, the nearest ones that they come from.

    `stand_ins` are judged in the place of outputs that a quantized model does not compute.
    """
    graph, made, infinite = model.main, producers(model.main), holding_infinity(model.main)
    found: dict[str, Output] = {}
    for name, tensor in io_names(model)[1].items():
        for real in _nearest_real(graph, stand_ins.get(tensor, tensor)):
            if real in found or (real not in made and real not in graph.inputs):
                continue
            shape = graph.tensors[real].shape
            has_columns = len(shape) > 1 and 1 < shape[-1] <= _MOST_COLUMNS and not _is_probability(graph, real)
            found[real] = Output(name, real, has_columns, real in infinite)
    return tuple(found.values())


def _nearest_real(graph: Graph, name: str) -> Iterable[str]:
    made, seen, waiting = producers(graph), set[str](), [name]
    while waiting:
        name = waiting.pop(0)
        if name in seen or graph.tensors[name].is_constant:
            continue
        seen.add(name)
        if graph.tensors[name].is_float:
            yield name
        elif name in made:
            waiting += [read for read in made[name].inputs if read]


def _is_probability(graph: Graph, name: str) -> bool:
    made = producers(graph)
    while name in made and lookup(made[name].op).moves_data and not made[name].op.startswith("CONC"):
        name = made[name].inputs[0]
    return name in made and bool(lookup(made[name].op).probability)


@dataclass(frozen=True)
class OutputLevel:
    """The error of one output: sums over all values of Σx² (signal), of the float model, and of Σe² (noise).

    Attributes:
        spread: per column, Σ(x − mean)²; one number where columns do not count one by one.
        noise, signal: per column likewise.
    """

    name: str
    signal: np.ndarray
    spread: np.ndarray
    noise: np.ndarray

    @property
    def sqnr_db(self) -> float:
        """10 log10(Σx²/Σe²) over all values."""
        return power_ratio_db(float(self.signal.sum()), float(self.noise.sum()))

    @property
    def columns_db(self) -> tuple[float, ...]:
        """The ratio of each column's spread to its noise, dB; empty where columns do not count one by one."""
        pairs = zip(self.spread.tolist(), self.noise.tolist(), strict=True)
        return tuple(power_ratio_db(*pair) for pair in pairs) if self.spread.size > 1 else ()

    @property
    def varies(self) -> np.ndarray:
        """True for the columns that are not constant."""
        return self.spread > _LEAST_SPREAD * float(
            np.median(self.spread[self.spread > 0], axis=None) if self.spread.any() else 0.0
        )

    @property
    def weakest(self) -> tuple[int, float] | None:
        """The column that varies and has lost most, and its ratio, dB; None where columns do not count one by one."""
        found = [(level, i) for i, level in enumerate(self.columns_db) if self.varies[i]]
        return None if not found else (min(found)[1], min(found)[0])

    @property
    def is_enough(self) -> bool:
        """True where it needs no repair."""
        if self.sqnr_db < _ENOUGH_DB:
            return False
        is_column_enough = self.weakest is None or self.weakest[1] >= ENOUGH_COLUMN_DB
        return not self.columns_db or (self.level_db >= _ENOUGH_COLUMNS_DB and is_column_enough)

    @property
    def level_db(self) -> float:
        """`ratio` in dB."""
        return power_ratio_db(1.0, self.ratio)

    @property
    def ratio(self) -> float:
        """Noise to signal as it counts: over all values, or, with columns, the mean of noise to spread over these."""
        if self.spread.size == 1:
            return _ratio(float(self.noise.sum()), float(self.signal.sum()))
        if not self.spread.any():
            return _ratio(float(self.noise.sum()), float(self.signal.sum()))
        return float(
            np.mean(self.noise / np.where(self.varies, self.spread, float(np.median(self.spread[self.varies]))))
        )


def _ratio(noise: float, signal: float) -> float:
    return noise / signal if signal > 0 else math.inf if noise > 0 else 0.0


@dataclass(frozen=True)
class Level:
    """The error at all outputs, each on its own; the worst of them is what a user sees.

    Attributes:
        examples: how many it was measured on.
    """

    outputs: tuple[OutputLevel, ...] = ()
    examples: int = 0

    def __add__(self, other: Level) -> Level:
        """Returns the level of both errors together, as if they were independent; the outputs must be the same."""
        pairs = zip(self.outputs, other.outputs, strict=True)
        return replace(self, outputs=tuple(replace(a, noise=a.noise + b.noise) for a, b in pairs))

    @property
    def worst(self) -> OutputLevel | None:
        """The output that has lost most."""
        return max(self.outputs, key=lambda each: each.ratio, default=None)

    @property
    def ratio(self) -> float:
        """Noise to signal of the output that has lost most, as it counts (see `OutputLevel.ratio`); 0: no error."""
        return 0.0 if self.worst is None else self.worst.ratio

    @property
    def sqnr_db(self) -> float:
        """10 log10(Σx²/Σe²) of the output that has lost most, dB; inf without error."""
        return math.inf if self.worst is None else self.worst.sqnr_db

    @property
    def level_db(self) -> float:
        """`ratio` in dB: as `sqnr_db`, but of outputs with columns in units of each column's own spread."""
        return power_ratio_db(1.0, self.ratio)

    @property
    def enough_db(self) -> float:
        """The level at which the output that has lost most needs no repair."""
        return _ENOUGH_DB if self.worst is None or not self.worst.columns_db else _ENOUGH_COLUMNS_DB

    @property
    def is_enough(self) -> bool:
        """True where no output needs repair."""
        return all(each.is_enough for each in self.outputs)


@dataclass
class Meter:
    """Collects the error of outputs, run by run.

    Args:
        outputs: what is judged.
        wanted: output tensor → the float model's values, a run each.
    """

    outputs: Sequence[Output]
    wanted: Mapping[str, Sequence[np.ndarray]]
    _noise: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    _examples: int = 0

    def add(self, run: int, found: Mapping[str, np.ndarray]) -> None:
        """Adds one run's values; tensors that are not among them have no error."""
        for output in self.outputs:
            if output.tensor in found:
                x = self.wanted[output.tensor][run]
                noise = _columns(output, _shown(output, x, found[output.tensor]))
                self._noise[output.tensor] = self._noise.get(output.tensor, np.zeros(1)) + noise

    def level(self, examples: int) -> Level:
        """Returns what it comes to."""
        found: list[OutputLevel] = []
        for output in self.outputs:
            rows = sum(run.size // run.shape[-1] if run.ndim else 1 for run in self.wanted[output.tensor])
            output = replace(output, has_columns=output.has_columns and rows >= _LEAST_ROWS)
            signal, spread = _powers(output, self.wanted[output.tensor])
            noise = self._noise.get(output.tensor, np.zeros(1)) + np.zeros_like(spread)
            found.append(
                OutputLevel(output.name, signal, spread, noise if output.has_columns else noise.sum(keepdims=True))
            )
        return Level(tuple(found), examples)


def _shown(output: Output, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns y − x, but 0 where x is masked; what is not finite in y counts as far off as the value itself."""
    x, y = x.astype(np.float64), y.reshape(x.shape).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(np.isfinite(y), y - x, x)
    return np.where(np.abs(x) < (LARGEST_ORDINARY if output.is_masked else np.inf), error, 0.0)


def _columns(output: Output, values: np.ndarray) -> np.ndarray:
    squares = np.square(values)
    return squares.reshape(-1, squares.shape[-1]).sum(axis=0) if output.has_columns else squares.sum().reshape(1)


def _powers(output: Output, runs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns Σx² and Σ(x − mean)², per column where these count."""
    rows = [np.where(np.isfinite(run), run, 0.0).astype(np.float64) for run in runs]
    if not output.has_columns:
        signal = sum(float(np.square(run).sum()) for run in rows)
        return np.full(1, signal), np.full(1, signal)
    joined = np.concatenate([run.reshape(-1, run.shape[-1]) for run in rows])
    return np.square(joined).sum(axis=0), np.square(joined - joined.mean(axis=0)).sum(axis=0)
