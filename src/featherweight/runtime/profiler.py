"""LiteRT's own profiler: ``python profiler.py``, in a process of its own, told what to do by JSON on its input.

The Python package of LiteRT has no way to the profiler that its library has, so that this calls the C interface
(`litert/c/litert_profiler.h`, `litert_compiled_model.h`): a wrong guess about it may end the process, and nothing else.
It imports nothing of this package. The request is ``{"threads", "runs", "warmup", "files": [{"model", "inputs"}]}``,
with paths of a ``.tflite`` file and of an ``.npz`` file of its inputs by position (or null: zeros, and one run). The
answer has an entry for each file: the microseconds of plain runs, and the events of profiled ones, or why not.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# Kinds of events (LiteRtProfilerEventType): an operator of the graph, and one within a delegate.
OPERATOR, DELEGATED = 2, (4, 8)
_HANDLE = ctypes.c_void_p
_CPU, _WRITE = 1, 1
_TYPE_BYTES = 256


class _Memory(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in ("total", "in_use", "private"))


class _Event(ctypes.Structure):
    """`ProfiledEventData`."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_begin", _Memory),
        ("memory_end", _Memory),
        ("index", ctypes.c_uint64),
        ("graph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class _Library:
    """The functions of LiteRT's library, which raise where they give another status than 0."""

    def __init__(self) -> None:
        spec = find_spec("ai_edge_litert")
        if spec is None or spec.origin is None:
            raise ImportError("ai_edge_litert is not installed")
        self._held = ctypes.CDLL(str(Path(spec.origin).parent / "libLiteRt.so"))

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._held, f"LiteRt{name}")

        def called(*arguments: Any) -> None:
            if status := function(*arguments):
                raise RuntimeError(f"LiteRt{name} gives status {status}")

        return called

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Returns what a function writes into its last argument."""
        found = _HANDLE()
        getattr(self, name)(*arguments, ctypes.byref(found))
        return found


class Compiled:
    """A file that is loaded for the CPU, with buffers for its inputs and outputs, and a profiler.

    Args:
        library: of LiteRT.
        path: of the file, all of whose sizes are fixed.
        threads: for the kernels.
    """

    def __init__(self, library: _Library, environment: ctypes.c_void_p, path: str, threads: int) -> None:
        self._of = library
        self._environment = environment
        model = library.made("CreateModelFromFile", environment, path.encode())
        options = library.made("CreateOptions")
        library.SetOptionsHardwareAccelerators(options, _CPU)
        self._kept: list[Any] = []
        for name, text in (
            (b"runtime_options_string", "enable_profiling = true\n"),
            (b"xnnpack", f"num_threads = {threads}\n"),
        ):
            self._add_option(options, name, text)
        self._compiled = library.made("CreateCompiledModel", environment, model, options)
        self._profiler = library.made("CompiledModelGetProfiler", self._compiled)
        graph = library.made("GetModelSubgraph", model, ctypes.c_size_t(0))
        self._inputs, self._outputs = (self._buffers(graph, kind) for kind in ("Input", "Output"))

    def _add_option(self, options: ctypes.c_void_p, name: bytes, text: str) -> None:
        """Adds options as TOML; what holds them lives as long as this process does."""
        payload = ctypes.create_string_buffer(text.encode())
        stay = ctypes.CFUNCTYPE(None, _HANDLE)(lambda _: None)
        self._kept += [payload, stay]
        made = self._of.made("CreateOpaqueOptions", name, ctypes.cast(payload, _HANDLE), stay)
        self._of.AddOpaqueOptions(options, made)

    def _buffers(self, graph: ctypes.c_void_p, kind: str) -> Any:
        count = ctypes.c_size_t()
        getattr(self._of, f"GetNumSubgraph{kind}s")(graph, ctypes.byref(count))
        found = (_HANDLE * count.value)()
        for position in range(count.value):
            at = ctypes.c_size_t(position)
            tensor = self._of.made(f"GetSubgraph{kind}", graph, at)
            shape = (ctypes.c_byte * _TYPE_BYTES)()
            self._of.GetRankedTensorType(tensor, shape)
            wish = self._of.made(f"GetCompiledModel{kind}BufferRequirements", self._compiled, ctypes.c_size_t(0), at)
            found[position] = self._of.made(
                "CreateManagedTensorBufferFromRequirements", self._environment, shape, wish
            ).value
        return found

    def feed(self, arrays: list[np.ndarray] | None) -> None:
        """Fills the inputs, with zeros where there are no arrays."""
        for position, buffer in enumerate(self._inputs):
            room, size = _HANDLE(), ctypes.c_size_t()
            self._of.GetTensorBufferPackedSize(_HANDLE(buffer), ctypes.byref(size))
            data = bytes(size.value) if arrays is None else np.ascontiguousarray(arrays[position]).tobytes()
            if len(data) != size.value:
                raise ValueError(f"input {position} takes {size.value} bytes, not {len(data)}")
            self._of.LockTensorBuffer(_HANDLE(buffer), ctypes.byref(room), _WRITE)
            ctypes.memmove(room, data, size.value)
            self._of.UnlockTensorBuffer(_HANDLE(buffer))

    def run(self) -> float:
        """Runs once; returns the microseconds."""
        start = time.perf_counter()
        sizes = ctypes.c_size_t(len(self._inputs)), ctypes.c_size_t(len(self._outputs))
        self._of.RunCompiledModel(self._compiled, ctypes.c_size_t(0), sizes[0], self._inputs, sizes[1], self._outputs)
        return (time.perf_counter() - start) * 1e6

    def profiled(self) -> list[tuple[str, int, int, int, int]]:
        """Runs once; returns tag, kind, microseconds, index and start of each event of an operator."""
        self._of.StartProfiler(self._profiler)
        self.run()
        self._of.StopProfiler(self._profiler)
        count = ctypes.c_int()
        self._of.GetNumProfilerEvents(self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._of.GetProfilerEvents(self._profiler, count, events)
        return [
            (event.tag.decode("utf-8", "replace"), event.kind, event.elapsed_us, event.index, event.start_us)
            for event in events
            if event.kind in DELEGATED or (event.kind == OPERATOR and event.graph == 0)
        ]


def main() -> int:
    """Answers the request on standard input with one line of JSON."""
    request = json.load(sys.stdin)
    library = _Library()
    environment = library.made("CreateEnvironment", 0, None)
    answers: list[dict[str, Any]] = []
    for file in request["files"]:
        try:
            compiled = Compiled(library, environment, file["model"], request["threads"])
            arrays = None
            if file["inputs"] is not None:
                with np.load(file["inputs"]) as given:
                    arrays = [given[f"arr_{i}"] for i in range(len(given.files))]
            compiled.feed(arrays)
            runs, warmup = (request["runs"], request["warmup"]) if file["inputs"] is not None else (1, 0)
            for _ in range(warmup):
                compiled.run()
            # In turns, so that what disturbs the ones disturbs the others.
            pairs = [(compiled.run(), compiled.profiled()) for _ in range(runs)]
        except (RuntimeError, ValueError) as error:
            answers.append({"error": str(error)})
        else:
            answers.append({"plain_us": [plain for plain, _ in pairs], "events": [events for _, events in pairs]})
    print(json.dumps(answers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
