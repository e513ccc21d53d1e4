"""Runs a dense and a sparse file on LiteRT and writes their outputs: ``python -m featherweight.sparsity.trial``.

In a process of its own, since a file that kernels do not take may end it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.graph import Model
from featherweight.numerics import storage_dtype
from featherweight.runtime.litert import Session


def main(dense: str, sparse: str, outputs: str) -> None:
    """Writes the outputs of both files on the same random inputs, those of the second as ``sparse NAME``."""
    found: dict[str, Any] = {}
    inputs = _inputs(tflite.read(dense))
    for path, prefix in ((dense, ""), (sparse, "sparse ")):
        with Session(Path(path), threads=1) as session:
            found |= {f"{prefix}{name}": array for name, array in session.run(inputs).items()}
    np.savez(outputs, **found)


def _inputs(model: Model) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    tensors = [model.main.tensors[name] for name in model.main.inputs]
    return tuple(
        random.normal(size=t.shape).astype(np.float32)
        if t.is_float
        else random.integers(0, 8, t.shape).astype(storage_dtype(t.dtype))
        for t in tensors
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
