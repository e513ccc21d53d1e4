"""Runs a float graph and its integer twin side by side, up to one operator after the other, each operator once.

What a layer is fed in the integer model depends on all that comes before it. To run everything before each layer anew
would take time by the square of the depth; here the values that later operators read are kept, and a step runs the
operators between two stops only, as a model of their own that the one rewriter turns into integers. LiteRT computes an
operator the same way wherever it stands, so that the integers are those of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from featherweight.graph import Graph, Model, Signature, io_names, producers
from featherweight.graph.numerics import QuantParams, dequantize, quantize
from featherweight.operators import lookup
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.runtime.litert import Session, with_outputs

# What the values that are kept between two stops may take: those of about 100 images of 224 by 224 pixels in a
# mobile network.
MOST_KEPT_BYTES = 1 << 30
# A float value, and the integer beside it.
_BYTES_OF_A_VALUE = 5
_WHOLE = "whole"


class Pair(NamedTuple):
    """One tensor in one run: of the float model, and of the integer model as real numbers."""

    exact: np.ndarray
    rounded: np.ndarray


class Prefix:
    """The values that the operators from a position on read, in both models.

    Args:
        exact: the float model.
        plan: of the integer model, whose float graph is the same but for its constants.
        samples: public input name → array with a batch dimension, for each run; in order, for a model that keeps state.

    Attributes:
        model, plan: of the integer model; set them anew before `advance` comes to an operator that has changed.
    """

    def __init__(self, exact: Model, plan: Plan, samples: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.exact, self.model, self.plan = exact, exact, plan
        self.samples = samples
        self.position = 0
        self.is_whole = keeps_state(exact)
        tensors = io_names(exact)[0]
        self._kept = {
            tensor: [_Kept(np.asarray(sample[public]), None) for sample in samples]
            for public, tensor in tensors.items()
        }
        self._made = producers(exact.main)

    def advance(self, position: int) -> None:
        """Runs the operators up to a position in the graph, and lets go of what nothing behind it reads."""
        if self.is_whole or position <= self.position:
            return
        part = _part(self.exact.main, self.position, position)
        if part.outputs:
            both = zip(self.run(part, is_exact=True), self.run(part, is_exact=False), strict=True)
            found: dict[str, list[_Kept]] = {name: [] for name in part.outputs}
            for exact, rounded in both:
                for name in part.outputs:
                    found[name].append(self._keep(name, exact[name], rounded[name]))
            self._kept |= found
        self.position = position
        read = {name for node in self.exact.main.nodes[position:] for name in node.inputs}
        self._kept = {name: values for name, values in self._kept.items() if name in read}

    def pairs(self, names: Sequence[str]) -> Iterator[dict[str, Pair]]:
        """Yields tensors of every run: those that the operator at the position reads or makes."""
        made = [name for name in names if name not in self._kept]
        runs: Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = iter([({}, {})] * len(self.samples))
        if made:
            graph = self.exact.main
            part = replace(with_outputs(self.exact, made).main, name=_WHOLE) if self.is_whole else None
            part = part or _part(graph, self.position, self.position + 1, made)
            runs = zip(self.run(part, is_exact=True), self.run(part, is_exact=False), strict=True)
        for run, (exact, rounded) in enumerate(runs):
            yield {
                name: Pair(exact[name], rounded[name])
                if name in exact
                else self._kept[name][run].pair(self._params(name))
                for name in names
            }

    def part(self, stop: int) -> Graph:
        """Returns the operators from the position to another one as a graph that makes what later ones read."""
        graph = self.exact.main
        found = _part(graph, self.position, stop)
        return found if found.outputs else _part(graph, self.position, stop, graph.outputs)

    def alone(self, part: Graph, *, is_exact: bool) -> Model:
        """Returns some operators, with the constants of one of the float graphs, as a model."""
        model = self.exact if is_exact else self.model
        return _alone(model, replace(part, tensors={name: model.main.tensors[name] for name in part.tensors}))

    def run(self, part: Graph, *, is_exact: bool) -> Iterator[dict[str, np.ndarray]]:
        """Yields what some operators, from the position on, make in each run: in one of the models, as real numbers."""
        alone = self.alone(part, is_exact=is_exact)
        if not is_exact:
            alone = rewrite(alone, restricted(self.plan, alone))
        with Session(alone) as session:
            if self.is_whole:
                session.reset()
            for run in range(len(self.samples)):
                session.invoke({name: self._fed(name, run, is_exact=is_exact) for name in part.inputs})
                yield {name: session.read(session.outputs[name].name) for name in part.outputs}

    def _fed(self, name: str, run: int, *, is_exact: bool) -> np.ndarray:
        kept = self._kept[name][run]
        return kept.exact if is_exact else kept.pair(self._params(name)).rounded

    def _params(self, name: str) -> QuantParams | None:
        """Returns the parameters of a tensor that the integer model makes in integers."""
        node = self._made.get(name)
        form = self.plan.forms.get(node.name, "float32") if node is not None else "float32"
        return None if form.startswith("float32") else self.plan.params.get(name)

    def _keep(self, name: str, exact: np.ndarray, rounded: np.ndarray) -> _Kept:
        params = self._params(name)
        if params is None or exact.dtype != np.float32:
            return _Kept(exact, rounded)
        return _Kept(exact, quantize(rounded, params))


class _Kept(NamedTuple):
    """A tensor of one run; `stored` are the integer model's integers or real numbers; None where they are exact."""

    exact: np.ndarray
    stored: np.ndarray | None

    def pair(self, params: QuantParams | None) -> Pair:
        if self.stored is None:
            return Pair(self.exact, self.exact)
        is_real = params is None or self.stored.dtype == self.exact.dtype
        return Pair(self.exact, self.stored if is_real or params is None else dequantize(self.stored, params))


def keeps_state(model: Model) -> bool:
    """True for a model whose runs depend on those before: it runs as a whole only."""
    return any(tensor.is_variable or tensor.dtype == "resource" for tensor in model.main.tensors.values())


def most_runs(model: Model, samples: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Returns of how many runs the values that are kept at a time fit into `MOST_KEPT_BYTES`; at least 1."""
    graph, rows = model.main, max((len(a) for a in samples[0].values() if a.ndim), default=1)
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    alive, largest = 0, 1
    ends: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name in last:
                tensor = graph.tensors[name]
                fixed = tensor.shape_signature is None or -1 not in tensor.shape_signature
                size = tensor.elements * _BYTES_OF_A_VALUE * (1 if fixed else rows)
                alive += size
                ends[last[name]] = ends.get(last[name], 0) + size
        largest = max(largest, alive)
        alive -= ends.pop(index, 0)
    return max(1, min(len(samples), MOST_KEPT_BYTES // largest))


def restricted(plan: Plan, model: Model) -> Plan:
    """Returns what a plan says about a part of its model, with float inputs and outputs."""
    tensors = model.tensors
    names = {node.name for graph in model.graphs for node in graph.nodes}

    def of(decided: Mapping[str, str]) -> dict[str, str]:
        return {name: said for name, said in decided.items() if name in names}

    return replace(
        plan,
        io="float32",
        forms=of(plan.forms),
        params={name: params for name, params in plan.params.items() if name in tensors},
        edges={key: params for key, params in plan.edges.items() if key.rpartition(":")[0] in names},
        kept_float=of(plan.kept_float),
        dropped=of(plan.dropped),
        notes=(),
    )


def _part(graph: Graph, start: int, stop: int, wanted: Iterable[str] | None = None) -> Graph:
    """Returns some consecutive operators as a graph that makes what is wanted, or what later operators read."""
    nodes = graph.nodes[start:stop]
    made = {name for node in nodes for name in node.outputs if name}
    later = {name for node in graph.nodes[stop:] for name in node.inputs} if wanted is None else set(wanted)
    read = dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in made)
    names = {*made, *read, *(name for node in nodes for name in node.extras.get("intermediates", ()))}
    inputs = tuple(name for name in read if not graph.tensors[name].is_constant)
    outputs = tuple(name for node in nodes for name in node.outputs if name in later)
    return Graph("part", inputs, outputs, nodes, {n: t for n, t in graph.tensors.items() if n in names})


def _alone(model: Model, part: Graph) -> Model:
    """Returns a part of the main graph as a model; the graphs that its operators call come along."""
    calls = any(field in node.attrs for node in part.nodes for field in lookup(node.op).calls)
    inputs, outputs = (tuple((name, name) for name in names) for names in (part.inputs, part.outputs))
    others = tuple(s for s in model.signatures if s.graph != 0) if calls or part.name == _WHOLE else ()
    signatures = (Signature("part", inputs, outputs), *others)
    graphs = model.graphs[1:] if calls or part.name == _WHOLE else ()
    return Model((part, *graphs), signatures)
