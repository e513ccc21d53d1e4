"""Raw heads: boxes relative to the cells of levels, as maps and rows of any layout, become the boxes that made them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.detections.heads import passing, samples

import featherweight as fw
from featherweight.errors import DataError

WIDTH, HEIGHT, CLASSES, STRIDES = 16, 8, 3, (4, 8)
ANCHORS = {4: [(3, 2), (5, 5)], 8: [(4, 6), (8, 3)]}
SIZES = "+".join(str(number) for level in ANCHORS.values() for pair in level for number in pair)


def logit(p):
    return np.log(p / (1 - p))


def scenes(count=3):
    """On each image one box for each level: (column, row, centre, size, class) by stride."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        one = {}
        for stride in STRIDES:
            cell = np.array([random.integers(WIDTH // stride), random.integers(HEIGHT // stride)])
            centre = (cell + random.uniform(0.1, 0.9, 2)) * stride
            one[stride] = cell, centre, random.uniform(1, 6, 2), int(random.integers(CLASSES))
        found.append(one)
    return found


def truth(made):
    rows = [[(*(c - s / 2), *(c + s / 2)) for _, c, s, _ in one.values()] for one in made]
    kinds = [[kind for *_, kind in one.values()] for one in made]
    return [{"boxes": boxes, "classes": classes} for boxes, classes in zip(rows, kinds, strict=True)]


def raw(coding, cell, centre, size, stride, anchor):
    where = centre / stride - cell
    match coding:
        case "exponential":
            return *where, *np.log(size / anchor)
        case "yolov3":
            return *logit(where), *np.log(size / anchor)
        case "yolov5":
            return *logit((where + 0.5) / 2), *logit(np.sqrt(size / anchor) / 2)
        case _:
            return *(centre - (cell + 0.5) * stride), *size


def heads(made, coding, anchors):
    """Maps (n, rows, columns, anchors, 5 + classes) of each level, as logits; objects are the last anchor's."""
    maps = [np.full((len(made), HEIGHT // s, WIDTH // s, anchors, 5 + CLASSES), -9.0) for s in STRIDES]
    for index, one in enumerate(made):
        for level, (stride, (cell, centre, size, kind)) in zip(maps, one.items(), strict=True):
            anchor = np.array(ANCHORS[stride][-1] if anchors > 1 else (stride, stride))
            own = level[index, cell[1], cell[0], anchors - 1]
            own[:4], own[4], own[5:], own[5 + kind] = raw(coding, cell, centre, size, stride, anchor), 6, -6, 6
    return maps


LAYOUTS = {
    "channels last": lambda m: m.reshape(*m.shape[:3], -1),
    "channels first": lambda m: m.reshape(*m.shape[:3], -1).transpose(0, 3, 1, 2),
    "anchors first": lambda m: m.transpose(0, 3, 1, 2, 4),
    "rows": lambda m: m.reshape(len(m), -1, m.shape[-1]),
}


def value(model, data, how):
    return fw.evaluate(model, data, f"map:strides=4+8,activation=sigmoid,{how}", progress=False).value


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("coding", "anchors"), [("exponential", 1), ("yolov3", 2), ("yolov5", 2), ("linear", 1), ("linear", 2)]
)
def test_grids_of_yolo_and_blazeface(coding, anchors, layout):
    made = scenes()
    outputs = {f"p{i}": LAYOUTS[layout](level) for i, level in enumerate(heads(made, coding, anchors))}
    if layout == "rows":
        outputs = {"all": np.concatenate(list(outputs.values()), axis=1)}
    model = passing(**{name: level.shape[1:] for name, level in outputs.items()})
    each = f",anchor_sizes={SIZES}" if coding.startswith("yolo") else f",per_cell={anchors}"
    how = f"layout=joined-objectness,sizes={coding}{each}"
    assert value(model, (samples(**outputs), truth(made)), how) == pytest.approx(1)


def distances(made, bins, offset=0.5):
    """Maps of distances (n, rows, columns, 4 · bins), and of logits (n, rows, columns, classes), of each level."""
    boxes = [np.zeros((len(made), HEIGHT // s, WIDTH // s, 4, bins)) for s in STRIDES]
    scores = [np.full((len(made), HEIGHT // s, WIDTH // s, CLASSES), -9.0) for s in STRIDES]
    for index, one in enumerate(made):
        for level, (stride, (cell, centre, size, kind)) in enumerate(one.items()):
            point = (cell + offset) * stride
            wanted = np.concatenate([point - centre + size / 2, centre + size / 2 - point]) / stride
            own = boxes[level][index, cell[1], cell[0]]
            if bins == 1:
                own[:, 0] = wanted
            else:
                low = np.floor(np.clip(wanted, 0, bins - 1.01)).astype(int)
                share = np.clip(wanted, 0, bins - 1.01) - low
                own[:], side = -30, np.arange(4)
                own[side, low], own[side, low + 1] = np.log(1 - share + 1e-9), np.log(share + 1e-9)
            scores[level][index, cell[1], cell[0], kind] = 5
    return [level.reshape(*level.shape[:3], -1) for level in boxes], scores


# Bins know no distance to the other side of their point.
def least(bins):
    return 0.9 if bins > 1 else 1 - 1e-6


@pytest.mark.parametrize("bins", [1, 8])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["last", "first"])
def test_distances_of_the_sides_and_bins_of_them(bins, axes):
    made = scenes()
    both = zip("bs", distances(made, bins), strict=True)
    outputs = {f"{n}{i}": m.transpose(axes) for n, maps in both for i, m in enumerate(maps)}
    model = passing(**{name: level.shape[1:] for name, level in outputs.items()})
    assert value(model, (samples(**outputs), truth(made)), "order=ltrb,boxes=b0+b1,scores=s0+s1") >= least(bins)


@pytest.mark.parametrize("bins", [1, 8])
@pytest.mark.parametrize("is_map", [True, False], ids=["maps", "rows"])
@pytest.mark.parametrize("layout", ["joined", "scores-first"])
def test_distances_and_scores_in_one_output(layout, is_map, bins):
    """YOLOv8's head as it trains, and NanoDet's."""
    made = scenes()
    maps = [
        np.concatenate([b, s] if layout == "joined" else [s, b], axis=-1)
        for b, s in zip(*distances(made, bins), strict=True)
    ]
    outputs = {f"p{i}": level.transpose(0, 3, 1, 2) for i, level in enumerate(maps)}
    if not is_map:
        outputs = {"all": np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in maps], axis=1)}
    model = passing(**{name: level.shape[1:] for name, level in outputs.items()})
    how = f"layout={layout},order=ltrb,bins={bins}"
    assert value(model, (samples(**outputs), truth(made)), how) >= least(bins)


def test_distances_from_the_corner_of_a_cell():
    made = scenes()
    outputs = {f"{n}{i}": m for n, maps in zip("bs", distances(made, 1, 0.0), strict=True) for i, m in enumerate(maps)}
    model = passing(**{name: level.shape[1:] for name, level in outputs.items()})
    data, how = (samples(**outputs), truth(made)), "order=ltrb,boxes=b0+b1,scores=s0+s1"
    assert value(model, data, f"{how},offset=0") == pytest.approx(1)
    assert value(model, data, how) < 0.5


def test_bins_that_the_scores_are_counted_with():
    """With COCO's categories the number of classes shows that a distance has more than one column."""
    made = scenes()
    maps = [np.concatenate([b, s], axis=-1) for b, s in zip(*distances(made, 8), strict=True)]
    outputs = {"all": np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in maps], axis=1)}
    model = passing(**{name: level.shape[1:] for name, level in outputs.items()})
    rows = enumerate(truth(made))
    coco = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(len(made))],
        "categories": [{"id": kind} for kind in range(CLASSES)],
        "annotations": [
            {"image_id": i, "category_id": kind, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
            for i, one in rows
            for b, kind in zip(one["boxes"], one["classes"], strict=True)
        ],
    }
    with pytest.raises(DataError, match=r"scores for 31 classes, and the truth lists 3 categories.*\(bins=8\)"):
        value(model, (samples(**outputs), coco), "layout=joined,order=ltrb")
    assert value(model, (samples(**outputs), coco), "layout=joined,order=ltrb,bins=8") >= least(8)


def test_as_many_channels_as_rows_are_read_like_the_other_maps():
    from featherweight.detections.cells import laid_out

    about = fw.Boxes(layout="joined", strides=[1, 2])
    maps = {"a": np.arange(512).reshape(1, 8, 8, 8), "b": np.arange(128).reshape(1, 8, 4, 4)}
    found = laid_out(maps, ["a", "b"], about, (8, 8))
    np.testing.assert_array_equal(found["a"], maps["a"].transpose(0, 2, 3, 1).reshape(1, 64, 8))
    alone = laid_out(maps, ["a"], about, (8, 8))
    np.testing.assert_array_equal(alone["a"], maps["a"].reshape(1, 64, 8))


@pytest.mark.parametrize(
    ("shape", "how", "message"),
    [
        ((4, 4, 8), "layout=joined-objectness", r"shape \[1, 4, 4, 8\], and the strides make levels of 2 × 4, 1 × 2"),
        ((11, 8), "layout=joined-objectness", "on an image of 16 × 8 make 10 boxes .1, 1 per cell., and there are 11"),
        ((2, 4, 9), "layout=joined,per_cell=2", "9 columns for each cell, which 2 boxes do not share evenly"),
        ((10, 8), "layout=joined,order=xyxy", "boxes relative to cells are cxcywh, cycxhw or ltrb"),
        ((10, 8), "anchor_sizes=1+2+3", "allowed: width and height in pixels of each anchor"),
        ((10, 8), "per_cell=1+2+3", "3 numbers, and there are 2 strides"),
        ((10, 8), "background=middle", "background is 'middle'"),
        ((10, 8), "bins=8", "bins are those of distances. Say order=ltrb"),
        ((10, 8), "layout=joined,order=ltrb,bins=2", "holds 8 numbers for each box, and layout 'joined' has 9 numbers"),
    ],
)
def test_levels_that_do_not_fit(shape, how, message):
    model = passing(out=shape)
    with pytest.raises(DataError, match=message):
        value(model, (samples(out=np.zeros((3, *shape))), truth(scenes())), how)


@pytest.mark.parametrize(
    "about", [{"sizes": "yolov5"}, {"order": "ltrb"}, {"per_cell": 2}, {"anchor_sizes": [1, 2]}, {"offset": 0}]
)
def test_what_goes_with_strides_alone(about):
    with pytest.raises(DataError, match="strides of the levels"):
        fw.Boxes(**about)


def test_strides_need_the_size_of_the_image():
    from featherweight.detections.decoding import decoded, roles_of

    about = fw.Boxes(layout="joined", strides=8)
    roles = roles_of({"o": (1, 2, 7)}, about)
    with pytest.raises(DataError, match="size of the model's image is not fixed, and strides need it"):
        decoded({"o": np.zeros((1, 2, 7))}, roles, about)
