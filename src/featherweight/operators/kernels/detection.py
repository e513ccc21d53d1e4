"""Post-processing of SSD detectors: boxes from anchors, then non-maximum suppression.

Source: LiteRT detection_postprocess.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.operators.call import Call
from featherweight.operators.families.selection import DETECTION
from featherweight.operators.record import kernel

_PER_CLASS = 100


@dataclass(frozen=True)
class _Options:
    """What the node says, in its custom options (a FlexBuffer map)."""

    max_detections: int
    max_classes_per_detection: int
    detections_per_class: int
    use_regular_nms: bool
    score_threshold: float
    iou_threshold: float
    num_classes: int
    scales: tuple[float, float, float, float]


def _options(call: Call) -> _Options:
    from flatbuffers import flexbuffers

    packed = call.node.extras.get("custom_options")
    if packed is None:
        raise call.unsupported("a node without custom options is not supported")
    loaded: Any = flexbuffers.Loads(bytes(np.asarray(packed, np.uint8)))
    found: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    try:
        y, x, h, w = (float(np.float32(found[f"{name}_scale"])) for name in "yxhw")
        return _Options(
            int(found["max_detections"]),
            int(found["max_classes_per_detection"]),
            int(found.get("detections_per_class", _PER_CLASS)),
            bool(found.get("use_regular_nms", False)),
            float(np.float32(found["nms_score_threshold"])),
            float(np.float32(found["nms_iou_threshold"])),
            int(found["num_classes"]),
            (y, x, h, w),
        )
    except KeyError as error:
        raise call.unsupported(f"custom options without {error} are not supported") from error


@kernel(DETECTION, "float32")
def detection_postprocess(call: Call) -> tuple[np.ndarray, ...]:
    """Returns (boxes (1, n, 4), classes (1, n), scores (1, n), number (1,)) of box encodings, scores and anchors.

    Places behind the last detection hold zeros. LiteRT leaves them as they are in the fast variant, and orders equal
    scores of one box in no certain way.

    Raises:
        DataError: if a box ends before it begins.
    """
    options = _options(call)
    encodings, scores, anchors = call.array(0), call.array(1)[0], call.array(2)
    if encodings.shape[0] != 1:
        raise call.unsupported(f"a batch of {encodings.shape[0]} is not supported (supported: 1)")
    label_offset = scores.shape[1] - options.num_classes
    if not 0 <= label_offset <= 1:
        raise call.unsupported(f"{scores.shape[1]} scores for {options.num_classes} classes are not supported")
    boxes = _decoded(encodings[0], anchors, options)
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise DataError(f"{call.place}: a box ends before it begins (LiteRT ends with an error).")
    find = _by_class if options.use_regular_nms else _by_box
    found, count = find(boxes, scores[:, label_offset:], options)
    size = options.max_detections * options.max_classes_per_detection
    out_boxes, out_classes = np.zeros((1, size, 4), np.float32), np.zeros((1, size), np.float32)
    out_scores = np.zeros((1, size), np.float32)
    for place, box, label in found:
        out_boxes[0, place] = boxes[box]
        out_classes[0, place] = label
        out_scores[0, place] = scores[box, label + label_offset]
    return out_boxes, out_classes, out_scores, np.asarray([count], np.float32)


def _decoded(encodings: np.ndarray, anchors: np.ndarray, options: _Options) -> np.ndarray:
    """Returns (top, left, bottom, right) of boxes given as centre and size beside their anchors."""
    y, x, h, w = (encodings[:, i].astype(np.float64) / options.scales[i] for i in range(4))
    anchor_y, anchor_x, anchor_h, anchor_w = anchors.astype(np.float64).T
    y, x = (y * anchor_h + anchor_y).astype(np.float32), (x * anchor_w + anchor_x).astype(np.float32)
    half_h = (0.5 * np.exp(h) * anchor_h).astype(np.float32)
    half_w = (0.5 * np.exp(w) * anchor_w).astype(np.float32)
    return np.stack([y - half_h, x - half_w, y + half_h, x + half_w], axis=1)


def _suppressed(boxes: np.ndarray, scores: np.ndarray, options: _Options, limit: int) -> list[int]:
    """Returns the boxes with the largest scores of which no two overlap too much, from the largest down."""
    kept = np.flatnonzero(scores >= np.float32(options.score_threshold))
    candidates = kept[np.argsort(-scores[kept], kind="stable")]
    selected: list[int] = []
    while candidates.size and len(selected) < limit:
        best, candidates = int(candidates[0]), candidates[1:]
        selected.append(best)
        overlap = _overlap(boxes[best], boxes[candidates])
        candidates = candidates[~(overlap > np.float32(options.iou_threshold))]
    return selected


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns intersection over union of a box with others, in float32; 0 for empty ones."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    sizes = np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), np.float32(0))
    shared = sizes[:, 0] * sizes[:, 1]
    with np.errstate(all="ignore"):
        return np.where((area <= 0) | (areas <= 0), np.float32(0), shared / (area + areas - shared))


def _by_class(boxes: np.ndarray, scores: np.ndarray, options: _Options) -> tuple[list[tuple[int, int, int]], int]:
    """Regular suppression: in every class by itself; the largest scores of all classes stay."""
    found: list[tuple[int, int]] = []
    limit = min(options.detections_per_class, options.max_detections)
    for label in range(options.num_classes):
        found += [(box, label) for box in _suppressed(boxes, scores[:, label], options, limit)]
        found = sorted(found, key=lambda pair: -scores[pair])[: options.max_detections]
    return [(place, box, label) for place, (box, label) in enumerate(found)], len(found)


def _by_box(boxes: np.ndarray, scores: np.ndarray, options: _Options) -> tuple[list[tuple[int, int, int]], int]:
    """Fast suppression: once, by the largest score of every box; each that stays has its largest classes."""
    labels = min(options.max_classes_per_detection, options.num_classes)
    selected = _suppressed(boxes, scores.max(axis=1), options, options.max_detections)
    found = [
        (place * options.max_classes_per_detection + column, box, int(label))
        for place, box in enumerate(selected)
        for column, label in enumerate(np.argsort(-scores[box], kind="stable")[:labels])
    ]
    return found, len(selected)
