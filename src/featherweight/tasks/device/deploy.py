"""A model as the sources of a microcontroller's firmware, with a test by which the device proves its own equality."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.analysis.vectors import vectors
from featherweight.arguments import checked, count, flag, stream, text
from featherweight.arguments import path as path_of
from featherweight.device_code import sources
from featherweight.device_code.arena import Arena, MicroRun, micro_run
from featherweight.device_code.borders import borders_of
from featherweight.device_code.c_text import check_identifier
from featherweight.device_code.places import with_places
from featherweight.device_code.selftest import selftest_sources
from featherweight.errors import FeatherweightError, RecipeError, TargetViolation, UnsupportedOp, listed
from featherweight.graph import Model, io_names
from featherweight.memory.ordering import ordered
from featherweight.operators.entries import entry_of, with_main, without_uncalled
from featherweight.targets import target as targets
from featherweight.tasks.load import opened

# The arithmetic of LiteRT for Microcontrollers, whose interpreter gives the golden outputs.
_PROFILE = "tflm"


@dataclass(frozen=True)
class Deployed:
    """What was written for a device.

    Attributes:
        files: the sources and the model, in the folder.
        file_bytes: of the model, in flash.
        arena: measured in TFLite Micro.
        operators: methods of the resolver that register what the model uses.
        tests: sets of golden inputs and outputs.
        notes: what another order of the operators, and a plan of tensors' places, brought, before and after; and which
            signatures are left out, or not run.
    """

    files: tuple[Path, ...]
    file_bytes: int
    arena: Arena
    operators: tuple[str, ...]
    tests: int
    notes: tuple[str, ...] = ()


@checked(
    folder=path_of, name=text, samples=stream, tests=count(1, 100), max_arena=count(), keep_order=flag, signature=text
)
def deploy(
    model: Any,
    folder: str | Path,
    *,
    target: str | Path | targets.Target = "tflm",
    name: str = "model",
    samples: Iterable[Any] | None = None,
    tests: int = 3,
    max_arena: int | None = None,
    keep_order: bool = False,
    signature: str | None = None,
) -> Deployed:
    """Writes a model for TFLite Micro: a C array, its operators, scales, and a test of the device's own.

    ``NAME.h``, ``NAME.c`` hold the array (aligned), the arena and the conversions of inputs and outputs; ``NAME_ops.h``
    registers exactly the operators in use; ``NAME_test.h``, ``NAME_test.c`` compare what the device computes with
    golden integers, which TFLite Micro's interpreter gave here. It runs the first graph of a file and what that calls:
    the graphs of other signatures are left out, which is said.

    Args:
        model: what `load` takes, as it is to run: quantized for the target.
        folder: where the sources go; it is made where it is missing.
        target: of LiteRT for Microcontrollers.
        name: of the model in C.
        samples: inputs of the golden tests; random ones without.
        tests: how many of them.
        max_arena: bytes that there are for the arena.
        keep_order: leave the model as it came, also where another order of operators, or a plan of places in the arena,
            needs a smaller one.
        signature: what the device runs of a file of several; None: the first graph.

    Raises:
        TargetViolation: for a model that the target does not run.
        UnsupportedOp: for one without inputs, with types that C has not, or custom operators that the target has not.
        RecipeError: for a name that C can't use, a target of another runtime, or a signature that there is not.
        FeatherweightError: if the arena is too large, the interpreter is not installed, or files can't be written.
    """
    check_identifier(name)
    target, folder = targets.load(target), Path(folder)
    if target.profile != _PROFILE:
        able = [one for one in targets.available() if targets.load(one).profile == _PROFILE]
        raise RecipeError(
            f"deploy: the sources are for LiteRT for Microcontrollers, and target '{target.name}' runs something else "
            f"(allowed: {listed(able)}). Where its board runs the model on the processor, give one of these; other "
            "runtimes and compilers take the .tflite file as it is."
        )
    source = opened(model, "deploy: model", None)
    graph = tflite.read(source)
    if isinstance(source, Path) and source.resolve() in {(folder / file).resolve() for file in _files(name)}:
        raise FeatherweightError(
            f"deploy: '{source}' would be written over by the file of that name. Choose another folder or name."
        )
    graph, unrun = _entered(graph, signature)
    if violations := targets.check(graph, target):
        found = listed((row.message.rstrip(".") for row in violations), 5)
        raise TargetViolation(
            f"Target '{target.name}' does not run the model: {found}. Quantize it for that target; an operator that is "
            "unknown to it wants another layer in its place."
        )
    inputs, outputs = io_names(graph)
    if not inputs:
        raise UnsupportedOp(
            "deploy: the model has no inputs, so that its outputs are constants. Take them as they are."
        )
    borders = borders_of(graph, inputs, "input"), borders_of(graph, outputs, "output")
    feeds = vectors(graph, samples, tests)
    run, notes = _run(graph, feeds), ()
    if not keep_order:
        graph, run, notes = _small(graph, feeds, run)
    notes += (*unrun, *_of_rows(graph))
    content = tflite.write(graph)
    if max_arena is not None and run.arena.total > max_arena:
        raise FeatherweightError(
            f"deploy: the arena takes {run.arena.total:,} bytes ({run.arena.tensors:,} for tensors), and there are "
            f"{max_arena:,}. Smaller inputs or fewer channels make it smaller (`remove_channels`)."
        )
    header, test = selftest_sources(name, borders, feeds, run.outputs)
    texts = (
        sources.model_header(name, graph, run.arena, len(content), borders),
        sources.model_source(name, content),
        sources.resolver_header(name, graph),
        header,
        test,
    )
    written = dict(zip(_files(name), (content, *(text.encode() for text in texts)), strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatherweightError(f"'{folder}' can't be made: {error.strerror}. Choose another folder.") from error
    for file, content_of_file in written.items():
        tflite.write_atomically(folder / file, [content_of_file])
    files = tuple(folder / file for file in written)
    return Deployed(files, len(content), run.arena, sources.resolver_calls(graph), len(feeds), notes)


def _files(name: str) -> tuple[str, ...]:
    """Returns the names of the files that a deployed model is."""
    return tuple(f"{name}{end}" for end in (".tflite", ".h", ".c", "_ops.h", "_test.h", "_test.c"))


def _entered(model: Model, signature: str | None) -> tuple[Model, tuple[str, ...]]:
    """Returns the model with the graph that is run in the first place, and no other that is not called; and a note."""
    entry = entry_of(model, signature, "deploy: signature")
    unread = [one.key for one in model.signatures if one.graph != entry]
    found = without_uncalled(with_main(model, entry), [0])
    if len(found.graphs) == len(model.graphs):
        return found, (
            f"TFLite Micro runs the first graph only, not the signatures {listed(unread)}",
        ) if unread else ()
    what = f"signatures {listed(unread)}" if unread else "graphs that nothing runs"
    saved = len(tflite.write(model)) - len(tflite.write(found))
    return found, (f"TFLite Micro runs the first graph only: without {what}, {saved:,} bytes of flash are saved",)


def _of_rows(model: Model) -> tuple[str, ...]:
    """Returns a note where dense layers have a scale for each row, which not every interpreter knows.

    Source: pull requests 2602 (refused, May 2024) and 2673 (computed, September 2024) of tensorflow/tflite-micro.
    """
    nodes = [(node, graph) for graph in model.graphs for node in graph.nodes if node.op == "FULLY_CONNECTED"]
    weights = (graph.tensors[name] for node, graph in nodes if (name := node.inputs[1]))
    if not any(weight.quant is not None and len(weight.quant.scale) > 1 for weight in weights):
        return ()
    return (
        "dense layers have a scale for each row: TFLite Micro before September 2024, and vendors' kernels made of it, "
        "refuse them or compute noise, as the self-test finds; improve='one-scale' makes files with one",
    )


def _run(graph: Model, feeds: Sequence[Sequence[np.ndarray]]) -> MicroRun:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "model.tflite")
        tflite.save(graph, path)
        return micro_run(path, feeds, len(io_names(graph)[1]))


def _small(
    graph: Model, feeds: Sequence[Sequence[np.ndarray]], run: MicroRun
) -> tuple[Model, MicroRun, tuple[str, ...]]:
    """Returns the model in the form whose arena is the smallest in the interpreter, with equal outputs; and notes.

    First its operators are put in the order that keeps least alive, then its tensors get places in the arena.
    """
    notes: list[str] = []
    found = ordered(graph)
    if found.is_changed:
        peaks = listed(str(peak) for peak in found.peaks if peak.after < peak.before)
        graph, run, note = _smaller(graph, run, found.model, feeds, "operators are in another order", f" ({peaks})")
        notes.append(note)
    planned = with_places(graph)
    if planned is not None:
        added = len(tflite.write(planned)) - len(tflite.write(graph))
        said = f"tensors lie where a plan in the file's metadata says, which takes {added:,} bytes of flash"
        graph, run, note = _smaller(graph, run, planned, feeds, said)
        notes.append(note)
    return graph, run, tuple(notes)


def _smaller(
    graph: Model, run: MicroRun, other: Model, feeds: Sequence[Sequence[np.ndarray]], change: str, why: str = ""
) -> tuple[Model, MicroRun, str]:
    """Returns the other model if its arena is smaller in the interpreter, and its outputs equal; and a note."""
    ran = _run(other, feeds)
    before, after = run.arena, ran.arena
    pairs = [pair for one, two in zip(run.outputs, ran.outputs, strict=True) for pair in zip(one, two, strict=True)]
    if any(not np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs):
        return graph, run, f"not done, for the interpreter computes other integers then: {change}"
    if after.total >= before.total:
        sizes = f"{after.total:,} bytes then, and {before.total:,} now"
        return graph, run, f"not done, for the interpreter's arena takes {sizes}: {change}"
    saved = f"tensors take {after.tensors:,} bytes of arena instead of {before.tensors:,}"
    return other, ran, f"{change}: {saved}, with equal outputs{why}"
