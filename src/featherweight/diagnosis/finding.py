"""Finds the causes of a quantized model's error: evidence first, then each kind of cause, then their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featherweight.analysis.inspection import arithmetic, op_name
from featherweight.analysis.places import Pair, Place
from featherweight.diagnosis.cause import Cause
from featherweight.diagnosis.evidence import Evidence, gathered
from featherweight.diagnosis.exact import Exact, exact_values
from featherweight.diagnosis.explaining import MOST_EXPLAINED, explanations, merged
from featherweight.diagnosis.kernels import kernel_causes
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.own_errors import MOST_CARRIED, own_errors
from featherweight.diagnosis.sequences import state_causes
from featherweight.diagnosis.simulation import Simulation
from featherweight.diagnosis.whole import check_is_same, front_end_causes, saturation_causes, shift_causes
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.operators import lookup

# A cause is named if it makes a tenth of the error.
_LEAST_SHARE_DB = 10.0
# Of a model whose outputs are noise, the first cause is wanted quickly.
_FEW_EXAMPLES, _FEW_CARRIED, _FEW_EXPLAINED = 8, 16, 4
_SHIFT = "output-shift"


@dataclass(frozen=True, eq=False)
class Found:
    """What a diagnosis has found, before it is told.

    Attributes:
        simulated: the error of a model that only rounds where the quantized one does; None where that can't be run.
        notes: what could not be measured, and why.
    """

    evidence: Evidence
    causes: tuple[Cause, ...]
    simulated: Level | None
    notes: tuple[str, ...]


def found_causes(
    pair: Pair,
    exact: Exact,
    *,
    most: int = MOST_CARRIED,
    explained: int = MOST_EXPLAINED,
    is_calibrated: bool = False,
    progress: bool = False,
) -> Found:
    """Returns the causes of a quantized model's error on samples, those that cost most first.

    Args:
        pair: the float model and the quantized one.
        exact: the float model's values on samples.
        most: how many operators' own errors are carried to the output.
        explained: how many of them are looked into.
        is_calibrated: True where the ranges are of these samples.
        progress: show a progress bar on terminals.

    Raises:
        DataError: if the two are no versions of one model.
    """
    evidence = replace(gathered(pair, exact, ()), is_calibrated=is_calibrated)
    check_is_same(pair, evidence.total)
    evidence = replace(evidence, own=own_errors(pair, exact, most=most, progress=progress))
    notes = list(_unmatched(evidence))
    simulation, simulated = Simulation(pair, exact), None
    try:
        simulated = simulation.level()
    except FeatherweightError as error:
        notes.append(f"The model could not be simulated, so that no cause was tried out: {error}")
    causes: list[Cause] = []
    for cause, places in (*merged(explanations(evidence, explained), evidence), *front_end_causes(evidence)):
        causes.append(_with_trial(cause, places, simulation, simulated))
    causes += shift_causes(evidence) + saturation_causes(evidence) + state_causes(evidence)
    causes += [] if simulated is None else kernel_causes(evidence, simulated)
    return Found(evidence, ordered(causes, evidence.total), simulated, tuple(notes))


def first_cause(before: Model, after: Model, samples: Iterable[Any]) -> str:
    """Returns the first cause of a quantized model's error, and what repairs it, in two sentences; empty without one.

    The samples are those that it was calibrated with. A few of them are taken, and the errors of a few operators
    carried to the output.
    """
    pair = Pair(before, after)
    if not pair.places:
        return ""
    try:
        exact = exact_values(before, samples, _FEW_EXAMPLES, stand_ins=pair.stand_ins)
        found = found_causes(pair, exact, most=_FEW_CARRIED, explained=_FEW_EXPLAINED, is_calibrated=True)
    except FeatherweightError:  # what can't be measured has no cause that a number shows
        return ""
    if not found.causes:
        return ""
    cause, improve = found.causes[0], ""
    if cause.repairs:
        improve = f" (improve='{cause.repairs[0]}')"
    return f"First cause, {cause.name}: {cause.statement} {cause.remedy}{improve}"


def ordered(causes: Sequence[Cause], total: Level) -> tuple[Cause, ...]:
    """Returns the causes that matter for the model's level, worst first.

    A cause matters if it makes a tenth of the error, and leaves an output below what is enough if that is not lost
    already. The constant shift of an output comes behind a cause without which more of the error goes: it makes it.
    """
    limit = total.level_db + _LEAST_SHARE_DB
    kept = [cause for cause in causes if cause.alone_db < (min(limit, total.enough_db) if total.is_enough else limit)]
    others = [each.without_db or -math.inf for each in kept if each.name != _SHIFT]
    best = max(others, default=-math.inf)
    return tuple(sorted(kept, key=lambda each: (each.name == _SHIFT and (each.without_db or 0) < best, each.alone_db)))


def _with_trial(cause: Cause, places: Sequence[Place], simulation: Simulation, simulated: Level | None) -> Cause:
    """Returns a cause with the model's level when its places are left exact."""
    if simulated is None:
        return cause
    try:
        return replace(cause, without_db=simulation.level(places).level_db)
    except FeatherweightError:
        return cause


def _unmatched(evidence: Evidence) -> list[str]:
    """Says what of the quantized model could not be found in the float one."""
    pair = evidence.pair
    matched = {id(node) for node in pair.matches.values()}
    others = [n for n in pair.graph.nodes if id(n) not in matched and not lookup(n.op).is_conversion]
    rest = [n for n in others if arithmetic(n, pair.graph) in ("integer", "hybrid")]
    if not rest:
        return []
    return [
        f"{len(rest)} integer operators of the quantized model have no counterpart in the float one, such as "
        f"{op_name(rest[0])} '{rest[0].name}': what they round was not looked at"
    ]
