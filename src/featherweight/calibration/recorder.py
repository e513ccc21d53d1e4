"""Ranges from the field: a model in use learns what its tensors hold, until more would not change them."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, count, flag, instance, number
from featherweight.calibration.collect import measurable, opened_shard
from featherweight.calibration.stats import Stats
from featherweight.calibration.stats_file import save_stats
from featherweight.errors import DataError
from featherweight.graph import ModelLike
from featherweight.runtime import Session
from featherweight.runtime.batches import Feed
from featherweight.runtime.litert import MOST_THREADS
from featherweight.runtime.samples import checked_arrays, input_tensors

# Fewer inferences than these show nothing, however little they change.
_LEAST_RECORDED = 64


class Recorder:
    """Runs a float (or `dynamic`) model as LiteRT does, and records statistics of some of the inferences.

    No input is kept. Recording an inference costs another one, in a second interpreter that measures itself; it is done
    as often as `overhead` allows. It ends by itself when the statistics have converged: when the second half of what
    was recorded has widened no tensor's range by more than `tolerance` of it, twice in a row as the number of recorded
    inferences doubles. What the integers of the model would be has then stopped to change.

    Args:
        model: what `load` takes, with float activations. It must not keep state from run to run.
        overhead: the time that recording may add to that of the inferences, as a fraction.
        tolerance: the change of a range, as a fraction of its width, that is none.
        histograms: record distributions, for range methods other than minmax.
        threads: of each interpreter.

    Attributes:
        has_converged: whether it has ended.
        skipped: inferences that were to be recorded, and were not: their inputs hold NaN or infinity.

    Raises:
        FormatError: for an integer model, or none.
        DataError: for a model with state.
    """

    @checked(overhead=number(0), tolerance=number(0, 1), histograms=flag, threads=count(1, MOST_THREADS))
    def __init__(
        self,
        model: ModelLike,
        *,
        overhead: float = 0.02,
        tolerance: float = 0.01,
        histograms: bool = False,
        threads: int | None = None,
    ) -> None:
        self.model = tflite.read(model)
        self.overhead, self.tolerance = overhead, tolerance
        self._session = Session(self.model, threads=threads)
        if self._session.is_stateful:
            raise DataError(
                "Recorder: the model keeps state from run to run, which a second interpreter has not. Collect "
                "successive inputs, and give them to `calibrate` in their order."
            )
        self._inputs = input_tensors(self.model)
        self._shard = opened_shard(self.model, measurable(self.model), histograms=histograms, threads=threads)
        self._before: Stats | None = None
        self._quiet = 0
        self._run_s = self._recorded_s = 0.0
        self.has_converged, self.skipped = False, 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees both interpreters; what was recorded stays."""
        self._session.close()
        if self._shard.session is not None:
            self._shard.session.close()

    @property
    def recorded(self) -> int:
        """The number of examples that were recorded."""
        return self._shard.rows

    @property
    def stats(self) -> Stats:
        """The statistics so far.

        Raises:
            DataError: before the first inference.
        """
        if not self.recorded:
            raise DataError("Recorder: nothing was recorded yet. Run some inferences first.")
        return self._shard.result()

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Runs the model on a sample, as `Session.run`, and records it if it is its turn.

        Raises:
            DataError: if the inputs don't fit the model.
        """
        start = time.perf_counter()
        result = self._session.run(inputs)
        self._run_s += time.perf_counter() - start
        if not self.has_converged and self._recorded_s <= self.overhead * self._run_s:
            start = time.perf_counter()
            self._record(inputs)
            self._recorded_s += time.perf_counter() - start
        return result

    def save(self, path: str | Path) -> None:
        """Writes the statistics so far (`Stats.save`)."""
        save_stats(self.stats, path)

    def _record(self, inputs: Any) -> None:
        arrays = checked_arrays(inputs, self._inputs, finite=False)
        if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
            self.skipped += 1  # a broken input is the caller's, and says nothing of ranges
            return
        rows = max((len(array) for array in arrays.values() if array.ndim), default=1)
        before = self.recorded
        self._shard.take(Feed(arrays, rows, before, before))
        # At 64, 128, 256 … examples.
        if max(before, _LEAST_RECORDED - 1).bit_length() < self.recorded.bit_length():
            self._judge(self._shard.result())

    def _judge(self, stats: Stats) -> None:
        if self._before is not None:
            is_quiet = largest_change(self._before, stats) <= self.tolerance
            self._quiet = self._quiet + 1 if is_quiet else 0
            self.has_converged = self._quiet >= 2
        self._before = stats


def largest_change(before: Stats, after: Stats) -> float:
    """Returns by how much the range of the tensor that changed most did, as a fraction of what it is afterwards."""
    return max((change for _, change in drift(before, after)), default=0.0)


@checked(before=instance(Stats), after=instance(Stats))
def drift(before: Stats, after: Stats) -> tuple[tuple[str, float], ...]:
    """Returns (tensor, change of its range as a fraction of the wider of both), the largest change first.

    Ranges are compared as integers have them, with zero inside.

    Raises:
        DataError: if the statistics are about different tensors.
    """
    before.merge(after)  # raises
    found: list[tuple[str, float]] = []
    for name, old in before.tensors.items():
        new = after.tensors[name]
        lows, highs = (min(old.low, 0.0), min(new.low, 0.0)), (max(old.high, 0.0), max(new.high, 0.0))
        width = max(highs[0] - lows[0], highs[1] - lows[1])
        change = abs(lows[0] - lows[1]) + abs(highs[0] - highs[1])
        found.append((name, change / width if width else 0.0))
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))
