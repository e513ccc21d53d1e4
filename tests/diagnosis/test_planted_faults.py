"""Faults that were planted come out first, with their place and their repair; a sound model is called sound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.building import dense, layer, net, unary, weights
from tests.diagnosis.planted import CHANNELS, MAP, Parts, pictures

from featherweight.calibration import calibrate
from featherweight.errors import DataError, FormatError
from featherweight.graph import Model
from featherweight.ptq import planning
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.report.diagnosis import Diagnosis
from featherweight.tasks.diagnose import diagnose
from featherweight.tasks.quantize import quantize


def diagnosed(model: Model, quantized: Any = None, samples: Any = None, **more: Any) -> Diagnosis:
    return diagnose(model, quantized, pictures() if samples is None else samples, progress=False, **more)


def quantized(model: Model, recipe: Any = "int8", samples: Any = None, **more: Any) -> Model:
    calibration = pictures() if samples is None else samples
    return quantize(model, recipe, calibration=calibration, verify=False, progress=False, **more).model


def test_a_sound_model_is_healthy() -> None:
    found = diagnosed(Parts().model())
    assert found.is_healthy, str(found)
    assert found.causes == ()
    assert found.sqnr_db > 30
    assert found.verdict.startswith("Healthy: output 'y' is ")
    assert found.simulated_db == pytest.approx(found.level_db, abs=0.5)
    assert found.own_db == pytest.approx(found.level_db, abs=3)
    assert {row.name for row in found.own_errors} == {"x", "stem", "dw", "pw", "deep", "pool", "y"}


def test_boxes_and_scores_under_one_scale() -> None:
    parts = Parts()
    parts.constants |= {"boxes/w": weights(4, CHANNELS) * 1000, "boxes/b": np.zeros(4, np.float32)}
    parts.layers += [
        dense("pool", "boxes/w", "boxes/b", "boxes", (1, 4)),
        layer("CONCATENATION", ("boxes", "y"), {"head": (1, 14)}, axis=1),
    ]
    parts.outputs = ["head"]
    found = diagnosed(parts.model(), quantized(parts.model(), integers=True))
    first = found.causes[0]
    assert (first.name, first.repairs[0]) == ("unlike-ranges", "split-outputs")
    assert first.layers == ("y",)
    assert "because CONCATENATION 'head' puts it under one scale with others" in first.statement
    assert first.worst_column is not None
    assert first.worst_column[0] >= 4
    assert first.worst_column[1] < 10 < 25 < found.sqnr_db
    assert first.without_db is not None
    assert first.without_db > first.alone_db + 20


def test_a_channel_of_another_size() -> None:
    parts = Parts()
    parts.rescale("pw", "deep", [3], 100)
    first = diagnosed(parts.model()).causes[0]
    assert (first.name, first.repairs[0]) == ("unlike-channels", "equalize")
    assert set(first.layers) == {"pw", "deep"}
    assert first.without_db is not None
    assert first.without_db > first.alone_db + 10


def test_weight_channels_that_one_scale_does_not_hold() -> None:
    parts = Parts()
    parts.rescale("dw", "pw", [1, 5, 9], 1 / 200)
    first = diagnosed(parts.model(), target="int8-per-tensor").causes[0]
    assert (first.name, first.repairs[0]) == ("unlike-channels", "equalize")
    assert {"dw", "pw"} <= set(first.layers)
    assert any("CONV_2D" in operator for operator in first.operators)


def test_ranges_that_these_samples_leave() -> None:
    model = Parts().model()
    first = diagnosed(model, quantized(model, samples=pictures(size=0.2)), pictures(seed=3)).causes[0]
    assert first.name == "unlike-data"
    assert first.layers[0] == "x"
    assert "its integers hold -0.2 to 0.19" in first.statement
    assert "these samples reach -0.998 to 0.999" in first.statement


def test_a_range_cut_in_the_middle_of_a_model() -> None:
    model = Parts().model()
    plan = quantize(model, calibration=pictures(), verify=False, progress=False).plan
    narrow = replace(plan.params["pw"], scale=(plan.params["pw"].scale[0] / 6,))
    cut = quantize(model, plan=replace(plan, params={**plan.params, "pw": narrow}), progress=False).model
    first = diagnosed(model, cut).causes[0]
    assert (first.name, first.layers, first.repairs) == ("clipped-range", ("pw",), ("ranges",))


def test_a_range_that_nothing_fills() -> None:
    model = Parts().model()
    first = diagnosed(model, quantized(model, samples=pictures(size=30)), pictures(seed=3)).causes[0]
    assert (first.name, first.repairs) == ("dead-range", ("ranges",))
    assert "steps are left for it" in first.statement


def test_data_that_are_not_normalized() -> None:
    first = diagnosed(Parts().model(), samples=pictures(size=127)).causes[0]
    assert (first.name, first.layers) == ("unlike-data", ("x",))
    assert "CONV_2D 'stem'" in first.statement
    assert "saturated" in first.statement


def test_calibration_data_whose_halves_differ() -> None:
    samples = pictures(12, size=0.1) + pictures(12, seed=1)
    found = diagnosed(Parts().model(), samples=samples)
    first = found.causes[0]
    assert (first.name, first.repairs) == ("unseen-ranges", ())
    assert "calibrated on the first half alone" in first.statement
    assert first.without_db == pytest.approx(found.level_db)


def test_one_sample_that_makes_the_range() -> None:
    samples = pictures(40)
    samples[17] = samples[17] * 60
    found = diagnosed(Parts().model(), samples=samples)
    first = found.causes[0]
    assert (first.name, first.layers, first.repairs) == ("odd-samples", ("x",), ("ranges",))
    assert "Sample 17 (of 40) reaches 59.5 in input 'x', all others stay within 0.999" in first.statement
    assert first.without_db is not None
    assert first.without_db > first.alone_db + 10
    assert not {"unseen-ranges", "unlike-data"} & {cause.name for cause in found.causes}


def test_ranges_that_clip_the_samples_they_were_chosen_on() -> None:
    first = diagnosed(Parts().model(), samples=pictures(), ranges="clip:0.3").causes[0]
    assert (first.name, first.repairs) == ("clipped-range", ("ranges",))


def test_a_layer_of_another_state_of_training() -> None:
    parts = Parts()
    parts.constants["deep/w"] = np.roll(parts.constants["deep/w"], 3, axis=0)
    first = diagnosed(Parts().model(), quantized(parts.model())).causes[0]
    assert (first.name, first.layers, first.repairs) == ("other-weights", ("deep",), ())


def test_what_is_joined_inside_of_a_model_is_no_matter_of_outputs() -> None:
    random = np.random.default_rng(2)
    constants = {
        "small/w": random.normal(0, 0.3, (8, 16)).astype(np.float32),
        "large/w": random.normal(0, 80, (8, 16)).astype(np.float32),
        "y/w": (random.normal(0, 1, (6, 16)) * np.float32([1] * 8 + [1 / 300] * 8)).astype(np.float32),
    }
    layers = [
        dense("x", "small/w", "", "small", (1, 8)),
        dense("x", "large/w", "", "large", (1, 8)),
        layer("CONCATENATION", ("small", "large"), {"joined": (1, 16)}, axis=1),
        dense("joined", "y/w", "", "y", (1, 6)),
    ]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    samples = [random.normal(0, 1, (1, 16)).astype(np.float32) for _ in range(32)]
    found = diagnosed(model, samples=samples)
    (joined,) = [cause for cause in found.causes if cause.name == "unlike-ranges"]
    assert joined.repairs == ("wide-places",)
    assert "because CONCATENATION 'joined' puts it under one scale" in joined.statement


def test_outputs_that_stand_still_and_few_samples_are_noted() -> None:
    parts = Parts()
    parts.constants["deep/b"] = np.full(CHANNELS, -100, np.float32)
    (note,) = diagnosed(parts.model()).notes
    assert "output 'y' is all but the same for 16 samples" in note
    (note,) = diagnosed(Parts().model(), samples=pictures(3)).notes
    assert note.startswith("Samples that made the ranges judge them, too, and there are 3 of them")


def test_one_weak_column_of_an_otherwise_healthy_model_is_named() -> None:
    parts, classes = Parts(), 40
    parts.constants["y/w"], parts.constants["y/b"] = weights(classes, CHANNELS), weights(classes)
    parts.constants["y/w"][3] *= 0.1
    parts.layers[-1] = dense("pool", "y/w", "y/b", "y", (1, classes))
    found = diagnosed(parts.model())
    (output,) = found.outputs
    assert output.worst_column is not None
    index, level = output.worst_column
    assert index == 3
    assert level < 6 < 25 < output.sqnr_db
    assert not found.is_enough
    assert f"its column 3 only {level:.1f} dB" in found.verdict
    first = found.causes[0]
    assert (first.worst_column or (0, 0))[0] == 3
    assert first.layers == ("y",)


def test_a_constant_column_is_not_weak() -> None:
    parts = Parts()
    parts.constants["y/w"][3] = 0
    found = diagnosed(parts.model())
    assert found.is_enough
    assert found.outputs[0].worst_column is not None
    assert found.outputs[0].worst_column[0] != 3


def test_samples_that_repeat_others_are_named() -> None:
    several = pictures(6)
    nearly = [picture + np.float32(0.02) * noise for picture, noise in zip(several, pictures(6, seed=5), strict=True)]
    found = diagnosed(Parts().model(), samples=[*several, *nearly[:2], several[0]])
    (note,) = found.notes
    assert note.startswith("3 of 9 samples repeat others, or nearly (sample 6 repeats sample 0)")
    assert not any("repeat" in note for note in diagnosed(Parts().model(), samples=several).notes)


def test_depthwise_kernels_in_four_bits() -> None:
    nibbles = Rule(op="DEPTHWISE_CONV_2D", weight=Scheme("int4"), weight_only=True)
    eight = Rule(weight=Scheme("int8"), weight_only=True)
    parts = Parts()
    parts.rescale("dw", "pw", [2], 50)  # what one channel has its scale for is not the cause
    first = diagnosed(parts.model(), quantized(parts.model(), Recipe("mine", (nibbles, eight)))).causes[0]
    assert (first.name, first.layers) == ("int4-depthwise", ("dw",))
    assert "has 4 bits" in first.statement


def test_a_constant_shift_of_an_output() -> None:
    parts = Parts()
    model = parts.model()
    parts.constants["y/b"] = parts.constants["y/b"] + np.linspace(0.5, 1, 10, dtype=np.float32)
    found = diagnosed(model, quantized(parts.model()))
    assert {cause.name for cause in found.causes[:2]} == {"output-shift", "constant-shift"}
    assert found.causes[0].repairs == ("bias-correction",)


def test_an_activation_that_stands_alone() -> None:
    parts = Parts()
    node, _ = parts.layers[3]
    parts.layers[3] = layer(node.op, node.inputs, {"raw": MAP}, **{**node.attrs, "fused_activation_function": "NONE"})
    parts.layers.insert(4, unary("RELU", "raw", "deep", MAP))
    model = parts.model()
    plan = planning.plan(model, calibrate(model, pictures(), progress=False))
    wide = replace(plan.params["raw"], scale=(plan.params["raw"].scale[0] * 30,), zero_point=(0,))
    first = diagnosed(model, rewrite(model, replace(plan, params={**plan.params, "raw": wide}))).causes[0]
    assert (first.name, first.repairs, first.layers) == ("stands-alone", (), ("raw",))


def test_other_models_are_refused() -> None:
    parts = Parts()
    for name in ("stem/w", "dw/w", "pw/w", "deep/w", "y/w"):
        parts.constants[name] = np.roll(parts.constants[name], 1)
    with pytest.raises(DataError, match="is no version of the float one: its weights"):
        diagnosed(Parts().model(), quantized(parts.model()))
    small = net({"x": (1, 8)}, {"w": weights(4, 8)}, [dense("x", "w", "", "y", (1, 4))], ["y"])
    with pytest.raises(DataError):
        diagnosed(Parts().model(), quantized(small, samples=[np.ones((1, 8), np.float32)]))
    with pytest.raises(DataError, match="Nothing that the second model rounds was found"):
        diagnosed(Parts().model(), Parts().model())
    with pytest.raises(FormatError):
        diagnosed(quantized(Parts().model()))


def test_samples_are_needed_and_must_fit() -> None:
    with pytest.raises(DataError, match="diagnose needs samples"):
        diagnose(Parts().model(), progress=False)
    with pytest.raises(DataError, match="shape"):
        diagnosed(Parts().model(), samples=[np.zeros((1, 8, 8, 3), np.float32)])
    with pytest.raises(DataError):
        diagnosed(Parts().model(), samples=[])
    assert diagnosed(Parts().model(), samples=pictures(1)).examples == 1
