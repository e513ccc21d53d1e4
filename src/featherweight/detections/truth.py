"""What is on the images: ground truth from COCO JSON, arrays, or records, or what another model finds."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from featherweight.arguments import shown
from featherweight.detections.coordinates import corners
from featherweight.errors import DataError, listed

_FORMS = (
    "a COCO dict or .json file; arrays boxes (n, k, 4) and classes (n, k), -1 where there is none, in a dict or .npz "
    "file; or for each image a dict of boxes (k, 4) and classes (k,)"
)


class Objects(NamedTuple):
    """What is on one image.

    Attributes:
        boxes: (k, 4) as x0, y0, x1, y1.
        classes: (k,) numbers.
        crowd: (k,) of groups that any number of detections may lie in.
        size: (width, height) of the image, where it is known.
        name: of its file, or "".
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    size: tuple[float, float] | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is on the images, in their order.

    Attributes:
        images: one for each.
        categories: the numbers of classes, ascending, where they are listed (COCO).
        source: what messages call it.
        is_of_model: coordinates and class numbers are those of the model's outputs.
    """

    images: tuple[Objects, ...]
    categories: tuple[int, ...] | None = None
    source: str = "the labels"
    is_of_model: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """A text that changes when anything of it does."""
        found = hashlib.sha256(repr(self.categories).encode())
        for one in self.images:
            found.update(repr((one.size, one.name, one.boxes.shape)).encode())
            found.update(one.boxes.tobytes() + one.classes.tobytes() + one.crowd.tobytes())
        return found.hexdigest()[:16]


def is_truth(labels: object) -> bool:
    """Returns whether labels are about boxes, and no numbers of one array."""
    is_records = isinstance(labels, (list, tuple)) and bool(labels) and isinstance(labels[0], Mapping)
    return isinstance(labels, (Truth, Mapping, str, Path)) or is_records


def as_truth(given: Any, *, order: str = "xyxy", source: str = "the labels") -> Truth:
    """Returns ground truth in one form.

    Args:
        given: a COCO dict or the path of such a .json file; a dict or .npz file of arrays ``boxes`` (n, k, 4),
            ``classes`` (n, k; -1: no box) and perhaps ``crowd`` (n, k); or for each image a dict of ``boxes`` (k, 4),
            ``classes`` (k,) and perhaps ``crowd`` (k,).
        order: of the numbers of boxes in arrays: ``xyxy``, ``yxyx``, ``xywh``, ``cxcywh`` or ``cycxhw``.
        source: what messages call it.

    Raises:
        DataError: if it has another form, or holds boxes that are none.

    >>> as_truth([{"boxes": [[0, 0, 4, 2]], "classes": [1]}]).images[0].boxes.tolist()
    [[0.0, 0.0, 4.0, 2.0]]
    """
    if isinstance(given, Truth):
        return given
    if isinstance(given, (str, Path)):
        source = f"'{given}'"
        given = _read(Path(given))
    if isinstance(given, Mapping) and "annotations" in given:
        return _coco(given, source)
    if isinstance(given, Mapping) and {"boxes", "classes"} <= set(given):
        given = _padded(given, source)
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, Mapping) for one in given):
        raise DataError(f"map: {source} say(s) nothing of boxes: found {shown(given)} (allowed: {_FORMS}).")
    images = tuple(_objects(one, f"{source}, image {index}", order) for index, one in enumerate(given))
    return _checked(Truth(images, None, source))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"map: the boxes on images '{path}' can't be read: {error}.") from error


def _padded(given: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    boxes, classes = np.asarray(given["boxes"]), np.asarray(given["classes"])
    crowd = np.asarray(given["crowd"]) if "crowd" in given else np.zeros(classes.shape, bool)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or classes.shape != boxes.shape[:2] or crowd.shape != classes.shape:
        raise DataError(
            f"map: {source}: boxes have the shape {list(boxes.shape)}, classes {list(classes.shape)}"
            f"{f', crowd {list(crowd.shape)}' if 'crowd' in given else ''} (allowed: boxes (n, k, 4), the others (n, "
            "k); k is the most of an image, and class -1 stands where there is none)."
        )
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        raise DataError(f"map: {source}: classes hold NaN or infinity (allowed: numbers from 0 on; -1 for no box).")
    is_one = classes >= 0
    return [
        {"boxes": b[m], "classes": c[m], "crowd": g[m]}
        for b, c, g, m in zip(boxes, classes, crowd, is_one, strict=True)
    ]


def _objects(one: Mapping[str, Any], where: str, order: str) -> Objects:
    names = {"boxes": ("boxes",), "classes": ("classes", "labels"), "crowd": ("crowd", "iscrowd")}
    found = {key: next((one[name] for name in known if name in one), None) for key, known in names.items()}
    if found["boxes"] is None or found["classes"] is None:
        raise DataError(f"map: {where} has the keys {listed(one)} (allowed: boxes, classes, crowd).")
    try:
        boxes = np.asarray(found["boxes"], np.float64).reshape(-1, 4)
        classes = np.asarray(found["classes"], np.float64).reshape(-1)
        crowd = np.zeros(len(classes), bool) if found["crowd"] is None else np.asarray(found["crowd"], bool).reshape(-1)
    except (ValueError, TypeError) as error:
        raise DataError(f"map: {where} can't be read as boxes (k, 4) and classes (k,): {error}.") from error
    if not len(boxes) == len(classes) == len(crowd):
        raise DataError(f"map: {where} has {len(boxes)} boxes and {len(classes)} classes. Give one for each.")
    if (classes != np.rint(classes)).any() or (classes < 0).any():
        raise DataError(f"map: {where}: classes are {classes.tolist()[:4]} (allowed: whole numbers from 0 on).")
    return Objects(corners(boxes, order), classes.astype(np.int64), crowd)


def _coco(given: Mapping[str, Any], source: str) -> Truth:
    try:
        categories = tuple(sorted(int(one["id"]) for one in given["categories"]))
        rows: dict[Any, list[Mapping[str, Any]]] = {one["id"]: [] for one in given["images"]}
        for number, row in enumerate(given["annotations"]):
            if row["image_id"] not in rows:
                raise DataError(
                    f"map: {source}: annotation {number} is of image {row['image_id']!r}, which is not listed."
                )
            if int(row["category_id"]) not in categories:
                raise DataError(
                    f"map: {source}: annotation {number} is of category {row['category_id']!r}, which is not listed."
                )
            rows[row["image_id"]].append(row)
        images = [
            _objects(
                {
                    "boxes": [row["bbox"] for row in rows[image["id"]]],
                    "classes": [row["category_id"] for row in rows[image["id"]]],
                    "crowd": [row.get("iscrowd", 0) for row in rows[image["id"]]],
                },
                f"{source}, image {image['id']!r}",
                "xywh",
            )._replace(
                size=(float(image["width"]), float(image["height"])) if {"width", "height"} <= set(image) else None,
                name=str(image.get("file_name", "")),
            )
            for image in given["images"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"map: {source} is no COCO description of boxes ({type(error).__name__}: {error}). It has lists 'images', "
            "'annotations' and 'categories'."
        ) from error
    return _checked(Truth(tuple(images), categories, source))


def _checked(truth: Truth) -> Truth:
    for index, one in enumerate(truth.images):
        wrong = ~np.isfinite(one.boxes).all(axis=1) | (one.boxes[:, 2:] < one.boxes[:, :2]).any(axis=1)
        if wrong.any():
            raise DataError(
                f"map: {truth.source}: a box of image {index} is {one.boxes[wrong][0].tolist()} as x0, y0, x1, y1: the "
                "second corner comes before the first, or is no number. Give finite corners, or say their order "
                "(truth_order=xywh, cxcywh or yxyx)."
            )
    if not any(len(one.boxes) for one in truth.images):
        raise DataError(f"map: {truth.source}: there is not one box on {len(truth)} images, so nothing can be found.")
    return truth


def matched(truth: Truth, count: int, files: Sequence[PurePath] | None, *, is_cut: bool) -> tuple[Objects, ...]:
    """Returns what is on `count` samples: by file name where both sides have names, else in order.

    Args:
        truth: of all images.
        count: of samples that ran.
        files: of the samples, or None.
        is_cut: whether only the first samples were asked for.

    Raises:
        DataError: if a sample has no entry, or the numbers differ.
    """
    names = {PurePath(one.name).name: one for one in truth.images if one.name}
    if files is not None and names:
        missing = [path.name for path in files[:count] if path.name not in names]
        if missing:
            raise DataError(
                f"map: {truth.source} lists no image '{missing[0]}' ({len(missing)} of {count} samples are not "
                "listed). Add them, or take them out of the folder."
            )
        return tuple(names[path.name] for path in files[:count])
    if len(truth) != count and not (is_cut and len(truth) > count):
        raise DataError(
            f"map: there are {count} samples, and {truth.source} describe(s) {len(truth)} images. Give one entry for "
            "each sample, in their order; an image without boxes has an empty one."
        )
    return truth.images[:count]
