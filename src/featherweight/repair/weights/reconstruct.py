"""Weights trained block by block, so that each block makes of its integers what the float block makes of its values.

A block ends where a single tensor leads on: after a residual sum, or after each layer of a chain. It is trained by
`training.courses.blocks` on the arithmetic of the file, from the weights that rounding has chosen, and what it learns
is kept where that block's output is nearer to the float model's on samples that it was not trained on. What lessens a
block's error can take from what later ones live on, which these may make up for: where the outputs of the whole model
are surely further off at last, it has as many blocks, from the first on, as they are nearest with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model
from featherweight.operators import lookup
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.repair.judge import Judge, gain
from featherweight.repair.weights.places import written
from featherweight.repair.weights.prefix import Prefix, keeps_state, most_runs, restricted
from featherweight.targets.target import Target

if TYPE_CHECKING:
    from featherweight.training.courses.blocks import Lesson

_STEPS = 300
# Every so many-th sample judges.
_JUDGING = 4
LEAST_SAMPLES = 8


@dataclass(frozen=True)
class BlockRepair:
    """What became of one block.

    Attributes:
        first, last: names of its first and last operator.
        before_db: signal to error of its output on samples that it is not trained on.
        after_db: the same after training.
        reason: why it was left as it is; empty where it was not.
    """

    first: str
    last: str
    before_db: float = 0.0
    after_db: float = 0.0
    reason: str = ""


def reconstructed(
    rounded: Model, exact: Model, plan: Plan, samples: Sequence[Mapping[str, np.ndarray]], target: Target
) -> tuple[Model, tuple[BlockRepair, ...]]:
    """Returns the model with what its blocks have learnt, and what became of each.

    Args:
        rounded: the float graph with weights to start from.
        exact: the same graph with the weights of the float model.
        plan: of both.
        samples: feeds; every fourth one judges.
        target: says in which arithmetic the blocks compute.

    Raises:
        FeatherweightError: if Keras is not installed.
    """
    train = _trainer()
    graph, rows, values = rounded.main, list[BlockRepair](), dict[str, np.ndarray]()
    prefix = Prefix(exact, plan, samples[: most_runs(exact, samples)])
    judge = Judge(exact, prefix.samples[::_JUDGING])
    now = judge.levels(rewrite(rounded, plan))
    best = now, 0, values
    for start, stop in blocks(graph):
        prefix.model = written(rounded, values)
        prefix.advance(start)
        where = graph.nodes[start].name, graph.nodes[stop - 1].name
        part = prefix.part(stop)
        lessons = _lessons(prefix, part)
        if isinstance(lessons, str):
            rows.append(BlockRepair(*where, reason=lessons))
            continue
        try:
            learnt = train(prefix.alone(part, is_exact=False), plan, target, lessons)
        except FeatherweightError as error:
            rows.append(BlockRepair(*where, reason=str(error)))
            continue
        known = {name: array for name, array in learnt.items() if name in part.tensors}
        levels = [_level(prefix, part)]
        prefix.model = written(rounded, values | known)
        levels.append(_level(prefix, part))
        reason = "" if levels[1] > levels[0] else "its output on other samples is nearer without training"
        if not reason:
            values = values | known
            now = judge.levels(rewrite(prefix.model, plan))
            best = max(best, (now, len(rows) + 1, values), key=lambda each: float(each[0].mean()))
        rows.append(BlockRepair(*where, levels[0], levels[1], reason))
    if gain(best[0], now).is_loss:
        _, count, values = best
        late = "the model's outputs on other samples are nearer without this block and those behind it"
        rows[count:] = [each if each.reason else replace(each, reason=late) for each in rows[count:]]
    return written(rounded, values), tuple(rows)


def _trainer() -> Callable[[Model, Plan, Target, Lesson], dict[str, np.ndarray]]:
    """Returns what trains a part of the float graph; Keras is imported with it."""
    try:
        from featherweight.training.courses.blocks import train_block
        from featherweight.training.graph.exposed import expose
    except ImportError as error:
        raise FeatherweightError(
            f"Reconstruction trains with Keras, which can't be imported ({error}). Install it with: pip install "
            "'featherweight[keras]'."
        ) from error

    def train(part: Model, plan: Plan, target: Target, lesson: Lesson) -> dict[str, np.ndarray]:
        exposed, decided = expose(part), restricted(plan, part)
        integer = rewrite(exposed.model, decided)
        return train_block(exposed, integer, decided.to_json(), target, lesson, _STEPS)

    return train


def blocks(graph: Graph) -> Iterator[tuple[int, int]]:
    """Yields (first, behind the last) positions of the operators of each block that has a weight.

    What stands between two blocks and has no weight belongs to the one before.
    """
    last = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs if name}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    start, alive = 0, {name for name in graph.inputs if name in last}
    has_weight = False
    for position, node in enumerate(graph.nodes):
        op = lookup(node.op)
        weight = op.input_of(node, op.weight) if op.has_integer_weights else ""
        is_weighted = bool(weight) and graph.tensors[weight].is_constant
        ahead = {name for name in alive if last[name] >= position}
        if has_weight and is_weighted and len(ahead) == 1 and position > start:
            yield start, position
            start, has_weight = position, False
        alive = {name for name in alive if last[name] > position}
        alive |= {name for name in node.outputs if last.get(name, -1) > position}
        has_weight = has_weight or is_weighted
    if has_weight:
        yield start, len(graph.nodes)


def _lessons(prefix: Prefix, part: Graph) -> Lesson | str:
    """Returns the rows that a block is trained on, or why there are none."""
    from featherweight.training.courses.blocks import Lesson

    if keeps_state(prefix.exact):
        return "it keeps state from run to run"
    if len(prefix.samples) < LEAST_SAMPLES:
        return f"{len(prefix.samples)} samples are too few (at least {LEAST_SAMPLES})"
    taught = [run for run in range(len(prefix.samples)) if run % _JUDGING]
    fed, wanted = list(prefix.pairs(part.inputs)), list(prefix.run(part, is_exact=True))
    shapes = {
        (*(run[name].exact.shape for name in part.inputs), *(array.shape for array in made.values()))
        for run, made in zip(fed, wanted, strict=True)
    }
    if len(shapes) > 1 or len({shape[:1] for shape in next(iter(shapes))}) > 1:
        return "its inputs and outputs are not rows of one batch"
    return Lesson(
        {name: np.concatenate([fed[run][name].exact for run in taught]) for name in part.inputs},
        {name: np.concatenate([fed[run][name].rounded for run in taught]) for name in part.inputs},
        {name: np.concatenate([wanted[run][name] for run in taught]) for name in part.outputs},
    )


def _level(prefix: Prefix, part: Graph) -> float:
    """Returns the signal to error of a block's outputs on the samples that judge, dB."""
    signal = noise = 0.0
    both = zip(prefix.run(part, is_exact=True), prefix.run(part, is_exact=False), strict=True)
    for run, (exact, rounded) in enumerate(both):
        for name in part.outputs if run % _JUDGING == 0 else ():
            signal += float(np.square(exact[name], dtype=np.float64).sum())
            noise += float(np.square(exact[name] - rounded[name], dtype=np.float64).sum())
    return 10 * float(np.log10(signal / noise)) if signal and noise else 0.0
