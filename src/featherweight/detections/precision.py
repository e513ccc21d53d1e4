"""COCO's mean average precision by pycocotools, and how much it would vary with other images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from featherweight.detections.decoding import Found
from featherweight.detections.truth import Objects
from featherweight.errors import DataError

# Draws of images with replacement: their spread tells a standard error to within 7 %.
REPLICATES = 100


@dataclass(frozen=True, eq=False)
class Precision:
    """Mean average precision (0..1) over classes and overlaps of .50 to .95.

    Attributes:
        replicates: the same over `REPLICATES` draws of images with replacement, the same draws for every model; none
            of one image.
    """

    value: float
    replicates: np.ndarray = field(repr=False)

    @property
    def scores(self) -> np.ndarray:
        """Numbers whose mean is the value, and whose standard error is the spread of the replicates.

        The same holds for differences of two models' scores, since the draws are the same.
        """
        if not len(self.replicates):
            return np.full(1, self.value)
        spread = self.replicates - self.replicates.mean()
        return self.value + spread * np.sqrt(len(spread))


def mean_average_precision(found: Sequence[Found], objects: Sequence[Objects], *, most: int = 100) -> Precision:
    """Returns COCO's mean average precision of boxes found on images.

    Args:
        found: for each image, in the coordinates and class numbers of `objects`.
        objects: what is on each.
        most: detections of an image and class that count.

    Raises:
        DataError: if pycocotools is not installed.
    """
    judged = _judged(found, objects, most)
    ranked = _ranked(judged, len(objects))
    replicates = np.array([_average(ranked, draw, judged.params.recThrs) for draw in _draws(objects)])
    precision = judged.eval["precision"]
    value = float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0
    return Precision(value, replicates)


def _draws(objects: Sequence[Objects]) -> list[np.ndarray]:
    """Returns how often each image occurs in draws with replacement that have an object at all; of one image: none."""
    random, count = np.random.default_rng(0), len(objects)
    has_object = np.array([bool((~one.crowd).any()) for one in objects])
    found: list[np.ndarray] = []
    while count > 1 and len(found) < REPLICATES:
        draw = np.bincount(random.integers(0, count, count), minlength=count)
        if has_object @ draw or not has_object.any():
            found.append(draw)
    return found


def _judged(found: Sequence[Found], objects: Sequence[Objects], most: int) -> Any:
    """Returns pycocotools' evaluation, with all matches made."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise DataError(
            "map needs pycocotools, which is not installed. Install it: pip install 'featherweight[detection]'."
        ) from error
    truth = [
        _row(i, box, kind) | {"iscrowd": int(crowd)}
        for i, one in enumerate(objects)
        for box, kind, crowd in zip(one.boxes, one.classes, one.crowd, strict=True)
    ]
    boxes = [
        _row(i, box, kind) | {"score": float(score)}
        for i, one in enumerate(found)
        for box, score, kind in zip(one.boxes, one.scores, one.classes, strict=True)
    ]
    named = {
        "images": [{"id": i} for i in range(len(objects))],
        "categories": [{"id": kind} for kind in sorted({row["category_id"] for row in truth})],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        both: list[Any] = []
        for rows in (truth, boxes):
            both.append(COCO())
            both[-1].dataset = {**named, "annotations": [row | {"id": i} for i, row in enumerate(rows, start=1)]}
            both[-1].createIndex()
        judged = COCOeval(both[0], both[1], "bbox")
        judged.params.areaRng, judged.params.areaRngLbl, judged.params.maxDets = [[0.0, 1e18]], ["all"], [most]
        judged.evaluate()
        judged.accumulate()
    return judged


def _row(image: int, box: np.ndarray, kind: int) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in box)
    width, height = max(x1 - x0, 0.0), max(y1 - y0, 0.0)
    return {"image_id": image, "category_id": int(kind), "bbox": [x0, y0, width, height], "area": width * height}


class _Ranked(NamedTuple):
    """The detections (D) of one class over all images, the best first, at T overlaps.

    Attributes:
        images: (D,) where each is.
        hits: (T, D) of those that are an object.
        misses: (T, D) of those that are none; what lies in a crowd is neither.
        objects: (images,) how many there are to find.
    """

    images: np.ndarray
    hits: np.ndarray
    misses: np.ndarray
    objects: np.ndarray


def _ranked(judged: Any, count: int) -> list[_Ranked]:
    """Returns what pycocotools has matched, class by class."""
    result: list[_Ranked] = []
    for start in range(0, len(judged.evalImgs), count):
        rows = [row for row in judged.evalImgs[start : start + count] if row is not None]
        if not rows:
            continue
        objects = np.zeros(count)
        for row in rows:
            objects[row["image_id"]] = np.count_nonzero(np.asarray(row["gtIgnore"]) == 0)
        order = np.argsort(-np.concatenate([row["dtScores"] for row in rows]), kind="mergesort")
        images = np.concatenate([np.full(len(row["dtScores"]), row["image_id"]) for row in rows]).astype(int)[order]
        is_matched = np.concatenate([row["dtMatches"] for row in rows], axis=1)[:, order] != 0
        is_ignored = np.concatenate([row["dtIgnore"] for row in rows], axis=1)[:, order].astype(bool)
        result.append(_Ranked(images, is_matched & ~is_ignored, ~is_matched & ~is_ignored, objects))
    return result


def _average(ranked: Sequence[_Ranked], draw: np.ndarray, recalls: np.ndarray) -> float:
    """Returns the mean average precision where image i occurs draw[i] times: what pycocotools accumulates, weighted."""
    values: list[float] = []
    for one in ranked:
        total = float(one.objects @ draw)
        if not total:
            continue
        weights = draw[one.images]
        hits, misses = np.cumsum(one.hits * weights, axis=1), np.cumsum(one.misses * weights, axis=1)
        precision = hits / (hits + misses + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for own, reached in zip(best, hits / total, strict=True):
            places = np.searchsorted(reached, recalls)
            values.append(float(np.append(own, 0.0)[np.minimum(places, len(own))].mean()))
    return float(np.mean(values)) if values else 0.0
