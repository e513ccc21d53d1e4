"""One scale for all rows of dense weights: files are smaller by two numbers a row, those of weights and of biases.

A row of a dense layer is short, and its two scales cost a file what eight weights do: a fifteenth of an autoencoder
with rows of 128. A converter's file has one scale there. What that costs in accuracy is small where rows are alike, and
can be made up for by integers that are chosen (`gptq`, `weight-scales`) instead of the nearest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from featherweight.errors import listed
from featherweight.graph import Node
from featherweight.graph.numerics import QuantParams, dequantize, quantize
from featherweight.operators import lookup
from featherweight.recipes.matching import exactly, resolve
from featherweight.recipes.recipe import Rule
from featherweight.repair.candidate import Candidate, Setting, integer_model
from featherweight.repair.weights.grids import planned_params
from featherweight.repair.weights.places import Place, find_places
from featherweight.repair.weights.rules import started_anew, with_rules
from featherweight.tflite import write

# What rows must keep of their values in one scale, as the mean of their noise to signal: where small ones have less,
# too few integers are left to choose from. (Of a published autoencoder, rows that differ 35-fold keep 17 dB.)
_LEAST_DB = 15.0


def one_scale(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with one scale for each dense weight whose rows are alike, or why there is none.

    Weights that repairs chose before start anew.
    """
    base = started_anew(candidate)
    rules = resolve(base.recipe, base.model)
    places = [place for place in find_places(base.model, base.plan)[0] if _is_free(place, base, rules)]
    if not places:
        return "no dense weight in integers has a scale for each row"
    kept_db = {place.kernel.name: _kept_db(place, base) for place in places}
    taken = [place for place in places if kept_db[place.kernel.name] >= _LEAST_DB]
    left = [f"'{name}' keeps {db:.1f} dB" for name, db in kept_db.items() if db < _LEAST_DB]
    wanted = f"one scale is for weights whose rows keep {_LEAST_DB:g} dB in it: {listed(left, 8)}"
    if not taken:
        return wanted
    nodes = [kernel.node for place in taken for kernel in place.kernels]
    found = with_rules(setting, base, [_with_one(node, rules[node.name]) for node in nodes])
    saved = len(write(integer_model(base))) - len(write(integer_model(found)))
    if saved <= 0:
        return "the file is not smaller with one scale for each dense weight"
    note = f"{len(taken)} of {len(places)} dense weights have one scale for all rows: {saved:,} bytes less"
    return found.with_note(f"{note}; {wanted}" if left else note)


def _is_free(place: Place, base: Candidate, rules: Mapping[str, Rule]) -> bool:
    """True for a dense weight in int8 rows beside integer activations, which the recipe does not ask for by name."""
    for kernel in place.kernels:
        rule, form = rules.get(kernel.node.name), base.plan.forms[kernel.node.name]
        params = planned_params(base.plan, kernel.node, place.position)
        if rule is None or rule.match != "*" or rule.weight is None or lookup(kernel.node.op).weight_kind != "dense":
            return False
        if not form.startswith("int") or params.dtype != "int8" or len(params.scale) < 2:
            return False
    return True


def _with_one(node: Node, rule: Rule) -> Rule:
    assert rule.weight is not None
    return replace(rule, match=exactly(node.outputs[0]), op=None, weight=replace(rule.weight, per_channel=False))


def _kept_db(place: Place, base: Candidate) -> float:
    """Returns the signal to noise of a weight's rows at the largest of their scales, each counting alike, in dB."""
    params = planned_params(base.plan, place.kernel.node, place.position)
    values = np.asarray(base.model.tensors[place.kernel.name].array, np.float32)
    shared = QuantParams(params.dtype, (max(params.scale),), (0,))
    rounded = dequantize(quantize(values, shared, narrow=True), shared)
    noise, power = (np.square(each, dtype=np.float64).sum(axis=1) for each in (rounded - values, values))
    shares = noise[power > 0] / power[power > 0]
    return float(-10 * np.log10(max(shares.mean(), 1e-12))) if shares.size else 120.0
