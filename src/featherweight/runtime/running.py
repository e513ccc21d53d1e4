"""Runs a model once, on LiteRT or on the reference kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.errors import RecipeError
from featherweight.graph import Model
from featherweight.runtime.litert import Session
from featherweight.runtime.reference import computed_tensors, run_reference


def run(
    model: Model | bytes | str | Path,
    inputs: Any,
    *,
    runtime: str = "litert",
    resolver: str = "auto",
    threads: int | None = None,
    profile: str | None = None,
    tensors: Sequence[str] | str | None = None,
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a model once; returns one array for a model with one output, else a dict by output name.

    Args:
        model: a `Model`, the bytes of a ``.tflite`` file, or its path.
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
    if tensors == "all":
        return computed_tensors(model.main)
    return (tensors,) if isinstance(tensors, str) else tuple(tensors)
