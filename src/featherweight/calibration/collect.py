"""Runs a model over samples on LiteRT with XNNPACK, and collects statistics of its tensors."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.calibration.histogram import Accumulator, Scratch
from featherweight.calibration.probes import Probed, can_probe, implied, with_probes
from featherweight.calibration.stats import ChannelMoments, Stats, TensorStats, channel_moments
from featherweight.errors import DataError, RecipeError
from featherweight.graph import Model, producers
from featherweight.runtime import Feed, Session, default_threads, feeds, track
from featherweight.runtime.litert import weight_bytes, with_outputs
from featherweight.runtime.samples import input_tensors, known_length

# Two interpreters side by side keep all processors busy while NumPy counts; each holds the weights packed and
# all measured tensors. Above this size memory matters more.
_LARGEST_TWICE_BYTES = 128 << 20
_LARGEST_MATRICES_BYTES = 128 << 20
# Operators that only unpack a constant: the runtime folds them away, unless their output must be kept.
_UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})


def calibrate(
    model: Model | bytes | str | Path,
    samples: Iterable[Any],
    *,
    tensors: Sequence[str] | None = None,
    histograms: bool = False,
    channels: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Stats:
    """Returns the statistics of a float model's tensors over samples: exact, whatever the samples' order.

    Args:
        model: its main graph is measured; tensors inside of loops are not.
        samples: any iterable of arrays, tuples or dicts (`runtime.samples`); a generator is consumed once.
        tensors: names in the main graph; default: every float32 tensor that is fed or computed there.
        histograms: collect distributions too, for range methods other than minmax.
        channels: collect sums and sums of squares per index along the last axis too.
        limit: use at most so many examples.
        threads: of the runtime; default as `runtime.default_threads`.
        progress: show a bar on a terminal once it has taken a second.

    Raises:
        DataError: if samples don't fit, or NaN or infinity occurs in them or is computed from them.
        RecipeError: if a tensor is not a float32 tensor that the main graph is fed or computes.
        FeatherweightError: if LiteRT can't run the model.
    """
    model = model if isinstance(model, Model) else tflite.read(model)
    names = measurable(model) if tensors is None else _asked(model, tensors)
    threads = threads or default_threads()
    # Moments are per index along the last axis, which moving data may change.
    origin = {n: n for n in names} if channels else implied(model, names, same_size=histograms)
    measured = tuple(dict.fromkeys(origin[name] for name in names))
    incoming = feeds(samples, model, limit=limit)
    total = known_length(samples)
    shown = track(incoming, "calibrating", total=min(total, limit) if total and limit else total, enabled=progress)
    if histograms or channels:
        stats = _by_values(model, measured, shown, histograms=histograms, channels=channels, threads=threads)
    else:
        stats = _by_probes(model, measured, shown, threads=threads)
    return Stats(stats.samples, {name: stats.tensors[origin[name]] for name in names})


def measurable(model: Model) -> tuple[str, ...]:
    """Returns the float32 tensors that the main graph is fed or computes, but unpacked constants."""
    graph = model.main
    names = list(graph.inputs)
    for node in graph.nodes:
        if not (node.op in _UNPACKING and node.inputs and graph.tensors[node.inputs[0]].is_constant):
            names += [name for name in node.outputs if name]
    return tuple(name for name in dict.fromkeys(names) if graph.tensors[name].is_float)


def _asked(model: Model, tensors: Sequence[str]) -> tuple[str, ...]:
    graph = model.main
    computed = producers(graph)
    for name in tensors:
        if name not in graph.tensors:
            raise RecipeError(f"tensor '{name}' does not exist in the model's main graph; nothing can be measured.")
        if not graph.tensors[name].is_float or (name not in computed and name not in graph.inputs):
            raise RecipeError(
                f"tensor '{name}' can't be calibrated: only float32 tensors that are fed or computed can "
                f"(it is {'a constant' if graph.tensors[name].is_constant else graph.tensors[name].dtype})."
            )
    return tuple(dict.fromkeys(tensors))


# ------------------------------------------------------------------------------------- minima and maxima, by


def _by_probes(model: Model, names: Sequence[str], incoming: Iterator[Feed], *, threads: int) -> Stats:
    """Collects minima and maxima where they are computed; the fed tensors' and odd ones' in NumPy."""
    graph = model.main
    fed = [name for name in names if name in graph.inputs]
    computed = [name for name in names if name not in graph.inputs]
    probed = with_probes(model, [name for name in computed if can_probe(graph.tensors[name])])
    rest = [name for name in computed if not can_probe(graph.tensors[name])]
    if not computed:
        return _by_values(model, names, incoming, histograms=False, channels=False, threads=threads)
    lows = np.full(len(probed.tensors), np.inf, np.float32)
    highs = np.full(len(probed.tensors), -np.inf, np.float32)
    others = {name: Accumulator() for name in (*fed, *rest)}
    public = {tensor.name: name for name, tensor in input_tensors(model).items()}
    count = 0
    outputs, resolver = (*probed.outputs, *rest), _resolver(model)
    with Session(probed.model, threads=threads, resolver=resolver, outputs=outputs) as session:
        read = _scalar_reader(session, probed)
        for feed in incoming:
            _run(session, feed)
            low, high, total = read().reshape(3, -1)
            if not np.isfinite([low, high, total]).all():
                _explain(model, computed, feed, threads)
                # No value is at fault: a sum of finite numbers overflowed, or a tensor was empty.
                low, high = np.where(low > high, np.inf, low), np.where(low > high, -np.inf, high)
            np.minimum(lows, low, out=lows)
            np.maximum(highs, high, out=highs)
            for name, accumulator in others.items():
                values = feed.arrays[public[name]] if name in public else session.view(name)
                _check(accumulator.update(values), values, name, feed)
                del values
            count += feed.rows
    extremes = {n: (float(lo), float(hi)) for n, lo, hi in zip(probed.tensors, lows, highs, strict=True)}
    extremes |= {name: (each.low, each.high) for name, each in others.items()}
    return Stats(count, {name: _extremes(count, *extremes[name]) for name in names})


def _scalar_reader(session: Session, probed: Probed) -> Callable[[], np.ndarray]:
    """Returns a function that gives the values of all probes of the last run."""
    viewers = [session.viewer(name) for name in probed.outputs]
    return lambda: np.array([viewer().item() for viewer in viewers], np.float32)


def _extremes(count: int, low: float, high: float) -> TensorStats:
    """Returns min/max statistics; ones without a value if there was none. Adding zero turns −0.0 into 0.0."""
    return TensorStats(count, low + 0.0, high + 0.0) if low <= high else TensorStats(0, 0.0, 0.0)


def _explain(model: Model, computed: Sequence[str], feed: Feed, threads: int) -> None:
    """Raises for the first tensor that holds NaN or infinity in the given run; returns if there is none."""
    with Session(model, threads=threads, resolver=_resolver(model), outputs=computed) as session:
        _run(session, feed)
        for name in computed:
            values = session.read(name)
            _check(bool(np.isfinite(values).all()), values, name, feed)


# --------------------------------------------------------------------------------- distributions and moments,


def _by_values(
    model: Model,
    names: Sequence[str],
    incoming: Iterator[Feed],
    *,
    histograms: bool,
    channels: bool,
    threads: int,
) -> Stats:
    """Collects from the values themselves: all measured tensors are outputs, and shards share the samples."""
    graph = model.main
    computed = [name for name in names if name not in graph.inputs and graph.tensors[name].elements]
    weights = sum(tensor.stored_bytes for tensor in graph.tensors.values())
    values = sum(4 * graph.tensors[name].elements for name in computed)
    number = 2 if threads > 1 and weights + values <= _LARGEST_TWICE_BYTES else 1
    opened = with_outputs(model, computed)
    content = tflite.write(opened) if number > 1 else None
    shards: list[_Shard] = []
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            session = None
            if computed:
                session = Session(opened, content=content, threads=max(1, threads // number), resolver=_resolver(model))
            shards.append(_Shard(session, model, names, histograms=histograms, channels=channels))
            stack.enter_context(session or contextlib.nullcontext())
        del content
        _share(shards, incoming)
    return functools.reduce(Stats.merge, [shard.result() for shard in shards])


class _Shard:
    """One interpreter, and what has been learnt from the samples that it was given."""

    def __init__(
        self, session: Session | None, model: Model, names: Sequence[str], *, histograms: bool, channels: bool
    ) -> None:
        self.session, self.rows = session, 0
        scratch = Scratch() if histograms else None
        self.accumulators = {name: Accumulator(scratch) for name in names}
        self.moments: dict[str, ChannelMoments] | None = {} if channels else None
        self.public = {tensor.name: name for name, tensor in input_tensors(model).items()}
        self.empty = {name for name in names if not model.main.tensors[name].elements}

    def take(self, feed: Feed) -> None:
        """Runs the model and adds what its tensors hold; raises a `DataError` on NaN and infinity."""
        if self.session is not None:
            _run(self.session, feed)
        for name, accumulator in self.accumulators.items():
            if name in self.public:
                values = feed.arrays[self.public[name]]
            elif self.session is None or name in self.empty:
                continue
            else:
                values = self.session.view(name)
            _check(accumulator.update(values), values, name, feed)
            if self.moments is not None and values.size:
                moments = channel_moments(values, feed.rows)
                self.moments[name] = self.moments[name].merge(moments) if name in self.moments else moments
            del values  # LiteRT does not run again while a view is alive
        self.rows += feed.rows

    def result(self) -> Stats:
        """Returns what was learnt."""
        tensors: dict[str, TensorStats] = {}
        for name, each in self.accumulators.items():
            extremes = _extremes(self.rows, each.low, each.high)
            moments = self.moments.get(name) if self.moments is not None else None
            tensors[name] = replace(extremes, histogram=each.result(), channels=moments)
        return Stats(self.rows, tensors)


def _share(shards: Sequence[_Shard], incoming: Iterator[Feed]) -> None:
    """Gives every feed to whichever shard is idle; errors come out in the order of the samples."""
    if len(shards) == 1:
        for feed in incoming:
            shards[0].take(feed)
        return
    idle: queue.SimpleQueue[_Shard] = queue.SimpleQueue()
    for shard in shards:
        idle.put(shard)

    def take(feed: Feed) -> None:
        shard = idle.get()
        try:
            shard.take(feed)
        finally:
            idle.put(shard)

    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(len(shards), "calibrate") as executor:
        for feed in incoming:
            pending.append(executor.submit(take, feed))
            if len(pending) > len(shards):  # bounded, however many samples there are
                pending.popleft().result()
        for future in pending:
            future.result()


# ------------------------------------------------------------------------------------------------------------


def _resolver(model: Model) -> str:
    """Returns which kernels to run: the built-in ones where XNNPACK's packed copy of matrices would double the memory.

    A matrix is read once for each example either way, so that large ones gain nothing from being packed.
    """
    return "no_delegate" if weight_bytes(model).get(2, 0) > _LARGEST_MATRICES_BYTES else "auto"


def _run(session: Session, feed: Feed) -> None:
    """Runs the model on one feed, from a clean state, so that no sample influences another."""
    if session.is_stateful:
        session.reset()
    session.invoke(feed.arrays)


def _check(finite: bool, values: np.ndarray, name: str, feed: Feed) -> None:
    """Raises a `DataError` that names tensor and sample unless the values are finite."""
    if not finite:
        found = "NaN" if np.isnan(values).any() else "infinity"
        raise DataError(
            f"tensor '{name}' holds {found} when the model runs on {feed.label}, which is finite itself. "
            "Repair the model (an overflow, a division by zero?) or leave this sample out."
        )
