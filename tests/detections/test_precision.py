from __future__ import annotations

import numpy as np
import pytest
from tests.detections.heads import passing, samples

import featherweight as fw
from featherweight.detections import as_truth, mean_average_precision
from featherweight.detections.decoding import Found
from featherweight.detections.precision import _average, _judged, _ranked
from featherweight.errors import DataError

SPLIT = "map:order=xyxy"


def scene(seed, images=12, classes=3):
    """Boxes on images, and what a middling detector finds of them."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        count = int(random.integers(0, 5))
        low = random.uniform(0, 50, (count, 2))
        boxes = np.concatenate([low, low + random.uniform(5, 40, (count, 2))], axis=1)
        kinds = random.integers(0, classes, count)
        truth.append({"boxes": boxes, "classes": kinds, "crowd": random.uniform(size=count) < 0.2})
        noisy = np.concatenate([boxes + random.normal(0, 2, boxes.shape), random.uniform(0, 90, (3, 4))])
        scores = random.uniform(0.1, 1, count + 3)
        order = np.argsort(-scores)
        found.append(Found(noisy[order], scores[order], np.append(kinds, random.integers(0, classes, 3))[order]))
    return as_truth(truth).images, found


@pytest.mark.parametrize("seed", range(3))
def test_the_average_of_every_image_once_is_that_of_pycocotools(seed):
    objects, found = scene(seed)
    judged = _judged(found, objects, 100)
    own = _average(_ranked(judged, len(objects)), np.ones(len(objects), int), judged.params.recThrs)
    assert own == pytest.approx(mean_average_precision(found, objects).value, abs=1e-12)
    assert 0.1 < own < 0.9


def test_an_image_drawn_twice_counts_as_two_images():
    objects, found = scene(4, images=5)
    judged = _judged(found, objects, 100)
    drawn = np.array([2, 0, 1, 0, 3])
    weighted = _average(_ranked(judged, 5), drawn, judged.params.recThrs)
    index = np.repeat(np.arange(5), drawn)
    whole = mean_average_precision([found[i] for i in index], [objects[i] for i in index])
    assert weighted == pytest.approx(whole.value, abs=1e-12)


def test_scores_have_the_value_and_the_spread_of_the_draws():
    objects, found = scene(5)
    result = mean_average_precision(found, objects)
    assert result.scores.mean() == pytest.approx(result.value)
    spread = result.scores.std(ddof=1) / np.sqrt(len(result.scores))
    assert spread == pytest.approx(result.replicates.std(ddof=1))
    assert 0.01 < spread < 0.3


def detector(images=6, **more):
    """A head of boxes and scores for two classes, its samples, and what is on the images: just what it finds."""
    random = np.random.default_rng(0)
    low = random.uniform(0, 3, (images, 4, 2))
    boxes = np.concatenate([low, low + random.uniform(2, 5, (images, 4, 2))], axis=2)
    boxes[..., [0, 2]] *= 2
    kinds = random.integers(0, 2, (images, 4))
    scores = np.eye(2)[kinds] * random.uniform(0.5, 0.9, (images, 4, 1))
    truth = {"boxes": boxes, "classes": kinds, **more}
    return passing(boxes=(4, 4), scores=(4, 2)), samples(boxes=boxes, scores=scores), truth


def evaluated(model, data, metric=SPLIT + ",most_overlap=none", **how):
    return fw.evaluate(model, data, metric, progress=False, **how)


def test_a_detector_that_finds_everything():
    model, inputs, truth = detector()
    found = evaluated(model, (inputs, truth))
    assert (found.metric, found.value, found.count) == ("map", 1.0, 6)
    assert found.higher_is_better is True
    assert found.standard_error == 0


def test_fractions_are_of_the_input_and_pixels_too():
    model, inputs, truth = detector()
    sides = np.array([16, 8, 16, 8])
    fractions = [{**one, "boxes_in": one["boxes_in"] / sides.astype(np.float32)} for one in inputs]
    assert evaluated(model, (fractions, truth)).value == 1
    in_fractions = {**truth, "boxes": truth["boxes"] / sides}
    assert evaluated(model, (inputs, in_fractions)).value == 1
    assert evaluated(model, (fractions, in_fractions)).value == 1


def coco(truth, size=(32, 32), ids=(3, 7)):
    scale = np.tile(np.asarray(size) / (16, 8), 2)
    rows = []
    for image, (boxes, kinds) in enumerate(zip(truth["boxes"] * scale, truth["classes"], strict=True)):
        for box, kind in zip(boxes, kinds, strict=True):
            corner = [*box[:2], *(box[2:] - box[:2])]
            rows.append({"id": len(rows), "image_id": 100 + image, "category_id": ids[kind], "bbox": corner})
    images = [{"id": 100 + i, "width": size[0], "height": size[1]} for i in range(len(truth["boxes"]))]
    return {"images": images, "annotations": rows, "categories": [{"id": i} for i in ids]}


def test_coco_files_have_sizes_of_images_and_numbers_of_categories(tmp_path):
    import json

    model, inputs, truth = detector()
    (tmp_path / "a.json").write_text(json.dumps(coco(truth)))
    metric = f"{SPLIT},most_overlap=none,truth={tmp_path / 'a.json'}"
    assert fw.evaluate(model, inputs, metric, progress=False).value == pytest.approx(1)
    assert evaluated(model, (inputs, coco(truth))).value == pytest.approx(1)


def test_letterboxed_images():
    model, inputs, truth = detector()
    # images of 64 × 64 in 16 × 8: a half, with 4 columns of padding at the left
    document = coco(truth, size=(64, 64))
    for row, box in zip(document["annotations"], truth["boxes"].reshape(-1, 4), strict=True):
        box = (box - [4, 0, 4, 0]) * 8
        row["bbox"] = [*box[:2], *(box[2:] - box[:2])]
    assert evaluated(model, (inputs, document), SPLIT + ",most_overlap=none,letterbox=true").value == pytest.approx(1)
    assert evaluated(model, (inputs, document)).value < 0.2


def test_the_numbers_of_categories_that_do_not_fit_are_said():
    model, inputs, truth = detector()
    with pytest.raises(DataError, match="scores for 2 classes, and the truth lists 3 categories, numbered 1 to 3"):
        evaluated(model, (inputs, coco(truth, ids=(1, 2)) | {"categories": [{"id": i} for i in (1, 2, 3)]}))
    with pytest.raises(DataError, match=r"hold\(s\) class 2, and the model's 2 classes are 0 to 1.*first_class=1"):
        evaluated(model, (inputs, truth | {"classes": truth["classes"] + 1}))
    metric = SPLIT + ",most_overlap=none,first_class=1"
    assert evaluated(model, (inputs, truth | {"classes": truth["classes"] + 1}), metric).value == 1


def test_crowds_take_any_number_and_are_not_missed():
    model, inputs, truth = detector(images=2)
    crowd = np.zeros((2, 4), bool)
    crowd[0, 0] = True
    assert evaluated(model, (inputs, truth | {"crowd": crowd})).value == 1


def test_no_detections_are_zero_with_a_word(caplog):
    model, inputs, truth = detector()
    found = evaluated(model, (inputs, truth), SPLIT + ",least_score=0.95")
    assert (found.value, found.standard_error) == (0, 0)
    assert "nothing is found: no score is 0.95 or more" in caplog.text


def test_numbers_that_are_none_are_said(caplog):
    _, inputs, truth = detector()
    model = passing("LOG", boxes=(4, 4), scores=(4, 2))
    fed = [{n: v if n == "image" else np.exp(v) for n, v in one.items()} for one in inputs]
    assert evaluated(model, (fed, truth)).value == 1
    fed[0]["boxes_in"][0, 0] = -1
    assert evaluated(model, (fed, truth)).value < 1
    assert "2 scores whose number or box is not finite" in caplog.text


def test_x_and_y_that_changed_places_are_named(caplog):
    model, inputs, truth = detector()
    found = evaluated(model, (inputs, truth), "map:order=yxyx,most_overlap=none,unit=fraction")
    assert found.value < 0.1
    rows = passing(rows=(4, 6))
    fed = np.concatenate(
        [truth["boxes"][..., [1, 0, 3, 2]], np.full((6, 4, 1), 0.5), truth["classes"][..., None] + 1], -1
    )
    more = evaluated(rows, (samples(rows=fed), truth), "map:layout=rows,order=yxyx,unit=pixels")
    assert more.value < 0.1
    assert "would be 1.000 if class numbers were one less" in caplog.text


def test_swapped_axes_on_a_square_image_are_named(caplog):
    model, inputs, truth = detector()
    swapped = [{**one, "boxes_in": one["boxes_in"][:, [1, 0, 3, 2]]} for one in inputs]
    assert evaluated(model, (swapped, truth)).value < 0.1
    assert "would be 1.000 if x and y changed places" in caplog.text


def test_axes_that_changed_places_are_named_for_images_that_are_not_square(caplog):
    model, inputs, truth = detector()
    swapped = [{**one, "boxes_in": (one["boxes_in"] / np.float32([16, 8, 16, 8]))[:, [1, 0, 3, 2]]} for one in inputs]
    assert (
        evaluated(model, (swapped, coco(truth, size=(40, 200))), SPLIT + ",most_overlap=none,unit=fraction").value < 0.1
    )
    assert "would be 1.000 if x and y changed places" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"boxes": [[0, 0, 1, 1]]}], "has the keys boxes"),
        ([{"boxes": [[0, 0, 1, 1]], "classes": [0, 1]}], "1 boxes and 2 classes"),
        ([{"boxes": [[5, 5, 1, 1]], "classes": [0]}], "second corner comes before the first.*truth_order"),
        ([{"boxes": [[0, 0, np.nan, 1]], "classes": [0]}], "no number"),
        ([{"boxes": [[0, 0, 1, 1]], "classes": [0.5]}], "classes are .0.5."),
        ([{"boxes": [], "classes": []}] * 6, "not one box on 6 images"),
        ([{"boxes": [[0, 0, 1, 1]], "classes": [0]}], r"6 samples, and the labels describe\(s\) 1 images"),
        ({"boxes": np.zeros((6, 1, 4)), "classes": np.full((6, 1), np.nan)}, "classes hold NaN or infinity"),
        ({"annotations": []}, "no COCO description of boxes"),
        ({"boxes": np.zeros((6, 4)), "classes": np.zeros(6)}, r"boxes have the shape \[6, 4\]"),
        ("missing.json", "missing.json' can't be read"),
        (np.zeros(6), "say.s. nothing of boxes: found an ndarray"),
        (None, "does not say what is on the images"),
    ],
)
def test_a_truth_that_is_none(labels, message):
    model, inputs, _ = detector()
    with pytest.raises(DataError, match=message):
        evaluated(model, (inputs, labels))


def test_a_teacher_says_what_is_wanted():
    model, inputs, _ = detector()
    found = fw.evaluate(model, inputs, fw.Boxes(order="xyxy", most_overlap=None, teacher=model), progress=False)
    assert found.value == 1
    with pytest.raises(DataError, match=r"the teacher finds nothing.*largest is 0.8"):
        evaluated(model, inputs, fw.Boxes(order="xyxy", teacher=model, teacher_score=0.95))


def test_paired_differences_are_those_of_the_same_draws():
    model, inputs, truth = detector(images=20)
    worse = [{**one, "boxes_in": one["boxes_in"] + (i % 2)} for i, one in enumerate(inputs)]
    before, after = evaluated(model, (inputs, truth)), evaluated(model, (worse, truth))
    difference = fw.paired_difference(after, before)
    assert difference.value == pytest.approx(after.value - 1)
    assert difference.is_significant
    assert difference == fw.paired_difference(evaluated(model, (worse, truth)), before)


def test_boxes_as_labels_of_another_metric_are_an_error():
    model, inputs, truth = detector()
    with pytest.raises(DataError, match="labels are boxes"):
        evaluated(model, (inputs, truth), "accuracy", output="scores")


def test_pycocotools_that_is_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    model, inputs, truth = detector()
    with pytest.raises(DataError, match=r"pip install 'featherweight\[detection\]'"):
        evaluated(model, (inputs, truth))


def test_one_image_has_no_standard_error():
    model, inputs, truth = detector()
    found = evaluated(model, (inputs[:1], {name: values[:1] for name, values in truth.items()}))
    assert found.value == 1
    assert np.isnan(found.standard_error)


def test_draws_without_an_object_are_drawn_anew():
    model, inputs, truth = detector()
    empty = [{"boxes": [], "classes": []}] * 5
    labels = [{"boxes": truth["boxes"][0], "classes": truth["classes"][0]}, *empty]
    found = evaluated(model, (inputs, labels))
    assert found.standard_error < 0.2


def test_another_layout_is_named_where_class_numbers_do_not_fit():
    rows = np.zeros((6, 7, 5))
    with pytest.raises(DataError, match=r"background=last\), or whether it has another layout than joined"):
        evaluated(passing(o=(7, 5)), (samples(o=rows), detector()[2]), "map:layout=joined")


def test_the_last_column_can_be_that_of_no_object():
    model, inputs, truth = detector()
    scores = np.stack([one["scores_in"] for one in inputs])
    more = np.concatenate([scores, np.full((*scores.shape[:2], 1), 0.99)], axis=2)
    boxes = np.stack([one["boxes_in"] for one in inputs])
    last = passing(boxes=boxes.shape[1:], scores=more.shape[1:])
    found = evaluated(last, (samples(boxes=boxes, scores=more), truth), SPLIT + ",most_overlap=none,background=last")
    assert found.value == evaluated(model, (inputs, truth)).value


@pytest.mark.parametrize("order", ["cxcywh", "cycxhw"])
def test_labels_of_centre_and_size(order):
    model, inputs, truth = detector()
    first, second = truth["boxes"][..., :2], truth["boxes"][..., 2:]
    centred = np.concatenate([(first + second) / 2, second - first], axis=-1)
    given = centred if order == "cxcywh" else centred[..., [1, 0, 3, 2]]
    metric = f"{SPLIT},most_overlap=none,truth_order={order}"
    assert evaluated(model, (inputs, truth | {"boxes": given}), metric).value == pytest.approx(1)
