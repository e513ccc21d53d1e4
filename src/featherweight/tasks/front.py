"""The functions of lower rooms as users call them: whatever holds a model is read before it is handed down."""

from __future__ import annotations

import functools
import inspect as python_inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from featherweight import analysis, calibration, runtime, tflite
from featherweight.arguments import bound
from featherweight.encoded_files import store as encoding
from featherweight.ptq import planning
from featherweight.ptq import rewrite as rewriting
from featherweight.runtime import operator_times as timing
from featherweight.sparse_files import store
from featherweight.targets import target as targets
from featherweight.tasks.load import lowered_anew, nearest_form, opened, peeked

F = TypeVar("F", bound=Callable[..., Any])


def opening(function: F, /, *, as_files: bool = False, **sources: str | None) -> F:
    """Returns the function with arguments that take what `load` takes.

    Args:
        function: takes a `Model` there.
        as_files: it takes the path or bytes of a ``.tflite`` file, too, and looks at these as they are.
        sources: such an argument → the one with the samples that a live model is lowered with, if any. ``models`` are
            several: in a list, or a dict by name.
    """
    signature = python_inspect.signature(function)

    @functools.wraps(function)
    def read(*args: Any, **given: Any) -> Any:
        found = bound(signature, function.__name__, args, given, {})
        for name, fed in sources.items():
            where = f"{function.__name__}: {name}"
            if name == "models":
                found.arguments[name] = _several(found.arguments[name], where)
                continue
            first = None if fed is None else _first(found.arguments, fed)
            model = opened(found.arguments[name], where, first)
            found.arguments[name] = model if as_files else tflite.read(model)
        return function(*found.args, **found.kwargs)

    return read  # pyright: ignore[reportReturnType]


def _beside(compare: F, /) -> F:
    """Returns `compare` with the float model in the form that the other was made from, where there is one."""
    signature = python_inspect.signature(compare)

    @functools.wraps(compare)
    def nearest(*args: Any, **given: Any) -> Any:
        found = bound(signature, "compare", args, given, {}).arguments
        source, first = found["float_model"], _first(found, "samples")
        before, after = (tflite.read(opened(found[n], f"compare: {n}", first)) for n in ("float_model", "other"))
        lower = lowered_anew(source, before, first)
        return compare(**{**found, "float_model": nearest_form(before, after, lower), "other": after})

    return nearest  # pyright: ignore[reportReturnType]


def _first(arguments: dict[str, Any], fed: str) -> Sequence[Any] | None:
    """Returns samples to lower with, and leaves the argument that holds them whole."""
    given = arguments[fed]
    if fed == "inputs":
        return [given]
    if isinstance(given, tuple) and len(given) == 2 and fed == "data":
        first, rest = peeked(given[0])
        arguments[fed] = (rest, given[1])
    else:
        first, arguments[fed] = peeked(given)
    return first


def _several(models: Any, where: str) -> dict[str, Any]:
    """Returns name → model; those without a name go by their path, or their place."""
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        rows = models if isinstance(models, (list, tuple)) else [models]
        named = {str(m) if isinstance(m, (str, Path)) else f"model {i}": m for i, m in enumerate(rows, 1)}
    return {name: opened(model, f"{where}, '{name}'") for name, model in named.items()}


benchmark = opening(runtime.benchmark, as_files=True, models=None)
operator_times = opening(timing.operator_times, model=None)
calibrate = opening(calibration.calibrate, model="samples")
check = opening(targets.check, model=None)
compare = _beside(opening(analysis.compare, float_model="samples", other="samples"))
evaluate = opening(analysis.evaluate, model="data")
inspect = opening(analysis.inspect, as_files=True, source=None)
plan = opening(planning.plan, model=None)
rewrite = opening(rewriting.rewrite, model=None)
run = opening(runtime.run, as_files=True, model="inputs")
save = opening(tflite.save, model=None)
store_encoded = opening(encoding.store_encoded, model=None)
store_sparse = opening(store.store_sparse, model=None)
write = opening(tflite.write, model=None)
