"""Tries repairs on a model, judges each on held-out samples, and keeps what helps."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.calibration.copies import copies_said
from featherweight.calibration.odd_samples import odd_samples
from featherweight.clustering.few_values import dissolved
from featherweight.errors import DataError, FeatherweightError, RecipeError, listed
from featherweight.graph import Model
from featherweight.operators.entries import entries
from featherweight.ptq.plan import Plan
from featherweight.recipes.recipe import Recipe
from featherweight.repair.candidate import Candidate, Repair, Setting, integer_model, planned
from featherweight.repair.examples import LEAST_EXAMPLES, MOST_EXAMPLES, divided, examples
from featherweight.repair.fingerprints import fingerprints
from featherweight.repair.journal import Attempt, Improvement, Journal, attempts_said
from featherweight.repair.judge import Gain, Judge, gain
from featherweight.repair.ranges import with_all_samples
from featherweight.repair.repairs import REPAIRS
from featherweight.repair.superfluous import without_superfluous
from featherweight.repair.weights.repairs import WEIGHT_REPAIRS
from featherweight.repair.wide_places import WIDE_PLACES
from featherweight.runtime.progress import track

AUTO = "auto"
_log = logging.getLogger("featherweight")

# What takes longer than many minutes is tried where it is named.
_MOST_COSTS = 3
# What is tried once more when operators have become wide: weights then make up for other errors.
_BESIDE_WIDE_PLACES = ("bias-correction", "gptq")
# A gain below this is nobody's business, however sure it is.
_LEAST_GAIN_DB = 0.05
# A difference between the samples that were calibrated with and those held out that says something about them.
_LEAST_DIFFERENCE_DB = 3.0


def asked_repairs(improve: str | Sequence[str] | None) -> tuple[Repair, ...]:
    """Returns the repairs that `improve` names, in the order in which they build on each other.

    Args:
        improve: None, ``"none"``, ``"auto"`` for all but those that train or only save bytes, a name, or several (also
            in one text, with commas).

    Raises:
        RecipeError: for a name that no repair has.
    """
    names = improve.split(",") if isinstance(improve, str) else list(improve or ())
    names = [name.strip().replace("_", "-") for name in names if name.strip() not in ("", "none")]
    known = {repair.name: repair for repair in REPAIRS}
    for name in names:
        if name not in (*known, AUTO):
            raise RecipeError(f"improve: '{name}' is no repair (allowed: {AUTO}, none, {listed(known, len(known))}).")
    is_auto = AUTO in names
    return tuple(r for r in REPAIRS if r.name in names or (is_auto and r.costs <= _MOST_COSTS and not r.saves))


def check_improvable(model: Model) -> None:
    """Raises RecipeError for a model whose signatures would need samples of their own."""
    if len(entries(model)) > 1:
        raise RecipeError(
            f"improve: the model has the signatures {listed(entries(model).values())}, and repairs work on models of "
            "one. Leave improve out."
        )


def improved(
    setting: Setting,
    candidate: Candidate | Callable[[], Candidate],
    reference: Model,
    repairs: Sequence[Repair],
    *,
    is_auto: bool,
    journal: Journal | None = None,
) -> tuple[Candidate, tuple[Attempt, ...]]:
    """Returns what repairs made of a candidate, and what each brought.

    Args:
        setting: has held-out samples, or none: then nothing is measured, and everything kept.
        candidate: what to start from, or what makes it.
        reference: the float model whose outputs are wanted.
        repairs: in the order to try them.
        is_auto: keep only what is measurably better, or saves bytes; else what was asked for is kept, and said to be
            worse where it is.
        journal: what is known of an earlier run, and is kept of this one after each repair.

    Raises:
        DataError: for samples that no repair could use.
        RecipeError: for a journal of other repairs.
    """
    known = {repair.name: repair for repair in repairs}
    judge = Judge(reference, setting.held_out) if setting.held_out else None
    begin = functools.cache(candidate) if callable(candidate) else lambda: candidate
    now = journal.read() if journal else None
    if now is None:
        start = begin()
        now = Improvement(start, judge.levels(integer_model(start)) if judge else np.zeros(0), (), tuple(known))
        if journal:
            journal.keep(now)
    elif now.attempts:
        _log.info("improve: %s tried before: %s", len(now.attempts), listed(each.name for each in now.attempts))
    for _ in track(range(2 * len(repairs)), "improving", total=len(now.waiting), enabled=setting.progress):
        if not now.waiting:
            break
        try:
            repair = known[now.waiting[0]]
            now = _tried(setting, now, repair, judge, repairs, is_auto=is_auto)
            if is_auto and judge and repair is WIDE_PLACES and now.attempts[-1].is_kept:
                now = without_superfluous(setting, begin(), now, judge)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted. {_how_to_go_on(journal)}") from None
        _log.info("improve: %s", now.attempts[-1])
        if journal:
            journal.keep(now)
    return now.candidate, now.attempts


def _how_to_go_on(journal: Journal | None) -> str:
    if journal is None:
        return "No file was left half-written; with a folder (--resume DIR), repairs would go on from where they were."
    return f"What came of the repairs before is in '{journal.folder}'; run the same again to go on."


def _tried(
    setting: Setting, now: Improvement, repair: Repair, judge: Judge | None, repairs: Sequence[Repair], *, is_auto: bool
) -> Improvement:
    """Returns where the trying stands after one more repair."""
    start, waiting = time.monotonic(), now.waiting[1:]
    try:
        found = repair.apply(setting, now.candidate)
    except DataError:
        raise
    except FeatherweightError as error:
        found = f"it can't be applied: {error}"
    if isinstance(found, str):
        attempt = Attempt(repair.name, None, time.monotonic() - start, False, found)
        return replace(now, attempts=(*now.attempts, attempt), waiting=waiting)
    # A new plan has no notes yet.
    known = now.candidate.notes
    found = replace(found, notes=(*known, *(note for note in found.notes if note not in known)))
    after = judge.levels(integer_model(found)) if judge else now.levels
    brought = gain(now.levels, after) if judge else None
    is_better = brought is None or (brought.is_sure and brought.db >= _LEAST_GAIN_DB)
    reason = "" if is_better or brought is None else "it saves bytes" if repair.saves else _why_not(brought)
    reason = reason if judge else f"not measured: less than {LEAST_EXAMPLES} samples"
    attempt = Attempt(repair.name, brought, time.monotonic() - start, is_better or repair.saves or not is_auto, reason)
    if attempt.is_kept and brought and brought.is_loss and not repair.saves:
        _log.warning("improve: '%s' was asked for, and does harm: %s at the output. Leave it out", repair.name, brought)
    attempts = (*now.attempts, attempt)
    if not attempt.is_kept:
        return replace(now, attempts=attempts, waiting=waiting)
    if repair is WIDE_PLACES:
        kept = {each.name for each in attempts if each.is_kept and now.candidate.chosen is not None}
        waiting += tuple(each.name for each in repairs if _is_due_again(each, kept, is_auto=is_auto))
    return Improvement(found, after, attempts, waiting)


def _why_not(brought: Gain) -> str:
    if not brought.db and not brought.error_db:
        return "the outputs are the same"
    return "it does harm" if brought.is_loss else "no sure gain on held-out samples"


def _is_due_again(repair: Repair, kept: Container[str], *, is_auto: bool) -> bool:
    """True for a repair of weights that wide places have undone, or that is worth a try beside them."""
    return repair in WEIGHT_REPAIRS and (repair.name in kept or (is_auto and repair.name in _BESIDE_WIDE_PLACES))


def with_notes(setting: Setting, candidate: Candidate, reference: Model, attempts: Sequence[Attempt]) -> Candidate:
    """Returns the candidate with notes on what repairs brought, and on samples that disagree with those held out."""
    notes = attempts_said(attempts)
    if lost := dissolved(reference, candidate.model):
        notes.append(
            f"improve: {listed(lost)}: encoded and zipped files grow. Name repairs that keep them, such as gptq"
        )
    if len(setting.samples) + len(setting.held_out) == MOST_EXAMPLES:
        notes.append(f"improve: worked with the first {MOST_EXAMPLES} samples, ranges included; any more were not used")
    if setting.held_out:
        model = integer_model(candidate)
        own = Judge(reference, setting.samples[: len(setting.held_out)]).levels(model)
        others = Judge(reference, setting.held_out).levels(model)
        error = float(np.hypot(own.std(ddof=1), others.std(ddof=1))) / np.sqrt(len(others))
        lost = float(own.mean() - others.mean())
        if lost > max(_LEAST_DIFFERENCE_DB, 2 * error):
            notes.append(
                f"improve: held-out samples are {lost:.1f} dB worse than those that were calibrated with: these do not "
                "cover what occurs. Calibrate with more, or more typical, samples"
            )
    return replace(candidate, plan=replace(candidate.plan, notes=(*candidate.plan.notes, *candidate.notes, *notes)))


def repaired(
    setting: Setting,
    model: Model,
    reference: Model,
    recipe: Recipe,
    repairs: Sequence[Repair],
    parts: Mapping[int, tuple[Any, Any]],
    limit: int | None,
    *,
    is_auto: bool,
    check: Callable[[Plan], None],
    folder: Path | None = None,
) -> tuple[Model, Plan, Sequence[Any]]:
    """Returns the repaired float graph with its plan, and the samples that judged it.

    Args:
        setting: without samples, which come from `parts`.
        model: the float graph.
        reference: the float model whose outputs are wanted.
        recipe: what is wished.
        repairs: to try, in order.
        parts: index of a graph → (its first samples, all of them).
        limit: of the number of samples.
        is_auto: keep only what helps.
        check: raises for a plan that repairs could not mend.
        folder: where what came of each repair is kept, and read again; no other process uses it.

    Raises:
        RecipeError: if repairs are to be judged without samples, the model has several signatures, or the folder keeps
            repairs of something else.
        DataError: if samples are too few.
    """
    check_improvable(model)
    if is_auto and not parts:
        raise RecipeError(
            f"improve '{AUTO}' keeps what helps on samples: pass some of the training split (calibration=…, "
            "--calibration DATA), or name the repairs."
        )
    said: list[str] = []
    if parts:
        found = examples(parts[0][1], model, limit)
        samples, held_out = divided(found, model, limit, is_auto=is_auto)
        setting = replace(setting, samples=samples, held_out=held_out)
        said = [copies_said(found), *map(str, odd_samples(found))]

    def start() -> Candidate:
        candidate = planned(setting, model, recipe)
        check(candidate.plan)
        return functools.reduce(lambda made, each: made.with_note(f"improve: {each}"), filter(None, said), candidate)

    journal = None
    if folder is not None:
        wished = (recipe, setting.io, setting.ranges, setting.integers, [repair.name for repair in repairs], is_auto)
        journal = Journal(folder, fingerprints(setting, (model, reference), wished))
    candidate, attempts = improved(setting, start, reference, repairs, is_auto=is_auto, journal=journal)
    noted = with_notes(setting, candidate, reference, attempts)
    if setting.held_out:
        whole, brought = with_all_samples(setting, candidate), noted.plan.notes[len(candidate.plan.notes) :]
        notes = (*whole.plan.notes, *brought, *whole.notes[len(candidate.notes) :])
        noted = replace(whole, plan=replace(whole.plan, notes=notes))
    return noted.model, noted.plan, setting.held_out
