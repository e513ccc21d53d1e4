"""The float model's values on some samples, and what a change of one of them comes to at the outputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.analysis.borders import integer_feeds, real_feeds
from featherweight.diagnosis.behind import alone, behind, computed
from featherweight.diagnosis.levels import Level, Meter, Output, judged_outputs
from featherweight.errors import DataError
from featherweight.graph import Model, Node, Tensor, io_names
from featherweight.runtime.litert import Session

Runs = Sequence[np.ndarray]
"""A tensor's values, one array for each run."""

# What the values of all tensors may take together: fewer examples are kept of a model with large ones.
_MOST_BYTES = 512 << 20
_MOST_EXAMPLES, _FEW_EXAMPLES = 16, 8
_MANY_MACS = 300_000_000


@dataclass(frozen=True, eq=False)
class Exact:
    """A float model on some examples.

    Attributes:
        feeds: what each run takes, by public input name.
        values: computed or fed tensor of the main graph → its values, one array for each run.
        outputs: by what errors are judged.
        examples: how many there are in all runs.
    """

    model: Model
    feeds: tuple[Mapping[str, np.ndarray], ...]
    values: Mapping[str, Runs]
    outputs: tuple[Output, ...]
    examples: int

    def level(self, found: Mapping[str, Runs]) -> Level:
        """Returns the error of judged tensors' values, a run each; those that are not among them have none."""
        meter = Meter(self.outputs, self.values)
        for run in range(len(self.feeds)):
            meter.add(run, {name: runs[run] for name, runs in found.items()})
        return meter.level(self.examples)

    def computed_alone(self, node: Node, changed: Mapping[str, Tensor]) -> dict[str, Runs]:
        """Returns what an operator computes of exact inputs, with tensors in the place of those of their names."""
        part = alone(self.model, node, changed)
        return self.runs(part, part.main.outputs)

    def runs(self, part: Model, outputs: Sequence[str], given: Mapping[str, Runs] | None = None) -> dict[str, Runs]:
        """Returns outputs of a part of the model, fed with the given values and with exact ones.

        State that the part keeps begins anew in every run.
        """
        known = {**self.values, **(given or {})}
        found: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
        with Session(part, outputs=list(outputs)) as session:
            for run in range(len(self.feeds)):
                if session.is_stateful:
                    session.reset()
                session.invoke({name: known[name][run] for name in session.inputs})
                for name in outputs:
                    found[name].append(session.read(name))
        return dict(found)


class Carrier:
    """The part of a float model behind some tensors: it carries their errors to the outputs.

    Args:
        exact: the model with its values.
        tensors: computed or fed tensor → the operators that read it changed; None: all.
    """

    def __init__(self, exact: Exact, tensors: Mapping[str, Collection[str] | None]) -> None:
        self.exact, self.tensors = exact, dict(tensors)
        self.direct = [o.tensor for o in exact.outputs if tensors.get(o.tensor, ()) is None]
        wanted = [output.tensor for output in exact.outputs if output.tensor not in self.direct]
        self.part, self.names = behind(exact.model, tensors, wanted)
        self._session: Session | None = None

    def __enter__(self) -> Carrier:
        if self.part.main.outputs:
            self._session = Session(self.part, outputs=self.part.main.outputs)
        return self

    def __exit__(self, *of: object) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def level(self, changed: Mapping[str, Runs]) -> Level:
        """Returns the error at the outputs when the tensors have these values, all else as the float model has it."""
        return self.exact.level(self.outputs(changed))

    def outputs(self, changed: Mapping[str, Runs]) -> dict[str, Runs]:
        """Returns the judged tensors' values when the tensors have these."""
        found: dict[str, Runs] = {name: changed[name] for name in self.direct}
        session = self._session
        if session is None:
            return found
        known = {**self.exact.values, **{self.names[n]: runs for n, runs in changed.items() if n in self.names}}
        computed: dict[str, list[np.ndarray]] = {name: [] for name in self.part.main.outputs}
        for run in range(len(self.exact.feeds)):
            if session.is_stateful:
                session.reset()
            session.invoke({name: np.ascontiguousarray(known[name][run]) for name in session.inputs})
            for name in computed:
                computed[name].append(session.read(name))
        return found | dict(computed)


def most_examples(model: Model) -> int:
    """Returns on how many examples a float model's values are held at most: on fewer where it is large."""
    graph = model.main
    macs = sum(operators.macs(node, graph) for node in graph.nodes)
    bytes_each = sum(4 * math.prod(graph.tensors[name].shape) for name in computed(model))
    return max(1, min(_MOST_EXAMPLES if macs < _MANY_MACS else _FEW_EXAMPLES, _MOST_BYTES // max(bytes_each, 1)))


def exact_values(
    model: Model, samples: Iterable[Any], limit: int | None = None, *, stand_ins: Mapping[str, str] | None = None
) -> Exact:
    """Returns a float model's values on up to 16 of these samples; on fewer where a model is large.

    Args:
        model: the float model.
        samples: as `compare` takes them; of a model that keeps state, successive steps.
        limit: use at most so many examples.
        stand_ins: output tensor → the tensor that is judged in its place.

    Raises:
        DataError: if samples do not fit the model, there are none, or no output depends on them in real numbers.
    """
    graph, outputs = model.main, judged_outputs(model, stand_ins or {})
    if not outputs:
        raise DataError("No output of the model is a real number or computed from one: there is no error to find.")
    names, most = computed(model), most_examples(model)
    inputs, made = io_names(model)[0], [name for name in names if name not in graph.inputs]
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    feeds: list[dict[str, np.ndarray]] = []
    with Session(model, outputs=made) as session:
        for feed in real_feeds(samples, model, limit=min(limit or most, most), batch=1, label="", progress=False):
            arrays = integer_feeds(feed, model)
            session.invoke(arrays)
            feeds.append(arrays)
            for public, name in inputs.items():
                values[name].append(arrays[public])
            for name in made:
                values[name].append(session.read(name))
    unit = max((len(v) for v in feeds[0].values() if np.ndim(v)), default=1)
    return Exact(model, tuple(feeds), values, outputs, len(feeds) * unit)
