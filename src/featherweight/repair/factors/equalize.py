"""Cross-layer equalization: channels of neighbouring weights get like ranges, and the function stays the same.

Where one scale serves a whole tensor, a channel with small weights gets few integers. Channel i of one layer may be
divided by s_i and the weights that read it multiplied by it, through everything that commutes with such factors:
sums whose members agree, rectifiers, poolings, paddings (`factors.commuting`); `factors.balance` chooses s.

A ReLU6 has one bound for all channels. It stays where samples do not come near it after the scaling, or a MINIMUM with
a bound for each channel takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS, fused_activation
from featherweight.ptq.plan import Plan
from featherweight.repair.candidate import Arrays, Candidate, Repair, Setting, integer_model, planned
from featherweight.repair.factors.balance import MOST_OF_CAP, Exponents, Matrix, Problem, balanced, largest_magnitudes
from featherweight.repair.factors.commuting import KINDS, freedom
from featherweight.repair.factors.freedom import Freedom, Weight
from featherweight.repair.factors.scaling import scaled
from featherweight.repair.judge import Judge

Caps = Literal["fixed", "kept", "minimum"]
"""What becomes of bounds above zero: their channels are left alone, they stay one number, or become one for each."""

WEIGHTS = Exponents(0.5, 0.0, 0.5)
VALUES_TOO = Exponents(1 / 3, 1 / 3, 1 / 3)
VALUES = Exponents(0.0, 0.5, 0.5)
# Examples that a variant is chosen by.
_JUDGED = 8
# A gain that is worth another operator for every bound, in dB.
_LEAST_FOR_MINIMUM = 0.5


@dataclass(frozen=True)
class EqualizedTensor:
    """What became of the channels of one tensor between weights.

    Attributes:
        name: the tensor's.
        producer: the operator that makes it.
        readers: the operators that multiply by its channels.
        spread: the largest range among the producer's channels over the smallest, before and after; dead ones aside.
        reason: why it was left alone; empty where it was not.
    """

    name: str
    producer: str
    readers: tuple[str, ...] = ()
    spread: tuple[float, float] = (1.0, 1.0)
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Equalized:
    """The equalized model, and what was done to each tensor between weights."""

    model: Model
    tensors: tuple[EqualizedTensor, ...]

    def __repr__(self) -> str:
        done = sum(not row.reason for row in self.tensors)
        return f"Equalized model: {done} of {len(self.tensors)} tensors between weights\n{self.model!r}"


def equalize_graph(
    model: Model,
    samples: Sequence[Arrays] = (),
    *,
    caps: Caps | None = None,
    exponents: Exponents = WEIGHTS,
    is_per_channel: bool = False,
) -> Equalized:
    """Equalizes a lowered float graph; loops and branches stay as they are.

    Outputs change by rounding of float32 only; with `caps` kept, also where values exceed those of the samples.

    Args:
        model: a float model.
        samples: feeds that show how large values become; needed by `caps` kept, and by exponents of values.
        caps: what becomes of ReLU6; by default they are kept with samples, and fixed without.
        exponents: how much the ranges of weights before, of values and of weights behind count.
        is_per_channel: whether weights have a scale for each output channel.

    Raises:
        FormatError: if the model is quantized.
        DataError: if weights, or values that the samples bring, are not finite.
    """
    if any(tensor.quant is not None for tensor in model.main.tensors.values()):
        raise FormatError("equalize takes a float model; this one is quantized. Equalize before quantizing.")
    free = freedom(model.main)
    caps = caps or ("kept" if len(samples) else "fixed")
    chosen, largest = free.is_free, dict[str, np.ndarray]()
    if len(samples) and chosen.any():
        concerned = [name for name in _measured(free, model.main) if chosen[free.channels[name]].any()]
        largest = largest_magnitudes(model, concerned, samples)
    lowest, reasons = _bounds(free, largest, caps)
    chosen &= lowest < 1
    problem = Problem(free, largest, lambda weight: is_per_channel and _axis(weight) is not None, lowest, chosen)
    factors = balanced(problem, exponents)
    kept = {cap.node.name for cap in free.caps} if caps == "kept" else ()
    return Equalized(scaled(model, free, factors, kept), _rows(free, chosen, factors, reasons))


def _axis(weight: Weight) -> int | None:
    return None if weight.is_diagonal else lookup(weight.node.op).axis


def _measured(free: Freedom, graph: Graph) -> list[str]:
    """Returns the tensors whose values' ranges matter: what the model computes with labels, in order."""
    return [name for node in graph.nodes for name in node.outputs if name in free.channels]


def _bounds(free: Freedom, largest: dict[str, np.ndarray], caps: Caps) -> tuple[np.ndarray, dict[int, str]]:
    """Returns the smallest factor of each label, infinite where it must be 1, and why labels can't have others."""
    lowest, reasons = np.zeros(free.count), dict(free.fixed)
    for cap in free.caps if caps != "minimum" else ():
        name = cap.node.op if cap.node.op in FUSED_BOUNDS else fused_activation(cap.node)
        where = f"{cap.node.op} '{cap.node.name}' ends in {name}, which has one bound for all channels"
        if caps == "fixed" or cap.node.outputs[0] not in largest:
            lowest[cap.labels] = np.inf
        else:
            share = largest[cap.node.outputs[0]] / (cap.high * MOST_OF_CAP)
            np.maximum.at(lowest, cap.labels, np.where(share >= 1, np.inf, share))
            where += ", and samples reach it"
        for label in cap.labels[lowest[cap.labels] >= 1].tolist():
            reasons.setdefault(label, where)
    return lowest, reasons


def _rows(
    free: Freedom, chosen: np.ndarray, factors: np.ndarray, reasons: dict[int, str]
) -> tuple[EqualizedTensor, ...]:
    """Returns what became of the result of each operator with a weight, in the graph's order."""
    found: dict[str, EqualizedTensor] = {}
    for weight in free.weights:
        labels = weight.writes.ravel()
        readers = tuple(w.node.name for w in free.weights if np.isin(w.reads, labels[chosen[labels]]).any())
        matrix, reason = Matrix(weight, free), ""
        if not chosen[labels].any():
            reason = next((reasons[label] for label in labels.tolist() if label in reasons), "it has no channels")
        elif not readers:
            reason = "no weight reads its channels"
        spread = (1.0, 1.0) if reason else (_spread(matrix, np.ones_like(factors)), _spread(matrix, factors))
        if readers or not weight.is_diagonal:
            found[weight.node.name] = EqualizedTensor(weight.node.outputs[0], weight.node.name, readers, spread, reason)
    for node in free.graph.nodes:
        if node.name not in found and lookup(node.op).weight_kind in KINDS and node.outputs[0] in free.channels:
            label = int(free.channels[node.outputs[0]][0])
            found[node.name] = EqualizedTensor(node.outputs[0], node.name, reason=reasons.get(label, ""))
    return tuple(found[node.name] for node in free.graph.nodes if node.name in found)


def _spread(matrix: Matrix, factors: np.ndarray) -> float:
    _, ranges = matrix.ranges("writes", factors)
    alive = ranges[ranges > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def _shares_scales(free: Freedom, plan: Plan) -> bool:
    """True where a weight has one scale for outputs that could have a scale each."""
    found = [
        plan.params[weight.node.inputs[weight.position]]
        for weight in free.weights
        if _axis(weight) is not None and weight.writes.size > 1 and weight.node.inputs[weight.position] in plan.params
    ]
    return any(len(params.scale) == 1 and not params.block_size for params in found)


def _apply(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Tries what there is to choose on the samples; of what is as good, the one with fewer operators is taken."""
    free = freedom(candidate.model.main)
    has_own_steps = setting.target.is_per_channel
    ways: list[Exponents] = [VALUES] if has_own_steps else [WEIGHTS, VALUES_TOO]
    ways += [WEIGHTS, VALUES_TOO] if has_own_steps and _shares_scales(free, candidate.plan) else []
    caps: list[Caps] = ["kept", "minimum"] if free.caps and setting.samples else ["kept"]
    tried: list[tuple[Caps, Exponents]] = (
        [(c, way) for c in caps for way in ways] if setting.samples else [("fixed", WEIGHTS)]
    )
    judge = Judge(candidate.model, setting.samples[:_JUDGED]) if len(tried) > 1 else None
    best: tuple[float, Equalized, Candidate] | None = None
    for cap, way in tried:
        found = equalize_graph(
            candidate.model,
            setting.samples,
            caps=cap,
            exponents=way,
            is_per_channel=has_own_steps and (way is VALUES or not setting.samples),
        )
        if not any(not row.reason for row in found.tensors):
            continue
        new = planned(setting, found.model, candidate.recipe)
        level = float(judge.levels(integer_model(new)).mean()) if judge else 0.0
        level -= _LEAST_FOR_MINIMUM if cap == "minimum" else 0.0
        if best is None or level > best[0]:
            best = level, found, new
    if best is None:
        return "no weights with a tensor between them whose channels could be evened out"
    _, found, new = best
    note = f"equalized the channels of {sum(not row.reason for row in found.tensors)} tensors between weights"
    if added := len(found.model.main.nodes) - len(candidate.model.main.nodes):
        note += f"; {added} bounds have become a MINIMUM with a number for each channel"
    left = [f"'{row.name}': {row.reason}" for row in found.tensors if row.reason]
    return new.with_note(note + (f"; left alone: {'; '.join(left)}" if left else ""))


EQUALIZE = Repair("equalize", "gives the channels of neighbouring weights like ranges", _apply, costs=2)
