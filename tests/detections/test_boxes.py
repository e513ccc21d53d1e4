from __future__ import annotations

import numpy as np
import pytest

import featherweight as fw
from featherweight.detections.boxes import boxes_of, is_boxes
from featherweight.detections.decoding import decoded, order_of, roles_of
from featherweight.errors import DataError, RecipeError


def found(outputs, **about):
    description = fw.Boxes(**about)
    arrays = {name: np.asarray(values, np.float32) for name, values in outputs.items()}
    roles = roles_of({name: values.shape for name, values in arrays.items()}, description)
    return decoded(arrays, roles, description)


def test_a_description_has_one_form_as_text_and_file(tmp_path):
    text = "map:layout=split,order=cycxhw,boxes=a+b,scores=c+d,first_class=1,most_overlap=none"
    about = boxes_of(text)
    assert (about.boxes, about.scores, about.first_class, about.most_overlap) == (("a", "b"), ("c", "d"), 1, None)
    assert str(boxes_of(str(about).replace("None", "none"))) == str(about)
    np.save(tmp_path / "anchors.npy", np.ones((3, 4)))
    (tmp_path / "b.toml").write_text('layout = "split"\norder = "cycxhw"\nanchors = "anchors.npy"\n')
    read = boxes_of(f"map:{tmp_path / 'b.toml'}")
    assert read.anchors.shape == (3, 4)
    assert str(read) != str(boxes_of("map:layout=split,order=cycxhw"))
    assert is_boxes(f"map:{tmp_path / 'b.toml'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map:layouts=split", "no key 'layouts'"),
        ("map:layout=ssd", "layout is 'ssd' .allowed: auto, postprocess"),
        ("map:layout=split,order", "'order' is no description"),
        ("map:missing.toml", "missing.toml' can't be read"),
        ("map:anchors=missing.npy", "missing.npy' can't be read"),
        ("map:truth=a.json,teacher=b.tflite", "both say what is on the images"),
        ("map:anchor_scales=10+10", "2 numbers"),
        ("map:most_overlap=2", "most_overlap is 2"),
    ],
)
def test_a_wrong_description_says_what_is_allowed(text, message):
    with pytest.raises(DataError, match=message):
        boxes_of(text)


def test_wrong_values_of_the_record_are_errors():
    with pytest.raises(RecipeError, match=r"Boxes: order is 'yx' \(allowed"):
        fw.Boxes(order="yx")
    with pytest.raises(DataError, match=r"anchors have the shape \[3\]"):
        fw.Boxes(anchors=[1, 2, 3])


BOX = [0.25, 0.25, 0.75, 0.5]  # x0, y0, x1, y1


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("xyxy", [0.25, 0.25, 0.75, 0.5]),
        ("yxyx", [0.25, 0.25, 0.5, 0.75]),
        ("cxcywh", [0.5, 0.375, 0.5, 0.25]),
        ("cycxhw", [0.375, 0.5, 0.25, 0.5]),
        ("xywh", [0.25, 0.25, 0.5, 0.25]),
    ],
)
def test_orders(order, numbers):
    batch = found({"b": [[numbers]], "s": [[[0.9]]]}, order=order, boxes="b", scores="s")
    np.testing.assert_allclose(batch.found[0].boxes, [BOX], atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "output", "score", "count"),
    [
        ("joined", [[[0.5, 0.375, 0.5, 0.25, 0.1, 0.8]]], 0.8, 2),
        ("joined-objectness", [[[0.5, 0.375, 0.5, 0.25, 0.5, 0.1, 0.8]]], 0.4, 2),
        ("transposed", [[[0.5], [0.375], [0.5], [0.25], [0.1], [0.8]]], 0.8, 2),
        ("rows", [[[*BOX, 0.8, 1.0]]], 0.8, None),
    ],
)
def test_layouts_of_one_output(layout, output, score, count):
    batch = found({"o": output}, layout=layout, least_score=0.3)
    one = batch.found[0]
    np.testing.assert_allclose(one.boxes, [BOX], atol=1e-6)
    np.testing.assert_allclose(one.scores, [score], atol=1e-6)
    assert one.classes.tolist() == [1]
    assert batch.class_count == count


def test_boxes_relative_to_anchors():
    anchors = np.array([[0.4, 0.5, 0.2, 0.1]], np.float32)  # y, x, h, w
    raw = [[[1.0, -2.0, 5 * np.log(2), 0.0]]]
    about = {"order": "cycxhw", "anchors": anchors, "anchor_scales": (10, 10, 5, 5), "boxes": "b", "scores": "s"}
    one = found({"b": raw, "s": [[[3.0, 0.0]]]}, **about, activation="sigmoid", background=True).found[0]
    y, x, h, w = 0.4 + 0.1 * 0.2, 0.5 - 0.2 * 0.1, 0.4, 0.1
    np.testing.assert_allclose(one.boxes, [[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], atol=1e-6)
    np.testing.assert_allclose(one.scores, [0.5])
    assert one.classes.tolist() == [0]


def test_linear_sizes_and_more_columns_as_mediapipe_has_them():
    anchors = np.array([[0.5, 0.25, 1, 1]], np.float32)
    raw = np.zeros((1, 1, 16))
    raw[0, 0, :4] = 12.8, 0, 64, 32
    about = {"order": "cxcywh", "anchors": anchors, "anchor_scales": (128,) * 4, "sizes": "linear"}
    one = found({"r": raw, "c": [[[2.0]]]}, **about, boxes="r", scores="c", activation="sigmoid").found[0]
    np.testing.assert_allclose(one.boxes, [[0.35, 0.125, 0.85, 0.375]], atol=1e-6)


def test_levels_are_joined_in_the_order_of_their_names():
    outputs = {
        "b0": np.full((1, 1, 2, 4), 0.25),
        "b1": np.full((1, 1, 1, 4), 0.5),
        "s0": np.arange(4).reshape(1, 1, 2, 2) / 10,
        "s1": np.full((1, 1, 1, 2), 0.9),
    }
    about = {"order": "xywh", "boxes": ["b0", "b1"], "scores": ["s0", "s1"], "most_overlap": None}
    one = found(outputs, **about).found[0]
    np.testing.assert_allclose(one.scores, [0.9, 0.9, 0.3, 0.2, 0.1], atol=1e-6)
    np.testing.assert_allclose(one.boxes[0], [0.5, 0.5, 1, 1])


def test_overlapping_boxes_of_a_class_leave_the_best():
    boxes = [[[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10]]]
    scores = [[[0.5, 0.0], [0.9, 0.0], [0.0, 0.4], [0.3, 0.0]]]
    one = found({"b": boxes, "s": scores}, order="xyxy", boxes="b", scores="s").found[0]
    assert one.classes.tolist() == [0, 1, 0]
    np.testing.assert_allclose(one.scores, [0.9, 0.4, 0.3], atol=1e-6)
    every = found({"b": boxes, "s": scores}, order="xyxy", boxes="b", scores="s", most_overlap=None).found[0]
    assert len(every.scores) == 4


def test_what_is_not_finite_is_left_out_and_counted():
    boxes = [[[0, 0, np.nan, 10], [0, 0, 10, 10]]]
    batch = found({"b": boxes, "s": [[[0.9], [np.nan]]]}, order="xyxy", boxes="b", scores="s")
    assert batch.lost == 2
    assert len(batch.found[0].scores) == 0


def test_count_ends_what_post_processing_gives():
    outputs = {"b": np.ones((1, 3, 4)), "k": np.ones((1, 3)), "s": np.full((1, 3), 0.5), "n": [2.0]}
    batch = found(outputs, layout="postprocess", classes="k", scores="s")
    assert len(batch.found[0].scores) == 2


@pytest.mark.parametrize(
    ("shapes", "about", "message"),
    [
        ({"o": (1, 84, 8400)}, {}, "one output can hold boxes in several ways.*layout=joined or"),
        ({"a": (1, 9, 4), "b": (1, 9, 4)}, {}, "more than one output of the shape"),
        ({"a": (1, 9, 4), "b": (1, 8, 3)}, {}, "no output of the shape .n, B, C. is scores"),
        ({"a": (1, 9, 5), "b": (1, 9, 3)}, {}, r"no output of the shape \(n, B, 4\) is boxes"),
        ({"a": (1, 9, 4), "b": (1, 9, 3)}, {"scores": "c"}, "no output 'c'"),
        (
            {"a": (1, 9, 4), "b": (1, 9), "c": (1, 9), "n": (1,)},
            {"layout": "postprocess"},
            "more than one.*scores=NAME",
        ),
    ],
)
def test_outputs_that_do_not_say_what_they_are(shapes, about, message):
    with pytest.raises(DataError, match=message):
        roles_of(shapes, fw.Boxes(**about))


def test_an_order_that_nobody_knows_is_asked_for():
    about = fw.Boxes()
    roles = roles_of({"a": (1, 9, 4), "b": (1, 9, 3)}, about)
    with pytest.raises(DataError, match="begins with x or y"):
        order_of(roles, about)


def test_wrong_numbers_of_anchors_and_scores():
    with pytest.raises(DataError, match="2 anchors, and 1 boxes"):
        found({"b": [[[0] * 4]], "s": [[[1]]]}, order="cxcywh", anchors=np.ones((2, 4)), boxes="b", scores="s")
    with pytest.raises(DataError, match="no whole number of scores"):
        found({"b": [[[0] * 4] * 2], "s": [[[1] * 3]]}, order="cxcywh", boxes="b", scores="s")
    with pytest.raises(DataError, match="5 numbers for each box, and layout 'rows' has 6"):
        found({"o": np.zeros((1, 3, 5))}, layout="rows")
