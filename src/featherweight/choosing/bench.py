"""What a search measures with: models with some parts in some forms, files as they are delivered, and the task."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from featherweight.analysis.evaluation import (
    Evaluation,
)
from featherweight.calibration.stats import Stats
from featherweight.choosing.budget import Budget, Tried, misses
from featherweight.choosing.parts import FLOAT, FORMS, parts_of, recipe_of
from featherweight.choosing.task import Task, drop_of
from featherweight.detections.truth import Truth
from featherweight.device_code.vela import npu_figures
from featherweight.errors import RecipeError
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.recipes.recipe import Recipe
from featherweight.repair.candidate import Candidate, Repair, Setting, digest, integer_model, planned
from featherweight.repair.fingerprints import fingerprints
from featherweight.repair.improve import improved
from featherweight.repair.journal import Journal, attempts_said
from featherweight.repair.judge import Judge
from featherweight.repair.weights.repairs import WEIGHT_REPAIRS
from featherweight.repair.wide_places import WIDE_PLACES
from featherweight.runtime.benchmark import benchmark
from featherweight.runtime.samples import feeds
from featherweight.runtime.sizes import sizes_bytes
from featherweight.targets.delivery import for_device

_LATENCY_RUNS = 20
# What bytes are of that forms are weighed by: of the file, of the deflated one, or else of flash by an accelerator.
FILE, DEFLATED = "file", "deflated"


class Bench:
    """Makes models with some parts in some forms, and measures them on the runtime.

    Args:
        setting: has the samples to calibrate with, and those to judge by; its `io` is that of files.
        model: the float model, which all are held against.
        task: what it is for.
        notes: on the model, for all plans.
        start: the float graph that parts are of, with its ranges, where repairs have made another of the model.
        repairs: of weights, to make on files that are nearly within a budget.
        is_auto: keep of these only what measurably helps.
        accelerator: what Vela compiles files for, if it is to; it counts the bytes, too.
        is_deflated: forms are weighed by the bytes of deflated files, where there is no accelerator.
        is_unrolled: recurrent layers of the source are written out in `model`, as no recipe alone may want them.
        stats: what calibration measures of the model, where that is known.
    """

    def __init__(
        self,
        setting: Setting,
        model: Model,
        task: Task,
        notes: Sequence[str] = (),
        *,
        start: Candidate | None = None,
        repairs: Sequence[Repair] = (),
        is_auto: bool = True,
        accelerator: str = "",
        is_deflated: bool = False,
        is_unrolled: bool = False,
        stats: Stats | None = None,
    ) -> None:
        self.setting, self.model, self.task, self.notes = setting, model, task, tuple(notes)
        self.repairs, self.is_auto, self.accelerator = tuple(repairs), is_auto, accelerator
        self.is_deflated, self.is_unrolled = is_deflated, is_unrolled
        self.graph = model if start is None else start.model
        self.methods = {} if start is None else start.methods
        self.parts = parts_of(self.graph)
        self.judge = Judge(model, setting.held_out)
        self.float_bytes = sizes_bytes(self._file(model), compress=False)[0]
        self._file_bytes: dict[tuple[str, ...], int] = {}
        self._counted_bytes: dict[tuple[str, ...], int] = {}
        everything = recipe_of({part.name: "int8" for part in self.parts}, self.parts)
        self.stats = (start and start.stats) or stats or planned(setting, self.graph, everything).stats

    @property
    def counted(self) -> str:
        """What the bytes are of that forms are weighed by."""
        if self.accelerator:
            return f"flash of {self.accelerator}"
        return DEFLATED if self.is_deflated else FILE

    @cached_property
    def before(self) -> Evaluation | None:
        """The task's metric of the float model; None without a task."""
        return None if self.task.data is None else self.task.evaluate(self.model)

    @cached_property
    def about_task(self) -> str:
        """What the metric is about, as a short text that changes when metric, samples or labels do; "" without one."""
        if self.before is None or self.task.data is None:
            return ""
        samples, labels = self.task.data.samples, self.task.data.labels
        found = hashlib.sha256(labels.digest.encode() if isinstance(labels, Truth) else np.asarray(labels).tobytes())
        for feed in feeds(samples, self.model, limit=self.task.limit, finite=False):
            found.update(digest(feed.arrays))
        about = f"{self.before.metric} {self.before.value!r} of {self.before.count}"
        return f"{about} examples ({found.hexdigest()[:12]})"

    def candidate(self, choice: Mapping[str, str]) -> Candidate:
        """Returns the model with a form for each part; float where none is chosen."""
        return self.planned(recipe_of(choice, self.parts))

    def planned(self, recipe: Recipe) -> Candidate:
        """Returns the model under a recipe, with the ranges that were measured once."""
        return self._planned(self.setting, recipe)

    def probe(self, choice: Mapping[str, str]) -> tuple[Model, Plan]:
        """Returns a model with floats at its borders, on which the error of few parts shows, and its plan.

        A file for devices whose inputs are integers has the rounding of its borders besides, whatever its parts are.
        """
        candidate = self._planned(replace(self.setting, io="float32"), recipe_of(choice, self.parts))
        return self._file(integer_model(candidate)), candidate.plan

    def _planned(self, setting: Setting, recipe: Recipe) -> Candidate:
        stats = self.stats if recipe.needs_ranges else None
        found = planned(setting, self.graph, recipe, stats=stats, methods=self.methods)
        return replace(found, plan=replace(found.plan, notes=(*self.notes, *found.plan.notes)))

    def file(self, candidate: Candidate) -> Model:
        """Returns the model whose file is what `quantize` writes for the target under the candidate's plan."""
        return self._file(integer_model(candidate))

    def _file(self, model: Model) -> Model:
        return for_device(model, self.setting.target)[0]

    def file_bytes(self, choice: Mapping[str, str]) -> int:
        """Returns the size of the file of a choice, made once."""
        key = tuple(choice[part.name] for part in self.parts)
        if key not in self._file_bytes:
            self._file_bytes[key] = sizes_bytes(self.file(self.candidate(choice)), compress=False)[0]
        return self._file_bytes[key]

    def counted_bytes(self, choice: Mapping[str, str]) -> int:
        """Returns the bytes of a choice that `counted` speaks of, once."""
        if self.counted == FILE:
            return self.file_bytes(choice)
        key = tuple(choice[part.name] for part in self.parts)
        if key not in self._counted_bytes:
            model = self.file(self.candidate(choice))
            found = npu_figures(model, self.accelerator).flash_bytes if self.accelerator else sizes_bytes(model)[1]
            self._counted_bytes[key] = found or 0
        return self._counted_bytes[key]

    def saved_bytes(self, whole: Mapping[str, str], part: str, form: str) -> int:
        """Returns `Score.saved_bytes` of a part in a form, when all others are as in `whole`."""
        real, formed = {**whole, part: FLOAT}, {**whole, part: form}
        if not self.accelerator:
            return self.counted_bytes(real) - self.counted_bytes(formed)
        first = self.file_bytes(real) - self.file_bytes(whole)
        return first + self.counted_bytes(whole) - self.counted_bytes(formed)

    def repaired(self, candidate: Candidate) -> tuple[Candidate, tuple[str, ...]]:
        """Returns a candidate with repairs of its weights, and the names of those that it has."""
        found, attempts = improved(self.setting, candidate, self.model, self.repairs, is_auto=self.is_auto)
        notes = (*found.plan.notes, *found.notes, *attempts_said(attempts))
        kept = tuple(attempt.name for attempt in attempts if attempt.is_kept)
        return replace(found, plan=replace(found.plan, notes=notes)), kept

    def noise(self, model: Model) -> np.ndarray:
        """Returns the error's power at the outputs as a fraction of theirs, for each held-out run."""
        return 10 ** (-self.judge.levels(model, as_scores=False) / 10)

    def measured(self, model: Model, before: Evaluation | None, budget: Budget, *, needs_latency: bool) -> Tried:
        """Returns what a model comes to as a file: bytes, error and metric, and latency and Vela's where wanted."""
        raw, compressed = sizes_bytes(model)
        level = decibels(float(self.noise(model).mean()))
        row = Tried({}, raw, compressed or 0, level, level)
        if before is not None:
            after = self.task.evaluate(model)
            drop, error = drop_of(after, before)
            row = replace(row, value=after.value, standard_error=after.standard_error, drop=drop, drop_error=error)
        if needs_latency:
            models = {"float": self.model, "this": model}
            row = replace(row, latency=benchmark(models, runs=_LATENCY_RUNS, progress=False)[1].ratio)
        if self.accelerator:
            row = replace(row, npu=npu_figures(model, self.accelerator))
        return replace(row, misses=misses(row, budget))


def decibels(noise: float) -> float:
    """Returns a ratio of noise to signal as the ratio of signal to noise, dB."""
    return -10 * math.log10(max(noise, 1e-12))


def with_repairs(bench: Bench, repairs: Sequence[Repair], *, is_auto: bool, folder: Path | None = None) -> Bench:
    """Returns a bench whose float graph and ranges are repaired for integers of 8 bits, and that repairs weights later.

    Args:
        bench: of the model as it is.
        repairs: to make, in their order: of the graph and of ranges now, of weights on files near the budget.
        is_auto: keep only what measurably helps.
        folder: where what came of each repair is kept, as `repair.improve.repaired` does.

    Raises:
        RecipeError: for a repair that chooses forms, by name: that is what is searched for.
    """
    if WIDE_PLACES in repairs and not is_auto:
        raise RecipeError(f"improve: '{WIDE_PLACES.name}' chooses forms, as the search does. Leave it out.")
    late = tuple(repair for repair in repairs if repair in WEIGHT_REPAIRS)
    early = tuple(repair for repair in repairs if repair not in (*WEIGHT_REPAIRS, WIDE_PLACES))
    everything = bench.candidate({part.name: "int8" for part in bench.parts})
    setting, journal = bench.setting, None
    if folder is not None:
        wished = (setting.io, setting.ranges, setting.integers, [repair.name for repair in early], is_auto)
        journal = Journal(folder, fingerprints(setting, (bench.model,), wished), "repairs")
    start, attempts = improved(setting, everything, bench.model, early, is_auto=is_auto, journal=journal)
    notes = (*bench.notes, *start.notes, *attempts_said(attempts))
    return Bench(
        bench.setting,
        bench.model,
        bench.task,
        notes,
        start=start,
        repairs=late,
        is_auto=is_auto,
        accelerator=bench.accelerator,
        is_deflated=bench.is_deflated,
    )


def counted_forms(bench: Bench, forms: Sequence[str]) -> tuple[str, ...]:
    """Returns forms without those of fewer bytes that are none in the files that a bench counts.

    Raises:
        RecipeError: for such a form, where it is asked for by name.
    """
    idle = [form for form in forms if FORMS[form].grid and bench.counted == FILE]
    if idle and tuple(forms) != tuple(FORMS):
        raise RecipeError(
            f"search: '{idle[0]}' saves bytes only where files are compressed, and no limit here is about that. Give "
            "max_compressed_bytes, or for an Ethos-U max_flash_bytes or max_cycles; or leave the form out."
        )
    return tuple(form for form in forms if form not in idle)
