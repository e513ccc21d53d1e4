"""Runs a model once, on LiteRT or on the reference kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, count, either, instance, several, text
from featherweight.errors import DataError, RecipeError
from featherweight.graph import Model, ModelLike
from featherweight.operators.profiles import Profile
from featherweight.runtime.litert import MOST_THREADS, Session
from featherweight.runtime.reference import computed_tensors, run_reference


@checked(
    runtime=text,
    resolver=text,
    threads=count(1, MOST_THREADS),
    profile=either(text, instance(Profile), allowed="the name of a profile"),
    tensors=several(text, at_least=1),
)
def run(
    model: ModelLike,
    inputs: Any,
    *,
    runtime: str = "litert",
    resolver: str = "auto",
    threads: int | None = None,
    profile: str | Profile | None = None,
    tensors: Sequence[str] | str | None = None,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a model once; returns one array for a model with one output, else a dict by output name.

    Args:
        model: what `load` takes; files run as they are.
        inputs: an array, a tuple in the order of the inputs, or a dict by input name.
        runtime: ``litert``, or ``reference``: the integer kernels of this package.
        resolver: of LiteRT's kernels, as in `Session`.
        threads: of LiteRT.
        profile: the arithmetic of the reference kernels; ``xnnpack`` (what LiteRT runs by default) if left out.
        tensors: what to return instead of the outputs, as a dict by tensor name: names of tensors of the main graph, or
            ``all`` that it computes.

    Raises:
        FeatherweightError: as `Session` and `reference.run_reference`, or if the runtime is unknown.
    """
    if inputs is None:
        raise DataError("run: inputs is None (allowed: an array, a tuple of arrays, or a dict by input name).")
    if runtime not in ("litert", "reference"):
        raise RecipeError(f"runtime '{runtime}' is unknown (allowed: litert, reference).")
    if runtime == "litert" and profile is not None:
        raise RecipeError(f"profile '{profile}' needs runtime 'reference'; runtime 'litert' has a resolver instead.")
    if runtime == "reference" and resolver != "auto":
        raise RecipeError(f"resolver '{resolver}' needs runtime 'litert'; runtime 'reference' has a profile instead.")
    model = model if isinstance(model, Model) or tensors is None else tflite.read(model)
    kept = _named_tensors(model, tensors) if isinstance(model, Model) and tensors is not None else None
    if runtime == "reference":
        results = run_reference(model, inputs, profile or "xnnpack", keep=kept)
    else:
        with Session(model, threads=threads, resolver=resolver, outputs=kept) as session:
            results = session.run(inputs)
    return next(iter(results.values())) if len(results) == 1 and kept is None else results


def _named_tensors(model: Model, tensors: Sequence[str] | str) -> tuple[str, ...]:
    names = (tensors,) if isinstance(tensors, str) else tuple(tensors)
    return computed_tensors(model.main) if names == ("all",) else names
