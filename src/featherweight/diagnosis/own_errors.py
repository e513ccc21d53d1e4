"""The error that each operator makes by itself, carried to the output: from exact inputs, through an exact rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.analysis.inspection import op_name
from featherweight.analysis.places import Pair, Place
from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.diagnosis.exact import Carrier, Exact, Runs
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.rounding import changed_values, with_weights
from featherweight.errors import FeatherweightError
from featherweight.runtime.progress import track

# Operators whose error is carried to the output unless the caller says otherwise; of models with more, the rest is
# ranked by what it does to its own output.
MOST_CARRIED = 96


@dataclass(frozen=True)
class OwnError:
    """What one operator's rounding alone does to the output: all else is computed in float.

    Attributes:
        name: the operator's name: that of its first output; of an input of the model, the tensor's.
        op: its type; ``input`` for an input of the model.
        weights: the error at the outputs from its weights alone; None where they are not rounded, or not carried.
        activations: likewise from holding what it computes in integers, or, for a hybrid kernel, from what it rounds
            on the fly; for an input of the model, from holding that.
        local_db: the ratio of its outputs' power to its own error there, dB: the cheap estimate.
        is_carried: False where the error was estimated at its own output only.
    """

    name: str
    op: str
    weights: Level | None
    activations: Level | None
    local_db: float
    is_carried: bool = True

    @property
    def ratio(self) -> float:
        """Noise to signal at the output from both, as if they were independent."""
        return sum(level.ratio for level in (self.weights, self.activations) if level is not None)

    @property
    def level_db(self) -> float:
        """`ratio` in dB (see `Level.level_db`): the output's level if this operator alone were quantized."""
        return power_ratio_db(1.0, self.ratio)


def own_errors(
    pair: Pair, exact: Exact, *, most: int = MOST_CARRIED, names: Iterable[str] | None = None, progress: bool = False
) -> tuple[OwnError, ...]:
    """Returns the error that each operator of a quantized model makes by itself, at the output, worst first.

    Each operator gets exact inputs, its own rounding is put on what it computes, and only the operators behind it run
    again, in float32 on the default runtime. Weights and activations are carried apart. Errors of different operators
    are nearly independent, so their powers add up to about the whole model's error as long as that is small.

    Args:
        pair: the float model and the quantized one.
        exact: the float model's values on samples, of `exact_values`.
        most: how many operators are carried to the output, chosen by the ratio of their own error to their output.
        names: look at these operators only.
        progress: show a progress bar on terminals.
    """
    groups = _by_owner(pair, None if names is None else set(names))
    estimated = sorted(((_local_db(places, pair, exact), name) for name, places in groups.items()), key=lambda e: e[0])
    chosen, rest = estimated[:most], estimated[most:]
    shown = track(iter(chosen), "Carrying errors", total=len(chosen), enabled=progress)
    found = [_carried(name, groups[name], local_db, pair, exact) for local_db, name in shown]
    found.sort(key=lambda each: (-each.ratio, each.name))
    left = [OwnError(name, _op(groups[name]), None, None, local_db, is_carried=False) for local_db, name in rest]
    return (*found, *left)


def _op(places: Sequence[Place]) -> str:
    return next((op_name(place.node) for place in places if place.node is not None), "input")


def _by_owner(pair: Pair, wanted: set[str] | None) -> dict[str, list[Place]]:
    """Groups places by the operator that they belong to, in the graph's order."""
    order = [*pair.float_graph.inputs, *(node.name for node in pair.float_graph.nodes)]
    found: dict[str, list[Place]] = {name: [] for name in order}
    for place in pair.places:
        found[place.tensor if place.node is None else place.node.name].append(place)
    return {name: places for name, places in found.items() if places and (wanted is None or name in wanted)}


@dataclass(frozen=True, eq=False)
class Change:
    """What some tensors hold when one operator rounds, and who reads them so (None: all)."""

    kind: str
    values: Mapping[str, Runs]
    readers: tuple[str, ...] | None = None


def changes(places: Sequence[Place], pair: Pair, exact: Exact) -> list[Change]:
    """Returns what an operator's places make of its outputs, its weights together, each of the rest alone.

    Raises:
        FeatherweightError: if LiteRT can't run the operator alone.
    """
    found: list[Change] = []
    weights = [place for place in places if place.kind == "weight"]
    node = next((place.node for place in places if place.node is not None), None)
    if weights and node is not None:
        found.append(Change("weights", with_weights(node, pair, exact, [place.tensor for place in weights])))
    for place in places:
        if place.kind == "activation":
            found.append(Change("activations", changed_values(place, pair, exact), place.readers))
        elif place.kind == "operator":
            values = changed_values(place, pair, exact)
            found.append(Change("activations", _without(values, found[0].values, exact) if weights else values))
    return found


def _without(values: Mapping[str, Runs], weights: Mapping[str, Runs], exact: Exact) -> dict[str, Runs]:
    """Returns exact values with the part of an error that weights do not make."""
    return {
        name: [x + (y - w) for x, y, w in zip(exact.values[name], runs, weights[name], strict=True)]
        for name, runs in values.items()
    }


def _local_db(places: Sequence[Place], pair: Pair, exact: Exact) -> float:
    """Returns the ratio of an operator's outputs to its own error there; of one that can't run alone, −inf."""
    signal = noise = 0.0
    try:
        for change in changes(places, pair, exact):
            for name, runs in change.values.items():
                signal = max(signal, sum(map(_power, exact.values[name])))
                noise += sum(_power(y - x) for x, y in zip(exact.values[name], runs, strict=True))
    except FeatherweightError:
        return -math.inf
    return power_ratio_db(signal, noise)


def _power(x: np.ndarray) -> float:
    flat = np.where(np.isfinite(x), x, 0.0).reshape(-1)
    return float(np.square(flat, dtype=np.float64).sum())  # masks overflow in float32


def _carried(name: str, places: Sequence[Place], local_db: float, pair: Pair, exact: Exact) -> OwnError:
    levels: dict[str, Level] = {}
    try:
        for readers, group in _by_readers(changes(places, pair, exact)).items():
            with Carrier(exact, dict.fromkeys(group[0].values, readers)) as carrier:
                for change in group:
                    level = carrier.level(change.values)
                    levels[change.kind] = levels[change.kind] + level if change.kind in levels else level
    except FeatherweightError:
        return OwnError(name, _op(places), None, None, local_db, is_carried=False)
    return OwnError(name, _op(places), levels.get("weights"), levels.get("activations"), local_db)


def _by_readers(found: Sequence[Change]) -> dict[tuple[str, ...] | None, list[Change]]:
    """Groups changes that one carrier serves."""
    groups: dict[tuple[str, ...] | None, list[Change]] = {}
    for change in found:
        groups.setdefault(change.readers, []).append(change)
    return groups
