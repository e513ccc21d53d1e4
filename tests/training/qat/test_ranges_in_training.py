"""Ranges that move in training, delays, oscillating weights, fake quantization: the file stays what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import models, single_ops
from tests.backends import on_backend
from tests.training.checking import (
    as_dict,
    assert_equal,
    compiled,
    fitted,
    predictions,
    quantized,
    ranges_of,
    runtime_outputs,
    trained,
)

import featherweight as fw
from featherweight.errors import DataError, RecipeError, UnsupportedOp

NARROWING = fw.schedules.linear(0.0, 0.25, begin=0, end=4)
MOVING: list[tuple[str, str, str, Any]] = [
    ("convnet", "int8", "litert", "moving_average"),
    ("multi_input", "int16x8", "litert", "minmax"),
    ("multi_output", "int8", "tflm", "moving_average"),
    ("convnet", "int8", "power-of-two", fw.RangeTraining("moving_average", momentum=0.5)),
    ("depthwise", "w4a8", "litert", fw.RangeTraining(narrowing=NARROWING)),
    ("convnet", "int8", "litert", fw.RangeTraining("learned", freeze_after=2)),
    ("transformer", "int8", "litert", fw.RangeTraining("moving_average", delay=2, freeze_after=3)),
]


@pytest.mark.parametrize(("name", "recipe", "target", "train_ranges"), MOVING)
def test_predictions_are_the_file_s(name: str, recipe: str, target: str, train_ranges: Any) -> None:
    model = compiled(quantized(name, recipe, target=target, train_ranges=train_ranges))
    inputs = models.batch(name, 8, seed=2)
    before = as_dict(predictions(model, inputs))
    fitted(model, inputs)
    after = predictions(model, inputs)
    assert any((as_dict(after)[key] != array).any() for key, array in before.items())
    assert_equal(after, runtime_outputs(fw.finalize(model), inputs))


def test_ranges_follow_the_batches() -> None:
    """Twice as large inputs widen the ranges: by half after a step of momentum 0.5, no more once they are frozen."""
    inputs = {"image": 2 * models.batch("convnet", 8, seed=1)["image"]}
    model = quantized("convnet", train_ranges=fw.RangeTraining("moving_average", momentum=0.5, freeze_after=2))
    source = next(name for name in ranges_of(model) if "image" in name)
    calibrated = ranges_of(model)[source][1]
    widths = []
    for _ in range(3):
        model(inputs, training=True)
        widths.append(ranges_of(model)[source][1])
    assert calibrated < widths[0] < widths[1] == widths[2]
    largest = float(inputs["image"].max())
    assert widths[0] == pytest.approx((calibrated + largest) / 2, rel=0.02)


def test_extremes_only_grow() -> None:
    model = quantized("convnet", train_ranges="minmax")
    before = ranges_of(model)
    model({"image": 0.1 * models.batch("convnet", 8, seed=1)["image"]}, training=True)
    for name, (low, high) in ranges_of(model).items():
        assert low <= before[name][0] + 1e-5
        assert high >= before[name][1] - 1e-5


def test_narrowing_cuts_what_the_schedule_says() -> None:
    model, inputs = quantized("convnet", train_ranges=fw.RangeTraining(narrowing=NARROWING)), models.batch("convnet", 4)
    before = {name: high - low for name, (low, high) in ranges_of(model).items()}
    for _ in range(5):
        model(inputs, training=True)
    narrowed = [high - low for name, (low, high) in ranges_of(model).items()]
    ratios = np.array(narrowed) / np.array(list(before.values()))
    # A softmax's output has the range that kernels prescribe.
    assert sorted({round(float(ratio), 3) for ratio in ratios}) in ([0.75], [0.75, 1.0])


def test_steps_before_the_delay_ends_are_float_ones() -> None:
    model, inputs = quantized("convnet", train_ranges=fw.RangeTraining(delay=2)), models.batch("convnet", 4)
    real = np.asarray(fw.graph_model(models.lowered("convnet"))(inputs))
    outputs = [np.asarray(model(inputs, training=True)) for _ in range(3)]
    for early in outputs[:2]:
        np.testing.assert_allclose(early, real, atol=1e-5)
    np.testing.assert_array_equal(outputs[2], predictions(model, inputs))
    assert np.abs(outputs[2] - real).max() > 1e-4


def test_oscillating_weights_freeze_where_they_are() -> None:
    options = fw.Oscillations(threshold=(0.05, 0.01), steps=4, momentum=0.3)
    model, inputs = quantized("dense", oscillations=options), models.batch("dense", 8, seed=2)
    trained(model, inputs, epochs=6)
    states = model._tracked.value
    frozen = {name: np.asarray(state.frozen.value) for name, state in states.items()}
    assert 0 < sum(int(mask.sum()) for mask in frozen.values()) < sum(mask.size for mask in frozen.values())
    held = {name: np.asarray(state.average.value) for name, state in states.items()}
    trained(model, inputs, epochs=2)
    finished = fw.finalize(model)
    for name, mask in frozen.items():
        integers = finished.model.main.tensors[name].array
        np.testing.assert_array_equal(integers[mask], held[name][mask])
    assert_equal(predictions(model, inputs), runtime_outputs(finished, inputs))


def test_dampening_draws_weights_to_their_bins() -> None:
    inputs, distances = models.batch("dense", 8, seed=2), []
    for strength in (1e-9, 1.0):
        model = quantized("dense", oscillations=fw.Oscillations("dampen", strength=strength))
        trained(model, inputs, epochs=10)
        distances.append(float(model._distance_to_centres()))
    assert distances[1] < 0.8 * distances[0]


def test_fake_quantization_is_said_to_be_approximate() -> None:
    model, inputs = quantized("multi_output", target="tflm", approximate=True), models.batch("multi_output", 8, seed=2)
    trained(model, inputs)
    finished = fw.finalize(model)
    assert any("training was approximate" in note for note in finished.plan.notes)
    found, expected = as_dict(predictions(model, inputs)), as_dict(runtime_outputs(finished, inputs))
    for name, array in expected.items():
        step = finished.model.main.tensors[finished.model.main.outputs[list(expected).index(name)]]
        assert step.dtype == "float32"
        assert np.abs(found[name] - array).max() <= 0.05 * np.abs(array).max() + 0.01


def test_what_was_chosen_is_saved(tmp_path: Path) -> None:
    import keras

    ranges = fw.RangeTraining("minmax", narrowing=NARROWING, delay=1, freeze_after=5)
    model = quantized("dense", train_ranges=ranges, oscillations="freeze")
    inputs = models.batch("dense", 8, seed=2)
    trained(model, inputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.blueprint.ranges == ranges
    assert loaded.blueprint.oscillations == fw.Oscillations()
    for one in (model, loaded):
        keras.utils.set_random_seed(0)  # the order of the examples
        trained(one, inputs, epochs=1)
    assert fw.write(fw.finalize(loaded).model) == fw.write(fw.finalize(model).model)


def test_bad_options_are_said() -> None:
    with pytest.raises(RecipeError, match="momentum is a number between 0 and 1, not 2"):
        fw.RangeTraining("moving_average", momentum=2)
    with pytest.raises(RecipeError, match="freeze_after has no effect on fixed ranges"):
        fw.RangeTraining(freeze_after=10)
    with pytest.raises(RecipeError, match=r"delay is -1 \(allowed: a whole number from 0 to"):
        fw.RangeTraining(delay=-1)
    with pytest.raises(RecipeError, match="narrowing is a schedule such as"):
        fw.RangeTraining("learned", narrowing=NARROWING)
    with pytest.raises(RecipeError, match=r"Oscillations: remedy is 'stop' \(allowed: freeze, dampen\)"):
        fw.Oscillations("stop")


def test_a_loss_that_is_not_finite_stops_training() -> None:
    model, inputs = quantized("dense"), models.batch("dense", 8, seed=2)
    variable = next(iter(model.variables_by_tensor.values()))
    variable.assign(np.full(variable.shape, np.nan, np.float32))
    with pytest.raises(DataError, match=f"'{variable.path}' holds NaN or infinite values"):
        trained(model, inputs)


def test_operators_without_training_kernel_stay_float() -> None:
    float_model = single_ops.FACTORIES["LOG_SOFTMAX"]()
    samples = [single_ops.feeds(float_model)]
    model = fw.quantize_aware(float_model, calibration=samples, progress=False)
    finished = fw.finalize(model)
    assert finished.plan.kept_float == {"y": "LOG_SOFTMAX: it has no training kernel in this form"}
    assert finished.plan.notes[-1] == "nothing was trained: this is what quantize makes of the model"
    with pytest.raises(UnsupportedOp, match=r"strict: 1 node\(s\) have no training kernel: LOG_SOFTMAX 'y'"):
        fw.quantize_aware(float_model, calibration=samples, progress=False, strict=True)


def test_a_target_of_one_s_own_is_trained_for(tmp_path: Path) -> None:
    file = tmp_path / "builtin.toml"
    file.write_text('extends = "litert"\nname = "builtin"\ndescription = "no delegate"\nprofile = "tflite_opt"\n')
    model, inputs = quantized("depthwise", target=file), models.batch("depthwise", 32, seed=2)
    finished = fw.finalize(model)
    assert finished.plan.profile == "tflite_opt"
    assert_equal(predictions(model, inputs), runtime_outputs(finished, inputs))


SCRIPT = """
import featherweight as fw
from tests import models
from tests.training import checking as t
for options in (
    {"train_ranges": fw.RangeTraining("moving_average", delay=1, freeze_after=3)},
    {"train_ranges": fw.RangeTraining("learned", freeze_after=2), "oscillations": "freeze"},
    {"train_ranges": "minmax", "oscillations": "dampen"},
):
    model, inputs = t.quantized("convnet", **options), models.batch("convnet", 8, seed=2)
    t.trained(model, inputs)
    t.assert_equal(t.predictions(model, inputs), t.runtime_outputs(fw.finalize(model), inputs))
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_compute_the_same_integers(backend: str) -> None:
    on_backend(backend, SCRIPT)
