from __future__ import annotations

import json

import numpy as np
import pytest
from tests.operators import networks
from typer.testing import CliRunner

import featherweight as fw
from featherweight.cli import app


def pictures(count=24):
    return np.random.default_rng(0).normal(size=(count, 24, 24, 3)).astype(np.float32)


def boxes_of(model, images):
    """What the model's own post-processing finds, as labels."""
    labels = []
    for image in images:
        outputs = fw.run(model, image[np.newaxis])
        boxes, classes, scores = (outputs[f"detected_{name}"] for name in ("boxes", "classes", "scores"))
        is_one = scores[0] > 0.4
        labels.append({"boxes": boxes[0][is_one], "classes": classes[0][is_one].astype(int)})
    return labels


@pytest.fixture(scope="module")
def quantized():
    return fw.quantize(networks.detector(), calibration=list(pictures()), progress=False)


def test_post_processing_stays_float_and_runs_in_an_int8_file(quantized):
    node = next(n for n in quantized.model.main.nodes if n.custom_code)
    assert {quantized.model.main.tensors[n].dtype for n in (*node.inputs, *node.outputs)} == {"float32"}
    assert all(np.isfinite(output).all() for output in fw.run(quantized.model, pictures(1)).values())


def test_the_outputs_of_post_processing_are_known_by_their_operator(quantized):
    images = list(pictures())
    model = networks.detector()
    truth = boxes_of(model, images)
    assert any(len(one["boxes"]) for one in truth)
    about = fw.Boxes(truth_order="yxyx")
    whole = fw.evaluate(model, (images, truth), about, progress=False)
    after = fw.evaluate(quantized.model, (images, truth), about, progress=False)
    assert whole.value == pytest.approx(1, abs=1e-6)
    assert 0 < after.value <= 1
    assert fw.paired_difference(after, whole).value == pytest.approx(after.value - 1)


def test_a_detector_without_labels_is_measured_by_its_own_boxes(tmp_path):
    fw.save(networks.detector(), tmp_path / "float.tflite")
    np.savez(tmp_path / "x.npz", x=pictures(8))
    metric = f"map:teacher={tmp_path / 'float.tflite'},teacher_score=0.4"
    arguments = ["evaluate", str(tmp_path / "float.tflite"), "--data", str(tmp_path / "x.npz"), "--metric", metric]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["value"] == pytest.approx(1)


def test_boxes_in_a_file_of_arrays(tmp_path):
    fw.save(networks.detector(), tmp_path / "float.tflite")
    images = pictures(8)
    found = boxes_of(networks.detector(), images)
    most = max(len(one["boxes"]) for one in found)
    boxes, classes = np.zeros((8, most, 4)), np.full((8, most), -1)
    for index, one in enumerate(found):
        boxes[index, : len(one["boxes"])] = one["boxes"]
        classes[index, : len(one["boxes"])] = one["classes"]
    np.savez(tmp_path / "data.npz", x=images, boxes=boxes[..., [1, 0, 3, 2]], classes=classes)
    arguments = ["evaluate", str(tmp_path / "float.tflite"), "--data", str(tmp_path / "data.npz"), "--metric", "map"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("map 1 ± 0 (8 examples)")


def test_sensitivity_by_the_float_models_own_boxes():
    images = list(pictures())
    about = fw.Boxes(teacher_score=0.4)
    scores = fw.sensitivity(
        networks.detector(), images[:6], calibration=images, metric=about, forms=("int8",), progress=False
    )
    assert all(row.drop is not None and row.drop_error is not None and -0.001 <= row.drop <= 1 for row in scores.rows)
    assert scores.metric.startswith("map:teacher_score=0.4 of ")


@pytest.fixture(scope="module")
def joined():
    """A detector whose boxes, in hundreds, and scores leave it in one output."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, 4, padding="same", activation="relu")(image)
    boxes = ops.abs(layers.Reshape((4, 4))(layers.Conv2D(4, 1)(x))) * 500.0 + 2.0
    scores = layers.Reshape((4, 2))(layers.Conv2D(2, 1, activation="sigmoid")(x))
    return keras.Model(image, ops.concatenate([boxes, scores], axis=-1))


def test_training_keeps_the_steps_of_scores_beside_boxes(joined):
    images = np.random.default_rng(0).uniform(size=(16, 8, 8, 3)).astype(np.float32)
    trained = fw.quantize_aware(joined, calibration=images, progress=False)
    done = fw.finalize(trained)
    assert [reason.partition(":")[0] for reason in done.plan.kept_float.values()] == ["CONCATENATION"]
    found = trained.predict(images, verbose=0)
    np.testing.assert_array_equal(found, fw.run(done, images))
    wanted = fw.run(fw.load(joined), images)[..., 4:]
    np.testing.assert_allclose(found[..., 4:], wanted, atol=2 / 256)


def test_a_search_by_what_the_float_model_finds(joined):
    images = np.random.default_rng(0).uniform(size=(16, 8, 8, 3)).astype(np.float32)
    about = fw.Boxes(layout="joined", unit="pixels", teacher_score=0.4)
    found = fw.search(
        joined, images[8:], calibration=list(images[:8]), metric=about, max_drop=0.5, forms=("int8",), progress=False
    )
    assert found.best.value is not None
    assert found.best.value >= 0.5
    # What joins boxes and scores is no integer operator of any file that was tried.
    (all_int8,) = [one for one in found.tried if set(one.choice.values()) == {"int8"}]
    assert all_int8.value is not None
    assert all_int8.value > 0.3
