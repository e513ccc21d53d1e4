"""Work that processes share: the same results in the same order on any number of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from featherweight.errors import FeatherweightError, RecipeError, listed
from featherweight.runtime.litert import THREADS_VARIABLE, default_threads

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
ENGINES = ("processes", "ray")
# A worker may die (of memory, of an abort in native code): what it had is done again, so often.
_ATTEMPTS = 3
_AT_ONCE = 8
MOST_JOBS = 4096
_FUNCTION, _ARRAYS = "function", "arrays"
# Arrays begin at multiples of it in a file, as NumPy's own do in memory.
_ALIGNMENT = 64


def mapped(
    function: Callable[[_Item], _Result], items: Sequence[_Item], *, jobs: int = 1, engine: str = "processes"
) -> Iterator[_Result]:
    """Yields the function's result for each item, in order.

    With several jobs, joblib's processes compute them, or with the engine ``ray`` the workers of a Ray cluster. The
    function is handed over once, with all that it holds, whose arrays are memory-mapped (read-only): what it keeps from
    one item, it has for the next of the same worker. Each worker's runtime takes its share of the processors. An item
    whose worker dies is given to another one.

    Args:
        function: can be pickled, and what it returns depends on nothing but its item.
        items: what to do.
        jobs: number of workers; 1 computes here.
        engine: ``processes`` or ``ray``.

    Raises:
        RecipeError: for an unknown engine, or more jobs than a Ray cluster has processors.
        FeatherweightError: if joblib or Ray is not installed, or workers die three times in a row.
    """
    if engine not in ENGINES:
        raise RecipeError(f"engine '{engine}' is unknown (allowed: {listed(ENGINES)}).")
    if not items:
        return
    if jobs == 1 and engine == "processes":
        yield from map(function, items)
        return
    joblib = _joblib()
    done, failures = 0, 0
    task = joblib.delayed(_in_worker)
    threads = max(1, default_threads() // jobs)
    with _backend(joblib, engine, jobs), _shared(function, engine) as held:
        while done < len(items):
            # Ray's backend gives lists only: a few items at a time, so that what is done is known.
            several = items[done : done + _AT_ONCE * jobs] if engine == "ray" else items[done:]
            shape = {} if engine == "ray" else {"return_as": "generator", "pre_dispatch": "2*n_jobs"}
            try:
                for result in joblib.Parallel(n_jobs=jobs, **shape)(task(held, item, threads) for item in several):
                    yield result
                    done, failures = done + 1, 0
            except _deaths(engine) as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise FeatherweightError(
                        f"A worker died {_ATTEMPTS} times at the same piece of work ({type(error).__name__}): it needs "
                        "more memory than there is, or aborts its runtime. Use fewer jobs, or 1 to see where."
                    ) from error


@dataclass(frozen=True)
class _InFolder:
    """A function in a folder of this machine: pickled, and its arrays in a file of their own, which is mapped."""

    path: str

    def read(self) -> Callable[[Any], Any]:
        """Returns the function, the same at every call in one process."""
        return _read(self.path)


@dataclass(frozen=True)
class _InRay:
    """A function in Ray's store of objects, which maps arrays on each machine."""

    reference: Any

    def read(self) -> Callable[[Any], Any]:
        """Returns the function, the same at every call in one process."""
        return _got(self.reference)


@lru_cache(maxsize=1)
def _read(path: str) -> Callable[[Any], Any]:
    places, content = pickle.loads(Path(path, _FUNCTION).read_bytes())
    with Path(path, _ARRAYS).open("rb") as file:
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if places else b"")
    return pickle.loads(content, buffers=[pages[begin:end] for begin, end in places])


@lru_cache(maxsize=1)
def _got(reference: Any) -> Callable[[Any], Any]:
    import ray

    return ray.get(reference)


@contextlib.contextmanager
def _shared(function: Callable[[Any], Any], engine: str) -> Generator[_InFolder | _InRay]:
    """Puts a function where workers find it, for as long as they need it."""
    if engine == "ray":
        import ray

        yield _InRay(ray.put(function))
        return
    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        try:
            _save(function, Path(folder))
        except OSError as error:
            raise FeatherweightError(
                f"What workers share can't be written to '{folder}': {error.strerror}. Make room, or set TMPDIR."
            ) from error
        yield _InFolder(folder)


def _save(function: Callable[[Any], Any], folder: Path) -> None:
    import cloudpickle

    arrays: list[memoryview] = []
    content = cloudpickle.dumps(function, protocol=5, buffer_callback=lambda array: arrays.append(array.raw()))
    places: list[tuple[int, int]] = []
    with (folder / _ARRAYS).open("wb") as file:
        for array in arrays:
            file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
            begin = file.tell()
            places.append((begin, begin + file.write(array)))
        file.truncate(max(file.tell(), 1))  # an empty file can't be mapped
    (folder / _FUNCTION).write_bytes(pickle.dumps((places, content)))


def _in_worker(held: _InFolder | _InRay, item: Any, threads: int) -> Any:
    os.environ.setdefault(THREADS_VARIABLE, str(threads))
    return held.read()(item)


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise FeatherweightError("jobs need joblib: pip install 'featherweight[search]'.") from error
    return joblib


def _backend(joblib: Any, engine: str, jobs: int) -> Any:
    """Returns the context in which joblib uses an engine."""
    if engine == "ray":
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError as error:
            raise FeatherweightError("engine 'ray' needs Ray: pip install 'featherweight[ray]'.") from error
        _join_cluster(ray, jobs)
        register_ray()
        return joblib.parallel_config(backend="ray")
    return joblib.parallel_config(backend="loky")


def _join_cluster(ray: Any, jobs: int) -> None:
    """Connects to the cluster that there is (RAY_ADDRESS, or `ray start` here), or begins one of so many workers."""
    try:
        if not ray.is_initialized():
            try:
                ray.init(num_cpus=jobs)
            except ValueError:  # there is one, whose processors are not ours to count
                ray.init()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FeatherweightError(f"Ray can't connect: {' '.join(str(error).split())} See `ray status`.") from error
    processors = int(ray.cluster_resources().get("CPU", 0))
    if processors < jobs:
        raise RecipeError(
            f"jobs is {jobs}, but the Ray cluster has {processors} processors. Ask for fewer, or add machines to it."
        )


def _deaths(engine: str) -> tuple[type[BaseException], ...]:
    if engine == "ray":
        from ray.exceptions import RayActorError, WorkerCrashedError

        return RayActorError, WorkerCrashedError
    from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

    return BrokenProcessPool, TerminatedWorkerError
