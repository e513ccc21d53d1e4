"""Cheap scores: each operator's own error, carried to the output through an exact rest, for all parts at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from featherweight.analysis.places import Pair
from featherweight.choosing.bench import Bench
from featherweight.choosing.parts import FLOAT, FORMS, allowed_forms
from featherweight.choosing.scores import IMPOSSIBLE, Score
from featherweight.diagnosis.exact import Exact, exact_values
from featherweight.diagnosis.own_errors import OwnError, own_errors
from featherweight.errors import FeatherweightError
from featherweight.graph.numerics import INTEGER_BITS

# All operators are carried: what is not would have no score.
_ALL = 1 << 20


def estimated(bench: Bench, forms: Sequence[str]) -> tuple[Score, ...]:
    """Returns scores of parts in forms that no model was run for: their errors by propagation, their bytes by count.

    The model is planned once in each form, and only what is behind an operator is computed for its error
    (`diagnosis.own_errors`), on up to 16 of the samples that judge; weights and activations apart. Parts whose errors
    can't be carried have none.

    Args:
        bench: of the model.
        forms: to estimate.
    """
    try:
        exact = exact_values(bench.graph, bench.setting.held_out)
    except FeatherweightError:
        return ()
    rows: list[Score] = []
    for form in forms:
        if form != FLOAT:
            rows += _in_form(bench, form, exact)
    return tuple(rows)


def _in_form(bench: Bench, form: str, exact: Exact) -> list[Score]:
    allowed = [part for part in bench.parts if form in allowed_forms(part, bench.graph, bench.setting.target, (form,))]
    if not allowed:
        return []
    try:
        model, plan = bench.probe({part.name: form for part in allowed})
        names = [name for part in allowed for name in part.operators]
        errors = own_errors(Pair(bench.graph, model), exact, most=_ALL, names=names, progress=bench.setting.progress)
    except FeatherweightError:
        return []
    found: Mapping[str, OwnError] = {error.name: error for error in errors}
    rows: list[Score] = []
    for part in allowed:
        own = [found[name] for name in part.operators if name in found]
        reason = plan.kept_float.get(part.operators[0], "")
        if reason or not own or not all(each.is_carried for each in own):
            continue
        weights = sum(each.weights.ratio for each in own if each.weights is not None)
        activations = sum(each.activations.ratio for each in own if each.activations is not None)
        rows.append(
            Score(
                part.name,
                form,
                weights + activations,
                IMPOSSIBLE,
                _saved_bytes(part.weight_elements, form),
                is_estimate=True,
                estimate=weights + activations,
                weights_noise=weights,
                activations_noise=activations,
            )
        )
    return rows


def _saved_bytes(elements: int, form: str) -> int:
    steps = FORMS[form].steps
    return 0 if steps is None else round(elements * (INTEGER_BITS["int32"] - INTEGER_BITS[steps]) / 8)


def scaled(rows: Sequence[Score]) -> tuple[Score, ...]:
    """Returns scores whose estimates are in the measure of those that were measured: times their usual ratio.

    Estimates take all samples together, measured scores are means over them.
    """
    ratios = [row.noise / row.estimate for row in rows if not row.is_estimate and row.estimate and row.is_possible]
    factor = float(np.median(ratios)) if ratios else 1.0
    return tuple(replace(row, noise=row.noise * factor) if row.is_estimate else row for row in rows)
