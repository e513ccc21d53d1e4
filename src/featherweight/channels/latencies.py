"""What channels cost in time on this machine: operators timed alone in LiteRT, and the choice of channels by it.

Kernels compute channels in packs, and spend part of their time on what channels do not change, so that
multiply-accumulates tell little of the time that a channel takes: half of them can be a third of it. A group's next
channels are therefore priced by the operators that have them, with as many channels as are left at that point: the
microseconds that are saved. What goes first is what loses the least for them; of a group, the loss is the logarithm of
what is left of its scores, which grows as the group gets thin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from featherweight.channels.groups import Group
from featherweight.channels.labels import Labeled, unlabeled
from featherweight.channels.packs import convolution
from featherweight.channels.steps import Step
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.operators import WeightRole, lookup
from featherweight.runtime.litert import Session
from featherweight.runtime.operator_times import alone

# Kinds of operators that are timed; others take little beside them.
_TIMED = ("conv", "depthwise", "dense")
# Of each round the fastest of runs that take so long together, and of at least so many; rounds until none is faster.
_SECONDS, _LEAST_RUNS = 0.002, 4
_FASTER, _STEADY, _MOST_ROUNDS = 0.98, 3, 12
_SHORTEST = 1e-8
# Channels that save nothing, by the clock, are priced at this share of what their products should take.
_LEAST_SAVED = 0.05
# A group goes in at most so many steps: no more are worth timing.
MOST_STEPS = 8
Shape = tuple[int, ...]
Use = tuple[int, WeightRole]
"""Index of a node, and where its weight is."""


@dataclass(frozen=True, eq=False)
class Prices:
    """Times of operators by what they compute, each measured once.

    Attributes:
        form: the type that they compute in, ``int8`` or ``float32``.
        call: seconds of calling the runtime, which are no operator's.
        seconds: operator, shapes of what it is fed, of its weight and of its output → seconds.
    """

    form: str
    call: float
    seconds: dict[tuple[str, Shape, Shape, Shape], float] = field(
        default_factory=dict[tuple[str, Shape, Shape, Shape], float]
    )

    def of(self, graph: Graph, node: Node, role: WeightRole, shapes: tuple[Shape, Shape, Shape]) -> float:
        """Returns the seconds of an operator with other shapes of (what it is fed, its weight, its output)."""
        attrs = {name: value for name, value in node.attrs.items() if name != "depth_multiplier"}
        key = (f"{node.op} {sorted(attrs.items(), key=lambda pair: pair[0])}", *shapes)
        if key not in self.seconds:
            took = fastest(timed_model(graph, node, role, shapes, self.form))
            # Fewer channels do not take longer: where they seem to, something else had the processor.
            larger = [t for other, t in self.seconds.items() if other[0] == key[0] and _holds(other[1:], shapes)]
            self.seconds[key] = max(min([took - self.call, *larger]), _SHORTEST)
        return self.seconds[key]


def _holds(larger: Sequence[Shape], smaller: Sequence[Shape]) -> bool:
    pairs = zip(larger, smaller, strict=True)
    return all(len(a) == len(b) and all(m >= n for m, n in zip(a, b, strict=True)) for a, b in pairs)


def timed_model(graph: Graph, node: Node, role: WeightRole, shapes: tuple[Shape, Shape, Shape], form: str) -> Model:
    """Returns a model of one operator of other shapes, in int8 or float32; its constants are zeros."""
    op, (fed, weight, made) = lookup(node.op), shapes
    attrs = dict(node.attrs)
    if op.weight_kind == "depthwise":
        attrs["depth_multiplier"] = made[-1] // fed[-1]
    is_real = form == "int8"
    real = QuantParams("int8", (0.05,), (0,)) if is_real else None
    axis = op.axis if is_real else None
    count = 1 if axis is None else weight[axis]
    scales = QuantParams("int8", (0.01,) * count, (0,) * count, axis) if is_real else None
    products = QuantParams("int32", (0.0005,) * count, (0,) * count, 0 if count > 1 else None) if is_real else None
    tensors: dict[str, Tensor] = {
        node.inputs[role.activation]: Tensor(node.inputs[role.activation], fed, form, quant=real),
        node.inputs[role.weight]: constant(node.inputs[role.weight], np.zeros(weight, form), quant=scales),
        node.outputs[0]: Tensor(node.outputs[0], made, form, quant=real),
    }
    inputs = list(node.inputs)
    if role.bias is not None:  # (Integer kernels want one; plans give it to them.)
        inputs += [""] * (role.bias + 1 - len(inputs))
        name = inputs[role.bias] = inputs[role.bias] or "bias"
        tensors[name] = constant(name, np.zeros(made[-1], "int32" if is_real else "float32"), quant=products)
    version = op.versions.get("int8*int8", 1) if is_real else node.version
    changed = replace(node, inputs=tuple(inputs), attrs=attrs, version=version)
    found = alone(replace(graph, tensors={**graph.tensors, **tensors}), changed)
    assert found is not None
    return found


def fastest(model: Model) -> float:
    """Returns the seconds of the fastest of many runs on zeros, in one thread.

    Others may have the processor for a while: rounds go on until `_STEADY` of them in a row have found nothing faster.
    """
    with Session(model, threads=1) as session:
        (fed,) = session.inputs.values()
        given = np.zeros(fed.shape, fed.dtype)
        found, steady = float("inf"), 0
        for _ in range(_MOST_ROUNDS):
            best, spent, runs = float("inf"), 0.0, 0
            while spent < _SECONDS or runs < _LEAST_RUNS:
                start = time.perf_counter()
                session.run(given)
                took = time.perf_counter() - start
                best, spent, runs = min(best, took), spent + took, runs + 1
            steady = 0 if best < _FASTER * found else steady + 1
            found = min(found, best)
            if steady == _STEADY:
                break
    return found


@dataclass(frozen=True, eq=False)
class Clock:
    """The time of a graph's weighted operators without some of its channels.

    Attributes:
        uses: (index of the node, position of its weight) of each operator that is timed.
    """

    graph: Graph
    labels: Labeled
    prices: Prices
    uses: tuple[Use, ...]

    def seconds_of(self, use: Use, keep: np.ndarray) -> tuple[float, float]:
        """Returns (seconds, products of its weight) of one operator; `keep` is False for labels that are gone."""
        index, role = use
        node = self.graph.nodes[index]
        weight = _kept(self.labels.constants.get((index, role.weight)), self._shape(node.inputs[role.weight]), keep)
        fed, made = (
            _kept(self.labels.tensors.get(name), self._shape(name), keep)
            for name in (node.inputs[role.activation], node.outputs[0])
        )
        return self.prices.of(self.graph, node, role, (fed, weight, made)), float(np.prod(weight))

    def total(self, removed: set[int]) -> float:
        """Returns the seconds of all operators without these labels."""
        keep = np.ones(self.labels.count, bool)
        keep[list(removed)] = False
        return sum(self.seconds_of(use, keep)[0] for use in self.uses)

    def touching(self, group: Group) -> tuple[Use, ...]:
        """Returns the operators that have channels of a group."""
        own = np.array(group.labels)
        return tuple(use for use in self.uses if any(np.isin(axis, own).any() for axis in self._axes(use)))

    def _axes(self, use: Use) -> list[np.ndarray]:
        index, role = use
        node = self.graph.nodes[index]
        found = [self.labels.constants.get((index, role.weight), ())]
        found += [self.labels.tensors.get(name, ()) for name in (node.inputs[role.activation], node.outputs[0])]
        return [axis for axes in found for axis in axes]

    def _shape(self, name: str) -> Shape:
        return self.graph.tensors[name].shape


def clock_of(model: Model, labels: Labeled, form: str) -> Clock:
    """Returns what times a float model's convolutions and dense layers in a type."""
    graph = model.main
    uses = tuple(
        (index, role)
        for index, node in enumerate(graph.nodes)
        for role in lookup(node.op).weights[:1]
        if lookup(node.op).weight_kind in _TIMED and (index, role.weight) in labels.constants
    )
    return Clock(graph, labels, Prices(form, fastest(convolution(1, form, side=1, read=1))), uses)


def _kept(axes: Sequence[np.ndarray] | None, shape: Shape, keep: np.ndarray) -> Shape:
    return tuple(int(keep[axis].sum()) for axis in (unlabeled(shape) if axes is None else axes))


def without_time(
    clock: Clock,
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    steps: Sequence[Sequence[Step]],
    share: float,
) -> tuple[set[int], float]:
    """Returns the labels to remove so that at least this share of the time goes, and the share that does.

    All labels of all steps are returned where that is less. Steps that turn out not to be needed, since later ones
    saved more, stay: those that lose most first.
    """
    before, gone, taken = max(clock.total(set()), _SHORTEST), set[int](), list[tuple[float, int, Step]]()
    for lost, number, step in _by_price(clock, groups, scores, steps):
        if 1 - clock.total(gone) / before >= share:
            break
        gone |= set(step.labels)
        taken.append((lost, number, step))
    for lost, number, step in sorted(taken, key=lambda row: row[0], reverse=True):
        is_last = [each for _, other, each in taken if other == number][-1] is step
        if is_last and 1 - clock.total(gone - set(step.labels)) / before >= share:
            gone -= set(step.labels)
            taken.remove((lost, number, step))
    return gone, 1 - clock.total(gone) / before


def _by_price(
    clock: Clock, groups: Sequence[Group], scores: Sequence[np.ndarray], steps: Sequence[Sequence[Step]]
) -> Iterator[tuple[float, int, Step]]:
    """Yields (loss, number of the group, step) in the order in which they go: the least loss for the seconds saved."""
    keep = np.ones(clock.labels.count, bool)
    score_of = [dict(zip(group.labels, own.tolist(), strict=True)) for group, own in zip(groups, scores, strict=True)]
    left: list[float] = [sum(own.values()) for own in score_of]
    touching = [clock.touching(group) if own else () for group, own in zip(groups, steps, strict=True)]
    at = [0] * len(groups)
    priced = dict[int, tuple[float, float, float]]()
    while waiting := [number for number, own in enumerate(steps) if at[number] < len(own)]:
        for number in waiting:
            if number not in priced:
                step = steps[number][at[number]]
                gone = sum(score_of[number][label] for label in step.labels)
                loss = -float(np.log(max(1 - gone / max(left[number], 1e-30), 1e-9)))
                saved = _saved(clock, touching[number], keep, step)
                priced[number] = loss / max(saved, 1e-12), loss, gone
        best = min(waiting, key=lambda number: priced[number][0])
        _, loss, gone = priced[best]
        step = steps[best][at[best]]
        yield loss, best, step
        keep[list(step.labels)] = False
        left[best] -= gone
        at[best] += 1
        own = set(touching[best])
        for number in waiting:
            if not own.isdisjoint(touching[number]):
                priced.pop(number, None)


def _saved(clock: Clock, uses: Sequence[Use], keep: np.ndarray, step: Step) -> float:
    """Returns the seconds that operators take less without the channels of a step."""
    without = keep.copy()
    without[list(step.labels)] = False
    saved = 0.0
    for use in uses:
        (before, whole), (after, rest) = clock.seconds_of(use, keep), clock.seconds_of(use, without)
        saved += max(before - after, _LEAST_SAVED * before * (1 - rest / max(whole, 1.0)))
    return saved


def coarser(steps: Sequence[Step]) -> list[Step]:
    """Returns at most `MOST_STEPS` steps, neighbouring ones joined: the first are the smaller ones."""
    found = list[Step]()
    for part in np.array_split(np.arange(len(steps)), min(len(steps), MOST_STEPS)) if steps else []:
        joined = [steps[number] for number in part]
        labels = tuple(label for step in joined for label in step.labels)
        score = float(np.average([step.score for step in joined], weights=[len(step.labels) for step in joined]))
        found.append(Step(score, labels))
    return found
