"""Errors that grow because what a model writes comes back to it: state in variables, or from outputs into inputs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from featherweight.analysis.borders import dequantized, integer_feeds, matched_names
from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.diagnosis.cause import REMEDIES, Cause
from featherweight.diagnosis.evidence import Evidence
from featherweight.errors import listed
from featherweight.graph import Model, io_names
from featherweight.runtime.litert import Session

Values = Mapping[str, np.ndarray]
# Steps that state is fed back over.
_STEPS = 16
# What feeding back must cost to be a cause, dB.
_LEAST_LOSS_DB = 3.0
# How alike names are to belong together, where shapes alone do not tell.
_ALIKE = 0.5


def fed_back(model: Model) -> dict[str, str]:
    """Returns output → input of one shape for state that is fed back by the caller, by public names.

    An output of real numbers belongs to an input of its shape by its name, or if no other has that shape. A model whose
    inputs or outputs are all of this kind has none: nothing would be left to feed, or to see.
    """
    tensors, (inputs, outputs) = model.main.tensors, io_names(model)
    found: dict[str, str] = {}
    for name, tensor in outputs.items():
        shape = tensors[tensor].shape
        alike = [i for i, t in inputs.items() if tensors[t].shape == shape and tensors[t].is_float]
        near = [i for i in alike if difflib.SequenceMatcher(None, i.lower(), name.lower()).ratio() > _ALIKE]
        is_only = len(alike) == 1 == sum(tensors[t].shape == shape for t in outputs.values())
        free = [i for i in near or (alike if is_only else []) if i not in found.values()]
        if free and tensors[tensor].is_float:
            found[name] = free[0]
    return found if len(found) < min(len(inputs), len(outputs)) else {}


def state_causes(evidence: Evidence) -> list[Cause]:
    """Returns what is lost because state comes back rounded: over steps, against the same steps from exact state."""
    pairs = fed_back(evidence.pair.before)
    if pairs:
        return _of_borders(pairs, evidence)
    is_kept = any(tensor.dtype == "resource" or tensor.is_variable for tensor in evidence.pair.before.tensors.values())
    return _of_variables(evidence) if is_kept else []


def _of_borders(pairs: Mapping[str, str], evidence: Evidence) -> list[Cause]:
    before, after = evidence.pair.before, evidence.pair.after
    feeds = [dict(feed) for feed in evidence.exact.feeds]
    steps = [feeds[i % len(feeds)] for i in range(_STEPS)]
    exact = _stepped(before, before, steps, pairs, None)
    tensors = before.main.tensors
    outputs = [name for name, tensor in io_names(before)[1].items() if name not in pairs and tensors[tensor].is_float]
    levels = [_level(exact, _stepped(before, after, steps, pairs, given), outputs) for given in (exact, None)]
    if not outputs or levels[0] - levels[1] < _LEAST_LOSS_DB:
        return []
    said = (
        f"State is fed back from output {listed(map(repr, pairs))} into {listed(map(repr, pairs.values()))}: after "
        f"{_STEPS} steps output '{outputs[0]}' is {levels[1]:.1f} dB above its error, from exact state "
        f"{levels[0]:.1f} dB."
    )
    return [_cause(said, tuple(pairs.values()), outputs[0], levels[1], levels[0])]


def _stepped(
    before: Model, model: Model, steps: Sequence[Values], pairs: Mapping[str, str], exact: Sequence[Values] | None
) -> list[dict[str, np.ndarray]]:
    """Runs steps whose state is the model's own, or the exact one; returns outputs by the float model's names."""
    found: list[dict[str, np.ndarray]] = []
    names, (wanted, given) = matched_names(before, model), (io_names(before)[1], io_names(model)[1])
    ours = {name: name for name in wanted} if set(wanted) == set(given) else dict(zip(wanted, given, strict=True))
    state: dict[str, np.ndarray] = {}
    with Session(model) as session:
        for index, step in enumerate(steps):
            feed = integer_feeds({names[n]: values for n, values in {**step, **state}.items()}, model)
            results = session.run(feed)
            found.append({n: dequantized(results[own], session.outputs[own]) for n, own in ours.items()})
            source = found[-1] if exact is None else exact[index]
            state = {read: source[written] for written, read in pairs.items()}
    return found


def _level(exact: Sequence[Values], found: Sequence[Values], outputs: Sequence[str]) -> float:
    """Returns the lowest ratio of outputs to their error over the last half of all steps, dB."""
    half = len(exact) // 2
    return min(
        (_ratio_db([x[n] for x in exact[half:]], [y[n] for y in found[half:]]) for n in outputs), default=math.inf
    )


def _ratio_db(exact: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    signal = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in exact)
    noise = sum(float(np.sum(np.square(x.astype(np.float64) - y))) for x, y in zip(exact, found, strict=True))
    return power_ratio_db(signal, noise)


def _of_variables(evidence: Evidence) -> list[Cause]:
    """State in variables: the error of the first quarter of the steps against that of the last."""
    steps = len(evidence.exact.feeds)
    quarter = steps // 4
    if not quarter:
        return []
    found: list[tuple[float, float, str]] = []
    for output in evidence.exact.outputs:
        runs, exact = evidence.found.get(output.tensor), evidence.exact.values[output.tensor]
        if runs is not None:
            first = _ratio_db(exact[:quarter], runs[:quarter])
            found.append((_ratio_db(exact[-quarter:], runs[-quarter:]), first, output.name))
    lost = [(last, first, name) for last, first, name in found if first - last >= _LEAST_LOSS_DB]
    if not lost:
        return []
    last, first, name = min(lost)
    said = (
        f"The model keeps state between runs: in the first {quarter} steps output '{name}' is {first:.1f} dB above its "
        f"error, in the last {quarter} of {steps} {last:.1f} dB."
    )
    return [_cause(said, (), name, last, first)]


def _cause(said: str, tensors: tuple[str, ...], output: str, level_db: float, without_db: float) -> Cause:
    name = "state-feedback"
    return Cause(name, said, tensors, (), tensors, output, level_db, level_db, without_db, None, *REMEDIES[name])
