"""Ranges from the field: recorded at bounded cost, until they do not change, as files that merge in any order."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from tests import models

import featherweight as fw

# Recording may take so many times as long as inference: every inference is recorded.
ALWAYS = 1e9


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


def _recorded(model, count, seed=0, **options):
    with fw.Recorder(model, threads=1, **options) as recorder:
        for sample in models.samples("convnet", count, seed):
            recorder.run(sample)
        return recorder


def test_recording_everything_is_calibration(model):
    recorder = _recorded(model, 20, overhead=ALWAYS)
    assert recorder.stats == fw.calibrate(model, models.samples("convnet", 20), progress=False)


def test_results_are_those_of_the_model(model):
    (sample,) = models.samples("convnet", 1)
    with fw.Recorder(model, threads=1) as recorder:
        found = recorder.run(sample)
    expected = fw.run(model, sample)
    np.testing.assert_array_equal(next(iter(found.values())), expected)


def test_cost_is_bounded_and_no_input_is_kept(model):
    recorder = _recorded(model, 200, overhead=0.02)
    assert 1 <= recorder.recorded <= 20
    assert recorder._recorded_s <= 0.02 * recorder._run_s + 0.5  # one recording beyond the budget at most


def test_it_ends_when_ranges_have_converged(model):
    (sample,) = models.samples("convnet", 1)
    with fw.Recorder(model, threads=1, overhead=ALWAYS) as recorder:
        for _ in range(2000):
            recorder.run(sample)
            if recorder.has_converged:
                break
        assert recorder.has_converged
        assert recorder.recorded == 256  # 64, and twice twice as many
        ended = recorder.stats
        recorder.run(sample)
        assert recorder.stats == ended


def test_files_of_many_devices_merge_to_the_same_bytes(model, tmp_path):
    parts = [_recorded(model, 6, seed, overhead=ALWAYS, histograms=True).stats for seed in range(3)]
    for i, part in enumerate(parts):
        part.save(tmp_path / f"{i}.json")
        assert fw.load_stats(tmp_path / f"{i}.json") == part
    merged = set()
    for order in itertools.permutations(range(3)):
        first, second, third = (fw.load_stats(tmp_path / f"{i}.json") for i in order)
        first.merge(second).merge(third).save(tmp_path / "merged.json")
        merged.add((tmp_path / "merged.json").read_bytes())
    assert len(merged) == 1


def test_recorded_ranges_make_the_file_that_samples_make(model, tmp_path):
    samples = models.samples("convnet", 8)
    fw.calibrate(model, samples, progress=False).save(tmp_path / "stats.json")
    recorded = fw.quantize(model, stats=tmp_path / "stats.json", progress=False)
    assert fw.write(recorded.model) == fw.write(fw.quantize(model, calibration=samples, progress=False).model)


def test_a_dynamic_model_records_what_the_float_model_needs(model):
    dynamic = fw.quantize(model, "dynamic", progress=False).model
    stats = _recorded(dynamic, 8, overhead=ALWAYS).stats
    assert fw.quantize(model, stats=stats, strict=True, io="int8", progress=False).model


def test_drift_names_what_changed_most(model):
    before, after = (_recorded(model, 6, seed, overhead=ALWAYS).stats for seed in (0, 0))
    assert fw.drift(before, before)[0][1] == 0
    name = model.main.inputs[0]
    wide = fw.calibrate(model, [{k: 3 * v for k, v in s.items()} for s in models.samples("convnet", 6)], progress=False)
    changes = dict(fw.drift(after, wide))
    assert changes[name] == pytest.approx(2 / 3)
    assert fw.drift(after, wide)[0][1] == max(changes.values())


def test_what_can_not_be_recorded_is_an_error(model):
    integer = fw.quantize(model, calibration=models.samples("convnet", 4), progress=False).model
    with pytest.raises(fw.FormatError, match="already quantized"):
        fw.Recorder(integer)
    with pytest.raises(fw.DataError, match="nothing was recorded yet"):
        _ = fw.Recorder(model).stats
    with pytest.raises(fw.RecipeError, match="overhead is -1"):
        fw.Recorder(model, overhead=-1)


@pytest.mark.parametrize("damage", ["no json", "{}", "low above high", "bins", "cut"])
def test_damaged_files_are_refused(model, tmp_path, damage):
    path = tmp_path / "stats.json"
    fw.calibrate(model, models.samples("convnet", 2), histograms=True, progress=False).save(path)
    content = json.loads(path.read_text())
    row = next(iter(content["tensors"].values()))
    if damage == "low above high":
        row["low"], row["high"] = 2, 1
    if damage == "bins":
        row["histogram"]["counts"] = "AAAA"
    text = {"no json": "stats", "{}": "{}", "cut": path.read_text()[:-20]}.get(damage) or json.dumps(content)
    path.write_text(text)
    with pytest.raises(fw.DataError, match=r"stats\.json"):
        fw.load_stats(path)


def test_statistics_of_another_model_are_refused(model):
    other = fw.calibrate(models.lowered("dense"), models.samples("dense", 4), progress=False)
    with pytest.raises(fw.DataError, match="No range was measured for"):
        fw.quantize(model, stats=other, progress=False)
    with pytest.raises(fw.RecipeError, match="stats have no effect beside recipe 'dynamic'"):
        fw.quantize(model, "dynamic", stats=other, progress=False)


def test_broken_inputs_are_run_counted_and_not_recorded(model):
    (sample,) = models.samples("convnet", 1)
    with fw.Recorder(model, threads=1, overhead=ALWAYS) as recorder:
        recorder.run({name: np.full_like(values, np.nan) for name, values in sample.items()})
        assert (recorder.skipped, recorder.recorded) == (1, 0)
        recorder.run(sample)
        assert (recorder.skipped, recorder.recorded) == (1, 1)
