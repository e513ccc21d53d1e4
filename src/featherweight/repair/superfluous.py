"""Takes back repairs of graph and ranges that wide operators make superfluous.

A factor or a clip that was chosen in the noise of all else, as the best of two evils, can be a loss where nothing is
lost any more: what is wide is planned once more without them.
"""

from __future__ import annotations

from dataclasses import replace

from featherweight.errors import listed
from featherweight.repair.candidate import Candidate, Setting, integer_model, planned
from featherweight.repair.factors.equalize import EQUALIZE
from featherweight.repair.factors.fill import FILL_POWERS
from featherweight.repair.factors.smooth import SMOOTH
from featherweight.repair.journal import Improvement
from featherweight.repair.judge import Judge, gain
from featherweight.repair.outputs import SPLIT_OUTPUTS
from featherweight.repair.ranges import RANGES

_EARLY = frozenset(repair.name for repair in (EQUALIZE, SMOOTH, FILL_POWERS, SPLIT_OUTPUTS, RANGES))


def without_superfluous(setting: Setting, start: Candidate, now: Improvement, judge: Judge) -> Improvement:
    """Returns where trying stands when early repairs are taken back, where the outputs are no worse without them.

    Args:
        setting: what all repairs share.
        start: what the first repair began with.
        now: has wide operators, by the last repair that was tried.
        judge: by the samples held out.
    """
    wide, kept = now.candidate, [each.name for each in now.attempts if each.is_kept and each.name in _EARLY]
    if not kept or wide.chosen is not None:
        return now
    simple = planned(setting, start.model, wide.recipe, stats=start.stats, methods=start.methods)
    levels = judge.levels(integer_model(simple))
    brought = gain(now.levels, levels)
    if brought.db < 0:
        return now
    said = f"superfluous beside wide places: without {listed(kept)}, {brought}"
    attempts = [replace(each, is_kept=False, reason=said) if each.name in kept else each for each in now.attempts]
    found = replace(simple, notes=(*start.notes, wide.notes[-1]))
    return replace(now, candidate=found, levels=levels, attempts=tuple(attempts))
