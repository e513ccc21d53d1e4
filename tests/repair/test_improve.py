"""improve=: repairs are tried on held-out samples, kept where they help, and named in the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.diagnosis.cause import REMEDIES
from featherweight.graph.editor import with_constants
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Candidate, Repair, Setting, planned
from featherweight.repair.improve import divided, improved
from featherweight.repair.repairs import REPAIRS
from featherweight.targets import target as targets


def _setting(count: int = 12) -> Setting:
    samples, held_out = divided(models.samples("convnet", count), models.lowered("convnet"), None, is_auto=True)
    return Setting(targets.load("litert"), samples, held_out)


def _spoilt(setting: Setting, candidate: Candidate) -> Candidate:
    """All weights a tenth larger than they were planned for."""
    constants = {t.name: t.array for t in candidate.model.main.tensors.values() if t.is_constant and t.is_float}
    larger = {name: values * np.float32(1.1) for name, values in constants.items() if values.ndim > 1}
    return replace(candidate, model=with_constants(candidate.model, larger))


def _refusing(setting: Setting, candidate: Candidate) -> str:
    return "there is nothing to do"


def test_what_makes_it_worse_is_not_kept():
    model, setting = models.lowered("convnet"), _setting()
    start = planned(setting, model, recipes.load("int8"))
    tried = (Repair("spoil", "", _spoilt), Repair("refuse", "", _refusing))
    end, attempts = improved(setting, start, model, tried, is_auto=True)
    assert end is start
    assert [a.is_kept for a in attempts] == [False, False]
    assert attempts[0].gain is not None
    assert attempts[0].gain.db < -3
    assert attempts[1].reason == "there is nothing to do"


def test_what_is_asked_for_is_kept_and_said_to_do_harm(caplog: pytest.LogCaptureFixture):
    model, setting = models.lowered("convnet"), _setting()
    start = planned(setting, model, recipes.load("int8"))
    end, attempts = improved(setting, start, model, (Repair("spoil", "", _spoilt),), is_auto=False)
    assert end is not start
    assert attempts[0].is_kept
    assert "it does harm" in str(attempts[0])
    assert "'spoil' was asked for, and does harm: -" in caplog.text


def test_what_changes_nothing_is_said_to():
    model, setting = models.lowered("convnet"), _setting()
    start = planned(setting, model, recipes.load("int8"))
    idle = Repair("idle", "", lambda setting, candidate: replace(candidate))
    _, attempts = improved(setting, start, model, (idle,), is_auto=False)
    assert attempts[0].reason == "the outputs are the same"


def test_samples_are_divided_without_overlap():
    samples, held_out = divided(
        list(np.arange(20.0)[:, None, None, None] * np.ones((1, 24, 24, 3), np.float32)),
        models.lowered("convnet"),
        None,
        is_auto=True,
    )
    kept, judging = ({float(next(iter(feed.values())).max()) for feed in part} for part in (samples, held_out))
    assert len(kept) == 15
    assert len(judging) == 5
    assert not kept & judging


def test_what_judges_repeats_nothing_that_was_chosen_by():
    several = models.samples("convnet", 12)
    (name,) = several[0]
    nearly = [{name: sample[name] * np.float32(1.01)} for sample in several]
    samples, held_out = divided([*several, *nearly, *several], models.lowered("convnet"), None, is_auto=True)
    assert len(samples) == 3 * 8
    assert len(held_out) == 4
    for feed in held_out:
        assert all(np.abs(other[name] - feed[name]).max() > 0.1 for other in samples)


def test_samples_before_a_fixed_camera_judge_each_other():
    random = np.random.default_rng(4)
    model, scene = models.lowered("convnet"), random.normal(size=(1, 24, 24, 3))
    given = [(scene + 0.05 * random.normal(size=scene.shape)).astype(np.float32) for _ in range(12)]
    samples, held_out = divided([*given, given[0]], model, None, is_auto=True)
    assert len(samples) + len(held_out) in (12, 13)
    assert len(held_out) == 4
    result = fw.quantize(model, calibration=given, improve=["auto"], progress=False)
    assert any("11 of 12 samples repeat others, or nearly" in note for note in result.plan.notes)


def test_what_repairs_say_of_each_other_stays_in_the_plan():
    model, samples = models.lowered("convnet"), models.samples("convnet", 9)
    named = ["equalize", "smooth", "bias-correction"]
    result = fw.quantize(model, calibration=[*samples, samples[0]], improve=named, progress=False)
    said = [note.split()[0] for note in result.plan.notes]
    assert said.count("equalized") == 1
    assert any("1 of 10 samples repeat others" in note for note in result.plan.notes)


def test_samples_that_repeat_others_are_too_few_and_named():
    model, samples = models.lowered("convnet"), models.samples("convnet", 9)
    with pytest.raises(fw.DataError, match="16 samples, 2 of them different, are too few"):
        fw.quantize(model, calibration=samples[:2] * 8, improve="auto", progress=False)
    result = fw.quantize(model, calibration=[*samples, samples[0]], improve="bias-correction", progress=False)
    assert any("1 of 10 samples repeat others" in note for note in result.plan.notes)


def test_auto_needs_samples_enough_to_decide():
    with pytest.raises(fw.DataError, match="3 samples are too few"):
        fw.quantize(models.lowered("convnet"), calibration=models.samples("convnet", 3), improve="auto", progress=False)
    with pytest.raises(fw.RecipeError, match="improve 'auto' keeps what helps on samples"):
        fw.quantize(models.lowered("convnet"), "dynamic", improve="auto", progress=False)


def test_named_repairs_need_no_samples_where_the_recipe_needs_none():
    result = fw.quantize(models.lowered("convnet"), "dynamic", improve=["equalize"], progress=False)
    assert any(note.startswith("improve: equalize") for note in result.plan.notes)


def test_unknown_repair_is_named_with_those_that_there_are():
    with pytest.raises(fw.RecipeError, match=r"'magic' is no repair \(allowed: auto, none, "):
        fw.quantize(models.lowered("convnet"), "dynamic", improve="magic", progress=False)


def test_the_float_graph_and_plan_make_the_same_file_again():
    result = fw.quantize(
        models.lowered("convnet"), calibration=models.samples("convnet", 12), improve="auto", progress=False
    )
    again = fw.quantize(result.float_model, plan=result.plan, progress=False)
    assert fw.write(again.model) == fw.write(result.model)


def test_what_a_diagnosis_names_are_repairs():
    named = {name for repairs, _ in REMEDIES.values() for name in repairs}
    assert named <= {repair.name for repair in REPAIRS}
