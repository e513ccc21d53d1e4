"""Sensitivity and search: the parts of a model, their scores, exact choices, and budgets that files keep."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import models

import featherweight as fw
from featherweight.choosing.budget import Budget, check_budget, misses
from featherweight.choosing.parts import FLOAT, parts_of, recipe_of
from featherweight.choosing.solve import chosen_forms
from featherweight.ptq.forms.nodes import touches_float


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


@pytest.fixture(scope="module")
def labelled(model):
    x = models.batch("convnet", 64, seed=5)
    y = fw.run(model, x)
    return [{name: each[i] for name, each in x.items()} for i in range(64)], y.argmax(-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(model, labelled, folder):
    calibration = models.samples("convnet", 16)
    return fw.search(model, labelled, calibration=calibration, max_drop=0.05, folder=folder, progress=False)


@pytest.mark.parametrize("name", ["convnet", "depthwise", "transformer", "multi_input"])
def test_parts_are_all_that_computes_with_floats_once(name):
    graph = models.lowered(name).main
    owned = [each for part in parts_of(models.lowered(name)) for each in part.operators]
    assert len(owned) == len(set(owned))
    assert set(owned) == {node.name for node in graph.nodes if touches_float(node, graph)}


def test_the_recipe_of_a_choice_plans_it(model):
    parts = parts_of(model)
    weighted = [part.name for part in parts if part.weight_elements]
    choice = {part.name: "int8" for part in parts} | {weighted[0]: FLOAT, weighted[1]: "w4a8"}
    stats = fw.calibrate(model, models.samples("convnet", 4), progress=False)
    plan = fw.plan(model, stats, recipe_of(choice, parts), io="float32", integers=True)
    assert weighted[0] in plan.kept_float
    assert plan.forms[weighted[1]] == "int8*int4"
    assert plan.forms[weighted[2]] == "int8*int8"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=3), min_size=1, max_size=5
    ),
    st.integers(0, 120),
)
def test_the_choice_is_the_best_of_all(costs, limit):
    minimized = {f"p{i}": {f"f{j}": float(a) for j, (a, _) in enumerate(forms)} for i, forms in enumerate(costs)}
    limited = {f"p{i}": {f"f{j}": float(b) for j, (_, b) in enumerate(forms)} for i, forms in enumerate(costs)}
    sums = [(sum(a for a, _ in each), sum(b for _, b in each)) for each in itertools.product(*costs)]
    best = min((a for a, b in sums if b <= limit), default=None)
    choice = chosen_forms(minimized, limited, limit)
    if best is None:
        assert choice is None
    else:
        assert choice is not None
        assert sum(limited[p][f] for p, f in choice.items()) <= limit + 1e-6
        assert sum(minimized[p][f] for p, f in choice.items()) == pytest.approx(best)


def test_the_solver_keeps_off_stdout(capfd, monkeypatch):
    import os

    from featherweight.choosing import solve

    class Talking:
        Bounds, LinearConstraint = (staticmethod(lambda *_: None),) * 2

        @staticmethod
        def milp(*_, **__):
            os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution")
            return type("Found", (), {"x": None})()

    monkeypatch.setattr(solve, "_solver", Talking)
    assert chosen_forms({"a": {"x": 1.0}}, {"a": {"x": 1.0}}, 3) is None
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"


def test_what_is_found_keeps_the_budget_and_is_the_file_that_was_measured(found, labelled, folder):
    assert found.best.fits
    assert found.best.drop <= 0.05
    assert len(fw.write(found.model)) == found.best.file_bytes == (folder / "best.tflite").stat().st_size
    after = fw.evaluate(folder / "best.tflite", labelled, progress=False)
    assert after.value == pytest.approx(found.best.value)
    assert (folder / "best_plan.json").is_file()


def test_it_is_no_larger_than_int8_everywhere(found, model):
    int8 = fw.quantize(model, calibration=models.samples("convnet", 16), progress=False).model
    assert found.best.file_bytes <= len(fw.write(int8)) + 64


def test_the_front_has_no_file_that_another_beats(found):
    losses = [(row.file_bytes, row.drop) for row in found.front]
    assert losses == sorted(losses)
    assert all(first[1] > second[1] for first, second in itertools.pairwise(losses))


def test_four_bits_with_ends_in_8_are_tried_where_four_bits_lose_too_much(model):
    found = fw.search(model, calibration=models.samples("convnet", 16), min_sqnr_db=30.0, progress=False)
    layers = [part.name for part in parts_of(model) if part.weight_elements]
    assert len(layers) > 2
    narrow = next(row for row in found.tried if {row.choice[layer] for layer in layers} == {"w4a8"})
    assert not narrow.is_accurate
    choices = [row.choice for row in found.tried]
    assert {**narrow.choice, layers[0]: "int8", layers[-1]: "int8"} in choices


def test_another_budget_measures_no_part_again(found, model, labelled, folder, monkeypatch):
    from featherweight.choosing import sensitivity

    def no_more(*_):
        raise AssertionError("a part is measured again")

    monkeypatch.setattr(sensitivity, "_scored", no_more)
    again = fw.search(
        model, labelled, calibration=models.samples("convnet", 16), max_drop=0.5, folder=folder, progress=False
    )
    assert again.best.file_bytes <= found.best.file_bytes
    assert len(again.tried) >= len(found.tried)


def test_a_folder_of_other_scores_is_refused(found, model, labelled, folder):
    with pytest.raises(fw.RecipeError, match="scores of something else: samples differ"):
        fw.search(
            model, labelled, calibration=models.samples("convnet", 16, 9), max_drop=0.1, folder=folder, progress=False
        )


def test_scores_of_other_forms_are_named_and_files_of_another_task_are_measured_anew(model, labelled, tmp_path, caplog):
    asked = {"calibration": models.samples("convnet", 8), "max_drop": 0.5, "folder": tmp_path, "progress": False}
    fw.search(model, labelled, forms=["int8"], **asked)
    with pytest.raises(fw.RecipeError, match=r"forms differ \(forms there: int8, here: int8, w4a8\)"):
        fw.search(model, labelled, forms=["int8", "w4a8"], **asked)
    assert not caplog.messages
    few = tuple(each[:32] for each in labelled)
    found = fw.search(model, few, forms=["int8"], **asked)
    assert "of 64 examples" in caplog.text
    assert "measured anew by accuracy" in caplog.text
    assert fw.write(found.model) == (tmp_path / "best.tflite").read_bytes()


def test_drops_in_a_folder_are_those_of_the_metric_and_the_data(model, labelled, tmp_path, caplog):
    asked = {"calibration": models.samples("convnet", 8), "progress": False}
    scores = fw.sensitivity(model, labelled, folder=tmp_path, **asked)
    again = fw.sensitivity(model, labelled, folder=tmp_path, **asked)
    assert again.rows == scores.rows
    assert not caplog.messages
    found = fw.sensitivity(model, labelled, metric="probability", folder=tmp_path, **asked)
    assert "keeps drops of accuracy" in caplog.text
    assert found.metric == "probability"
    assert {row.drop for row in found.rows} == {
        row.drop for row in fw.sensitivity(model, labelled, metric="probability", **asked).rows
    }
    # Labels that the float model gets right as often, of other samples.
    x, y = labelled
    moved = fw.sensitivity(model, (x[::-1], y[::-1]), metric="probability", folder=tmp_path, **asked)
    assert moved.about["task"] != found.about["task"]
    assert caplog.text.count("keeps drops of") == 2


def test_a_file_that_misses_bytes_alone_is_the_smallest_that_is_accurate(model):
    asked = {"calibration": models.samples("convnet", 16), "min_sqnr_db": 12, "progress": False}
    found = fw.search(model, max_bytes=1, **asked)
    assert not found.best.fits
    assert found.best.file_bytes == fw.search(model, **asked).best.file_bytes


def test_an_impossible_budget_returns_what_misses_it_least(model):
    calibration = models.samples("convnet", 16)
    best = fw.search(model, calibration=calibration, min_sqnr_db=30, max_bytes=100, progress=False).best
    assert not best.fits
    assert [miss.limit for miss in best.misses if miss.is_size] == ["max_bytes"]
    assert any("bytes too many" in str(miss) for miss in best.misses)


def test_scores_say_what_each_part_costs(model, labelled, tmp_path):
    scores = fw.sensitivity(
        model, labelled, calibration=models.samples("convnet", 12), forms=["int8"], folder=tmp_path, progress=False
    )
    assert {row.form for row in scores.rows} == {"int8"}
    assert all(row.drop is not None and row.without is not None for row in scores.rows)
    assert all(0 < row.noise < 1 for row in scores.rows if not row.kept_float)
    assert fw.load_scores(tmp_path / "scores.json") == scores
    assert json.loads((tmp_path / "scores.json").read_text())["format"] == 2


def test_a_metric_that_is_not_the_same_twice_is_an_error(model, labelled):
    random = np.random.default_rng(0)
    with pytest.raises(fw.DataError, match="deterministic"):
        fw.search(
            model,
            labelled,
            calibration=models.samples("convnet", 8),
            metric=lambda labels, predictions: float(random.random()),
            max_drop=0.1,
            progress=False,
        )


@pytest.mark.parametrize(
    ("budget", "objective", "has_metric", "match"),
    [
        (Budget(max_drop=0.1), "bytes", False, "max_drop is about a metric"),
        (Budget(max_bytes=10), "bytes", True, "model of least bytes would be noise"),
        (Budget(max_drop=0.1), "accuracy", True, "the most accurate model is the float one"),
        (Budget(max_drop=0.1), "beauty", True, "objective 'beauty' is unknown"),
    ],
)
def test_budgets_that_say_nothing_are_errors(budget, objective, has_metric, match):
    with pytest.raises(fw.RecipeError, match=match):
        check_budget(budget, objective, has_metric=has_metric)


def test_a_metric_that_is_lower_for_the_better_is_an_error(model, labelled):
    def distance(labels, predictions):
        return float(np.abs(labels - predictions).mean())

    def closeness(labels, predictions):
        return -distance(labels, predictions)

    data = labelled[0], fw.run(model, models.batch("convnet", 64, seed=5))
    asked = {"calibration": models.samples("convnet", 8), "forms": ["int8"], "max_drop": 0.5, "progress": False}
    with pytest.raises(
        fw.DataError, match=r"'distance' is 0 of the float model, .* lower for the better.*its negative"
    ):
        fw.search(model, data, metric=distance, **asked)
    assert fw.search(model, data, metric=closeness, **asked).best.drop > 0
    assert fw.search(model, data, metric=lambda labels, predictions: 1.0, **asked).best.fits


def test_confidence_adds_standard_errors():
    row = fw.Tried({}, 10, 10, 30.0, 30.0, 0.9, 0.01, 0.004, 0.003)
    assert not misses(row, Budget(max_drop=0.005))
    assert misses(row, Budget(max_drop=0.005, confidence=2.0))


def test_a_folder_in_use_is_refused(model, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(fw.RecipeError, match="in use by another process"):
            fw.sensitivity(model, calibration=models.samples("convnet", 8), folder=tmp_path, progress=False)


def test_a_form_that_there_is_not_is_named(model):
    with pytest.raises(fw.RecipeError, match=r"'int7' is no form \(allowed: int8, w4a8, grid4"):
        fw.sensitivity(model, calibration=models.samples("convnet", 8), forms=["int7"], progress=False)


def test_two_workers_measure_the_same_scores(model, labelled, tmp_path):
    calibration = models.samples("convnet", 8)
    paths = [tmp_path / str(jobs) for jobs in (1, 2)]
    for path, jobs in zip(paths, (1, 2), strict=True):
        fw.sensitivity(model, labelled, calibration=calibration, forms=["int8"], folder=path, jobs=jobs, progress=False)
    one, two = ((path / "scores.json").read_bytes() for path in paths)
    assert one == two


def test_what_lowering_noted_and_samples_that_were_not_used_are_in_the_plan(model):
    from featherweight.lower import Lowered

    calibration = models.samples("convnet", 264)
    noted = Lowered(model, notes=("a note of lowering",))
    found = fw.search(noted, calibration=calibration, min_sqnr_db=5, forms=["int8"], progress=False)
    assert "a note of lowering" in found.plan.notes
    assert any(note.startswith("the first 256 calibration samples were used") for note in found.plan.notes)


def test_what_was_measured_is_kept_at_once(model, tmp_path, monkeypatch):
    from featherweight.choosing import searching

    monkeypatch.setattr(searching, "_bisect", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fw.search(model, calibration=models.samples("convnet", 8), min_sqnr_db=20, folder=tmp_path, progress=False)
    kept = len(json.loads((tmp_path / "search.json").read_text())["tried"])
    monkeypatch.undo()
    again = fw.search(model, calibration=models.samples("convnet", 8), min_sqnr_db=20, folder=tmp_path, progress=False)
    assert 2 < kept <= len(again.tried)


def test_a_search_that_was_interrupted_ends_as_if_it_had_not_been(model, tmp_path, monkeypatch):
    from featherweight.choosing.bench import Bench

    asked = {"calibration": models.samples("convnet", 12), "min_sqnr_db": 27, "progress": False}
    whole = fw.search(model, folder=tmp_path / "whole", **asked)
    measured, made = Bench.measured, []

    def interrupted(*args, **kwargs):
        made.append(None)
        if len(made) > files:
            raise KeyboardInterrupt
        return measured(*args, **kwargs)

    assert len(whole.tried) > 12
    for files in (5, len(whole.tried) - 2):
        folder = tmp_path / str(files)
        made.clear()
        monkeypatch.setattr(Bench, "measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fw.search(model, folder=folder, **asked)
        monkeypatch.undo()
        fw.search(model, folder=folder, **asked)
        for name in ("search.json", "best.tflite", "best_plan.json"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("target", ["tflm", "ethos-u55", "litert"])
def test_what_is_measured_is_the_file_that_quantize_writes(model, tmp_path, target):
    calibration = models.samples("convnet", 12)
    found = fw.search(model, calibration=calibration, min_sqnr_db=12, target=target, folder=tmp_path, progress=False)
    written = fw.quantize(model, plan=found.plan, target=target, progress=False)
    assert fw.write(written.model) == (tmp_path / "best.tflite").read_bytes()
    assert len(fw.write(written.model)) == found.best.file_bytes
    borders = {found.model.main.tensors[name].dtype for name in (*found.model.main.inputs, *found.model.main.outputs)}
    assert borders == ({"float32"} if target == "litert" else {"int8"})


def test_the_borders_can_be_chosen(model):
    calibration = models.samples("convnet", 12)
    found = fw.search(model, calibration=calibration, min_sqnr_db=12, target="tflm", io="float32", progress=False)
    assert found.plan.io == "float32"


def test_accuracy_within_bytes_ends_at_the_limit_of_size(model):
    calibration = models.samples("convnet", 12)
    large = fw.search(model, calibration=calibration, min_sqnr_db=10, forms=["int8", "float32"], progress=False)
    limit = large.best.file_bytes + 500
    found = fw.search(
        model,
        calibration=calibration,
        objective="accuracy",
        max_bytes=limit,
        forms=["int8", "float32"],
        progress=False,
    )
    assert found.best.fits
    assert found.best.file_bytes <= limit
    assert found.best.sqnr_db >= max(row.sqnr_db for row in found.tried if row.file_bytes <= limit)


def test_vela_limits_what_is_found_for_an_ethos_u(model):
    calibration = models.samples("convnet", 12)
    asked = {"calibration": calibration, "forms": ["int8"], "target": "ethos-u55", "progress": False}
    found = fw.search(model, min_sqnr_db=10, max_flash_bytes=1_000_000, max_cycles=10_000_000, **asked)
    assert found.best.fits
    npu = found.best.npu
    assert npu.accelerator == "ethos-u55-128"
    assert min(npu.flash_bytes, npu.sram_bytes, npu.cycles, npu.npu_operators) > 0
    small = fw.search(model, min_sqnr_db=10, max_sram_bytes=npu.sram_bytes - 16, accelerator="ethos-u55-128", **asked)
    assert [miss.limit for miss in small.best.misses] == ["max_sram_bytes"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_cycles": 10, "target": "tflm"}, "Vela compiles for Ethos-U, and target 'tflm' names none"),
        ({"max_cycles": 10, "target": "ethos-u55", "accelerator": "u55"}, "accelerator 'u55' is unknown to Vela"),
        ({"accelerator": "ethos-u55-128", "target": "ethos-u55"}, "accelerator has no effect"),
        ({"improve": "wide-places"}, "chooses forms, as the search does"),
        ({"io": "int4"}, "int4"),
    ],
)
def test_wishes_that_can_not_be_met_are_errors(model, options, match):
    with pytest.raises(fw.RecipeError, match=match):
        fw.search(model, calibration=models.samples("convnet", 8), min_sqnr_db=5, progress=False, **options)


def test_repairs_of_ranges_come_first_and_those_of_weights_on_the_best(model, tmp_path):
    calibration = models.samples("convnet", 24)
    asked = {"calibration": calibration, "min_sqnr_db": 15, "forms": ["int8", "w4a8", "float32"], "progress": False}
    plain = fw.search(model, **asked)
    found = fw.search(model, improve=["equalize", "bias-correction", "gptq"], folder=tmp_path, **asked)
    assert any(note.startswith("improve: equalize") for note in found.plan.notes)
    repaired = [row for row in found.tried if row.is_repaired]
    assert repaired
    assert repaired[0].repairs == ("gptq", "bias-correction")
    assert found.best.file_bytes <= plain.best.file_bytes + 512
    again = fw.search(model, improve=["equalize", "bias-correction", "gptq"], folder=tmp_path, **asked)
    assert fw.write(again.model) == fw.write(found.model)
    with pytest.raises(fw.RecipeError, match="scores of something else"):
        fw.search(model, folder=tmp_path, **asked)


def test_estimates_rank_parts_as_runs_do_and_say_what_they_are(model, tmp_path):
    asked = {"calibration": models.samples("convnet", 40), "forms": ["int8", "w4a8"], "progress": False}
    guessed = fw.sensitivity(model, **asked, estimate=True, folder=tmp_path)
    run = fw.sensitivity(model, **asked)
    estimates = {(row.part, row.form): row for row in guessed.rows if row.is_estimate}
    assert len(estimates) > len(run.rows) / 2
    assert all(row.estimate == row.noise == row.weights_noise + row.activations_noise for row in estimates.values())
    pairs = [(estimates[row.part, row.form].noise, row.noise) for row in run.rows if (row.part, row.form) in estimates]
    guesses, found = np.log([each for each in pairs if min(each) > 0]).T
    assert np.corrcoef(guesses, found)[0, 1] > 0.8
    measured = fw.sensitivity(model, **asked, folder=tmp_path)
    assert not any(row.is_estimate for row in measured.rows)
    assert any(row.estimate for row in measured.rows)


def test_a_search_by_estimates_measures_what_decides(model, tmp_path):
    asked = {"calibration": models.samples("convnet", 24), "forms": ["int8", "w4a8", "float32"], "progress": False}
    plain = fw.search(model, min_sqnr_db=20, **asked)
    found = fw.search(model, min_sqnr_db=20, **asked, estimate=True, folder=tmp_path)
    assert found.best.fits
    assert found.best.file_bytes <= 1.1 * plain.best.file_bytes
    assert any(row.is_estimate for row in found.scores.rows)
    assert not all(row.is_estimate for row in found.scores.rows)
    assert fw.load_scores(tmp_path / "scores.json") == found.scores


def test_where_floats_are_allowed_accuracy_alone_is_always_met(model):
    found = fw.search(model, calibration=models.samples("convnet", 12), min_sqnr_db=60, progress=False)
    assert found.best.fits


def test_too_few_examples_for_a_confidence_are_an_error_that_says_how_many_it_takes(model, labelled):
    asked = {"calibration": models.samples("convnet", 8), "progress": False}
    with pytest.raises(fw.DataError, match=r"64 labelled examples can't show .* at least 796 are needed"):
        fw.search(model, labelled, max_drop=0.005, confidence=2, **asked)
    with pytest.raises(fw.DataError, match="no number of examples shows a drop of 0 with confidence 2"):
        fw.search(model, labelled, max_drop=0, confidence=2, **asked)


@pytest.mark.parametrize(("fails_at", "match"), [(1, "returned nan"), (4, "returned nan"), (4, "raised ZeroDivision")])
def test_a_metric_that_fails_is_named_whenever_it_does(model, labelled, fails_at, match, tmp_path):
    calls = []

    def metric(labels, predictions):
        calls.append(len(labels))
        if len([count for count in calls if count == 64]) < fails_at:
            return float((labels == predictions.argmax(-1)).mean())
        return float("nan") if "nan" in match else 1 / 0

    asked = {"calibration": models.samples("convnet", 8), "forms": ["int8"], "progress": False}
    with pytest.raises(fw.DataError, match=match):
        fw.search(model, labelled, metric=metric, max_drop=0.1, folder=tmp_path, **asked)


@pytest.mark.parametrize(("forms", "target"), [(["float32"], "litert"), (["dynamic"], "ethos-u55")])
def test_forms_that_nothing_takes_are_an_error(model, forms, target):
    with pytest.raises(fw.RecipeError, match="no part of the model takes any of the forms"):
        fw.search(
            model, calibration=models.samples("convnet", 8), min_sqnr_db=5, forms=forms, target=target, progress=False
        )


def test_a_confidence_in_what_has_no_standard_error_is_an_error(model, labelled):
    def whole(labels, predictions):
        return 7.0 / (len(labels) == 64)

    asked = {"calibration": models.samples("convnet", 8), "max_drop": 0.5, "progress": False}
    with pytest.raises(fw.DataError, match=r"'whole' has no standard error on 64 examples.*Leave confidence out"):
        fw.search(model, labelled, metric=whole, confidence=1, **asked)


def test_too_few_samples_to_judge_by_are_an_error(model):
    with pytest.raises(fw.DataError, match="calibration: 4 samples are too few"):
        fw.search(model, calibration=models.samples("convnet", 4), min_sqnr_db=5, progress=False)
    with pytest.raises(fw.DataError, match="calibration: 40 samples, 1 of them different, are too few"):
        fw.search(model, calibration=models.samples("convnet", 1) * 40, min_sqnr_db=5, progress=False)


def test_a_border_between_integers_and_floats_is_moved_where_the_file_gets_smaller():
    from types import SimpleNamespace

    from featherweight.choosing.budget import Budget, Tried
    from featherweight.choosing.scores import Score, Scores
    from featherweight.choosing.searching import _border_moves
    from featherweight.choosing.state import State

    parts = ("a", "b", "c", "d")
    rows = [Score(p, f, n, 0, s) for p in parts for f, n, s in (("int8", 2e-3, 60), ("dynamic", 1e-3, 50))]
    held = {"int8": True, "dynamic": False}

    def file_bytes(choice):
        integers = [held[choice[part]] for part in parts]
        return 1000 + 100 * sum(a != b for a, b in itertools.pairwise([False, *integers, False]))

    target = SimpleNamespace(is_float_allowed=True)
    bench = SimpleNamespace(setting=SimpleNamespace(target=target), file_bytes=file_bytes)
    state = State(bench, Scores({}, tuple(rows), {p: (p,) for p in parts}, 0, 1), Budget(), "bytes", None, None)
    choice = dict(zip(parts, ("dynamic", "int8", "int8", "dynamic"), strict=True))
    best = Tried(choice, file_bytes(choice), 0, 30.0, 30.0)
    found = [moved for _, moved in _border_moves(state, best, math.inf)]
    assert dict.fromkeys(parts, "dynamic") in found
    assert all(file_bytes(moved) < best.file_bytes for moved in found)
    assert _border_moves(state, best, 0.0) == []
    assert state.likest("a", "int8", None) == "dynamic"
    assert state.likest("a", "int8", "int16") == "int8"


def test_what_few_examples_leave_open_is_said_in_words_and_in_the_plan(found):
    assert "64 examples decided; they do not rule out a drop of" in found.doubt
    assert any(found.doubt in note for note in found.plan.notes)


@pytest.mark.parametrize(
    ("scores", "drop", "error", "max_drop", "most"),
    [
        (np.ones(96), 0.0, 0.0, 0.03, "0.04"),  # 4 / (96 + 4)
        (np.ones(400), 0.0, 0.0, 0.01, None),
        (np.ones(400), 0.002, 0.005, 0.01, "0.012"),
        (np.full(400, 7.0), 0.0, 0.0, 0.01, None),  # no share: its standard error is all there is
        (np.ones(96), 0.05, 0.0, 0.03, None),  # misses the budget, which is said anyway
        (np.ones(1), 0.0, np.nan, 0.05, "0.8"),  # one example has no standard error
        (np.full(1, 7.0), 0.0, np.nan, 0.05, "inf"),
    ],
)
def test_the_drop_that_examples_leave_open(scores, drop, error, max_drop, most):
    from featherweight.analysis.evaluation import Evaluation
    from featherweight.choosing.budget import Budget
    from featherweight.choosing.judging import doubt

    before = Evaluation("accuracy", 1.0, 0.0, len(scores), True, scores)
    said = doubt(fw.Tried({}, 1, 1, 30, 30, 1, 0, drop, error), before, Budget(max_drop=max_drop))
    wanted = "is not known" if most == "inf" else f"a drop of {most} at two"
    assert (wanted in said) if most else not said
