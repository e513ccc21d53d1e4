"""Judges what a repair brought: the outputs of the real runtime on samples that no repair has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.analysis.borders import dequantized, integer_feeds, matched_names
from featherweight.graph import Model, io_names, producers
from featherweight.operators import lookup
from featherweight.operators.relevance import LARGEST_ORDINARY
from featherweight.repair.candidate import Arrays
from featherweight.runtime.litert import Session

# Ratios beyond these say nothing more: an output that is lost, and one that is right to float32's own error.
_LOWEST_DB, _HIGHEST_DB = -20.0, 100.0
# A loss that is worth a word.
LEAST_LOSS_DB = 0.5
# Outputs with so few columns have a meaning for each: they are judged column by column.
_MOST_COLUMNS = 64
# The error of less values than this in a run says little of that run.
_FEW_VALUES = 8
# The step of probabilities in 8 bits: what is smaller is as good as none.
_LEAST_PROBABILITY = 1 / 256


@dataclass(frozen=True)
class Gain:
    """A paired difference of two models on the same examples.

    Attributes:
        db: mean over examples of what the second model is nearer to the float one than the first, in dB.
        error_db: the standard error of that mean; infinite for a single example.
        examples: how many there were.
    """

    db: float
    error_db: float
    examples: int

    @property
    def is_sure(self) -> bool:
        """True where the mean is more than two standard errors above zero."""
        return self.db > 2 * self.error_db and self.db > 0

    @property
    def is_loss(self) -> bool:
        """True where the mean is more than two standard errors, and half a dB, below zero."""
        return -self.db > max(2 * self.error_db, LEAST_LOSS_DB)

    def __str__(self) -> str:
        return f"{self.db:+.2f} ± {self.error_db:.2f} dB"


class Judge:
    """Knows the float model's outputs on held-out samples.

    Args:
        model: the float model whose function is wanted.
        held_out: feeds of it.
    """

    def __init__(self, model: Model, held_out: Sequence[Arrays]) -> None:
        self.model, self.held_out = model, held_out
        graph, made = model.main, producers(model.main)
        self.outputs = {n: t for n, t in io_names(model)[1].items() if graph.tensors[t].is_float}
        self.probabilities = {n: lookup(made[t].op).probability if t in made else "" for n, t in self.outputs.items()}
        with Session(model) as session:
            runs = [{n: y for n, y in session.run(feed).items() if n in self.outputs} for feed in held_out]
        self.wanted = runs
        self.spread = {
            name: _variances([run[name] for run in runs])
            for name in self.outputs
            if not self.probabilities[name] and 1 < runs[0][name].shape[-1] <= _MOST_COLUMNS and runs[0][name].ndim > 1
        }

    def levels(self, model: Model, *, as_scores: bool = True) -> np.ndarray:
        """Returns the ratio of the float outputs to a model's error for each held-out run, dB, float64 (runs,).

        It is the mean over the outputs. Where an output has up to 64 columns, each of them counts in units of its own
        spread, so that a column of small numbers beside large ones is not hidden. Of probabilities, their scores are
        compared (`as_scores`): those near 0 or 1 hardly move, whatever the error before them, so that a few undecided
        runs would judge for all. The error of one or two values is 0 by chance now and then: of outputs of few values,
        the levels are what each run adds to the level of all, so that their mean is that level.
        """
        powers = self._powers(model, as_scores=as_scores)
        if not powers.shape[1]:
            return np.full(len(powers), _HIGHEST_DB)
        few = [as_scores and self.wanted[0][name].size < _FEW_VALUES for name in self.outputs]
        each = (_shares(powers[:, i]) if is_few else _levels(powers[:, i]) for i, is_few in enumerate(few))
        return np.stack(list(each)).mean(axis=0)

    def noise(self, model: Model) -> np.ndarray:
        """Returns the noise to signal of each output, over all held-out runs and of the usual run, (2, outputs).

        Of a mask that is empty in most pictures, the one that is not says little about the others.
        """
        powers = self._powers(model)
        whole = [_level(*pair) for pair in powers.sum(axis=0)]
        usual = np.array([[_level(*pair) for pair in run] for run in powers]).mean(axis=0)
        levels = np.array([whole, usual])
        return np.where(levels >= _HIGHEST_DB, 0.0, 10 ** (-levels / 10))

    def error_db(self) -> np.ndarray:
        """Returns two standard errors of such a level, dB, (outputs,): of few runs of one value it is known roughly.

        Values that vary in themselves are counted by run and column: ``10 / ln 10 · √(2 / n)`` of a χ² of n of them.
        """
        counts = [
            len(self.wanted) * min(values.shape[-1] if values.ndim > 1 else 1, _MOST_COLUMNS)
            for values in (self.wanted[0][name] for name in self.outputs)
        ]
        return 2 * 10 / math.log(10) * np.sqrt(2 / np.array(counts, np.float64))

    def _powers(self, model: Model, *, as_scores: bool = False) -> np.ndarray:
        """Returns the power of each float output, and that of its error, in each run, (runs, outputs, 2)."""
        kinds = self.probabilities if as_scores else dict.fromkeys(self.outputs, "")
        names = matched_names(self.model, model)
        found = list(io_names(model)[1])
        rows: list[list[tuple[float, float]]] = []
        with Session(model) as session:
            is_same = set(io_names(self.model)[1]) == set(found)
            others = {n: n if is_same else found[i] for i, n in enumerate(io_names(self.model)[1])}
            for feed, wanted in zip(self.held_out, self.wanted, strict=True):
                given = session.run(integer_feeds({names[n]: values for n, values in feed.items()}, model))
                pairs = {n: (x, dequantized(given[others[n]], session.outputs[others[n]])) for n, x in wanted.items()}
                scored = {n: (_scores(x, kinds[n]), _scores(y, kinds[n])) for n, (x, y) in pairs.items()}
                rows.append([_power(x, y, self.spread.get(n)) for n, (x, y) in scored.items()])
        return np.array(rows, np.float64).reshape(len(rows), -1, 2)


def gain(before: np.ndarray, after: np.ndarray) -> Gain:
    """Returns the paired difference of `Judge.levels` of two models.

    >>> str(gain(np.array([10.0, 12.0]), np.array([11.0, 13.5])))
    '+1.25 ± 0.25 dB'
    """
    differences = after - before
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Gain(float(differences.mean()), error, count)


def _scores(values: np.ndarray, kind: str) -> np.ndarray:
    """Returns what probabilities are made of, as far as 8 bits hold them: logits about their mean, or log odds."""
    if not kind:
        return values
    values = values.astype(np.float64)
    logarithms = np.log(np.maximum(values, 0) + _LEAST_PROBABILITY)
    if kind == "sigmoid" or values.shape[-1:] == (1,):
        return logarithms - np.log(np.maximum(1 - values, 0) + _LEAST_PROBABILITY)
    return logarithms - logarithms.mean(axis=-1, keepdims=True)


def _variances(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the variance of each column over all rows of all runs; those that hardly vary count as much as most."""
    rows = np.concatenate([run.reshape(-1, run.shape[-1]).astype(np.float64) for run in runs])
    found = np.where(np.abs(rows) < LARGEST_ORDINARY, rows, np.nan)
    with np.errstate(all="ignore"):
        variances = np.nan_to_num(np.nanvar(found, axis=0))
    varying = variances[variances > 0]
    floor = float(np.median(varying)) * 1e-6 if varying.size else 1.0
    return np.where(variances > floor, variances, float(np.median(varying)) if varying.size else 1.0)


def _power(x: np.ndarray, y: np.ndarray, spread: np.ndarray | None) -> tuple[float, float]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    shown = (np.abs(x) < LARGEST_ORDINARY) & (np.abs(y) < LARGEST_ORDINARY)
    noise = np.square(np.where(shown, x - y, 0.0))
    signal = np.square(np.where(shown, x, 0.0))
    if spread is not None:
        noise, signal = noise / spread, signal / spread
    return float(signal.sum()), float(noise.sum())


def _shares(powers: np.ndarray) -> np.ndarray:
    """Returns the level of all runs together, with what each run adds to it, (runs,), of (runs, 2) powers.

    It is the level's derivative by the weight of a run (Efron, 1982, The Jackknife, section 6.2), in units that make
    the deviation of these numbers over √runs the level's standard error.
    """
    power, error = powers.sum(axis=0)
    level = _level(power, error)
    if not (power and error) or len(powers) < 2:
        return np.full(len(powers), level)
    return level + 10 / math.log(10) * len(powers) * (powers[:, 0] / power - powers[:, 1] / error)


def _levels(powers: np.ndarray) -> np.ndarray:
    return np.array([_level(*run) for run in powers])


def _level(power: float, error: float) -> float:
    if error == 0:
        return _HIGHEST_DB
    if power == 0:
        return _LOWEST_DB
    return float(np.clip(10 * math.log10(power / error), _LOWEST_DB, _HIGHEST_DB))
