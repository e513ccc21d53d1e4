"""Gathers what a detector finds run by run, brings it into the coordinates of the truth, and scores it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np

from featherweight.detections.boxes import Boxes
from featherweight.detections.decoding import SINGLE, Found, Roles, decoded, order_of, roles_of
from featherweight.detections.precision import Precision, mean_average_precision
from featherweight.detections.truth import Objects, Truth, matched
from featherweight.errors import DataError

_log = logging.getLogger("featherweight")
# Corners beyond this are no fractions of a side.
_LARGEST_FRACTION = 2.0
# A reading of the boxes that finds so much more is worth a word; so is one that finds next to nothing.
_LITTLE, _MORE = 0.1, 0.1
_SHIFTS = (("more", 1), ("less", -1))


@dataclass
class Detections:
    """What a detector finds on images, in the unit of its outputs.

    Attributes:
        about: how outputs become boxes.
        input_size: (width, height) of the image that the model takes, where that is fixed.
        made: as `roles_of` takes it.
    """

    about: Boxes
    input_size: tuple[int, int] | None
    made: Sequence[str] = ()
    found: list[Found] = field(default_factory=list[Found])
    roles: Roles | None = None
    class_count: int | None = None
    lost: int = 0

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes the outputs of one run, (n, ...) each.

        Raises:
            DataError: if they do not fit the description.
        """
        if self.roles is None:
            self.roles = roles_of({name: values.shape for name, values in outputs.items()}, self.about, self.made)
            order_of(self.roles, self.about)
        batch = decoded(outputs, self.roles, self.about, self.input_size)
        self.found += batch.found
        self.lost += batch.lost
        self.class_count = batch.class_count

    def scored(self, truth: Truth, files: Sequence[PurePath] | None, *, is_cut: bool) -> Precision:
        """Returns the mean average precision, and says what is odd about what was found.

        Raises:
            DataError: if truth and detections do not fit together.
        """
        objects = matched(truth, len(self.found), files, is_cut=is_cut)
        if not any((~one.crowd).any() for one in objects):
            raise DataError(f"map: {truth.source}: there is not one box on these {len(objects)} images. Use more.")
        numbered, frames = self.found, [(np.ones(2), np.zeros(2))] * len(objects)
        if not truth.is_of_model:
            numbered, frames = self._numbered(truth), self._frames(objects)
        placed = [_placed(one, frame) for one, frame in zip(numbered, frames, strict=True)]
        result = mean_average_precision(placed, objects, most=self.about.most_detections)
        swapped = [one._replace(boxes=one.boxes[:, [1, 0, 3, 2]]) for one in numbered]
        swapped = [_placed(one, frame) for one, frame in zip(swapped, frames, strict=True)]
        self._warn(result, placed, swapped, objects)
        return result

    def as_truth(self, least_score: float, source: str) -> Truth:
        """Returns what was found as the truth for other forms of the model.

        Raises:
            DataError: if nothing was found.
        """
        images: list[Objects] = []
        for one in self.found:
            is_object = (one.scores >= least_score) & (one.boxes[:, 2:] > one.boxes[:, :2]).all(axis=1)
            kinds = one.classes[is_object]
            images.append(Objects(one.boxes[is_object], kinds, np.zeros(len(kinds), bool)))
        if not any(len(one.boxes) for one in images):
            best = max((float(one.scores[0]) for one in self.found if len(one.scores)), default=0.0)
            raise DataError(
                f"map: {source} finds nothing on {len(images)} images with a score of {least_score:g} or more (the "
                f"largest is {best:.3g}). Lower teacher_score, or check activation and the samples' preprocessing."
            )
        return Truth(tuple(images), None, source, is_of_model=True)

    def _numbered(self, truth: Truth) -> list[Found]:
        """Returns detections with the truth's numbers of classes."""
        first, count = self.about.first_class, self.class_count
        numbers = truth.categories
        own = sorted({int(kind) for one in truth.images for kind in one.classes})
        if first is None and numbers is not None:
            return self._listed(numbers)
        first = first or 0
        if count is not None and own[-1] >= first + count:
            raise DataError(
                f"map: {truth.source} hold(s) class {own[-1]}, and the model's {count} classes are {first} to "
                f"{first + count - 1}. {self._way(own[0], first)}"
            )
        return [one._replace(classes=one.classes + first) for one in self.found]

    def _way(self, least: int, first: int | None) -> str:
        """Returns what can be said where the numbers of classes do not fit."""
        ways = [] if least == first else [f"which number the model's first class has (first_class={least})"]
        if self.about.background is False:
            ways.append("whether its first or last column is that of no object (background=first, background=last)")
        layout = self._known.layout
        if layout in SINGLE:
            ways.append(
                f"whether it has another layout than {layout} ({' or '.join(o for o in SINGLE if o != layout)})"
            )
        return f"Say {', or '.join(ways)}."

    def _listed(self, numbers: tuple[int, ...]) -> list[Found]:
        count, span = self.class_count, f"{len(numbers)} categories, numbered {numbers[0]} to {numbers[-1]}"
        most = max((int(one.classes.max()) for one in self.found if len(one.classes)), default=-1)
        is_gapless = numbers[-1] - numbers[0] + 1 == len(numbers) and numbers[0] in (0, 1)
        if (count is not None and count != len(numbers)) or most >= len(numbers) or (count is None and not is_gapless):
            has = f"has scores for {count} classes" if count is not None else f"names classes by number, up to {most}"
            way = self._way(numbers[0], None)
            bins, rest = divmod(4 + (count or 0) - len(numbers), 4)
            if self.about.order == "ltrb" and self.about.bins == 1 and bins > 1 and not rest:
                way = f"Say how many columns each distance has (bins={bins}). {way}"
            raise DataError(f"map: the model {has}, and the truth lists {span}. {way}")
        order = np.asarray(numbers)
        return [one._replace(classes=order[one.classes]) for one in self.found]

    def _frames(self, objects: Sequence[Objects]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns for each image what coordinates are multiplied by, and what is added then, (2,) each."""
        unit = self.about.unit
        if self.about.strides is not None:
            unit = "pixels"
        if unit == "auto":
            is_fraction = self.about.anchors is not None or _is_fraction(self.found)
            unit = "fraction" if is_fraction else "pixels"
        in_pixels = any(one.size is not None for one in objects) or not _is_fraction(objects)
        wants_size = self.about.letterbox or (unit == "pixels") != in_pixels or any(o.size for o in objects)
        if not wants_size:
            return [(np.ones(2), np.zeros(2))] * len(objects)
        if self.input_size is None and (unit == "pixels" or self.about.letterbox or not all(o.size for o in objects)):
            raise DataError(
                "map: the size of the model's image is not fixed, and boxes in pixels need it. Fix it when loading "
                "(input_shapes=, --input-shape)."
            )
        own = np.asarray(self.input_size or (1, 1), np.float64)
        frames: list[tuple[np.ndarray, np.ndarray]] = []
        for one in objects:
            size = np.asarray(one.size or (own if in_pixels else (1.0, 1.0)), np.float64)
            if self.about.letterbox:
                factor = float((own / size).min())
                padding = (own - size * factor) / 2
                scale = (own if unit == "fraction" else np.ones(2)) / factor
                frames.append((scale, -padding / factor))
            else:
                frames.append((size / (own if unit == "pixels" else 1.0), np.zeros(2)))
        return frames

    def _warn(
        self, result: Precision, placed: Sequence[Found], swapped: Sequence[Found], objects: Sequence[Objects]
    ) -> None:
        count = sum(len(one.scores) for one in placed)
        if self.lost:
            _log.warning("map: %d scores whose number or box is not finite were left out.", self.lost)
        if not count:
            _log.warning(
                "map: nothing is found: no score is %g or more on %d images. If scores are logits, say activation.",
                self.about.least_score,
                len(placed),
            )
            return
        flat = sum(int((one.boxes[:, 2:] <= one.boxes[:, :2]).any(axis=1).sum()) for one in placed)
        if 2 * flat > count:
            order = order_of(self._known, self.about)
            _log.warning("map: %d of %d boxes end before they begin: is order=%s right?", flat, count, order)
        if result.value < _LITTLE:
            most = self.about.most_detections
            for said, other in _readings(placed, swapped, is_numbered=self.class_count is None):
                value = mean_average_precision(other, objects, most=most).value
                if value > result.value + _MORE:
                    _log.warning("map: it is %.3f, and would be %.3f if %s.", result.value, value, said)

    @property
    def _known(self) -> Roles:
        assert self.roles is not None
        return self.roles


def _is_fraction(images: Sequence[Found] | Sequence[Objects]) -> bool:
    corners = [one.boxes[:, 2:] for one in images if len(one.boxes)]
    return not corners or float(np.median(np.abs(np.concatenate(corners)))) <= _LARGEST_FRACTION


def _placed(one: Found, frame: tuple[np.ndarray, np.ndarray]) -> Found:
    scale, offset = (np.tile(part, 2) for part in frame)
    return one._replace(boxes=one.boxes * scale + offset)


def _readings(
    placed: Sequence[Found], swapped: Sequence[Found], *, is_numbered: bool
) -> list[tuple[str, Sequence[Found]]]:
    """Returns other ways to read the same numbers, and how to say them."""
    found: list[tuple[str, Sequence[Found]]] = [("x and y changed places (order)", swapped)]
    if is_numbered:
        found += [(f"class numbers were one {w} (first_class)", _shifted(placed, by)) for w, by in _SHIFTS]
    return found


def _shifted(placed: Sequence[Found], by: int) -> list[Found]:
    return [one._replace(classes=one.classes + by) for one in placed]
