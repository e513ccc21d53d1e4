"""Runs models on LiteRT's interpreter; nothing else imports it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.errors import DataError, FeatherweightError, RecipeError, UnsupportedOp, listed
from featherweight.graph import Model, Tensor, io_names
from featherweight.graph.numerics import storage_dtype
from featherweight.operators import lookup
from featherweight.runtime.batches import split
from featherweight.runtime.resizing import keeps_its_sizes
from featherweight.runtime.samples import checked_arrays, input_tensors
from featherweight.tflite.decode_operator import has_decode, with_plain_weights

# LiteRT's names of its op resolvers: with the XNNPACK delegate, with optimized kernels, with reference
# kernels.
RESOLVERS = {"auto": "AUTO", "no_delegate": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
_USUAL_THREADS = 8
THREADS_VARIABLE = "FEATHERWEIGHT_THREADS"
# More are of no use on any machine, and each takes memory of its own.
MOST_THREADS = 1024
# From this many classes on, the sum of the reference kernel's int8 SOFTMAX can leave its fixed-point range,
# and it aborts the process (tensorflow/lite/kernels/internal/reference/softmax.h).
_SOFTMAX_ABORT_CLASSES = 512
# A model with more constants than this is given to LiteRT as a file, which it maps, instead of as a copy in memory.
_LARGEST_COPY_BYTES = 64 << 20
# The signature of a graph that gives variables their initial values.
RESET = "reset"
_NOTICE = re.compile(rb"^INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.\s*$")
_notice_lock = threading.Lock()
_notice_seen = False


def default_threads() -> int:
    """Returns the number of threads to use: the processors that this process may use, at most 8.

    The environment variable ``FEATHERWEIGHT_THREADS`` says another number.
    """
    wish = os.environ.get(THREADS_VARIABLE, "")
    if wish.isdecimal() and 1 <= int(wish) <= MOST_THREADS:
        return int(wish)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _USUAL_THREADS)


class Session:
    """A model loaded into LiteRT, ready to run; a context manager.

    Args:
        model: a `Model`, the bytes of a ``.tflite`` file, or its path (which LiteRT maps instead of copying).
        threads: for the kernels; default as `default_threads`.
        resolver: ``auto`` (XNNPACK, what devices run), ``no_delegate`` or ``reference``.
        outputs: tensors of the main graph to return instead of the model's outputs.
        content: what `tflite.write(model)` gives, where it is at hand: sessions can share it.

    Raises:
        FormatError: if it is no model.
        FeatherweightError: if LiteRT can't load it, or if an argument is wrong.
    """

    def __init__(
        self,
        model: Model | bytes | str | Path,
        *,
        threads: int | None = None,
        resolver: str = "auto",
        outputs: Sequence[str] | None = None,
        content: bytes | None = None,
    ) -> None:
        if resolver not in RESOLVERS:
            raise RecipeError(f"resolver '{resolver}' is unknown (allowed: {listed(RESOLVERS)}).")
        if threads is not None and threads < 1:
            raise RecipeError(f"threads is {threads}; it must be at least 1 (or left out).")
        self.model = model if isinstance(model, Model) else tflite.read(model)
        if has_decode(self.model):  # an operator of TFLite Micro, the results of which are constants
            self.model, content = with_plain_weights(self.model), None
            model = self.model
        if outputs is not None:
            self.model = model = with_outputs(self.model, outputs)
        if resolver == "reference":
            _refuse_abort(self.model)
        self.inputs = input_tensors(self.model)
        names = io_names(self.model)[1] if outputs is None else dict(zip(outputs, outputs, strict=True))
        self.outputs = {name: self.model.main.tensors[tensor] for name, tensor in names.items()}
        self._index = {name: index for index, name in enumerate(self.model.main.tensors)}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.is_stateful = any(tensor.is_variable for tensor in self.model.main.tensors.values())
        self._resolver, self._threads = resolver, threads or default_threads()
        self._interpreter = _create(content or model, self._threads, resolver)
        self._allocate()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the interpreter; the session can't run any more."""
        self._interpreter = None

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Runs the model once on a sample and returns public output name → array (with a batch dimension).

        `inputs` is an array, a tuple in the order of the inputs, or a dict by input name. A batch larger than
        the model's fixed one is run in parts.

        Raises:
            DataError: if the inputs don't fit the model.
            FeatherweightError: if LiteRT fails.
        """
        parts = split(checked_arrays(inputs, self.inputs, finite=False), self.inputs)
        results: list[dict[str, np.ndarray]] = []
        for part in parts:
            self.invoke(part)
            results.append({name: self.read(tensor.name) for name, tensor in self.outputs.items()})
        if len(results) == 1:
            return results[0]
        rows = next(iter(parts[0].values())).shape[0]
        for name, array in results[0].items():
            if array.ndim == 0 or array.shape[0] != rows:
                raise DataError(
                    f"output '{name}' of shape {list(array.shape)} has no batch dimension: {len(parts)} runs "
                    f"can't be joined. Give {rows} example(s) at a time."
                )
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def invoke(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Runs the model on arrays that `samples` has checked; results are then there for `read` and `view`.

        Raises:
            FeatherweightError: if LiteRT fails.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            self._resize(shapes)
        interpreter = self._running()
        with _reported("run the model"):
            for name, array in arrays.items():
                interpreter.set_tensor(self._index[self.inputs[name].name], array)
            interpreter.invoke()

    def again(self) -> float:
        """Runs the model once more on the inputs that it has; returns the microseconds."""
        interpreter = self._running()
        with _reported("run the model"):
            start = time.perf_counter()
            interpreter.invoke()
            return (time.perf_counter() - start) * 1e6

    def read(self, tensor: str) -> np.ndarray:
        """Returns a copy of an output tensor, by tensor name."""
        return self._fetch(tensor, self._running().get_tensor)

    def view(self, tensor: str) -> np.ndarray:
        """Returns an output tensor without a copy; let go of it before the session runs again."""
        interpreter = self._running()
        return self._fetch(tensor, lambda index: interpreter.tensor(index)())

    def viewer(self, tensor: str) -> Callable[[], np.ndarray]:
        """Returns a function that does as `view` does, for reading the same tensor after many runs."""
        return self._running().tensor(self._index[tensor])

    def reset(self) -> None:
        """Sets variable tensors (the state of recurrent layers) to zero, and runs the signature ``reset``, if any."""
        interpreter = self._running()
        interpreter.reset_all_variables()
        if any(s.key == RESET and not s.inputs for s in self.model.signatures):
            with _reported("reset the variables"):
                interpreter.get_signature_runner(RESET)()

    def _fetch(self, tensor: str, fetch: Callable[[int], np.ndarray]) -> np.ndarray:
        """Returns an output's array; one without elements too, which LiteRT refuses to hand out."""
        index = self._index[tensor]
        with _reported(f"read tensor '{tensor}'"):
            try:
                return fetch(index)
            except ValueError:
                details = next(d for d in self._running().get_output_details() if d["index"] == index)
                if 0 not in details["shape"]:
                    raise
                return np.zeros(details["shape"], details["dtype"])

    def _running(self) -> Any:
        if self._interpreter is None:
            raise FeatherweightError("the session is closed. Open a new one.")
        return self._interpreter

    def _allocate(self) -> None:
        """Allocates the tensors at the file's own sizes; where those only stand for free ones, they may not do."""
        try:
            with _reported("load the model"), _without_notice():
                self._running().allocate_tensors()
        except FeatherweightError:
            if all(-1 not in (tensor.shape_signature or ()) for tensor in self.inputs.values()):
                raise
        else:
            self._shapes = {name: tensor.shape for name, tensor in self.inputs.items()}

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        interpreter = self._running()
        if self._shapes and self._resolver == "auto" and keeps_its_sizes(self.model):
            interpreter = self._interpreter = _create(self.model, self._threads, self._resolver)
            self._shapes = {name: tensor.shape for name, tensor in self.inputs.items()}
        changed = {name: shape for name, shape in shapes.items() if shape != self._shapes.get(name)}
        self._shapes = {}  # until it has worked: what a failed attempt leaves is unknown
        with _reported("resize the inputs to " + listed(f"{name}: {list(s)}" for name, s in changed.items())):
            for name, shape in changed.items():
                interpreter.resize_tensor_input(self._index[self.inputs[name].name], shape)
            interpreter.allocate_tensors()
        self._shapes = shapes


def weight_bytes(model: Model) -> dict[int, int]:
    """Returns the bytes of all constants by their rank."""
    found: dict[int, int] = {}
    for tensor in model.tensors.values():
        if tensor.is_constant:
            found[len(tensor.shape)] = found.get(len(tensor.shape), 0) + tensor.stored_bytes
    return found


def with_outputs(model: Model, outputs: Sequence[str]) -> Model:
    """Returns the model with other tensors of its main graph as outputs; its inputs keep their public names.

    Raises:
        RecipeError: if the main graph has no such tensor, or it is a constant.
    """
    graph = model.main
    for name in outputs:
        if name not in graph.tensors or graph.tensors[name].is_constant:
            raise RecipeError(
                f"tensor '{name}' is not computed by the model's main graph; it can't be an output. `inspect` lists "
                "the names."
            )
    inputs = tuple((public, tensor) for public, tensor in io_names(model)[0].items())
    kept = tuple(replace(s, inputs=inputs, outputs=()) for s in model.signatures if s.graph == 0)[:1]
    graphs = (replace(graph, outputs=tuple(outputs)), *model.graphs[1:])
    return replace(model, graphs=graphs, signatures=kept)


def runs(model: Model) -> bool:
    """Says whether LiteRT loads a model, and runs it on zeros."""
    try:
        with Session(model) as session:
            session.run({name: np.zeros(t.shape, storage_dtype(t.dtype)) for name, t in session.inputs.items()})
    except FeatherweightError:
        return False
    return True


def _create(model: Model | bytes | str | Path, threads: int, resolver: str) -> Any:
    """Returns an interpreter whose tensors are not allocated yet."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if isinstance(model, Model) and sum(weight_bytes(model).values()) > _LARGEST_COPY_BYTES:
        with tempfile.TemporaryDirectory() as folder:  # the interpreter keeps the file mapped once it has read it
            path = Path(folder, "model.tflite")
            tflite.save(model, path)
            return _create(path, threads, resolver)
    if isinstance(model, (str, Path)):
        source: dict[str, Any] = {"model_path": os.fspath(model)}
    else:
        source = {"model_content": tflite.write(model) if isinstance(model, Model) else bytes(model)}
    with _reported("load the model"), _without_notice():
        return Interpreter(
            **source, num_threads=threads, experimental_op_resolver_type=OpResolverType[RESOLVERS[resolver]]
        )


@contextlib.contextmanager
def _reported(what: str) -> Generator[None]:
    """Turns LiteRT's errors into ours."""
    try:
        yield
    except (ValueError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FeatherweightError(f"LiteRT can't {what}: {reason}") from error


@contextlib.contextmanager
def _without_notice() -> Generator[None]:
    """Keeps LiteRT's one notice about XNNPACK off the terminal; whatever else it writes is passed on.

    LiteRT writes it from C++, once per process, and no setting reachable from Python stops it: until it has
    been seen, file descriptor 2 points to a temporary file.
    """
    global _notice_seen
    with _notice_lock:
        saved, captured = -1, None
        if not _notice_seen:
            with contextlib.suppress(OSError):  # no stderr, or no temporary folder: then it is printed
                captured = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
                saved = os.dup(2)
        if captured is None or saved < 0:
            yield
            return
        with contextlib.suppress(AttributeError, ValueError, OSError):
            sys.stderr.flush()
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            for line in captured:
                if _NOTICE.match(line):
                    _notice_seen = True
                else:
                    os.write(2, line)
            captured.close()


def _refuse_abort(model: Model) -> None:
    """Raises where LiteRT's reference kernels may abort the process."""
    for graph in model.graphs:
        for node in graph.nodes:
            tensor: Tensor = graph.tensors[node.inputs[0]] if node.inputs and node.inputs[0] else Tensor("", (), "")
            is_softmax = lookup(node.op).probability == "softmax" and tensor.dtype == "int8"
            if is_softmax and tensor.shape[-1:] >= (_SOFTMAX_ABORT_CLASSES,):
                raise UnsupportedOp(
                    f"{node.op} '{node.name}': LiteRT's int8 reference kernel can abort the process with "
                    f"{tensor.shape[-1]} classes (allowed: fewer than {_SOFTMAX_ABORT_CLASSES}). "
                    "Use resolver 'auto'."
                )
