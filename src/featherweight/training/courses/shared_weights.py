"""What models of one set of weights share, whether they can, and their scores as one history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from featherweight.arguments import number
from featherweight.errors import RecipeError
from featherweight.training.graph.registry import ops
from featherweight.training.qat.quantized_model import QuantizedModel
from featherweight.training.qat.units import units_of


def pair(given: Any) -> tuple[Any, Any] | None:
    """Returns (inputs, labels) of what is held out."""
    if given is None:
        return None
    if isinstance(given, tuple):
        if len(given) == 2:
            return given
        raise RecipeError(f"fit: validation_data has {len(given)} parts (allowed: inputs, or inputs and labels).")
    return given, None


def split(part: float, inputs: dict[str, np.ndarray], *others: np.ndarray | None) -> tuple[Any, ...]:
    """Returns the last part of samples and labels as what is held out, and the samples, labels and weights before it.

    Raises:
        RecipeError: if nothing would be left of either.
    """
    count = len(next(iter(inputs.values())))
    kept = math.floor(count * (1 - number(0, 1, open_at="low high")(part, "fit: validation_split")))
    if not 0 < kept < count:
        raise RecipeError(f"fit: validation_split {part} of {count} samples leaves none to train on, or to hold out.")
    labels = others[0]
    held_out = {name: array[kept:] for name, array in inputs.items()}, None if labels is None else labels[kept:]
    first = {name: array[:kept] for name, array in inputs.items()}
    return (held_out, first, *(None if other is None else other[:kept] for other in others))


def flat(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns each score by its name as the mean over targets, and by target and name."""
    keys = dict.fromkeys(key for scores in found.values() for key in scores)
    means = {key: float(np.mean([scores[key] for scores in found.values()])) for key in keys}
    return means | {f"{name}_{key}": value for name, scores in found.items() for key, value in scores.items()}


def copy_values(source: Any, target: Any) -> None:
    """Gives variables the values of others."""
    for one, other in zip(source, target, strict=True):
        other.assign(ops.copy(ops.convert_to_tensor(one)))  # JAX's steps consume the buffers of what they train


def units_like(first: QuantizedModel, model: QuantizedModel) -> dict[int, np.ndarray]:
    """Returns the units of the first model's variables, by the identity of the other's."""
    units = units_of(first)
    pairs = zip(first.trainable_variables, model.trainable_variables, strict=True)
    return {id(other): units[id(one)] for one, other in pairs if id(one) in units}


def check_alike(models: Mapping[str, QuantizedModel]) -> None:
    """Raises where models have not one set of weights.

    Raises:
        RecipeError: saying why.
    """
    first = next(iter(models.values()))
    if first.blueprint.ranges.is_learned:
        raise RecipeError(
            "quantize_aware: with several targets ranges can't be learned: each chip has scales of its own, which no "
            "other's steps train. Leave train_ranges out, or train for one target."
        )
    known = _weights(first)
    for name, model in models.items():
        if _weights(model) != known:
            raise RecipeError(
                f"quantize_aware: the graph for target '{name}' is another one than for '{next(iter(models))}' (its "
                "operators are written out in another way), so that they can't have one set of weights. Leave it out."
            )


def _weights(model: QuantizedModel) -> list[tuple[str, tuple[int, ...]]]:
    return [(v.path.partition("/")[2], tuple(v.shape)) for v in model.trainable_variables]
