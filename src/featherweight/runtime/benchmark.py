"""Latency of several models side by side: interleaved rounds, so that what disturbs one disturbs all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.arguments import checked, count, flag, text
from featherweight.errors import RecipeError
from featherweight.graph import ModelLike, Tensor
from featherweight.graph.numerics import INTEGER_BITS, integer_range, storage_dtype
from featherweight.runtime.litert import MOST_THREADS, Session
from featherweight.runtime.progress import track

# A timing covers at least this long, so that clock and call overhead vanish on models of a few microseconds.
_SHORTEST_TIMING_S = 1e-3
_MOST_ROUNDS = 1_000_000


@dataclass(frozen=True)
class Latency:
    """How long one run of a model takes.

    Attributes:
        median_ms: over all rounds.
        low_ms: 10 % of the rounds were faster.
        high_ms: 10 % of the rounds were slower.
        ratio: median over the rounds of this model's time divided by the first model's in the same round.
        runs: number of rounds.
        threads: threads of the interpreter.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    runs: int
    threads: int


@checked(
    threads=count(1, MOST_THREADS),
    runs=count(1, _MOST_ROUNDS),
    warmup=count(0, _MOST_ROUNDS),
    resolver=text,
    seed=count(0),
    progress=flag,
)
def benchmark(
    models: Mapping[str, ModelLike] | Sequence[ModelLike] | ModelLike,
    *,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 3,
    resolver: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> list[Latency]:
    """Times models on LiteRT in interleaved rounds, on the same kind of random inputs; returns one row each.

    In each of `runs` rounds every model runs once (very fast ones several times), in an order that changes
    from round to round; the first `warmup` rounds are not counted.

    Args:
        models: what `load` takes: one, several in a list, or in a dict by the name of its row; files run as they are.
        threads: of the runtime.
        runs: number of rounds.
        warmup: rounds before them.
        resolver: of LiteRT's kernels, as in `Session`.
        seed: of the inputs.
        progress: show progress on a terminal.

    Raises:
        RecipeError: if there are no models, or a number is out of its range.
        FeatherweightError: if a model can't be loaded or run.
    """
    if not isinstance(models, Mapping):
        models = {str(path): path for path in models}
    if not models:
        raise RecipeError("benchmark: there are no models to time. Name at least one.")
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Session(m, threads=threads, resolver=resolver)) for m in models.values()]
        feeds = [random_inputs(session.inputs, seed) for session in sessions]
        repeats = [_repeats(session, feed) for session, feed in zip(sessions, feeds, strict=True)]
        rounds = np.empty((runs, len(sessions)))
        for step in track(range(-warmup, runs), "timing", total=warmup + runs, enabled=progress):
            for turn in range(len(sessions)):
                which = (turn + step) % len(sessions)
                seconds = _seconds(sessions[which], feeds[which], repeats[which])
                if step >= 0:
                    rounds[step, which] = seconds
    ratios = np.median(rounds / rounds[:, :1], axis=0)
    low, middle, high = np.quantile(rounds * 1e3, (0.1, 0.5, 0.9), axis=0)
    return [
        Latency(name, float(middle[i]), float(low[i]), float(high[i]), float(ratios[i]), runs, threads)
        for i, name in enumerate(models)
    ]


def random_inputs(inputs: Mapping[str, Tensor], seed: int = 0) -> dict[str, np.ndarray]:
    """Returns one run's arrays: floats in [-1, 1), small integers over their whole range, others 0 and 1.

    int32 and int64 inputs are indices more often than not: 0 and 1 are in every table.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in inputs.items():
        if INTEGER_BITS.get(tensor.dtype, 32) <= 16:
            low, high = integer_range(tensor.dtype)
            arrays[name] = generator.integers(low, high + 1, tensor.shape).astype(storage_dtype(tensor.dtype))
        elif tensor.dtype in INTEGER_BITS or tensor.dtype == "bool":
            arrays[name] = generator.integers(0, 2, tensor.shape).astype(storage_dtype(tensor.dtype))
        else:
            arrays[name] = generator.uniform(-1, 1, tensor.shape).astype(storage_dtype(tensor.dtype))
    return arrays


def _repeats(session: Session, feed: Mapping[str, np.ndarray]) -> int:
    """Returns how many runs fill the shortest timing."""
    _seconds(session, feed, 1)
    return max(1, int(np.ceil(_SHORTEST_TIMING_S / _seconds(session, feed, 1))))


def _seconds(session: Session, feed: Mapping[str, np.ndarray], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        session.invoke(feed)
    return (time.perf_counter() - start) / repeats
