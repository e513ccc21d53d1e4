"""Work that processes share: the same results in the same order on any number of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from featherweight.errors import FeatherweightError, RecipeError, listed
from featherweight.runtime.litert import THREADS_VARIABLE, default_threads

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
ENGINES = ("processes", "ray")
# A worker may die (of memory, of an abort in native code): what it had is done again, so often.
_ATTEMPTS = 3
_AT_ONCE = 4
MOST_JOBS = 4096


def mapped(
    function: Callable[[_Item], _Result], items: Sequence[_Item], *, jobs: int = 1, engine: str = "processes"
) -> Iterator[_Result]:
    """Yields the function's result for each item, in order.

    With several jobs, joblib's processes compute them, or with the engine ``ray`` the workers of a Ray cluster; large
    arrays that the function holds are memory-mapped, once. Each worker's runtime takes its share of the processors.
    An item whose worker dies is given to another one.

    Args:
        function: can be pickled, and depends on nothing but its item.
        items: what to do.
        jobs: number of workers; 1 computes here.
        engine: ``processes`` or ``ray``.

    Raises:
        RecipeError: for an unknown engine.
        FeatherweightError: if joblib or Ray is not installed, or workers die three times in a row.
    """
    if engine not in ENGINES:
        raise RecipeError(f"engine '{engine}' is unknown (allowed: {listed(ENGINES)}).")
    if jobs == 1 and engine == "processes":
        yield from map(function, items)
        return
    joblib = _joblib()
    done, failures = 0, 0
    task = joblib.delayed(_in_worker)
    threads = max(1, default_threads() // jobs)
    while done < len(items):
        with _backend(joblib, engine):
            # Ray's backend gives lists only: a few items at a time, so that what is done is known.
            several = items[done : done + _AT_ONCE * jobs] if engine == "ray" else items[done:]
            shape = {} if engine == "ray" else {"return_as": "generator", "pre_dispatch": "2*n_jobs"}
            results = joblib.Parallel(n_jobs=jobs, **shape)(task(function, item, threads) for item in several)
            try:
                for result in results:
                    yield result
                    done, failures = done + 1, 0
            except _deaths() as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise FeatherweightError(
                        f"A worker died {_ATTEMPTS} times at the same piece of work ({type(error).__name__}): it needs "
                        "more memory than there is, or aborts its runtime. Use fewer jobs, or 1 to see where."
                    ) from error


def _in_worker(function: Callable[[Any], Any], item: Any, threads: int) -> Any:
    os.environ.setdefault(THREADS_VARIABLE, str(threads))
    return function(item)


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise FeatherweightError("jobs need joblib: pip install 'featherweight[search]'.") from error
    return joblib


def _backend(joblib: Any, engine: str) -> Any:
    """Returns the context in which joblib uses an engine."""
    if engine == "ray":
        try:
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise FeatherweightError("engine 'ray' needs Ray: pip install 'featherweight[ray]'.") from error
        register_ray()
        return joblib.parallel_config(backend="ray")
    return joblib.parallel_config(backend="loky")


def _deaths() -> tuple[type[BaseException], ...]:
    from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    return BrokenProcessPool, TerminatedWorkerError
