"""Finds the 4-bit weights that cost the output most for their bytes, and gives them 8 bits.

Each weight is rounded to its 4 bits alone, in the float model, whose outputs then say what that costs. Noises of
different places are nearly independent, so that what one weight costs is what the model wins with it in 8 bits.
Rounding that is chosen better (GPTQ) makes each of them smaller, by about the same factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import listed
from featherweight.graph import Node
from featherweight.operators import lookup
from featherweight.pruning.criteria import as_rows, from_rows
from featherweight.recipes.matching import exactly, resolve
from featherweight.recipes.recipe import Rule
from featherweight.repair.candidate import Candidate, Setting, integer_model
from featherweight.repair.judge import Judge
from featherweight.repair.weights.grids import grid_of, planned_params
from featherweight.repair.weights.moments import groups_of
from featherweight.repair.weights.places import Place, find_places, written
from featherweight.repair.weights.rules import started_anew, with_rules
from featherweight.tflite import write

# Examples that show what a weight costs: it is a matter of several dB.
_MOST_EXAMPLES = 16
# What all of it may add to the bytes of the file, and what it may add to any: one layer is a large part of small files.
_LARGEST_SHARE, _FEW_BYTES = 1 / 12, 6 << 10
# A weight must bring this many times what its bytes bring elsewhere, but for those few bytes.
_LEAST_RATE = 1.25


@dataclass(frozen=True)
class _Cost:
    """A weight in 4 bits: what it costs the outputs, of what all of them do, and how many bytes 8 bits add."""

    place: Place
    noise: float
    bytes: float


def eight_bits(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with some of its 4-bit weights in 8 bits, or why none is worth it.

    Weights that repairs chose before start anew.
    """
    if not setting.samples:
        return "it measures what rounding costs the output: pass calibration samples"
    base = started_anew(candidate)
    rules = resolve(base.recipe, base.model)
    found = find_places(base.model, base.plan)[0]
    places = [place for place in found if _is_free(place, base, rules, setting)]
    if not places:
        return "no weight is in 4 bits that could have 8"
    costs = _measured(setting, base, places)
    taken = worth(costs, _LARGEST_SHARE * len(write(integer_model(base))))
    if not taken:
        return "no weight that rounding to 4 bits costs more than others has few enough bytes"
    nodes = [kernel.node for cost in taken for kernel in cost.place.kernels]
    changed = with_rules(setting, base, [_in_8_bits(node, rules[node.name]) for node in nodes])
    note = (
        f"{len(taken)} of {len(costs)} weights in 4 bits have 8, which make {sum(c.noise for c in taken):.0%} of the "
        f"noise that rounding to 4 bits makes at the outputs, for {sum(c.bytes for c in taken):,.0f} bytes: "
        f"{listed([repr(cost.place.kernel.name) for cost in taken], 8)}"
    )
    return changed.with_note(note)


def worth(costs: Sequence[_Cost], most_bytes: float) -> list[_Cost]:
    """Returns the weights that cost a quarter more than weights do for their bytes, as many as there is room for.

    A few kB go to those that cost most, whatever others do.
    """
    noise, size = sum(cost.noise for cost in costs), sum(cost.bytes for cost in costs)
    taken, added = list[_Cost](), 0.0
    for cost in sorted(costs, key=lambda cost: cost.noise / cost.bytes, reverse=True):
        is_dear = cost.noise / cost.bytes >= _LEAST_RATE * noise / size
        if added + cost.bytes <= (max(most_bytes, _FEW_BYTES) if is_dear else _FEW_BYTES):
            taken.append(cost)
            added += cost.bytes
    return taken


def _is_free(place: Place, base: Candidate, rules: Mapping[str, Rule], setting: Setting) -> bool:
    """True for a weight in 4 bits that the recipe does not ask for by name, and that the target computes in 8."""
    for kernel in place.kernels:
        rule, form = rules.get(kernel.node.name), base.plan.forms[kernel.node.name]
        if rule is None or rule.match != "*" or rule.weight is None or not form.endswith("int4"):
            return False
        wider = f"{form.removesuffix('int4')}int8"
        is_stored = "+" in form and "int8" in setting.target.weight_only
        if not (is_stored or setting.target.runs(kernel.node.op, wider)):
            return False
    return True


def _in_8_bits(node: Node, rule: Rule) -> Rule:
    assert rule.weight is not None
    weight = replace(rule.weight, dtype="int8", block_size=None)
    return replace(rule, match=exactly(node.outputs[0]), op=None, weight=weight, keep_small=False)


def _measured(setting: Setting, base: Candidate, places: Sequence[Place]) -> list[_Cost]:
    """Returns what each weight alone in 4 bits costs the outputs of the float model."""
    step = max(1, math.ceil(len(setting.samples) / _MOST_EXAMPLES))
    judge, tensors = Judge(base.model, setting.samples[::step]), base.model.tensors
    noises: list[np.ndarray] = []
    for place in places:
        kernel = place.kernel
        array = np.asarray(tensors[kernel.name].array, np.float32)
        weights = groups_of(as_rows(array, kernel.kernel.layout).astype(np.float64), kernel.groups)
        params = planned_params(base.plan, kernel.node, place.position)
        grid = grid_of(params, weights, is_narrow=lookup(kernel.node.op).weight is not None)
        rounded = grid.values(grid.integers(weights)).reshape(-1, weights.shape[-1]).astype(np.float32)
        noises.append(judge.noise(written(base.model, {kernel.name: from_rows(rounded, kernel.kernel.layout)})))
    table = np.array(noises)  # (places, whole and usual run, outputs)
    shares = table / np.maximum(table.sum(axis=0), 1e-30)
    return [
        _Cost(place, float(share.mean()), tensors[place.kernel.name].elements / 2)
        for place, share in zip(places, shares, strict=True)
    ]
