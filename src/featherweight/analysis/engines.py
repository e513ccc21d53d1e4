"""What models are measured on: LiteRT, or the reference kernels in one arithmetic profile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import numpy as np

from featherweight.analysis.inspection import arithmetic
from featherweight.arguments import shown
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.operators import profiles
from featherweight.operators.profiles import Profile
from featherweight.runtime.litert import Session
from featherweight.runtime.reference import run_reference


class Side(Protocol):
    """A model that runs, and whose tensors can be read after each run."""

    @property
    def model(self) -> Model:
        """The model that runs."""
        ...

    def invoke(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Runs the model on checked arrays by public input name."""

    def view(self, tensor: str) -> np.ndarray:
        """Returns a tensor of the last run by its name."""
        ...


class _ReferenceSide:
    """A model on the reference kernels."""

    def __init__(self, model: Model, profile: Profile, tensors: Sequence[str]) -> None:
        self.model = model
        self._profile = profile
        self._tensors = tuple(tensors)
        self._values: dict[str, np.ndarray] = {}

    def invoke(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._values = run_reference(self.model, dict(arrays), self._profile, keep=self._tensors)

    def view(self, tensor: str) -> np.ndarray:
        return self._values[tensor]


def opened(
    model: Model, tensors: Sequence[str], profile: Profile | None, threads: int | None
) -> AbstractContextManager[Side]:
    """Returns a context whose value runs the model and lets those tensors be read; on LiteRT without a profile."""
    if profile is None:
        return Session(model, threads=threads, outputs=tensors)
    return nullcontext(_ReferenceSide(model, profile, tensors))


@contextmanager
def running(
    model: Model, profile: Profile | None, threads: int | None
) -> Generator[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]]:
    """Returns a context whose value maps arrays by public input name to outputs by theirs."""
    if profile is not None:
        yield lambda arrays: run_reference(model, arrays, profile)
        return
    with Session(model, threads=threads) as session:
        yield session.run


def find_profiles(
    wanted: Sequence[str | Profile], models: Sequence[Model], threads: int | None
) -> tuple[Profile, Profile]:
    """Returns the profiles that two models are to be run in.

    Raises:
        RecipeError: if there are not two, or as `find_profile`.
    """
    if isinstance(wanted, (str, Profile)) or not isinstance(wanted, Sequence):
        wanted = (wanted,)
    if len(wanted) != 2:
        given = (getattr(one, "name", one) for one in wanted)
        names = listed(name if isinstance(name, str) else shown(name) for name in given) or "none"
        raise RecipeError(
            f"profiles names {len(wanted)} ({names}); two are needed, one for each model, of "
            f"{listed(profiles.PROFILES)}. Leave it out to run both on LiteRT."
        )
    return find_profile(wanted[0], models, threads), find_profile(wanted[1], models, threads)


def find_profile(wanted: str | Profile, models: Sequence[Model], threads: int | None) -> Profile:
    """Returns the profile that one of these models is to be run in: by its name, or one of the caller's own.

    Raises:
        RecipeError: if it is unknown, if none of the models computes with integers, or if threads are asked for.
    """
    found = wanted if isinstance(wanted, Profile) else profiles.find(wanted)
    kinds = {arithmetic(node, graph) for model in models for graph in model.graphs for node in graph.nodes}
    if not kinds & {"integer", "hybrid"}:
        raise RecipeError(
            f"profile '{found.name}' is an integer arithmetic, but the model computes with floats only, which are the "
            "same in every profile. Quantize it first."
        )
    if threads is not None:
        raise RecipeError(f"threads is {threads}, but the reference kernels have none to choose. Leave it out.")
    return found
