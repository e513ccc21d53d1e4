"""Proof that everything that runs a file computes the same integers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from featherweight import tflite
from featherweight.analysis.vectors import vectors as vectors_of
from featherweight.arguments import checked, count, flag, several, stream, text
from featherweight.errors import RecipeError, listed
from featherweight.proof import proving
from featherweight.report.proof import ProofSheet
from featherweight.targets import target as targets
from featherweight.tasks.load import opened

_log = logging.getLogger("featherweight")


@checked(samples=stream, vectors=count(1, 10_000), runtimes=several(text), progress=flag)
def prove(
    model: Any,
    *,
    samples: Iterable[Any] | None = None,
    target: str | Path | targets.Target = "litert",
    vectors: int = 16,
    runtimes: Sequence[str] | None = None,
    progress: bool = True,
) -> ProofSheet:
    """Runs one file in every runtime that is installed, and counts the integers that differ.

    Each runtime works in a process of its own, whose end is a row that says so, and is compared, output by output and,
    where its tensors can be read, tensor by tensor, with the reference kernels in the runtime's own arithmetic. What
    has an arithmetic of its own (OpenVINO, Arm's TOSA reference model) or computes in floats is compared for
    information. Each vector starts from the initial state.

    Args:
        model: what `load` takes, as it is to run; of a path or bytes, these very bytes.
        samples: inputs; random ones without.
        target: whose runtime has to compute the same.
        vectors: how many inputs to use at most.
        runtimes: of ``xnnpack``, ``builtin``, ``reference``, ``tflm``, ``openvino``, ``tosa``, ``vela``; all without.
        progress: say on the log which runtime is next.

    Raises:
        RecipeError: for a runtime that there is not, or none.
        FormatError: if the model can't be read.
        DataError: if samples don't fit.
    """
    wished = proving.NAMES if runtimes is None else tuple(runtimes)
    unknown = [name for name in wished if name not in proving.NAMES]
    if unknown or not wished:
        found = listed(unknown) or "empty"
        raise RecipeError(f"prove: runtimes is {found} (allowed: {listed(proving.NAMES, 10)}). Leave it out for all.")
    device = targets.load(target)
    source = opened(model, "prove: model", None)
    graph = tflite.read(source)
    content = source if isinstance(source, bytes) else tflite.write(graph)
    if isinstance(source, Path):
        content = source.read_bytes()
    feeds = vectors_of(graph, samples, vectors)
    rows, notes = proving.rows(graph, content, device, feeds, wished, _log.info if progress else _ignored)
    return ProofSheet(
        source.name if isinstance(source, Path) else "the model",
        len(content),
        hashlib.sha256(content).hexdigest(),
        len(feeds),
        proving.sha256_of(feeds),
        device.name,
        device.profile,
        rows,
        notes,
    )


def _ignored(said: str) -> None:
    """Says nothing."""
