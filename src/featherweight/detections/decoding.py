"""Makes a detector's outputs into boxes with scores and classes, as a description says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featherweight.detections.boxes import Boxes
from featherweight.detections.cells import cells_of, in_pixels, laid_out, together
from featherweight.detections.coordinates import corners, from_anchors
from featherweight.errors import DataError, listed

Outputs = Mapping[str, np.ndarray]
# Which of a batch's outputs are what, and what is usual in that layout.
_JOINED = ("joined", "joined-objectness", "scores-first", "transposed")
SINGLE = (*_JOINED, "rows")
_ORDERS = {"postprocess": "yxyx", "rows": "xyxy", **dict.fromkeys(_JOINED, "cxcywh")}
_USUAL_OVERLAP = 0.6
# Of an image, so many of the best candidates are gone through for boxes that overlap.
_MOST_CANDIDATES = 3000


class Found(NamedTuple):
    """What is found on one image, the best first: boxes (k, 4) as x0, y0, x1, y1, scores (k,), classes (k,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Roles:
    """Which outputs are what.

    Attributes:
        layout: none is left open.
        boxes, scores: names of outputs, level for level.
    """

    layout: str
    boxes: tuple[str, ...]
    scores: tuple[str, ...] = ()
    classes: str = ""
    count: str = ""


def roles_of(shapes: Mapping[str, Sequence[int]], about: Boxes, made: Sequence[str] = ()) -> Roles:
    """Returns which outputs are what.

    Args:
        shapes: of the outputs, with the batch.
        about: may leave names and layout open.
        made: the outputs of a post-processing operator in the model, in its order: boxes, classes, scores, count.

    Raises:
        DataError: if the outputs do not tell it, or do not fit the description.
    """
    named = [*(about.boxes or ()), *(about.scores or ()), *(n for n in (about.classes, about.count) if n)]
    for name in named:
        if name not in shapes:
            raise DataError(f"map: there is no output '{name}' (the outputs are {_shown(shapes)}). Choose one of them.")
    layout = about.layout
    if layout == "auto":
        layout = "postprocess" if len(made) == 4 or about.count else "split"
        if len(shapes) == 1:
            raise _unclear(shapes, "one output can hold boxes in several ways", "layout=" + " or ".join(SINGLE))
    if layout in SINGLE:
        is_level = about.strides is not None and layout in ("joined", "joined-objectness", "scores-first")
        names = about.boxes or (tuple(shapes) if len(shapes) == 1 or is_level else ())
        if is_level:
            return Roles(layout, names)
        if len(names) != 1:
            raise _unclear(shapes, f"layout '{layout}' is one output", "boxes=NAME")
        if len(shapes[names[0]]) != 3:
            raise _unclear(shapes, f"layout '{layout}' is an output of three axes", "another layout")
        return Roles(layout, names)
    if layout == "postprocess" and len(made) == 4 and not named:
        return Roles(layout, (made[0],), (made[2],), made[1], made[3])
    boxes = about.boxes or _only(shapes, lambda s: len(s) == 3 and s[-1] == 4, "(n, B, 4) is boxes", "boxes")
    rest = {name: shape for name, shape in shapes.items() if name not in (*boxes, about.classes, about.count)}
    count = about.count or ""
    if layout == "postprocess" and not count:
        count = _only(rest, lambda s: int(np.prod(s[1:])) == 1 and len(s) < 3, "(n,) is their number", "count")[0]
        rest.pop(count, None)
    size = shapes[boxes[0]][1]
    is_flat = layout == "postprocess" or bool(about.classes)
    scores = about.scores or _only(
        rest,
        (lambda s: len(s) == 2 and s[1] == size) if is_flat else (lambda s: len(s) == 3 and s[1] == size),
        f"({'n, B' if is_flat else 'n, B, C'}) is scores",
        "scores",
    )
    if len(scores) != len(boxes):
        raise DataError(f"map: {len(boxes)} outputs hold boxes, and {len(scores)} scores. Name as many of each.")
    rest = {name: shape for name, shape in rest.items() if name not in scores}
    classes = about.classes or ""
    if layout == "postprocess" and not classes:
        classes = _only(rest, lambda s: len(s) == 2 and s[1] == size, "(n, B) is class numbers", "classes")[0]
    return Roles(layout, boxes, scores, classes, count)


def _only(
    shapes: Mapping[str, Sequence[int]], fits: Callable[[tuple[int, ...]], bool], what: str, key: str
) -> tuple[str, ...]:
    found = tuple(name for name, shape in shapes.items() if fits(tuple(shape)))
    if len(found) != 1:
        raise _unclear(shapes, f"{'no' if not found else 'more than one'} output of the shape {what}", f"{key}=NAME")
    return found


def _unclear(shapes: Mapping[str, Sequence[int]], why: str, way: str) -> DataError:
    return DataError(f"map: which outputs are boxes is not clear: {why} (the outputs are {_shown(shapes)}). Say {way}.")


def _shown(shapes: Mapping[str, Sequence[int]]) -> str:
    return listed(f"'{name}' {list(shape)}" for name, shape in shapes.items())


def order_of(roles: Roles, about: Boxes) -> str:
    """Returns the order of a box's numbers.

    Raises:
        DataError: if only the user can know it.
    """
    if about.order == "auto" and about.strides is not None:
        return "cxcywh"
    if about.order != "auto":
        if about.anchors is not None and not about.order.startswith("c"):
            raise DataError(f"map: order is {about.order}, and boxes relative to anchors are cxcywh or cycxhw.")
        return about.order
    if roles.layout not in _ORDERS or about.anchors is not None:
        raise DataError(
            f"map: the outputs do not say whether a box in '{roles.boxes[0]}' begins with x or y, a corner or the "
            "centre. Say order=xyxy, yxyx, cxcywh, cycxhw or xywh."
        )
    return _ORDERS[roles.layout]


class Batch(NamedTuple):
    """What is found on some images, in the unit of the outputs.

    Attributes:
        found: one for each image.
        lost: scores that were left out, since they or their box were not finite.
        class_count: how many classes the outputs have scores for; None where they name classes by number.
    """

    found: list[Found]
    lost: int
    class_count: int | None


def decoded(outputs: Outputs, roles: Roles, about: Boxes, size: tuple[int, int] | None = None) -> Batch:
    """Returns what is found on each image of a batch.

    Args:
        outputs: of a run.
        roles: which are what.
        about: how they become boxes.
        size: width and height of the model's image, which strides need.

    Raises:
        DataError: if the outputs do not fit the description.
    """
    order = order_of(roles, about)
    if about.strides is not None:
        if size is None:
            raise DataError(
                "map: the size of the model's image is not fixed, and strides need it. Fix it when loading "
                "(input_shapes=, --input-shape)."
            )
        outputs = laid_out(outputs, (*roles.boxes, *roles.scores), about, size)
    boxes, scores, classes = _raw(outputs, roles, about)
    if about.strides is not None and size is not None:
        boxes = in_pixels(boxes, about, order, cells_of(about, size, boxes.shape[1], roles.boxes))
    elif about.anchors is not None:
        boxes = from_anchors(boxes, about, roles.boxes)
    boxes = corners(boxes, order)
    overlap = about.most_overlap
    if overlap == "auto":
        overlap = None if roles.layout in ("postprocess", "rows") else _USUAL_OVERLAP
    counts = outputs[roles.count].reshape(len(boxes)) if roles.count else None
    found: list[Found] = []
    lost = 0
    for index in range(len(boxes)):
        until = len(boxes[index]) if counts is None else _number(counts[index], boxes.shape[1])
        own = None if classes is None else classes[index, :until]
        one, missing = _image(boxes[index, :until], scores[index, :until], own, overlap, about)
        found.append(one)
        lost += missing
    return Batch(found, lost, scores.shape[2] if classes is None else None)


def _number(count: float, most: int) -> int:
    return int(np.clip(np.nan_to_num(count), 0, most))


def _raw(outputs: Outputs, roles: Roles, about: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns boxes (n, B, 4), scores (n, B, C), and class numbers (n, B) where scores are (n, B, 1)."""
    if roles.layout in SINGLE:
        first = together([outputs[name].astype(np.float64) for name in roles.boxes], roles.boxes)
        rows = first.transpose(0, 2, 1) if roles.layout == "transposed" else first
        width = 4 * about.bins
        least = {"rows": 6, "joined-objectness": width + 2}.get(roles.layout, width + 1)
        if rows.shape[2] < least or (roles.layout == "rows" and rows.shape[2] != 6):
            wanted = "6 numbers" if roles.layout == "rows" else f"{least} numbers or more"
            raise DataError(
                f"map: output '{roles.boxes[0]}' of shape {list(first.shape)} holds {rows.shape[2]} numbers for each "
                f"box, and layout '{roles.layout}' has {wanted}. Choose another layout."
            )
        if roles.layout == "rows":
            return rows[..., :4], rows[..., 4:5], rows[..., 5]
        if roles.layout == "scores-first":
            return rows[..., -width:], _activated(rows[..., :-width], about), None
        scores = _activated(rows[..., width:], about)
        if roles.layout == "joined-objectness":
            scores = scores[..., :1] * scores[..., 1:]
        return rows[..., :width], scores, None
    levels = [outputs[name].astype(np.float64) for name in roles.boxes]
    widths = [level.shape[2] if level.ndim == 3 else 4 for level in levels]
    for name, level, width in zip(roles.boxes, levels, widths, strict=True):
        is_own = width != 4 and about.anchors is None and about.strides is None
        if level.ndim not in (3, 4) or level.size % (len(level) * 4) or is_own:
            raise DataError(
                f"map: output '{name}' has the shape {list(level.shape)}, and boxes are (n, B, 4), or (n, h, w, "
                "4 · k); those relative to anchors may have more columns. Name another output: boxes=NAME."
            )
    parts = [level.reshape(len(level), -1, width) for level, width in zip(levels, widths, strict=True)]
    if about.order != "ltrb":  # else each distance can have bins
        parts = [part[..., :4] for part in parts]
    scores_of: list[np.ndarray] = []
    for name, part in zip(roles.scores, parts, strict=True):
        values = outputs[name].astype(np.float64)
        per_box, rest = divmod(values.size // max(len(values), 1), part.shape[1])
        if rest or not per_box or (roles.classes and per_box != 1):
            raise DataError(
                f"map: output '{name}' has the shape {list(values.shape)}, which is no whole number of scores for each "
                f"of {part.shape[1]} boxes. Name the output with the scores of these boxes: scores=NAME."
            )
        scores_of.append(values.reshape(len(values), part.shape[1], per_box))
    if len({scores.shape[2] for scores in scores_of}) > 1:
        raise DataError(f"map: the outputs {listed(roles.scores)} differ in the number of classes. Name one per level.")
    boxes, scores = np.concatenate(parts, axis=1), np.concatenate(scores_of, axis=1)
    classes = outputs[roles.classes].reshape(scores.shape[:2]).astype(np.float64) if roles.classes else None
    return boxes, _activated(scores, about) if classes is None or about.activation == "sigmoid" else scores, classes


def _activated(scores: np.ndarray, about: Boxes) -> np.ndarray:
    with np.errstate(all="ignore"):
        if about.activation == "sigmoid":
            scores = 1 / (1 + np.exp(-scores))
        elif about.activation == "softmax":
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores = powers / powers.sum(axis=-1, keepdims=True)
    if about.background == "last":
        return scores[..., :-1]
    return scores[..., 1:] if about.background else scores


def _image(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray | None, overlap: float | str | None, about: Boxes
) -> tuple[Found, int]:
    """Returns the best of one image, from boxes (B, 4) and scores (B, C)."""
    is_finite = np.asarray(np.isfinite(boxes).all(axis=1))
    if classes is not None:
        is_finite &= np.isfinite(classes)
    is_candidate = is_finite[:, np.newaxis] & np.isfinite(scores)
    lost = int(is_candidate.size - is_candidate.sum())
    rows, columns = np.nonzero(is_candidate & (np.nan_to_num(scores, nan=-np.inf) >= about.least_score))
    values = scores[rows, columns]
    best = np.argsort(-values, kind="stable")[:_MOST_CANDIDATES]
    rows, values = rows[best], values[best]
    kinds = columns[best] if classes is None else np.rint(classes[rows]).astype(np.int64)
    if overlap is not None:
        kept = _apart(boxes[rows], kinds, float(overlap), about.most_detections)
        rows, values, kinds = rows[kept], values[kept], kinds[kept]
    most = about.most_detections
    return Found(boxes[rows][:most], values[:most], kinds[:most].astype(np.int64)), lost


def _apart(boxes: np.ndarray, classes: np.ndarray, overlap: float, most: int) -> np.ndarray:
    """Returns the indices of boxes, the best first, that no better one of their class overlaps by more."""
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[left, :2])
        shared = np.clip(np.minimum(boxes[first, 2:], boxes[left, 2:]) - low, 0, None).prod(axis=1)
        union = np.maximum(areas[first] + areas[left] - shared, 1e-12)
        left = left[(classes[left] != classes[first]) | (shared / union <= overlap)]
    return np.asarray(kept, np.int64)
