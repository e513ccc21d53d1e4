"""Interpreters side by side: each runs its share of the samples and keeps what it has learnt from them."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from featherweight.calibration.details import Asked, Details
from featherweight.calibration.histogram import Accumulator, Scratch, extremes
from featherweight.calibration.lstm_tensors import cell_states, cells
from featherweight.calibration.probes import Probed
from featherweight.calibration.stats import ChannelMoments, Stats, TensorStats, channel_moments
from featherweight.calibration.subsets import examples_lead, subset
from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.operators.families.control import keeps_state
from featherweight.runtime import Feed, Session
from featherweight.runtime.litert import weight_bytes
from featherweight.runtime.samples import input_tensors

# Two interpreters side by side keep all processors busy while NumPy counts; each holds the weights packed and
# all measured tensors. Above this size memory matters more.
_LARGEST_TWICE_BYTES = 64 << 20
_LARGEST_MATRICES_BYTES = 64 << 20


class ProbeShard:
    """One interpreter of a model with probes, and the extremes of the samples that it was given."""

    def __init__(
        self, session: Session, model: Model, names: Sequence[str], probed: Probed, rest: Sequence[str], asked: Asked
    ) -> None:
        self.session, self.model, self.names, self.probed = session, model, names, probed
        self.read = _scalar_reader(session, probed)
        self.lows = np.full(len(probed.tensors), np.inf, np.float32)
        self.highs = np.full(len(probed.tensors), -np.inf, np.float32)
        fed = [name for name in names if name in model.main.inputs]
        self.others = {name: Accumulator() for name in (*fed, *rest)}
        self.values = _reader(session, model)
        self.details = Details(asked)
        self.rows = 0

    def take(self, feed: Feed) -> None:
        """Runs the model and adds the extremes; raises a `DataError` on NaN and infinity."""
        _run(self.session, feed)
        low, high, total = self.read().reshape(3, -1)
        if not np.isfinite([low, high, total]).all():
            found = _hidden_infinities(self.model, self.probed.tensors, feed, self.details.asked)
            # Else a sum of finite numbers overflowed, or a tensor was empty.
            low, high = np.where(low > high, np.inf, low), np.where(low > high, -np.inf, high)
            for name, values in found.items():
                index = self.probed.tensors.index(name)
                low[index], high[index] = values.min(initial=np.inf), values.max(initial=-np.inf)
            self.details.hidden |= found.keys()
        np.minimum(self.lows, low, out=self.lows)
        np.maximum(self.highs, high, out=self.highs)
        for name, accumulator in self.others.items():
            values = self.values(name, feed)
            accumulator.widen(*_extremes_of(self.model, name, values, feed, self.details))
            self.details.take(name, values)
            del values  # LiteRT does not run again while a view is alive
        self.rows += feed.rows

    def result(self) -> Stats:
        """Returns what was learnt."""
        pairs = zip(self.probed.tensors, self.lows, self.highs, strict=True)
        extremes = {name: (float(low), float(high)) for name, low, high in pairs}
        extremes |= {name: (each.low, each.high) for name, each in self.others.items()}
        found = {name: _extremes(self.rows, *extremes[name]) for name in self.names}
        return Stats(self.rows, {name: _detailed(each, name, self.details) for name, each in found.items()})


class ValueShard:
    """One interpreter, and what has been learnt from the samples that it was given."""

    def __init__(
        self,
        session: Session | None,
        model: Model,
        names: Sequence[str],
        asked: Asked,
        *,
        histograms: bool,
        channels: bool,
    ) -> None:
        self.session, self.model, self.rows = session, model, 0
        self.details = Details(asked)
        scratch = Scratch() if histograms else None
        self.accumulators = {name: Accumulator(scratch) for name in names}
        self.moments: dict[str, ChannelMoments] | None = {} if channels else None
        self.values = _reader(session, model)
        self.fed = set(model.main.inputs)
        inputs, layers = input_tensors(model), cells(model.main)
        self.leading = {
            name for name in names if name not in layers and examples_lead(model.main.tensors[name], inputs)
        }
        self.empty = {name for name in names if not model.main.tensors[name].elements}

    def take(self, feed: Feed) -> None:
        """Runs the model and adds what its tensors hold; raises a `DataError` on NaN and infinity."""
        if self.session is not None:
            _run(self.session, feed)
        for name, accumulator in self.accumulators.items():
            if name not in self.fed and (self.session is None or name in self.empty):
                continue
            values = self.values(name, feed)
            accumulator.widen(*_extremes_of(self.model, name, values, feed, self.details))
            part, each = subset(values, feed.rows) if name in self.leading else (values, 1)
            accumulator.count(self.details.finite(name, part), each)
            self.details.take(name, values)
            if self.moments is not None and values.size:
                finite = np.nan_to_num(values, nan=0, posinf=0, neginf=0) if self.details.is_infinite(name) else values
                moments = channel_moments(finite, feed.rows)
                self.moments[name] = self.moments[name].merge(moments) if name in self.moments else moments
            del part, values  # LiteRT does not run again while a view is alive
        self.rows += feed.rows

    def result(self) -> Stats:
        """Returns what was learnt."""
        tensors: dict[str, TensorStats] = {}
        for name, each in self.accumulators.items():
            extremes = _extremes(self.rows, each.low, each.high)
            moments = self.moments.get(name) if self.moments is not None else None
            tensors[name] = _detailed(replace(extremes, histogram=each.result(), channels=moments), name, self.details)
        return Stats(self.rows, tensors)


def shard_number(model: Model, threads: int, kept_bytes: int) -> int:
    """Returns how many interpreters work side by side: two, unless there is one thread or they take much memory."""
    weights = sum(tensor.stored_bytes for tensor in model.main.tensors.values())
    if keeps_state(model):  # each step follows the one before
        return 1
    return 2 if threads > 1 and weights + kept_bytes <= _LARGEST_TWICE_BYTES else 1


def share(shards: Sequence[ValueShard] | Sequence[ProbeShard], incoming: Iterator[Feed]) -> None:
    """Gives every feed to whichever shard is idle; errors come out in the order of the samples."""
    if len(shards) == 1:
        for feed in incoming:
            shards[0].take(feed)
        return
    idle: queue.SimpleQueue[ValueShard | ProbeShard] = queue.SimpleQueue()
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


def kernels(model: Model) -> str:
    """Returns which kernels to run: the built-in ones where XNNPACK's packed copy of matrices would double the memory.

    A matrix is read once for each example either way, so that large ones gain nothing from being packed.
    """
    return "no_delegate" if weight_bytes(model).get(2, 0) > _LARGEST_MATRICES_BYTES else "auto"


def _run(session: Session, feed: Feed) -> None:
    """Runs the model on one feed, from a clean state, so that no sample influences another."""
    if session.is_stateful:
        session.reset()
    session.invoke(feed.arrays)


def _reader(session: Session | None, model: Model) -> Callable[[str, Feed], np.ndarray]:
    """Returns a function that gives what a tensor holds after a run: the feed's own arrays, else the session's."""
    public = {tensor.name: name for name, tensor in input_tensors(model).items()}
    layers = cells(model.main)

    def read(name: str, feed: Feed) -> np.ndarray:
        if name in layers:
            return cell_states(layers[name], model.main, read(layers[name].inputs[0], feed))
        if name in public:
            return feed.arrays[public[name]]
        if session is None:
            raise DataError(f"tensor '{name}' was not computed. Run the model on the sample first.")
        return session.view(name)

    return read


def _extremes_of(model: Model, name: str, values: np.ndarray, feed: Feed, details: Details) -> tuple[float, float]:
    """Returns the extremes of the values of a tensor that count: the finite ones, where others never show in an output.

    Raises:
        DataError: if they do.
    """
    found = extremes(values)
    if np.isfinite(found).all() or not values.size:
        return found
    if not details.is_infinite(name):
        if name in model.main.inputs or not _hidden_infinities(model, [name], feed, details.asked):
            _check(values, name, feed)
        details.hidden.add(name)
    return extremes(details.finite(name, values))


def _check(values: np.ndarray, name: str, feed: Feed) -> None:
    """Raises a `DataError` that names tensor and sample unless the values are finite."""
    if not np.isfinite(values).all():
        found = "NaN" if np.isnan(values).any() else "infinity"
        raise DataError(
            f"tensor '{name}' holds {found} when the model runs on {feed.label}, which is finite itself. "
            "Repair the model (an overflow, a division by zero?) or leave this sample out."
        )


def _scalar_reader(session: Session, probed: Probed) -> Callable[[], np.ndarray]:
    """Returns a function that gives the values of all probes of the last run.

    A file may say another rank than an operator's result has: then its probes leave several values.
    """
    viewers = [session.viewer(name) for name in probed.outputs]
    rest = [reduction for reduction in (np.min, np.max, np.sum) for _ in probed.tensors]

    def values() -> np.ndarray:
        found = [viewer() for viewer in viewers]
        pairs = zip(found, rest, strict=True)
        return np.array([v.item() if v.size == 1 else reduced(v) for v, reduced in pairs], np.float32)

    return values


def _extremes(count: int, low: float, high: float) -> TensorStats:
    """Returns min/max statistics; ones without a value if there was none. Adding zero turns −0.0 into 0.0."""
    return TensorStats(count, low + 0.0, high + 0.0) if low <= high else TensorStats(0, 0.0, 0.0)


def _detailed(stats: TensorStats, name: str, details: Details) -> TensorStats:
    peak, magnitudes = details.peaks.get(name), details.magnitudes.get(name)
    masked = name in details.masked if name in details.asked.infinite else None
    return replace(stats, peak=peak, magnitudes=magnitudes, is_infinite=name in details.hidden, is_masked=masked)


def _hidden_infinities(model: Model, computed: Sequence[str], feed: Feed, asked: Asked) -> dict[str, np.ndarray]:
    """Returns the finite values of tensors that hold NaN or infinity in the given run, where no output shows it.

    ``where(x > 0, log(x), 0)`` computes log(0) and does not choose it.

    Raises:
        DataError: naming the first of them, if an output is not finite either, other than by a constant.
    """
    graph = model.main
    outputs = [name for name in graph.outputs if graph.tensors[name].is_float and not graph.tensors[name].is_constant]
    read = tuple(name for name in dict.fromkeys((*computed, *outputs)) if name not in graph.inputs)
    with Session(model, threads=1, resolver=kernels(model), outputs=read) as session:
        _run(session, feed)
        values = {name: session.read(name) for name in read}
    found = {name: values[name] for name in computed if name in values and not np.isfinite(values[name]).all()}
    shown = [name for name in outputs if name in values and name not in asked.infinite]
    if any(not np.isfinite(values[name]).all() for name in shown):
        for name, array in found.items():
            _check(array, name, feed)
    return {name: array[np.isfinite(array)] for name, array in found.items()}
