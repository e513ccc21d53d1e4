"""Finds which operators to keep wide (float, hybrid or in 16 bits) for a model to keep its accuracy, as groups.

One operator in float shows nothing where those around it round the same values. So the search starts with everything
wide, which is what a model without integer activations loses, and puts group after group (`roles`) back into integers:
those that cost the output least for the work that integers then do. What is left wide are the groups without which the
output would be lost.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import listed
from featherweight.graph import Model, Node
from featherweight.recipes.matching import exactly, resolve
from featherweight.recipes.recipe import Rule
from featherweight.repair.candidate import Candidate, Chosen, Repair, Setting, integer_model, planned, with_stored
from featherweight.repair.judge import Judge
from featherweight.repair.ladder import Rungs, climbed, needed
from featherweight.repair.roles import Group, Surroundings, groups, moves
from featherweight.repair.wide_rules import wide_rules
from featherweight.tflite import write

# Examples that the search runs, spread over the samples: it compares differences of several dB.
_MOST_EXAMPLES = 16
# What all groups that go back into integers may cost an output together: two fifths of the noise of what has none where
# it is good, an eighth where it is poor, or half the gain where that is less.
_MOST_LOST_DB, _MOST_LOST_OF_GOOD_DB = 0.5, 1.5
# What wide operators must bring to be worth what they cost: anything where an output is poor (a sentence encoder finds
# other neighbours below), a lot where it is good, and between the two in proportion.
_POOR_DB, _GOOD_DB, _LEAST_GAIN_DB, _LEAST_GAIN_OF_GOOD_DB = 20.0, 30.0, 1.0, 10.0
# Where an output is poor with activations quantized on the fly, too, some operators compute in float. Each output then
# keeps what it has with all on the fly, and this level at least, but no more than the last; what these samples leave
# unknown of a level comes on top.
_LEAST_DB, _MOST_DB = 15.0, 30.0
# What a multiply-accumulate takes on each rung, in units of one in integers; and what a file twice as large is worth,
# in units of a run of all in integers.
_TIMES, _BYTES = (1.0, 1.5, 4.0, 4.0), 3.0
# What an output need not exceed, whatever it could have.
_GOOD_ENOUGH_DB = 40.0


def wide_places(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with the groups of operators wide that need it, or why that is not possible.

    Weights that repairs chose stay where the outputs are better with them; else they start anew, for what they make up
    for is another's error then. Either way what was chosen is due again.
    """
    graph, forms = candidate.model.main, candidate.plan.forms
    integer = [node for node in graph.nodes if not forms.get(node.name, "float32").startswith("float32")]
    if not integer:
        return "no operator computes in integers"
    exact = _unchosen(candidate)
    rules = resolve(candidate.recipe, exact.model)
    widths = {
        node.name: found
        for node in integer
        if (found := wide_rules(node, exact.model.main, rules.get(node.name), setting))
    }
    free = groups(exact.model.main, widths.keys())
    if not free:
        return f"target '{setting.target.name}' runs none of its integer operators in float, hybrid or in 16 bits"
    all_wide = dict.fromkeys(free, 1)
    bases = (exact,) if candidate.chosen is None else (exact, candidate)
    searches = [_Search(setting, base, widths, exact.model) for base in bases]
    search = max(searches, key=lambda search: search.held_out_db(search.level(all_wide).candidate))
    most = usual = search.level(all_wide)
    reached = min(usual.db, search.held_out_db(usual.candidate))
    if reached < _POOR_DB and any(len(found) > 1 for found in widths.values()):
        # Weights that make up for rounding are wrong where nothing is rounded: what is reached at last decides.
        all_float = {group: search.height(group) for group in free}
        search = max(searches, key=lambda search: search.held_out_db(search.level(all_float).candidate))
        usual, most = search.level(all_wide), search.level(all_float)
    least = max((search.measured(base) for base in bases), key=lambda level: float(level.noise.max(initial=0.0)))
    now, then = search.held_out_db(candidate), search.held_out_db(most.candidate)
    least_gain = least_gain_db(now)
    if then - now < least_gain:
        return (
            f"with all operators wide, the output has {then:.1f} dB instead of {now:.1f}: they are worth their time "
            f"from {least_gain:.1f} dB more on"
        )
    kept = search.narrowed(free, least, usual) if most is usual else search.climbed(free, usual)
    if not kept:
        return f"all outputs keep what is asked of them with all operators in integers ({least.db:.1f} dB)"
    best = search.level(kept)
    note = (
        f"wide places: {least.db:.1f} dB with all in integers, {usual.db:.1f} dB with all wide, {best.db:.1f} dB "
        f"with {sum(len(group.nodes) for group in kept)} of {len(integer)} operators wide ("
        + listed((f"{len(group.nodes)} {group.role}{search.said(group, rung)}" for group, rung in kept.items()), 12)
        + f"): {best.bytes - least.bytes:+,} bytes"
    )
    found = replace(best.candidate, chosen=None)
    if candidate.chosen is not None and search.candidate is candidate:
        start = _Search(setting, exact, widths, exact.model).planned(search.rungs(kept))
        found = replace(found, chosen=Chosen(start.model, start.plan, candidate.chosen.choices))
    return found.with_note(note)


def least_gain_db(now: float) -> float:
    """Returns what wide operators must bring where the worst output has so many dB without.

    >>> [least_gain_db(level) for level in (5.0, 20.0, 25.0, 40.0)]
    [1.0, 1.0, 5.5, 10.0]
    """
    return float(np.interp(now, (_POOR_DB, _GOOD_DB), (_LEAST_GAIN_DB, _LEAST_GAIN_OF_GOOD_DB)))


def _unchosen(candidate: Candidate) -> Candidate:
    """Returns a candidate with the weights that it had before repairs chose others."""
    chosen = candidate.chosen
    return candidate if chosen is None else replace(candidate, model=chosen.model, plan=chosen.plan, chosen=None)


WIDE_PLACES = Repair(
    "wide-places",
    "keeps the groups of operators in float, hybrid or 16 bits without which the output is lost",
    wide_places,
    costs=3,
)


@dataclass(frozen=True, eq=False)
class _Level:
    """A candidate, the noise to signal of its outputs, and the bytes of its file."""

    candidate: Candidate
    noise: np.ndarray
    bytes: int

    @property
    def db(self) -> float:
        """How far the worst output is above its error."""
        return _db(self.noise)


def _is_float(node: Node, candidate: Candidate) -> bool:
    return candidate.plan.forms.get(node.name, "float32") == "float32"


def _db(noise: np.ndarray) -> float:
    return -10 * math.log10(max(float(noise.max(initial=0.0)), 1e-10))


class _Search:
    """Plans and runs choices of groups, each once."""

    def __init__(
        self, setting: Setting, candidate: Candidate, widths: Mapping[str, Sequence[Rule]], reference: Model
    ) -> None:
        self.setting, self.candidate, self.widths = setting, candidate, widths
        self.around = Surroundings(candidate.model.main)
        self.movers = [node for node in candidate.model.main.nodes if node.name in widths and moves(node)]
        step = max(1, math.ceil(len(setting.samples) / _MOST_EXAMPLES))
        self.judge = Judge(reference, setting.samples[::step])
        usual = planned(setting, candidate.model, candidate.recipe, stats=candidate.stats, methods=candidate.methods)
        self.is_usual = usual.plan.params == candidate.plan.params
        self.known: dict[frozenset[tuple[str, int]], _Level] = {}

    def height(self, group: Group) -> int:
        """Returns the widest rung of a group."""
        return max(len(self.widths[node.name]) for node in group.nodes)

    def said(self, group: Group, rung: int) -> str:
        """Returns in which form a group is, where it is not the least wide one."""
        rule = max((self.widths[node.name] for node in group.nodes), key=len)[rung - 1]
        if rung == 1:
            return ""
        return " with weights read as floats" if rule.weight_only else " in float"

    def held_out_db(self, candidate: Candidate) -> float:
        """Returns how far the worst output is above its error on samples that nothing was chosen by, if there are any.

        What was fitted to the samples that repairs choose by looks better on them than it is.
        """
        samples = self.setting.held_out or self.setting.samples
        noise = Judge(self.judge.model, samples).noise(integer_model(candidate))
        return _db(noise)

    def measured(self, candidate: Candidate) -> _Level:
        """Returns a candidate with what it loses."""
        model = integer_model(candidate)
        return _Level(candidate, self.judge.noise(model).ravel(), len(write(model)))

    def level(self, chosen: Mapping[Group, int]) -> _Level:
        """Returns what comes of the model with these groups wide, each as wide as its rung says."""
        key = frozenset((group.role, rung) for group, rung in chosen.items() if rung)
        if key not in self.known:
            self.known[key] = self.measured(self.planned(self.rungs(chosen)))
        return self.known[key]

    def rungs(self, chosen: Mapping[Group, int]) -> dict[str, int]:
        """Returns operator → rung of those that are wide."""
        return {node.name: rung for group, rung in chosen.items() if rung for node in group.nodes}

    def planned(self, rungs: Mapping[str, int]) -> Candidate:
        """Returns the candidate with these operators on these rungs, and what only moves data between them.

        Where repairs before this one chose parameters, those stand; and what the plan kept in float beside integers
        stays so where these become wide.
        """
        old = self.candidate
        if not rungs:
            return old
        moved = {node.name: 1 for node in self.movers if self.is_between(node, rungs)}
        taken = {**moved, **rungs}
        named = [node.name for node in old.model.main.nodes if node.name in taken]
        rules = [self.widths[name][min(taken[name], len(self.widths[name])) - 1] for name in named]
        found, beside = self._planned(rules), [node for node in old.model.main.nodes if _is_float(node, old)]
        while fallen := [node for node in beside if not _is_float(node, found)]:
            rules += [Rule(exactly(node.outputs[0])) for node in fallen]
            found, beside = self._planned(rules), [node for node in beside if node not in fallen]
        return found

    def _planned(self, rules: Sequence[Rule]) -> Candidate:
        old, setting = self.candidate, self.setting
        recipe = replace(old.recipe, rules=(*rules, *old.recipe.rules))
        if self.is_usual:
            return planned(setting, old.model, recipe, stats=old.stats, methods=old.methods)
        tensors = old.model.tensors
        given = {n: p for n, p in old.plan.params.items() if n in tensors and not tensors[n].is_constant}
        found = planned(setting, old.model, recipe, stats=old.stats, methods=old.methods, given=given)
        return with_stored(found, old)

    def is_between(self, node: Node, free: Container[str]) -> bool:
        """True for data that wide operators write and read, some of each: it moves as it is."""
        forms = self.candidate.plan.forms
        sides = (self.around.before(node, moves)[0], self.around.behind(node, moves)[0])
        return any(sides) and all(
            any(n.name in free or forms.get(n.name, "float32").startswith("float32") for n in side)
            for side in sides
            if side
        )

    def narrowed(self, free: Sequence[Group], least: _Level, most: _Level) -> dict[Group, int]:
        """Returns the groups that must stay wide: others go back into integers as long as all outputs allow it."""
        tiny = 1e-10
        gains = 10 * np.log10(np.maximum(least.noise, tiny) / np.maximum(most.noise, tiny))
        levels = -10 * np.log10(np.maximum(most.noise, tiny))
        lost = np.interp(levels, (_POOR_DB, _GOOD_DB), (_MOST_LOST_DB, _MOST_LOST_OF_GOOD_DB))
        allowed = most.noise * 10 ** (np.clip(gains / 2, 0.0, lost) / 10)
        allowed = np.maximum(allowed, np.where(gains > 0, 10 ** (-_GOOD_ENOUGH_DB / 10), most.noise))
        costs = dict[str, float]()
        for group in free:
            alone = self.level({other: 1 for other in free if other is not group})
            noise = float((alone.noise - most.noise).sum())
            costs[group.role] = max(noise, 0.0) / max(group.work, 1)
        kept = dict.fromkeys(free, 1)
        for group in sorted(free, key=lambda group: (costs[group.role], -group.work)):
            fewer = {other: 1 for other in kept if other is not group}
            if fewer and (self.level(fewer).noise <= allowed + tiny).all():
                kept = fewer
        return kept

    def climbed(self, free: Sequence[Group], usual: _Level) -> dict[Group, int]:
        """Returns how wide each group must be for every output to have what is asked of it."""
        top = {group: self.height(group) for group in free}
        base, ladders = self.level(top), dict[str, Rungs]()
        work = sum(group.work for group in free)
        for group in free:
            rungs = range(top[group] + 1)
            levels = [self.level({**top, group: rung}) for rung in rungs]
            noise = np.maximum([each.noise - base.noise for each in levels], 0.0)
            bytes_ = np.array([each.bytes for each in levels], np.float64)
            times = np.array([_TIMES[rung] if top[group] > 1 else _TIMES[min(rung, 1)] for rung in rungs])
            cost = group.work / work * times + _BYTES * (bytes_ - bytes_.min()) / usual.bytes
            ladders[group.role] = Rungs(noise, np.maximum.accumulate(cost))
        levels = -10 * np.log10(np.maximum(usual.noise, 1e-10))
        spare = np.tile(self.judge.error_db(), 2)
        allowed = np.maximum(needed(levels, _LEAST_DB, _MOST_DB, spare), base.noise)
        state = climbed(ladders, allowed, lambda state: self.level({g: state[g.role] for g in free}).noise)
        return {group: state[group.role] for group in free if state[group.role]}
