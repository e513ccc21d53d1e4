"""Finds which operators to keep wide (float, hybrid or in 16 bits) for a model to keep its accuracy, as groups.

One operator in float shows nothing where those around it round the same values. So the search starts with everything
wide, which is what a model without integer activations loses, and puts group after group (`roles`) back into integers:
those that cost the output least for the work that integers then do. What is left wide are the groups without which the
output would be lost.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight import operators
from featherweight.errors import listed
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.forms.nodes import weight_position
from featherweight.recipes.matching import resolve
from featherweight.recipes.recipe import Rule, Scheme
from featherweight.repair.candidate import Candidate, Repair, Setting, integer_model, planned
from featherweight.repair.judge import Judge
from featherweight.repair.roles import Group, Surroundings, groups, moves
from featherweight.targets.target import Target
from featherweight.tflite import write

# Examples that the search runs, spread over the samples: it compares differences of several dB.
_MOST_EXAMPLES = 12
# What all groups that go back into integers may cost together: two fifths of the noise of what has none, or half the
# gain where that is less.
_MOST_LOST_DB = 1.5
# What wide operators must bring to be worth what they cost: anything where the output is poor (a sentence encoder finds
# other neighbours below), but a lot where it is not.
_POOR_DB, _LEAST_GAIN_DB, _LEAST_GAIN_OF_GOOD_DB = 20.0, 1.0, 10.0


def wide_places(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with the groups of operators wide that need it, or why that is not possible."""
    graph, forms = candidate.model.main, candidate.plan.forms
    integer = [node for node in graph.nodes if not forms.get(node.name, "float32").startswith("float32")]
    if not integer:
        return "no operator computes in integers"
    rules = resolve(candidate.recipe, candidate.model)
    wide = {
        node.name: rule
        for node in integer
        if (rule := wide_rule(node, graph, rules.get(node.name), setting)) is not None
    }
    free = groups(graph, wide.keys())
    if not free:
        return f"target '{setting.target.name}' runs none of its integer operators in float, hybrid or in 16 bits"
    search = _Search(setting, candidate, wide)
    least, most = search.level(()), search.level(free)
    needed = _LEAST_GAIN_DB if least.db < _POOR_DB else _LEAST_GAIN_OF_GOOD_DB
    if most.db - least.db < needed:
        return (
            f"with all operators wide, the output has {most.db:.1f} dB instead of {least.db:.1f}: they are worth their "
            f"time from {needed:.0f} dB more on"
        )
    kept = search.narrowed(free, most.db - min(_MOST_LOST_DB, (most.db - least.db) / 2))
    best = search.level(kept)
    note = (
        f"wide places: {least.db:.1f} dB with all in integers, {most.db:.1f} dB with all wide, {best.db:.1f} dB with "
        f"{sum(len(group.nodes) for group in kept)} of {len(integer)} operators wide ("
        + listed((f"{len(group.nodes)} {group.role}" for group in kept), 12)
        + f"): {best.bytes - least.bytes:+,} bytes"
    )
    return replace(best.candidate, notes=candidate.notes, chosen=None).with_note(note)


WIDE_PLACES = Repair(
    "wide-places",
    "keeps the groups of operators in float, hybrid or 16 bits without which the output is lost",
    wide_places,
    costs=3,
)


@dataclass(frozen=True, eq=False)
class _Level:
    """A candidate, how near its outputs are to float ones, and the bytes of its file."""

    candidate: Candidate
    db: float
    bytes: int


class _Search:
    """Plans and runs choices of groups, each once."""

    def __init__(self, setting: Setting, candidate: Candidate, wide: dict[str, Rule]) -> None:
        self.setting, self.candidate, self.wide = setting, candidate, wide
        self.around = Surroundings(candidate.model.main)
        self.movers = [node for node in candidate.model.main.nodes if node.name in wide and moves(node)]
        step = max(1, math.ceil(len(setting.samples) / _MOST_EXAMPLES))
        self.judge = Judge(candidate.model, setting.samples[::step])
        usual = planned(setting, candidate.model, candidate.recipe, stats=candidate.stats, methods=candidate.methods)
        self.is_usual = usual.plan.params == candidate.plan.params
        self.known: dict[frozenset[str], _Level] = {}

    def level(self, free: Iterable[Group]) -> _Level:
        """Returns what comes of the model with these groups wide."""
        free = list(free)
        key = frozenset(group.role for group in free)
        if key not in self.known:
            chosen = self.planned({node.name for group in free for node in group.nodes})
            model = integer_model(chosen)
            db = float(np.mean(self.judge.levels(model)))
            self.known[key] = _Level(chosen, db, len(write(model)))
        return self.known[key]

    def planned(self, free: Collection[str]) -> Candidate:
        """Returns the candidate with these operators wide, and what only moves data between them.

        Where repairs before this one chose parameters, those stand.
        """
        old, setting = self.candidate, self.setting
        if not free:
            return old
        moved = {node.name for node in self.movers if self.is_between(node, free)}
        rules = [self.wide[node.name] for node in old.model.main.nodes if node.name in free or node.name in moved]
        recipe = replace(old.recipe, rules=(*rules, *old.recipe.rules))
        if self.is_usual:
            return planned(setting, old.model, recipe, stats=old.stats, methods=old.methods)
        tensors = old.model.tensors
        given = {n: p for n, p in old.plan.params.items() if n in tensors and not tensors[n].is_constant}
        found = planned(setting, old.model, recipe, stats=old.stats, methods=old.methods, given=given)
        stored = {n: old.plan.params[n] for n, p in found.plan.params.items() if n not in given and _is_like(p, old, n)}
        return replace(found, plan=replace(found.plan, params={**found.plan.params, **stored}))

    def is_between(self, node: Node, free: Collection[str]) -> bool:
        """True for data that wide operators write and read, some of each: it moves as it is."""
        forms = self.candidate.plan.forms
        sides = (self.around.before(node, moves)[0], self.around.behind(node, moves)[0])
        return any(sides) and all(
            any(n.name in free or forms.get(n.name, "float32").startswith("float32") for n in side)
            for side in sides
            if side
        )

    def narrowed(self, free: Sequence[Group], least_db: float) -> list[Group]:
        """Returns the groups that must stay wide: others go back into integers as long as the output has so many dB."""
        most, costs = self.level(free), dict[str, float]()
        for group in free:
            alone = self.level([other for other in free if other is not group])
            noise = 10 ** (-alone.db / 10) - 10 ** (-most.db / 10)
            costs[group.role] = max(noise, 0.0) / max(group.work, 1)
        kept = list(free)
        for group in sorted(free, key=lambda group: (costs[group.role], -group.work)):
            fewer = [other for other in kept if other is not group]
            if fewer and self.level(fewer).db >= least_db:
                kept = fewer
        return kept


def _is_like(params: QuantParams, old: Candidate, name: str) -> bool:
    """True where a tensor is stored as before, in scales that only another repair may have chosen."""
    was = old.plan.params.get(name)
    return was is not None and (was.dtype, was.axis, len(was.scale), was.block_size) == (
        params.dtype,
        params.axis,
        len(params.scale),
        params.block_size,
    )


def wide_rule(node: Node, graph: Graph, rule: Rule | None, setting: Setting) -> Rule | None:
    """Returns a rule that keeps an integer operator wide, or None where the target has no form for it.

    Weights stay integers, but for small ones (`keep_small`): activations are quantized on the fly, or have 16 bits, or
    the weights are read as floats. What the recipe names by a pattern stays as it is.
    """
    if rule is None or rule.match != "*":
        return None
    target, match = setting.target, exactly(node.outputs[0])
    has_floats = target.is_float_allowed and not setting.integers
    op = operators.lookup(node.op)
    weight = (rule.weight or Scheme("int8")) if weight_position(node, graph) is not None else None
    if not has_floats:
        return _in_16_bits(node, match, weight, target)
    if weight is None:
        return Rule(match)
    if op.weight is None:  # a table that is copied out of
        return Rule(match, weight=replace(weight, dtype="int8", block_size=None))
    if target.runs(node.op, f"float32*{weight.dtype}"):
        return Rule(match, weight=weight, keep_small=True)
    read = None
    if weight.dtype in target.weight_only:
        read = Rule(match, weight=replace(weight, block_size=None), weight_only=True, keep_small=True)
    # Weights of 4 bits stay as small as they are.
    return read if read and weight.dtype == "int4" else _in_16_bits(node, match, weight, target) or read


def _in_16_bits(node: Node, match: str, weight: Scheme | None, target: Target) -> Rule | None:
    op = operators.lookup(node.op)
    form = "int16" if weight is None or op.weight is None else "int16*int8"
    if not target.runs(node.op, form) or form not in op.versions:
        return None
    stored = replace(weight, dtype="int8", block_size=None) if weight else None
    return Rule(match, weight=stored, activation=Scheme("int16"))


def exactly(name: str) -> str:
    """Returns the pattern that matches a name and nothing else.

    >>> exactly("a[0]*")
    'a[[]0][*]'
    """
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
