"""Runs a dense and a sparse file on LiteRT and writes how they differ: ``python -m featherweight.sparse_files.trial``.

In a process of its own, since a file that kernels do not take may end it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from featherweight import tflite
from featherweight.graph import Model
from featherweight.graph.numerics import integer_range, storage_dtype
from featherweight.runtime.litert import Session

# LiteRT's own kernels, and what devices run.
_RESOLVERS = ("no_delegate", "auto")
_DRAWS = 4


def main(dense: str, sparse: str, differences: str) -> None:
    """Writes [resolver, largest difference, largest output of the dense file] as JSON, for each resolver and output."""
    model, rows = tflite.read(dense), list[tuple[str, float, float]]()
    for resolver in _RESOLVERS:
        with (
            Session(Path(dense), threads=1, resolver=resolver) as before,
            Session(Path(sparse), threads=1, resolver=resolver) as after,
        ):
            for draw in range(_DRAWS):
                inputs = _inputs(model, draw)
                pairs = zip(before.run(inputs).values(), after.run(inputs).values(), strict=True)
                rows += [(resolver, *_difference(x.astype(np.float64), y.astype(np.float64))) for x, y in pairs]
    Path(differences).write_text(json.dumps(rows), encoding="utf-8")


def _difference(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    differs = (x != y) & ~(np.isnan(x) & np.isnan(y))
    return float(np.abs(x - y)[differs].max(initial=0)), float(np.abs(x).max(initial=0))


def _inputs(model: Model, seed: int) -> tuple[np.ndarray, ...]:
    """Returns random inputs: quantized ones over their whole range, other integers small, since they are indices."""
    random, drawn = np.random.default_rng(seed), list[np.ndarray]()
    for name in model.main.inputs:
        tensor = model.main.tensors[name]
        if tensor.is_float:
            drawn.append(random.normal(size=tensor.shape).astype(np.float32))
            continue
        low, high = (0, 7) if tensor.quant is None else integer_range(tensor.dtype)
        drawn.append(random.integers(low, high + 1, tensor.shape).astype(storage_dtype(tensor.dtype)))
    return tuple(drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
