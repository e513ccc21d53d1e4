"""Runs a file everywhere, and holds what comes out against the reference kernels in each runtime's own arithmetic."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featherweight import tflite
from featherweight.analysis.inspection import arithmetic
from featherweight.device_code.vela import USUAL, accelerator_of, compiled, has_vela
from featherweight.errors import FeatherweightError, listed
from featherweight.graph import Model, io_names
from featherweight.processes.apart import Ended
from featherweight.proof.rows import Mismatch, RuntimeRow, mismatch
from featherweight.proof.running import Ran, run
from featherweight.runtime.reference import computed_tensors, run_reference
from featherweight.targets.target import Target
from featherweight.tflite.memory_plan import PLAN

# Vectors that tensors inside are compared on: each may hold megabytes.
_INNER_VECTORS = 2


@dataclass(frozen=True)
class Runtime:
    """What runs files.

    Attributes:
        profile: the arithmetic profile that is its own; empty for one that has an arithmetic of its own.
        package: whose version is said.
        reads_tensors: whether tensors inside can be read.
    """

    name: str
    what: str
    profile: str
    package: str
    reads_tensors: bool = False

    @property
    def title(self) -> str:
        """What it is, with its version where it is installed."""
        try:
            return f"{self.what} ({self.package} {importlib.metadata.version(self.package)})"
        except importlib.metadata.PackageNotFoundError:
            return self.what


RUNTIMES = (
    Runtime("xnnpack", "LiteRT with XNNPACK", "xnnpack", "ai-edge-litert"),
    Runtime("builtin", "LiteRT's built-in kernels", "tflite_opt", "ai-edge-litert", reads_tensors=True),
    Runtime("reference", "LiteRT's reference kernels", "tflite_ref", "ai-edge-litert", reads_tensors=True),
    Runtime("tflm", "TFLite Micro's interpreter", "tflm", "tflite-micro", reads_tensors=True),
    Runtime("openvino", "OpenVINO", "", "openvino"),
    Runtime("tosa", "Arm's TOSA reference model", "", "tosa-tools"),
)
NAMES = (*(runtime.name for runtime in RUNTIMES), "vela")

Vectors = Sequence[Sequence[np.ndarray]]


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What the reference kernels compute in one profile, for each vector, or why they don't."""

    outputs: tuple[tuple[np.ndarray, ...], ...]
    tensors: tuple[dict[str, np.ndarray], ...]
    reason: str = ""


def rows(
    model: Model, content: bytes, target: Target, feeds: Vectors, wished: Sequence[str], say: Callable[[str], None]
) -> tuple[tuple[RuntimeRow, ...], tuple[str, ...]]:
    """Returns a row for each runtime, the reference kernels in the target's own arithmetic first; and notes.

    Args:
        model: what the file holds.
        content: of the file.
        target: whose arithmetic counts.
        feeds: sets of inputs in the model's order.
        wished: names of runtimes.
        say: is told which runs next.
    """
    reference = _Reference(model, feeds)
    wanted = reference.wanted(target.profile)
    floats = [node for graph in model.graphs for node in graph.nodes if arithmetic(node, graph) in ("float", "hybrid")]
    notes: list[str] = []
    if floats:
        where = listed((f"{node.op} '{node.name}'" for node in floats), 3)
        notes.append(f"floats are computed by {len(floats)} operators ({where}): their last bits may differ")
    if unproven := [signature.key for signature in model.signatures if signature.graph]:
        notes.append(f"other signatures were not run: {listed(unproven)}")
    if len(feeds) > _INNER_VECTORS:
        notes.append(f"tensors inside were compared on the first {_INNER_VECTORS} vectors")
    ours = "ran" if not wanted.reason else "refused"
    what = f"our reference kernels, profile '{target.profile}'"
    found = [RuntimeRow("ours", what, target.profile, ours, is_claimed=True, is_target=False, said=wanted.reason)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        static = Path(folder, "static.tflite")
        # A converter's notes are orders to the next one, which the runtime's own tools don't understand.
        tflite.save(replace(fixed(model), metadata={}), static)
        # Where all tensors are to stay, each has a place of its own: a plan of places is left out.
        bare = Path(folder, "bare.tflite") if PLAN in model.metadata else path
        if bare is not path:
            tflite.save(replace(model, metadata={}), bare)
        for runtime in RUNTIMES:
            if runtime.name not in wished:
                continue
            say(runtime.what)
            numbers = reference.numbers if runtime.reads_tensors else {}
            files = (static, static) if runtime.name == "tosa" else (path, bare)
            ran = _ran(runtime, files, feeds, len(io_names(model)[1]), numbers)
            row = _row(runtime, ran, reference, numbers, target)
            found.append(replace(row, is_claimed=row.is_claimed and not floats))
        if "vela" in wished:
            say("Vela")
            found.append(_compiled(fixed(model), target))
    return tuple(found), tuple(notes)


def fixed(model: Model) -> Model:
    """Returns the model at the batch that its shapes say: compilers want sizes that are fixed."""
    graphs = (
        replace(graph, tensors={name: replace(each, shape_signature=None) for name, each in graph.tensors.items()})
        for graph in model.graphs
    )
    return replace(model, graphs=tuple(graphs))


def sha256_of(feeds: Vectors) -> str:
    """Returns the hash of vectors: of their types, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for array in (array for feed in feeds for array in feed):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Reference:
    """The reference kernels on the vectors, in each profile once."""

    def __init__(self, model: Model, feeds: Vectors) -> None:
        self.model = model
        self.feeds = feeds
        index = {name: number for number, name in enumerate(model.main.tensors)}
        computed = [name for name in computed_tensors(model.main) if model.main.tensors[name].dtype != "resource"]
        self.numbers: Mapping[str, int] = {name: index[name] for name in computed}
        self._found: dict[str, _Wanted] = {}

    def wanted(self, profile: str) -> _Wanted:
        """Returns what comes out in a profile."""
        if profile not in self._found:
            self._found[profile] = self._computed(profile)
        return self._found[profile]

    def _computed(self, profile: str) -> _Wanted:
        inputs, outputs = io_names(self.model)
        results: list[tuple[np.ndarray, ...]] = []
        inner: list[dict[str, np.ndarray]] = []
        try:
            for position, feed in enumerate(self.feeds):
                keep = tuple(dict.fromkeys((*outputs.values(), *(self.numbers if position < _INNER_VECTORS else ()))))
                found = run_reference(self.model, dict(zip(inputs, feed, strict=True)), profile, keep=keep)
                results.append(tuple(found[tensor] for tensor in outputs.values()))
                inner.append({name: found[name] for name in self.numbers if name in found})
        except FeatherweightError as error:
            return _Wanted((), (), str(error))
        return _Wanted(tuple(results), tuple(inner[:_INNER_VECTORS]))


def _ran(runtime: Runtime, files: tuple[Path, Path], feeds: Vectors, outputs: int, numbers: Mapping[str, int]) -> Ran:
    """Runs all vectors in one file; where tensors inside can be read, the first ones in the other for these."""
    if runtime.name == "tosa" and shutil.which("tosa_reference_model") is None:
        return Ran("not installed", "No program named 'tosa_reference_model'")
    ran = run(runtime.name, files[0], feeds, outputs)
    if ran.ending != "ran" or not numbers:
        return ran
    inner = run(runtime.name, files[1], feeds[:_INNER_VECTORS], outputs, tuple(numbers.values()))
    if inner.ending != "ran":
        return replace(ran, said=f"its tensors can't be read: {inner.said}")
    more = [row[outputs:] for row in inner.results]
    more += [()] * (len(feeds) - len(more))
    return replace(ran, results=tuple((*row, *rest) for row, rest in zip(ran.results, more, strict=True)))


def _row(runtime: Runtime, ran: Ran, reference: _Reference, numbers: Mapping[str, int], target: Target) -> RuntimeRow:
    """Returns what a runtime's process gave, beside what the reference kernels compute in its arithmetic."""
    profile = runtime.profile or target.profile
    is_target = runtime.profile == target.profile
    row = RuntimeRow(runtime.name, runtime.title, profile, "ran", bool(runtime.profile), is_target, ran.said)
    if ran.ending != "ran":
        return replace(row, status=ran.ending)
    wanted, own = reference.wanted(profile), reference.wanted(target.profile)
    names = tuple(io_names(reference.model)[1])
    if wanted.reason:
        return replace(row, said=f"not compared: {wanted.reason}")
    outputs = _differences(names, [found[: len(names)] for found in ran.results], wanted.outputs)
    inner = [found[len(names) :] for found in ran.results if len(found) > len(names)]
    inside = [tuple(tensors[name] for name in numbers) for tensors in wanted.tensors]
    tensors = _differences(tuple(numbers), inner, inside) if inner else ()
    status = "differs" if any(each.differing for each in (*outputs, *tensors)) else "equal"
    beside = _differences(names, [found[: len(names)] for found in ran.results], own.outputs) if not own.reason else ()
    from_target = sum(each.differing for each in beside) if beside else None
    return replace(row, status=status, outputs=outputs, tensors=tensors, from_target=from_target)


def _differences(
    names: Sequence[str], found: Sequence[Sequence[np.ndarray]], wanted: Sequence[Sequence[np.ndarray]]
) -> tuple[Mismatch, ...]:
    return tuple(
        mismatch(name, [row[position] for row in found], [row[position] for row in wanted])
        for position, name in enumerate(names)
    )


def _compiled(model: Model, target: Target) -> RuntimeRow:
    """Returns what Arm's compiler for the Ethos-U makes of the model."""
    is_target = target.name in USUAL
    accelerator = accelerator_of(target.name if is_target else "ethos-u55")
    title = Runtime("vela", f"Vela for {accelerator}", "", "ethos-u-vela").title
    row = RuntimeRow("vela", title, target.profile, "accepted", is_claimed=False, is_target=is_target)
    if not has_vela():
        return replace(row, status="not installed", said="No module named 'ethosu'")
    found = compiled(model, accelerator)
    if isinstance(found, Ended):
        return replace(row, status="aborted" if found.is_aborted else "refused", said=str(found))
    said = f"{found.npu_operators} operators on the NPU, {found.cpu_operators} on the CPU; {found.flash_bytes:,} bytes "
    return replace(row, said=f"{said}of flash, {found.sram_bytes:,} of SRAM, {found.cycles:,} cycles")
