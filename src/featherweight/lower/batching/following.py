"""Follows the batch through the operators of a graph that was lowered at a fixed batch.

RESHAPE keeps the order of elements, and with it the product of all sizes in front of the batch; every other operator
moves whole axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featherweight.errors import LoweringError
from featherweight.graph import Graph, Node
from featherweight.lower.batching.per_sample import picks_own_rows
from featherweight.lower.batching.places import Place, relocated
from featherweight.operators import AxesRule, lookup

# By tensor name; a constant that is repeated for every sample has a place as what is computed has.
Places = dict[str, Place]


@dataclass(frozen=True)
class _Step:
    """One operator and what is known when its turn comes."""

    node: Node
    graph: Graph
    places: Places
    batch: int

    def shape(self, position: int) -> tuple[int, ...]:
        return self.graph.tensors[self.node.inputs[position]].shape

    def place(self, position: int) -> Place | None:
        return self.places.get(self.node.inputs[position]) if position < len(self.node.inputs) else None

    def numbers(self, position: int) -> list[int]:
        tensor = self.graph.tensors.get(self.node.inputs[position])
        array = None if tensor is None else tensor.array
        if array is None:
            raise LoweringError(f"{self} takes sizes that the graph computes")
        return [int(value) for value in array.reshape(-1)]

    @property
    def output(self) -> tuple[int, ...]:
        return self.graph.tensors[self.node.outputs[0]].shape

    def __str__(self) -> str:
        return f"{self.node.op} '{self.node.name}'"


def found_places(graph: Graph, inputs: Sequence[str], batch: int) -> Places:
    """Returns where the batch lies in each tensor that has one; the tensors `inputs` have it in front.

    At a batch of 1 an axis of size 1 is taken for the batch rather than the front of a larger one: a guess, which the
    caller must verify. At larger ones there is one answer.

    Raises:
        LoweringError: naming an operator that mixes the samples of a batch, or where the batch can't be followed.
    """
    places: Places = {name: Place(0) for name in inputs}
    for node in graph.nodes:
        if any(name in places for name in node.inputs):
            step = _Step(node, graph, places, batch)
            place = _RULES.get(lookup(node.op).axes, _aligned)(step)
            if place is not None:
                places.update({name: place for name in node.outputs if name})
    return places


def _aligned(step: _Step) -> Place | None:
    """Axes stay as they are, counted from the last: elementwise operators, convolutions, pools, softmax."""
    rank, met = len(step.output), set[Place]()
    for position in range(len(step.node.inputs)):
        place = step.place(position)
        if place is not None:
            met.add(Place(place.axis + rank - len(step.shape(position)), place.outside))
    place = min(met, key=lambda p: p.axis)
    if len(met) > 1 or not 0 <= place.axis < rank:
        raise LoweringError(f"{step} meets the batch in {len(met)} places")
    if lookup(step.node.op).axes in _OF_EQUALS:
        _require_repeated(step, place)
    return place


def _require_repeated(step: _Step, place: Place) -> None:
    """Checks that operands without the batch fit every sample; a constant that was written out for all is placed."""
    rank, joins = len(step.output), lookup(step.node.op).axes == "concatenation"
    for position, name in enumerate(step.node.inputs):
        tensor = step.graph.tensors.get(name)
        if tensor is None or step.place(position) is not None or (axis := place.axis - rank + len(tensor.shape)) < 0:
            continue
        if tensor.shape[axis] == 1 and not joins:
            continue
        if not tensor.is_constant or step.batch == 1 or tensor.shape[axis] != step.output[place.axis]:
            raise LoweringError(f"{step} takes '{name}', made for {step.batch} samples")
        step.places[name] = Place(axis, place.outside)


def _transposed(step: _Step) -> Place:
    place = _of(step, 0)
    return Place(step.numbers(1).index(place.axis), place.outside)


def _reshaped(step: _Step) -> Place:
    return _read_as(step, step.output)


def _squeezed(step: _Step) -> Place:
    place, shape = _of(step, 0), step.shape(0)
    named = step.node.attrs.get("squeeze_dims")
    dropped = {int(axis) % len(shape) for axis in (() if named is None else named)}
    dropped = dropped or {axis for axis, size in enumerate(shape) if size == 1}
    if place.axis in dropped:
        raise LoweringError(f"{step} drops the batch")
    return Place(place.axis - sum(axis < place.axis for axis in dropped), place.outside)


def _expanded(step: _Step) -> Place:
    place, axis = _of(step, 0), step.numbers(1)[0] % len(step.output)
    return Place(place.axis + (place.axis >= axis), place.outside)


def _read_as(step: _Step, shape: Sequence[int]) -> Place:
    place = relocated(step.shape(0), _of(step, 0), shape, step.batch)
    if place is None:
        raise LoweringError(f"{step} spreads the batch over several sizes of {list(step.output)}")
    return place


def _dense(step: _Step) -> Place:
    place, shape = _of(step, 0), step.shape(0)
    if place.axis == len(shape) - 1:
        raise LoweringError(f"{step} sums over the batch")
    if step.node.attrs.get("keep_num_dims"):
        return place
    return _read_as(step, (math.prod(shape[:-1]), shape[-1]))


def _multiplied(step: _Step) -> Place:
    """Matrices: leading axes are aligned; rows come from the first operand, columns from the second."""
    rank, met = len(step.output), set[Place]()
    for position, flag in ((0, "adj_x"), (1, "adj_y")):
        place = step.place(position)
        if place is None:
            continue
        axis = place.axis - len(step.shape(position))
        if axis >= -2:
            is_kept = (axis == -2) == (position == 0)
            if is_kept == bool(step.node.attrs.get(flag)):
                raise LoweringError(f"{step} sums over the batch")
            axis = -2 if position == 0 else -1
        met.add(Place(rank + axis, place.outside))
    if len(met) > 1:
        raise LoweringError(f"{step} meets the batch in {len(met)} places")
    place = met.pop()
    if place.axis < rank - 2:
        _require_repeated(step, place)
    return place


def _gathered(step: _Step) -> Place:
    table, picked = step.place(0), step.place(1)
    shared = int(step.node.attrs.get("batch_dims", 0))
    axis = int(step.node.attrs.get("axis", 0)) % max(1, len(step.shape(0)))
    if picked is not None:
        if table is not None and (table != picked or table.axis >= shared):
            raise LoweringError(f"{step} meets the batch in two places")
        return picked if picked.axis < shared else Place(axis + picked.axis - shared, picked.outside)
    place = _of(step, 0)
    if place.axis == axis:
        raise LoweringError(f"{step} picks samples of the batch")
    return place if place.axis < axis else Place(place.axis + len(step.shape(1)) - 1 - shared, place.outside)


def _gathered_slices(step: _Step) -> Place:
    picked, depth = step.place(1), step.shape(1)[-1]
    if picked is not None:
        return picked
    place = _of(step, 0)
    if place == Place(0) and picks_own_rows(step.graph.tensors[step.node.inputs[1]].array, step.batch):
        return place
    if place.axis < depth:
        raise LoweringError(f"{step} picks samples of the batch")
    return Place(len(step.shape(1)) - 1 + place.axis - depth, place.outside)


def _reduced(step: _Step) -> Place | None:
    place, rank = _of(step, 0), len(step.shape(0))
    axes = {axis % rank for axis in step.numbers(1)}
    if place.axis in axes:
        return None
    if len(step.output) == rank:
        return place
    return Place(place.axis - sum(axis < place.axis for axis in axes), place.outside)


def _packed(step: _Step) -> Place:
    place = next(found for position in range(len(step.node.inputs)) if (found := step.place(position)) is not None)
    if any(step.place(position) != place for position in range(len(step.node.inputs))):
        raise LoweringError(f"{step} takes tensors without the batch")
    axis = int(step.node.attrs.get("axis", 0)) % len(step.output)
    return Place(place.axis + (place.axis >= axis), place.outside)


def _unpacked(step: _Step) -> Place | None:
    place = _of(step, 0)
    axis = int(step.node.attrs.get("axis", 0)) % len(step.shape(0))
    if place.axis == axis:
        raise LoweringError(f"{step} takes the batch apart")
    return Place(place.axis - (place.axis > axis), place.outside)


def _cut(step: _Step) -> Place | None:
    """STRIDED_SLICE: entries that its masks turn into single elements or new axes move the axes behind them."""
    place, attrs = _of(step, 0), step.node.attrs
    shrunk, new = (int(attrs.get(name, 0)) for name in ("shrink_axis_mask", "new_axis_mask"))
    if int(attrs.get("ellipsis_mask", 0)):
        raise LoweringError(f"{step} leaves axes out")
    source = target = 0
    for entry in range(len(step.shape(0)) + new.bit_count()):
        if new >> entry & 1:
            target += 1
            continue
        if source == place.axis:
            return None if shrunk >> entry & 1 else Place(target, place.outside)
        source += 1
        target += not shrunk >> entry & 1
    raise LoweringError(f"{step} can't be followed")


def _lost(step: _Step) -> None:
    """The result says something about the shape, and holds no sample."""


def _first(step: _Step) -> Place:
    """The axes of the first operand come first."""
    return _of(step, 0)


def _of(step: _Step, position: int) -> Place:
    place = step.place(position)
    if place is None:
        raise LoweringError(f"{step} has the batch where it can't be followed")
    return place


# By the word of `operators.axes`; `_aligned` for the others.
_RULES: Mapping[AxesRule, Callable[[_Step], Place | None]] = {
    "decision": _reduced,
    "dense": _dense,
    "expand": _expanded,
    "gather": _gathered,
    "lookup": _first,
    "pack": _packed,
    "product": _multiplied,
    "reduction": _reduced,
    "reshape": _reshaped,
    "shape": _lost,
    "slices": _gathered_slices,
    "squeeze": _squeezed,
    "strided_slice": _cut,
    "transpose": _transposed,
    "unpack": _unpacked,
}
# Of several equal operands, which repeat an operand of size one, but never one of another size.
_OF_EQUALS: tuple[AxesRule, ...] = ("joined", "selection", "concatenation")
