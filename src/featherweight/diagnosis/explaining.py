"""Names the cause of each large own error: the one without which most of it goes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from featherweight.analysis.inspection import op_name
from featherweight.analysis.places import Place
from featherweight.diagnosis.activation_suspects import activation_suspects, is_shown
from featherweight.diagnosis.cause import REMEDIES, SPLIT, Cause, Suspect
from featherweight.diagnosis.evidence import Evidence
from featherweight.diagnosis.exact import Carrier
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.own_errors import Change, changes
from featherweight.diagnosis.weight_suspects import weight_suspects
from featherweight.errors import FeatherweightError

# Operators whose own error is looked into, the worst ones.
MOST_EXPLAINED = 12
# Sides of one cause that are told: of what is read, and of the weights that read it.
_MOST_ASPECTS = 2
# Own errors below this part of the whole are not looked into.
_LEAST_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a part of an operator's own error comes from.

    Attributes:
        level: the error at the outputs from these places alone.
        left: noise to signal that is left without the cause.
    """

    suspect: Suspect
    places: tuple[Place, ...]
    level: Level
    left: float


def explanations(evidence: Evidence, most: int = MOST_EXPLAINED) -> list[Explanation]:
    """Returns what the largest own errors come from, largest first."""
    whole = sum(own.ratio for own in evidence.own)
    found: list[Explanation] = []
    for own in evidence.own[:most]:
        if own.is_carried and own.ratio > _LEAST_SHARE * whole:
            try:
                found += _explained(own.name, evidence)
            except FeatherweightError:  # LiteRT can't run a part alone: the own error stands without a cause
                continue
    return sorted(found, key=lambda each: -each.level.ratio)


def _explained(name: str, evidence: Evidence) -> list[Explanation]:
    """Returns what the error of one operator's weights comes from, and that of its activations."""
    places, found = evidence.places_of(name), list[Explanation]()
    for change in changes(places, evidence.pair, evidence.exact):
        mine = tuple(place for place in places if _is_of(place, change))
        with Carrier(evidence.exact, dict.fromkeys(change.values, change.readers)) as carrier:
            level = carrier.level(change.values)
            best = _best(_suspects(mine, change, evidence), mine, level, carrier) if level.ratio > 0 else None
            found += [] if best is None else [best]
    return found


def _is_of(place: Place, change: Change) -> bool:
    """True for the places that a change comes from."""
    if change.kind == "weights" or place.kind == "weight":
        return change.kind == "weights" and place.kind == "weight"
    return place.kind == "operator" or (place.tensor in change.values and place.readers == change.readers)


def _suspects(places: tuple[Place, ...], change: Change, evidence: Evidence) -> Iterator[Suspect]:
    first = places[0]
    if first.kind == "weight" and first.node is not None:
        yield from weight_suspects(first.node, places, change.values, evidence)
    elif first.kind == "activation":
        yield from activation_suspects(first, evidence)
    else:
        yield _on_the_fly(first, evidence)


def _on_the_fly(place: Place, evidence: Evidence) -> Suspect:
    said = evidence.said(place.node) if place.node is not None else place.tensor
    return Suspect("activation-rounding", f"{said} rounds what it reads on the fly, a scale for each row")


def _best(suspects: Iterable[Suspect], places: tuple[Place, ...], level: Level, carrier: Carrier) -> Explanation | None:
    """Returns the first suspect that leaves about as little as the best, or the last one, which is always true."""
    tried: list[tuple[float, Suspect]] = []
    for suspect in suspects:
        left = 0.0 if suspect.without is None else carrier.level(suspect.without).ratio
        tried.append((left, suspect))
        if suspect.surpasses and left < suspect.most * level.ratio:
            return Explanation(suspect, places, level, left)
    if not tried:
        return None
    told = [each for each in tried if each[1].without is not None and each[0] < each[1].most * level.ratio]
    least = min((left for left, _ in told), default=0.0)
    told = [each for each in told if each[0] <= 2 * least + 0.05 * level.ratio]
    left, suspect = next(iter(told or [each for each in tried if each[1].without is None]))
    return Explanation(suspect, places, level, left)


def merged(found: Sequence[Explanation], evidence: Evidence) -> list[tuple[Cause, tuple[Place, ...]]]:
    """Returns causes with the places of each: those of one name are one cause, told by the worst of them.

    What is clipped behind an input that is clipped itself has the input's cause.
    """
    is_foreign = any(each.suspect.cause == "unlike-data" for each in found)
    groups: dict[str, list[Explanation]] = {}
    for each in found:
        name = each.suspect.cause
        groups.setdefault("unlike-data" if is_foreign and name == "clipped-range" else name, []).append(each)
    made: list[tuple[Cause, tuple[Place, ...]]] = []
    for name, group in groups.items():
        group.sort(key=lambda each: each.suspect.cause != name)
        made.append((_cause(name, group, evidence), tuple(_places(group))))
    return sorted(made, key=lambda each: each[0].alone_db)


def _cause(name: str, group: Sequence[Explanation], evidence: Evidence) -> Cause:
    level, aspects = group[0].level, dict[str, str]()
    for each in group[1:]:
        level = level + each.level
    for each in group:
        aspects.setdefault(each.suspect.aspect, each.suspect.statement)
    said = "; ".join([*aspects.values()][:_MOST_ASPECTS])
    more = len(group) - min(len(aspects), _MOST_ASPECTS)
    said += f" ({more} more places like it)" if more else ""
    return sized(cause_at(name, said, _places(group), evidence), level)


def cause_at(name: str, statement: str, places: Sequence[Place], evidence: Evidence) -> Cause:
    """Returns a cause at places, the worst of them first, without its size."""
    nodes = list({place.node.name: place.node for place in places if place.node is not None}.values())
    layers = tuple(dict.fromkeys(evidence.layer(place) for place in places))
    operators = tuple(f"{op_name(node)} '{node.name}'" for node in nodes)
    tensors = tuple(dict.fromkeys(place.tensor for place in places))
    statement = f"{statement[0].upper()}{statement[1:]}."
    repairs, remedy = REMEDIES[name]
    if SPLIT in repairs and not any(is_shown(tensor, evidence) for tensor in tensors):
        repairs = tuple(repair for repair in repairs if repair != SPLIT)
    return Cause(name, statement, layers, operators, tensors, "", math.inf, math.inf, None, None, repairs, remedy)


def _places(group: Sequence[Explanation]) -> list[Place]:
    return [place for each in group for place in each.places]


def sized(cause: Cause, level: Level) -> Cause:
    """Returns a cause with the size of its error at the outputs."""
    worst = level.worst
    column = None
    if worst is not None and worst.columns_db:
        index = min(range(len(worst.columns_db)), key=lambda i: worst.columns_db[i])
        column = (index, worst.columns_db[index])
    name = "" if worst is None else worst.name
    return replace(cause, output=name, alone_db=level.level_db, alone_sqnr_db=level.sqnr_db, worst_column=column)
