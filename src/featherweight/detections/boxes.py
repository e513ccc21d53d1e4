"""The description of how a detector's outputs become boxes, and its two forms as text."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from featherweight.arguments import (
    Kind,
    as_given,
    choice,
    count,
    either,
    flag,
    number,
    several,
    shown,
    text,
)
from featherweight.errors import DataError, FeatherweightError, listed

NAME = "map"
LAYOUTS = ("auto", "postprocess", "split", "joined", "joined-objectness", "scores-first", "transposed", "rows")
ORDERS = ("auto", "xyxy", "yxyx", "cxcywh", "cycxhw", "xywh", "ltrb")
SIZES = ("exponential", "linear", "yolov3", "yolov5")
_names = several(text, at_least=1)


_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "layout": choice(*LAYOUTS),
        "order": choice(*ORDERS),
        "unit": choice("auto", "fraction", "pixels"),
        "boxes": _names,
        "scores": _names,
        "classes": text,
        "count": text,
        "anchors": as_given,
        "anchor_scales": several(number(0, open_at="low")),
        "sizes": choice(*SIZES),
        "strides": several(number(0, open_at="low"), at_least=1),
        "anchor_sizes": as_given,
        "per_cell": several(count(), at_least=1),
        "bins": count(),
        "offset": number(0, 1),
        "activation": choice("none", "sigmoid", "softmax"),
        "background": either(flag, choice("first", "last"), allowed="True, False, 'first' or 'last'"),
        "first_class": count(0),
        "least_score": number(),
        "most_overlap": either(number(0, 1), allowed="'auto', None, or a number from 0 to 1"),
        "most_detections": count(),
        "letterbox": flag,
        "truth": as_given,
        "truth_order": choice("xyxy", "yxyx", "xywh", "cxcywh", "cycxhw"),
        "teacher": as_given,
        "teacher_score": number(),
    }
)


@dataclass(frozen=True, eq=False)
class Boxes:
    """How a detector's outputs become boxes; as the metric of `evaluate` it stands for COCO's mean average precision.

    Sizes are (n images, B boxes, C classes). What is left at ``auto`` is told by the outputs, where they tell it.

    Attributes:
        layout: ``postprocess``: the four outputs of TFLite_Detection_PostProcess. ``split``: boxes (n, B, 4) and
            scores (n, B, C), or (n, B) with classes (n, B). ``joined``: one output (n, B, 4 + C) of box and scores.
            ``joined-objectness``: (n, B, 5 + C), with an objectness between them, which scores are multiplied by.
            ``scores-first``: (n, B, C + 4). ``transposed``: (n, 4 + C, B). ``rows``: (n, B, 6) of box, score, class
            number.
        order: of a box's numbers: two corners, centre and size, or the first corner and the size; x first or y first;
            ``ltrb``: the distances of the sides from a point of a cell, or bins of each.
        unit: of coordinates: fractions of the input's sides, or pixels of it.
        boxes: the output with boxes, or several (one for each level), joined in this order.
        scores: the outputs with scores, level for level.
        classes: the output with class numbers.
        count: the output with the number of detections.
        anchors: (B, 4), centre and size of each box in the numbers' order and in fractions (an array, or a .npy file):
            boxes are relative to them, ``centre = raw / scale · size + centre``.
        anchor_scales: what raw numbers are divided by, in their order.
        sizes: with anchors: ``size · exp(raw / scale)``, or ``size · raw / scale``; with strides also ``yolov3`` and
            ``yolov5`` (see `featherweight.detections.cells`).
        strides: of the levels, in pixels: boxes are relative to their cells, instead of to anchors.
        anchor_sizes: with strides: width and height in pixels of each anchor of a cell, level by level.
        per_cell: with strides, without anchor_sizes: how many boxes a cell has; one number, or one for each level.
        bins: with ltrb: how many columns each distance has in one output with scores (elsewhere shapes tell it).
        offset: with strides: where that point, or the middle of a cell that boxes are relative to, lies, in cells: 0.5,
            or 0 for the cell's first corner (NanoDet-Plus).
        activation: what raw scores go through.
        background: the first column of scores (True, ``first``), or the ``last``, is that of no object.
        first_class: the number that the truth has for the model's class 0; None: classes are the truth's categories in
            the order of their numbers (COCO), or these numbers themselves (arrays).
        least_score: lower scores are no detections.
        most_overlap: of boxes of one class that overlap more than this (intersection over union), the best stays; None:
            all stay. By default 0.6, and None where the model has done it (``postprocess``, ``rows``).
        most_detections: of an image, the best.
        letterbox: images were scaled by one factor, and padded at both sides (else: stretched to the input).
        truth: what is on the images, where the labels don't say it, in a form that `as_truth` takes: the path of a COCO
            JSON or .npz file, say.
        truth_order: of the numbers of boxes in arrays; COCO's are always ``xywh``.
        teacher: a model whose boxes are the truth, instead.
        teacher_score: its boxes of at least this score are objects.

    Raises:
        RecipeError: for a value that there is not.

    >>> str(Boxes(layout="joined", order="cxcywh"))
    'map:layout=joined,order=cxcywh'
    """

    layout: str = "auto"
    order: str = "auto"
    unit: str = "auto"
    boxes: Any = None
    scores: Any = None
    classes: str | None = None
    count: str | None = None
    anchors: Any = None
    anchor_scales: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    sizes: str = "exponential"
    strides: Any = None
    anchor_sizes: Any = None
    per_cell: tuple[int, ...] = (1,)
    bins: int = 1
    offset: float = 0.5
    activation: str = "none"
    background: bool | str = False
    first_class: int | None = None
    least_score: float = 0.001
    most_overlap: float | str | None = "auto"
    most_detections: int = 100
    letterbox: bool = False
    truth: Any = None
    truth_order: str = "xyxy"
    teacher: Any = None
    teacher_score: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value is not field.default:
                object.__setattr__(self, field.name, _KINDS[field.name](value, f"Boxes: {field.name}"))
        if self.anchors is not None:
            object.__setattr__(self, "anchors", _anchors(self.anchors))
        _check_cells(self)
        if len(self.anchor_scales) != 4:
            raise DataError(f"anchor_scales has {len(self.anchor_scales)} numbers (allowed: 4, in the order of a box).")
        if self.truth is not None and self.teacher is not None:
            raise DataError("Boxes: truth and teacher both say what is on the images. Give one of them.")

    def __str__(self) -> str:
        said = [
            f"{field.name}={_said(value)}"
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray) or value != field.default
        ]
        return f"{NAME}:{','.join(said)}" if said else NAME


def _check_cells(about: Boxes) -> None:
    """Raises where strides, anchors and what goes with either are not of one kind."""
    if about.strides is None:
        for key in ("anchor_sizes", "per_cell", "offset"):
            if getattr(about, key) not in (None, (1,), 0.5):
                raise DataError(f"Boxes: {key} goes with strides. Say the strides of the levels, too.")
        if about.sizes.startswith("yolo") or about.order == "ltrb":
            said = f"order={about.order}" if about.order == "ltrb" else f"sizes={about.sizes}"
            raise DataError(f"Boxes: {said} is relative to cells. Say the strides of the levels (strides=8+16+32).")
    if about.bins > 1 and about.order != "ltrb":
        raise DataError("Boxes: bins are those of distances. Say order=ltrb, too.")
    if about.strides is None:
        return
    if about.anchors is not None:
        raise DataError("Boxes: boxes are relative to anchors, or to cells. Give anchors, or strides.")
    if about.order not in ("auto", "cxcywh", "cycxhw", "ltrb"):
        raise DataError(f"Boxes: order is {about.order}, and boxes relative to cells are cxcywh, cycxhw or ltrb.")
    levels = len(about.strides)
    if len(about.per_cell) not in (1, levels):
        raise DataError(f"Boxes: per_cell has {len(about.per_cell)} numbers, and there are {levels} strides.")
    if about.anchor_sizes is not None:
        try:
            sizes = np.asarray(about.anchor_sizes, np.float64)
        except (ValueError, TypeError):
            sizes = np.zeros(0)
        if not sizes.size or sizes.size % (2 * levels) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise DataError(
                f"Boxes: anchor_sizes are {shown(about.anchor_sizes)} (allowed: width and height in pixels of each "
                f"anchor, as many for each of {levels} levels)."
            )
        object.__setattr__(about, "anchor_sizes", sizes)


def is_boxes(metric: object) -> bool:
    """Returns whether a metric is about boxes: ``map``, ``map:FILE.toml``, ``map:key=value,…``, or a `Boxes`.

    >>> is_boxes("map"), is_boxes("map:boxes.toml"), is_boxes("map:order=yxyx"), is_boxes("map:mine"), is_boxes("mse")
    (True, True, True, False, False)
    """
    if isinstance(metric, Boxes):
        return True
    name, _, rest = metric.partition(":") if isinstance(metric, str) else ("", "", "")
    return name == NAME and (not rest or "=" in rest or rest.endswith(".toml"))


def boxes_of(metric: str | Boxes) -> Boxes:
    """Returns the description that a metric's text names.

    Raises:
        DataError: if the file can't be read, or a key or value is none of `Boxes`.

    >>> boxes_of("map:layout=split,order=yxyx,background=true").background
    True
    """
    if isinstance(metric, Boxes):
        return metric
    rest = metric.partition(":")[2]
    values: Mapping[str, Any]
    if rest.endswith(".toml") and "=" not in rest:
        values, where, folder = _table(Path(rest)), f"'{rest}'", Path(rest).parent
    else:
        values, where, folder = dict(_pair(part) for part in rest.split(",") if part), f"metric '{metric}'", Path()
    known = [field.name for field in fields(Boxes)]
    for key in values:
        if key not in known:
            raise DataError(f"{where}: there is no key '{key}' (allowed: {listed(known, 30)}).")
    files = ("anchors", "truth", "teacher")
    found: dict[str, Any] = {key: str(folder / str(v)) if key in files else v for key, v in values.items()}
    try:
        return Boxes(**found)
    except FeatherweightError as error:
        raise DataError(f"{where}: {error}") from error


def _table(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"The description of boxes '{path}' can't be read: {error}.") from error


def _pair(part: str) -> tuple[str, Any]:
    """Reads ``key=value``: numbers, true, false, none; '+' stands between several values."""
    key, separator, value = part.partition("=")
    if not separator or not value:
        raise DataError(f"'{part}' is no description of boxes (allowed: key=value, with commas between).")
    found = [_value(one) for one in value.split("+")]
    return key.strip().replace("-", "_"), found[0] if len(found) == 1 else found


def _value(word: str) -> Any:
    word = word.strip()
    if word in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[word]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _anchors(given: Any) -> np.ndarray:
    if isinstance(given, (str, Path)):
        try:
            given = np.load(given, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"anchors '{given}' can't be read as a .npy file: {error}.") from error
    try:
        found = np.asarray(given, np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"anchors are {shown(given)} (allowed: an array (B, 4), or a .npy file).") from error
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise DataError(f"anchors have the shape {list(found.shape)} (allowed: (B, 4), finite).")
    return found


def _said(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes()).hexdigest()[:12]
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return str(value) if isinstance(value, (str, int, float, Path)) else shown(value)
