"""Runs a model over samples on LiteRT with XNNPACK, and collects statistics of its tensors."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from featherweight import tflite
from featherweight.arguments import checked, choice, count, flag, instance, several, stream, text
from featherweight.calibration.details import Asked, asked
from featherweight.calibration.lstm_tensors import cells, held
from featherweight.calibration.odd_samples import Reaches
from featherweight.calibration.probes import Probed, can_probe, implied, with_probes
from featherweight.calibration.shards import ProbeShard, ValueShard, kernels, shard_number, share
from featherweight.calibration.stats import Stats
from featherweight.errors import FormatError, RecipeError
from featherweight.graph import Model, ModelLike, producers
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators import lookup
from featherweight.operators.entries import with_main
from featherweight.operators.families.control import keeps_state
from featherweight.runtime import Feed, Session, default_threads, feeds, track
from featherweight.runtime.litert import MOST_THREADS, with_outputs
from featherweight.runtime.samples import by_signature, known_length
from featherweight.runtime.workers import ENGINES, MOST_JOBS, mapped

# Feeds that a worker takes at a time, and pieces of work that are held for each.
_CHUNK_FEEDS, _CHUNKS_AT_ONCE = 16, 4


@checked(
    samples=stream,
    tensors=several(text),
    histograms=flag,
    channels=flag,
    limit=count(way="Leave it out to use all samples."),
    threads=count(1, MOST_THREADS),
    jobs=count(1, MOST_JOBS),
    engine=choice(*ENGINES),
    reaches=instance(Reaches),
    progress=flag,
)
def calibrate(
    model: ModelLike,
    samples: Iterable[Any],
    *,
    tensors: Sequence[str] | None = None,
    histograms: bool = False,
    channels: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    jobs: int = 1,
    engine: str = "processes",
    reaches: Reaches | None = None,
    progress: bool = True,
) -> Stats:
    """Returns the statistics of a float model's tensors over samples: exact, whatever the samples' order.

    Args:
        model: what `load` takes; its main graph is measured, or those of its signatures; no tensors inside of loops.
        samples: any iterable of arrays, tuples or dicts (`runtime.samples`); a generator is consumed once. A model of
            several signatures takes a dict of them by name, one that keeps state takes them in order, as one sequence.
        tensors: names in the main graph; default: every float32 tensor that is fed or computed there.
        histograms: collect distributions too, for range methods other than minmax. Of tensors that hold more than
            16,384 values for one example, about so many are counted, always the same ones (`calibration.subsets`).
        channels: collect sums and sums of squares per index along the last axis too.
        limit: use at most so many examples.
        threads: of the runtime; default as `runtime.default_threads`, of which workers take their share.
        jobs: processes that share the samples; the statistics are the same on any number.
        engine: ``processes``, or ``ray`` for those of a Ray cluster.
        reaches: is told what is fed, run by run (of a model of one signature).
        progress: show a bar on a terminal once it has taken a second.

    Raises:
        DataError: if samples don't fit, or NaN or infinity occurs in them or is computed from them.
        FormatError: if the model computes in integers, and no tensors are named.
        RecipeError: if a tensor is no float32 tensor that the main graph is fed or computes, or workers are to share
            the samples of a model that keeps state, which are one sequence.
        FeatherweightError: if LiteRT can't run the model.
    """
    model = tflite.read(model)
    parts = by_signature(samples, model)
    if [*parts] != [0]:
        found = [
            calibrate(
                with_main(model, index),
                part,
                tensors=tensors,
                histograms=histograms,
                channels=channels,
                limit=limit,
                threads=threads,
                jobs=jobs,
                engine=engine,
                progress=progress,
            )
            for index, part in parts.items()
        ]
        return functools.reduce(Stats.beside, found)
    samples = parts[0]
    if tensors is None:
        _check_computes_floats(model)
    names = measurable(model) if tensors is None else _asked(model, tensors)
    # Moments are per index along the last axis, which moving data may change.
    closer = asked(model.main)
    origin = {n: n for n in names} if channels else implied(model, names, same_size=histograms)
    origin |= {name: name for name in names if name in closer}
    measured = tuple(dict.fromkeys(origin[name] for name in names))
    incoming = feeds(samples, model, limit=limit)
    incoming = incoming if reaches is None else reaches.watching(incoming)
    total = known_length(samples)
    shown = track(incoming, "calibrating", total=min(total, limit) if total and limit else total, enabled=progress)
    measure = functools.partial(
        _measured, model, measured, closer, histograms=histograms, channels=channels, threads=threads
    )
    is_shared = jobs > 1 or engine != ENGINES[0]
    stats = _by_workers(model, measure, shown, jobs, engine) if is_shared else measure(shown)
    return Stats(stats.samples, {name: stats.tensors[origin[name]] for name in names})


def _measured(
    model: Model,
    names: Sequence[str],
    closer: Asked,
    incoming: Iterable[Feed],
    *,
    histograms: bool,
    channels: bool,
    threads: int | None,
) -> Stats:
    incoming, threads = iter(incoming), threads or default_threads()
    if histograms or channels or not set(names) - set(model.main.inputs):
        return _by_values(model, names, incoming, closer, histograms=histograms, channels=channels, threads=threads)
    return _by_probes(model, names, incoming, closer, threads=threads)


def _by_workers(
    model: Model, measure: Callable[[Iterable[Feed]], Stats], incoming: Iterator[Feed], jobs: int, engine: str
) -> Stats:
    """Returns what workers learn together, each of some feeds at a time: few of them are held at once."""
    if keeps_state(model):
        raise RecipeError("calibrate: a model that keeps state takes its samples in order. Leave jobs and engine out.")
    chunks = iter(lambda: list(itertools.islice(incoming, _CHUNK_FEEDS)), [])
    found: Stats | None = None
    while several := list(itertools.islice(chunks, _CHUNKS_AT_ONCE * jobs)):
        for stats in mapped(measure, several, jobs=jobs, engine=engine):
            found = stats if found is None else found.merge(stats)
    return measure([]) if found is None else found


def measurable(model: Model) -> tuple[str, ...]:
    """Returns the float32 tensors that the main graph is fed or computes, but unpacked constants.

    The states of fused recurrent layers are not among them, except for the cell states of plain LSTM layers, which
    are measured over all steps.
    """
    graph = model.main
    names = [*graph.inputs, *cells(graph)]
    for node in graph.nodes:
        # The runtime folds away what only unpacks a constant, unless its output must be kept.
        if not (lookup(node.op).unpacks and node.inputs and graph.tensors[node.inputs[0]].is_constant):
            names += [name for name in node.outputs if name and not graph.tensors[name].is_variable]
    return tuple(name for name in dict.fromkeys(names) if graph.tensors[name].is_float)


def _check_computes_floats(model: Model) -> None:
    """Raises FormatError for a quantized model: of what it computes in integers, there is nothing to measure."""
    graph = model.main
    for tensor in graph.tensors.values():
        if tensor.quant is not None and tensor.dtype in INTEGER_BITS and not tensor.is_constant:
            raise FormatError(
                f"The model is already quantized: '{tensor.name}' is computed in {tensor.dtype}. Calibrate the float "
                "model it was made from, or name the float tensors to measure (tensors=)."
            )


def _asked(model: Model, tensors: Sequence[str]) -> tuple[str, ...]:
    graph = model.main
    computed = producers(graph)
    for name in tensors:
        if name not in graph.tensors:
            raise RecipeError(
                f"tensor '{name}' does not exist in the model's main graph; nothing can be measured. `inspect` lists "
                "the names."
            )
        is_held = name in computed or name in graph.inputs or name in cells(graph)
        if not graph.tensors[name].is_float or not is_held:
            raise RecipeError(
                f"tensor '{name}' can't be calibrated: only float32 tensors that are fed or computed can "
                f"(it is {'a constant' if graph.tensors[name].is_constant else graph.tensors[name].dtype})."
            )
    return tuple(dict.fromkeys(tensors))


def opened_shard(
    model: Model, names: Sequence[str], *, histograms: bool = False, threads: int | None = None
) -> ProbeShard | ValueShard:
    """Returns an interpreter that measures a float model's tensors in each run that it takes; the caller closes it.

    Raises:
        FormatError: for an integer model.
    """
    _check_computes_floats(model)
    names, closer = tuple(names), asked(model.main)
    threads = threads or default_threads()
    if histograms or not set(names) - set(model.main.inputs):
        return _value_shard(model, names, closer, None, histograms=histograms, channels=False, threads=threads)
    plan = _probing(model, names, closer)
    return _probe_shard(model, names, closer, plan, None, threads=threads)


class _Probing(NamedTuple):
    """Which tensors are measured where they are computed, which others are read, and the model that does so."""

    probed: Probed
    rest: tuple[str, ...]
    opened: Model


def _probing(model: Model, names: Sequence[str], closer: Asked) -> _Probing:
    computed = [name for name in names if name not in model.main.inputs]
    steps = cells(model.main)
    plain = [name for name in computed if name not in steps and name not in closer]
    probed = with_probes(model, [name for name in plain if can_probe(model.main.tensors[name])])
    rest = tuple(name for name in computed if name not in probed.tensors)
    return _Probing(probed, rest, with_outputs(probed.model, (*probed.outputs, *held(model.main, rest))))


def _probe_shard(
    model: Model, names: Sequence[str], closer: Asked, plan: _Probing, content: bytes | None, *, threads: int
) -> ProbeShard:
    session = Session(plan.opened, content=content, threads=threads, resolver=kernels(model))
    return ProbeShard(session, model, names, plan.probed, plan.rest, closer)


def _value_shard(
    model: Model,
    names: Sequence[str],
    closer: Asked,
    content: bytes | None,
    *,
    histograms: bool,
    channels: bool,
    threads: int,
) -> ValueShard:
    computed = _computed_values(model, names)
    session = None
    if computed:
        opened = with_outputs(model, held(model.main, computed))
        session = Session(opened, content=content, threads=threads, resolver=kernels(model))
    return ValueShard(session, model, names, closer, histograms=histograms, channels=channels)


def _computed_values(model: Model, names: Sequence[str]) -> list[str]:
    """Returns the tensors that have values which a run computes."""
    return [name for name in names if name not in model.main.inputs and model.main.tensors[name].elements]


def _by_probes(model: Model, names: Sequence[str], incoming: Iterator[Feed], closer: Asked, *, threads: int) -> Stats:
    """Collects minima and maxima where they are computed; the fed tensors' and odd ones' in NumPy."""
    plan, number = _probing(model, names, closer), shard_number(model, threads, 0)
    content = tflite.write(plan.opened) if number > 1 else None
    each = max(1, threads // number)
    return _shared([_probe_shard(model, names, closer, plan, content, threads=each) for _ in range(number)], incoming)


def _by_values(
    model: Model,
    names: Sequence[str],
    incoming: Iterator[Feed],
    closer: Asked,
    *,
    histograms: bool,
    channels: bool,
    threads: int,
) -> Stats:
    """Collects from the values themselves: all measured tensors are outputs, and shards share the samples."""
    graph = model.main
    computed = _computed_values(model, names)
    number = shard_number(model, threads, sum(4 * graph.tensors[name].elements for name in computed))
    content = tflite.write(with_outputs(model, held(graph, computed))) if number > 1 else None
    each = max(1, threads // number)
    shards = [
        _value_shard(model, names, closer, content, histograms=histograms, channels=channels, threads=each)
        for _ in range(number)
    ]
    del content
    return _shared(shards, incoming)


def _shared(shards: Sequence[ProbeShard] | Sequence[ValueShard], incoming: Iterator[Feed]) -> Stats:
    """Returns what shards learn together, and closes them."""
    with contextlib.ExitStack() as stack:
        for shard in shards:
            stack.enter_context(shard.session or contextlib.nullcontext())
        share(shards, incoming)
    return functools.reduce(Stats.merge, [shard.result() for shard in shards])
