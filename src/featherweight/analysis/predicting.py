"""Runs a model over samples for its outputs as real numbers, and for what a detector finds by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from featherweight.analysis.borders import batch_size, dequantized, integer_feeds, real_feeds
from featherweight.analysis.engines import find_profile, running
from featherweight.detections import Boxes
from featherweight.detections.scoring import Detections
from featherweight.errors import DataError
from featherweight.graph import Model, io_names
from featherweight.operators.families.selection import DETECTION
from featherweight.operators.profiles import Profile


def predict(
    model: Model,
    samples: Iterable[Any],
    *,
    limit: int | None = None,
    profile: str | Profile | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the model's outputs for all samples by public name, (n, ...), as real numbers.

    Raises:
        DataError: if samples do not fit the model.
        RecipeError, UnsupportedOp: as `evaluate`.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in io_names(model)[1]}
    for found in predictions(model, samples, limit=limit, profile=profile, threads=threads, progress=progress):
        for name, values in found.items():
            parts[name].append(values)
    for name, values in parts.items():
        if not values[0].ndim:
            raise DataError(
                f"output '{name}' is a single number for any batch: no example has one. Choose another output."
            )
    return {name: np.concatenate(values) for name, values in parts.items()}


def predictions(
    model: Model,
    samples: Iterable[Any],
    *,
    limit: int | None = None,
    profile: str | Profile | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the model's outputs by public name, (n, ...), as real numbers, for a few samples at a time.

    Raises:
        DataError: if samples do not fit the model.
        RecipeError, UnsupportedOp: as `evaluate`.
    """
    chosen = None if profile is None else find_profile(profile, (model,), threads)
    outputs = io_names(model)[1]
    size = batch_size(model, outputs.values())
    with running(model, chosen, threads) as run:
        for feeds in real_feeds(samples, model, limit=limit, batch=size, label="Evaluating", progress=progress):
            found = run(integer_feeds(feeds, model))
            yield {name: dequantized(values, model.main.tensors[outputs[name]]) for name, values in found.items()}


def found_by(model: Model, samples: Iterable[Any], about: Boxes, **how: Any) -> Detections:
    """Returns what a detector finds on samples.

    Args:
        model: a detector.
        samples: images, as `predictions` takes them.
        about: how its outputs become boxes.
        how: as for `predictions`.

    Raises:
        DataError: if the outputs do not fit the description.
    """
    names = {tensor: name for name, tensor in io_names(model)[1].items()}
    operators = [node for node in model.main.nodes if node.custom_code == DETECTION]
    made = [names[o] for o in operators[0].outputs if o in names] if len(operators) == 1 else []
    found = Detections(about, _image_size(model), made)
    for outputs in predictions(model, samples, **how):
        found.add(outputs)
    return found


def _image_size(model: Model) -> tuple[int, int] | None:
    """Returns (width, height) of the first input that is an image; None where there is none, or its size is free."""
    for name in model.main.inputs:
        tensor = model.main.tensors[name]
        shape = tensor.shape_signature or tensor.shape
        if len(shape) == 4:
            height, width = shape[2:] if shape[1] in (1, 3) and shape[3] not in (1, 3) else shape[1:3]
            return (width, height) if min(width, height) > 0 else None
    return None
