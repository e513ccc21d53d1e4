"""What each operator takes within a run of a model on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, count
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model, ModelLike, Node, Signature, io_names
from featherweight.operators import lookup
from featherweight.operators.layers import layer_names
from featherweight.runtime import profiler
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.litert import MOST_THREADS, Session

PROFILER = "LiteRT's profiler"
ALONE = "each operator alone"
_FAILED = "not measured: it does not run alone"
_MOST_RUNS = 10_000
_TIMEOUT_S = 600
# Where more of the time than this is no operator's, whole microseconds are too coarse.
_MOST_LOST = 0.4
_Event = Sequence[Any]


@dataclass(frozen=True)
class OperatorTime:
    """How long one operator takes.

    Attributes:
        name: of the operator, as its first output is called.
        op: its type.
        layer: the user's layer, as far as names tell.
        time_us: microseconds in one run, the mean without the slowest tenth; None where it has no time of its own: the
            runtime computes it within another one, or not at all.
        share: of the whole run (0..1).
        kernel: what computes it, as the runtime calls that, or that it was not measured; empty where it does not say.
    """

    name: str
    op: str
    layer: str
    time_us: float | None
    share: float | None
    kernel: str


@dataclass(frozen=True)
class OperatorTimes:
    """How long the operators of a model's main graph take, in the order of the file.

    Attributes:
        method: how they were measured.
        whole_us: microseconds of a run without the profiler, the median.
        rest_us: of that, what no operator has: the call, copies of inputs and outputs, the hand-over between kernels,
            and what rounding loses; negative where operators take longer alone than together.
        runs: the number of measured runs.
        threads: of the runtime.
    """

    method: str
    whole_us: float
    rest_us: float
    runs: int
    threads: int
    rows: tuple[OperatorTime, ...]

    @property
    def worst_first(self) -> tuple[OperatorTime, ...]:
        """The operators, the slowest first; those without a time of their own last."""
        return tuple(sorted(self.rows, key=lambda row: -1.0 if row.time_us is None else row.time_us, reverse=True))


@checked(threads=count(1, MOST_THREADS), runs=count(1, _MOST_RUNS), seed=count(0))
def operator_times(model: ModelLike, *, threads: int = 1, runs: int = 50, seed: int = 0) -> OperatorTimes:
    """Measures how long each operator of a model takes in LiteRT on this machine, its delegate XNNPACK included.

    The times are those of LiteRT's own profiler where its library has it. XNNPACK says them in whole microseconds,
    rounded down, and by its own operators; these are told from one another by what each operator of the file becomes
    when it is compiled alone. Where there is no profiler, and where rounding takes most of a small model's time, each
    operator runs alone, on the values that it reads within the model: caches are warmer then, what XNNPACK computes
    together is counted apart, and each time has a call of the runtime in it (below a microsecond).

    Args:
        model: what `load` takes; files run as they are.
        threads: of the runtime.
        runs: to measure.
        seed: of the random inputs.

    Raises:
        FeatherweightError: if the model can't be loaded or run.
    """
    held = _as_run(model if isinstance(model, Model) else tflite.read(model))
    with Session(held, threads=threads) as session:
        feed = random_inputs(session.inputs, seed)
        session.run(feed)
        held = _as_run(session.model)
    try:
        found = _profiled(held, feed, threads, runs)
    except _NoProfilerError:
        return _alone(held, feed, threads, runs)
    return _alone(held, feed, threads, runs) if found.rest_us > _MOST_LOST * found.whole_us else found


class _NoProfilerError(Exception):
    """The runtime has no profiler, or not the one that this knows."""


def _as_run(model: Model) -> Model:
    """Returns a model whose sizes are all fixed: those that its file was made for."""

    def fixed(graph: Graph) -> Graph:
        return replace(graph, tensors={name: replace(t, shape_signature=None) for name, t in graph.tensors.items()})

    return replace(model, graphs=tuple(map(fixed, model.graphs)))


def alone(graph: Graph, node: Node) -> Model | None:
    """Returns a model of one operator; None for one that keeps state, calls graphs or reads constants only."""
    tensors = {name: graph.tensors[name] for name in (*node.inputs, *node.outputs) if name}
    for tensor in list(tensors.values()):
        if tensor.quant is not None and tensor.quant.scale_tensor:
            tensors[tensor.quant.scale_tensor] = graph.tensors[tensor.quant.scale_tensor]
    fed = tuple(dict.fromkeys(name for name in node.inputs if name and not tensors[name].is_constant))
    is_stateful = any(t.is_variable or t.dtype in ("resource", "variant", "string") for t in tensors.values())
    outputs = tuple(name for name in node.outputs if name)
    if is_stateful or lookup(node.op).calls or not fed or not outputs or node.extras.get("intermediates"):
        return None
    signature = Signature("serving_default", tuple((n, n) for n in fed), tuple((n, n) for n in outputs))
    return Model((Graph("main", fed, outputs, (node,), tensors),), (signature,))


# ------------------------------------------------------------------------------------------------------- the profiler


def _profiled(model: Model, feed: Mapping[str, np.ndarray], threads: int, runs: int) -> OperatorTimes:
    graph = model.main
    parts = {node.name: part for node in graph.nodes if (part := alone(graph, node)) is not None}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tflite.save(model, folder / "whole.tflite")
        public = {tensor: name for name, tensor in io_names(model)[0].items()}
        np.savez(folder / "inputs.npz", *(feed[public[name]] for name in graph.inputs))
        files: list[dict[str, str | None]] = [
            {"model": str(folder / "whole.tflite"), "inputs": str(folder / "inputs.npz")}
        ]
        for number, part in enumerate(parts.values()):
            tflite.save(part, folder / f"{number}.tflite")
            files.append({"model": str(folder / f"{number}.tflite"), "inputs": None})
        whole, *others = _answers({"threads": threads, "runs": runs, "warmup": 3, "files": files})
    if "error" in whole or not whole["events"][0]:
        raise _NoProfilerError(whole.get("error", "no events"))
    tags = {
        name: [event[0] for event in answer["events"][0] if event[1] in profiler.DELEGATED]
        for name, answer in zip(parts, others, strict=True)
        if "events" in answer
    }
    owners = _owners(graph, whole["events"][0], tags)
    if any([event[:2] for event in run] != [event[:2] for event in whole["events"][0]] for run in whole["events"]):
        raise _NoProfilerError("runs differ")
    elapsed = np.array([[event[2] for event in run] for run in whole["events"]], np.float64)
    means = _without_the_slowest(elapsed)
    times: dict[str, float] = {}
    kernels: dict[str, list[str]] = {}
    for (tag, *_), mean, owner in zip(whole["events"][0], means, owners, strict=True):
        if owner is not None:
            times[owner] = times.get(owner, 0.0) + float(mean)
            kernels.setdefault(owner, []).append(tag)
    return _result(PROFILER, graph, times, kernels, float(np.median(whole["plain_us"])), runs, threads)


def _answers(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what the profiler says in a process of its own."""
    command = [sys.executable, "-P", profiler.__file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise _NoProfilerError(str(error)) from error


def _owners(graph: Graph, events: Sequence[_Event], tags: Mapping[str, Sequence[str]]) -> list[str | None]:
    """Returns the operator of the graph that each event is about; None for what is not told.

    An operator that the delegate did not take says its place. The delegate's operators come in the order of the file
    within each part that it took; each operator of the file is found again by what it became alone.
    """
    own = {event[3] for event in events if event[1] == profiler.OPERATOR}
    nodes = [graph.nodes[i].name for i in _delegated(graph, own)]
    expected = [(tag, name) for name in nodes for tag in tags.get(name, ())]
    seen = [i for i, event in enumerate(events) if event[1] in profiler.DELEGATED and not _is_inside(event, events)]
    owners: list[str | None] = [
        graph.nodes[event[3]].name if event[1] == profiler.OPERATOR and event[3] < len(graph.nodes) else None
        for event in events
    ]
    matcher = SequenceMatcher(None, [tag for tag, _ in expected], [events[i][0] for i in seen], autojunk=False)
    for first, second, size in matcher.get_matching_blocks():
        for step in range(size):
            owners[seen[second + step]] = expected[first + step][1]
    return owners


def _is_inside(event: _Event, events: Sequence[_Event]) -> bool:
    """True for what the delegate does within a graph that an operator calls: it is in that operator's time."""
    return any(o[1] == profiler.OPERATOR and o[4] <= event[4] <= o[4] + o[2] and o[2] > 0 for o in events)


def _delegated(graph: Graph, own: set[int]) -> list[int]:
    """Returns the places of operators that a delegate takes, in the order in which its parts are computed.

    As LiteRT cuts a graph into parts (tflite/graph_info.cc): a part is all that is of one kind and can be computed by
    then.
    """
    ready = {name for name, tensor in graph.tensors.items() if tensor.is_constant or tensor.is_variable} | {
        "",
        *graph.inputs,
    }
    left, found = list(range(len(graph.nodes))), list[int]()
    while left:
        kind: bool | None = None
        before = len(left)
        changed = True
        while changed:
            changed = False
            for place in list(left):
                node = graph.nodes[place]
                if (kind is None or (place in own) == kind) and ready.issuperset(node.inputs):
                    kind, changed = place in own, True
                    ready.update(node.outputs)
                    left.remove(place)
                    found += [] if kind else [place]
        if len(left) == before:
            return [*found, *(place for place in left if place not in own)]
    return found


# --------------------------------------------------------------------------------------------------------- each alone


def _alone(model: Model, feed: Mapping[str, np.ndarray], threads: int, runs: int) -> OperatorTimes:
    graph = model.main
    parts = {node.name: part for node in graph.nodes if (part := alone(graph, node)) is not None}
    read = {name for part in parts.values() for name in part.main.inputs} - set(graph.inputs)
    public = {tensor: name for name, tensor in io_names(model)[0].items()}
    values: dict[str, np.ndarray] = {name: feed[public[name]] for name in graph.inputs}
    if read:
        with Session(model, threads=threads, outputs=sorted(read)) as session:
            values |= session.run(feed)
    times, failed = dict[str, float](), dict[str, tuple[str]]()
    for name, part in parts.items():
        try:
            with Session(part, threads=threads) as session:
                given = {input_name: values[input_name] for input_name in part.main.inputs}
                session.invoke(given)
                times[name] = float(_without_the_slowest(np.array([[session.again()] for _ in range(runs)]))[0])
        except FeatherweightError:
            failed[name] = (_FAILED,)
    with Session(model, threads=threads) as session:
        session.invoke(feed)
        whole = float(np.median([session.again() for _ in range(runs)]))
    return _result(ALONE, graph, times, failed, whole, runs, threads)


def _without_the_slowest(elapsed: np.ndarray) -> np.ndarray:
    """Returns the mean of each column (runs, operators) without its slowest tenth: whole microseconds want a mean."""
    kept = max(1, 9 * len(elapsed) // 10)
    return np.sort(elapsed, axis=0)[:kept].mean(axis=0)


def _result(
    method: str,
    graph: Graph,
    times: Mapping[str, float],
    kernels: Mapping[str, Sequence[str]],
    whole_us: float,
    runs: int,
    threads: int,
) -> OperatorTimes:
    layers = layer_names(graph)
    rows = tuple(
        OperatorTime(
            node.name,
            node.op,
            layers[node.name],
            times.get(node.name),
            times[node.name] / whole_us if node.name in times else None,
            " + ".join(dict.fromkeys(kernels.get(node.name, ()))),
        )
        for node in graph.nodes
    )
    return OperatorTimes(method, whole_us, whole_us - sum(times.values()), runs, threads, rows)
