"""What the grid of a tensor costs the operators that read it: each runs alone, on exact values and on rounded ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.diagnosis.behind import alone
from featherweight.diagnosis.exact import Exact, Runs
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators.relevance import LARGEST_ORDINARY
from featherweight.operators.scale_groups import sharing, united
from featherweight.ptq.plan import Plan, edge
from featherweight.runtime.litert import Session


@dataclass(frozen=True)
class Group:
    """Tensors on one grid.

    Attributes:
        names: of the tensors.
        readers: the operators that read one of them and compute something else of it.
    """

    names: tuple[str, ...]
    readers: tuple[Node, ...]


def groups_of(plan: Plan, graph: Graph, names: Collection[str]) -> list[Group]:
    """Returns some tensors of a planned graph in groups that share their parameters, because integers are copied."""
    known = [name for name in names if name in plan.params]
    links: list[tuple[str, str]] = []
    for node in graph.nodes:
        tied = [name for name in sharing(node) if name in known] if node.name in plan.forms else []
        for name in tied[1:]:
            converted = any(n == name and edge(node.name, i) in plan.edges for i, n in enumerate(node.inputs))
            if plan.params[name] == plan.params[tied[0]] and not converted:
                links.append((tied[0], name))
    members: dict[str, list[str]] = {}
    for name, root in united(known, links).items():
        members.setdefault(root, []).append(name)
    return [Group(tuple(each), _readers(graph, each)) for each in members.values()]


def _readers(graph: Graph, names: Sequence[str]) -> tuple[Node, ...]:
    return tuple(
        node
        for node in graph.nodes
        if not set(names).isdisjoint(node.inputs) and not set(names).issuperset(name for name in node.outputs if name)
    )


def rounded(values: np.ndarray, params: QuantParams) -> np.ndarray:
    """Returns values after a way through the integers, float32; what is no number stays."""
    scale, zero_point = np.float32(params.scale[0]), params.zero_point[0]
    low, high = (np.float32(q - zero_point) for q in integer_range(params.dtype))
    with np.errstate(over="ignore"):  # infinity is beyond every integer and clipped as such
        result = values / scale
    np.rint(result, out=result)
    np.clip(result, low, high, out=result)
    return np.multiply(result, scale, out=result)


def reading_errors(exact: Exact, group: Group, grids: Sequence[QuantParams], outputs: Collection[str]) -> list[float]:
    """Returns noise to signal at the operators that read a group, for each grid that it could have.

    Noise and signal are sums over all values of all runs, of each output of each reader, and the ratios add up. A
    tensor that is an output of the model counts as read.

    Args:
        exact: the float model with its values.
        group: the tensors.
        grids: the parameters to try.
        outputs: the tensors that a caller reads.

    Raises:
        FeatherweightError: if an operator can't run alone.
    """
    totals = [0.0] * len(grids)
    runs = range(len(exact.feeds))
    for node in group.readers:
        part = alone(exact.model, node)
        floats = [name for name in part.main.outputs if part.main.tensors[name].is_float]
        signal, noise = dict.fromkeys(floats, 0.0), [dict.fromkeys(floats, 0.0) for _ in grids]
        with Session(part, outputs=list(part.main.outputs)) as session:
            for run in runs:
                fed = {name: exact.values[name][run] for name in session.inputs}
                wanted = _computed(session, fed, floats)
                for name, values in wanted.items():
                    signal[name] += _power(values)
                for index, params in enumerate(grids):
                    changed = {n: rounded(v, params) if n in group.names else v for n, v in fed.items()}
                    found = _computed(session, changed, floats)
                    for name, values in found.items():
                        noise[index][name] += _power(values, wanted[name])
        for index, each in enumerate(noise):
            totals[index] += sum(each[name] / signal[name] for name in floats if signal[name] > 0)
    for name in group.names:
        if name in outputs:
            signal_of = sum(_power(values) for values in exact.values[name])
            for index, params in enumerate(grids):
                errors = sum(_power(rounded(values, params), values) for values in exact.values[name])
                totals[index] += errors / signal_of if signal_of > 0 else 0.0
    return totals


def rounded_runs(exact: Exact, group: Group, params: QuantParams) -> dict[str, Runs]:
    """Returns the values of a group's tensors on a grid."""
    return {name: [rounded(values, params) for values in exact.values[name]] for name in group.names}


def _computed(session: Session, fed: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    if session.is_stateful:
        session.reset()
    session.invoke(fed)
    return {name: session.read(name) for name in names}


def _power(values: np.ndarray, exact: np.ndarray | None = None) -> float:
    """Returns the sum of squares of ordinary values, or of their errors; infinite where one of those is no number."""
    reference = values if exact is None else exact
    is_shown = np.abs(reference) < LARGEST_ORDINARY
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(is_shown, values if exact is None else values - exact, np.float32(0)).reshape(-1)
        total = float(np.dot(difference, difference))
    return total if np.isfinite(total) else np.inf
