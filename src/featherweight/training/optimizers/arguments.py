"""Arguments of optimizers around other ones: what is wrapped, and the models that it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from featherweight.arguments import shown, wrong
from featherweight.errors import RecipeError


def as_optimizer(optimizer: Any, wrapper: str) -> Any:
    """Returns a Keras optimizer for one, or for its name or configuration; `wrapper`: the class that goes around.

    Raises:
        RecipeError: for anything else.
    """
    if isinstance(optimizer, (str, Mapping, keras.optimizers.Optimizer)):
        try:
            return keras.optimizers.get(optimizer)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            said = " ".join(str(error).split())[:200]
            raise RecipeError(f"{wrapper}: optimizer={shown(optimizer)} is none of Keras's: {said}") from error
    hint = ""
    if isinstance(optimizer, keras.Model):
        hint = f" The model is compiled with it: model.compile(fw.{wrapper}('adam', …), loss)."
    raise RecipeError(
        f"{wrapper}: optimizer is {shown(optimizer)} (allowed: an optimizer of Keras, or its name).{hint}"
    )


def models(value: Any, where: str) -> Any:
    """A Keras model, or several (the kind of an argument)."""
    several = value if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(one, keras.layers.Layer) for one in several):
        raise wrong(value, where, "a live Keras model, or several in a list")
    return value
