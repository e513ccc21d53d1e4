"""Tasks for the networks of MLPerf Tiny that listen: inputs made from seeds, and the float network's decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from featherweight import tflite
from featherweight.graph import Model, Tensor
from featherweight.graph.numerics import dequantize
from featherweight.runtime.litert import Session

# A class that the float model gives so much is one that it would be tested on.
SURE = 0.7
# Likewise of an error, as a fraction of the usual one.
_SURE_KINDS = (lambda share: share < 0.8, lambda share: share > 1.25)


def floated(model: Model) -> Model:
    """Returns an integer network in floats: its constants as their integers stand for, its tensors without rounding."""

    def tensor(each: Tensor) -> Tensor:
        if each.quant is None or not each.quant.scale or each.dtype not in ("int8", "int32"):
            return each
        if not each.is_constant:
            return replace(each, dtype="float32", quant=None)
        values = dequantize(each.array, each.quant).astype(np.float32)
        return replace(each, dtype="float32", quant=None, data=values.reshape(-1).view(np.uint8))

    graph = model.main
    return replace(
        model, graphs=(replace(graph, tensors={name: tensor(each) for name, each in graph.tensors.items()}),)
    )


def heard(model: Model, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs that a classifier of sounds is sure of, and its classes: noise, shaped until it is sure.

    Features of frames are smooth in time, and wander in front of the net: of many such, those are kept that it gives at
    least `SURE`, as evenly over its classes as there are.
    """
    random = np.random.default_rng(seed)
    (name,) = model.main.inputs
    shape = model.main.tensors[name].shape[1:]
    frames, features = shape[0], int(np.prod(shape[1:]))
    kept: dict[int, list[np.ndarray]] = {}
    with Session(model) as session:
        for _ in range(40 * count):
            walk = np.cumsum(random.normal(size=(frames, features)), axis=0) * random.uniform(0.05, 0.6)
            level = random.normal(size=features) * random.uniform(0.5, 4) * np.exp(-np.arange(features) / 8)
            x = (walk + level + random.normal(size=(frames, features)) * 0.3).astype(np.float32).reshape(1, *shape)
            scores = next(iter(session.run(x).values()))[0]
            if scores.max() >= SURE:
                kept.setdefault(int(scores.argmax()), []).append(x)
            if sum(min(len(rows), 2 * count // 3) for rows in kept.values()) >= count:
                break
    pairs = [(x, label) for label, rows in kept.items() for x in rows[: 2 * count // 3]]
    order = random.permutation(len(pairs))[:count]
    return np.concatenate([pairs[i][0] for i in order]), np.array([pairs[i][1] for i in order])


def machines(model: Model, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs of an autoencoder, half of them with a tone that does not belong there, and what it says of them.

    What it maps to itself is made by mapping noise through it three times. A label is an input with a last column that
    is 1 where the float network's error is above the median; those within a fifth of it are left out.
    """
    random = np.random.default_rng(seed)
    (name,) = model.main.inputs
    width = model.main.tensors[name].shape[-1]
    with Session(model) as session:

        def mapped(x: np.ndarray) -> np.ndarray:
            return np.concatenate([next(iter(session.run(row[np.newaxis]).values())) for row in x])

        x = random.normal(size=(2 * count, width)).astype(np.float32) * 4
        for _ in range(3):
            x = mapped(x)
        x = x + random.normal(size=x.shape).astype(np.float32) * 0.5
        for row in x[::2]:
            at = int(random.integers(width - 16))
            row[at : at + 16] += random.uniform(0.3, 3)
        errors = np.square(mapped(x) - x).mean(-1)
    share = errors / np.median(errors)
    order = random.permutation(len(x))
    chosen = np.concatenate([[i for i in order if kind(share[i])][: count // 2] for kind in _SURE_KINDS])
    chosen = random.permutation(chosen)
    return x[chosen], np.column_stack([x, share > 1])[chosen]


def decisions(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns for how many inputs of `machines` an autoencoder says the same as the float one."""
    x, wanted = labels[:, :-1], labels[:, -1] > 0
    errors = np.square(predictions.reshape(x.shape) - x).mean(-1)
    limit = np.sort(errors)[len(errors) // 2 - 1 : len(errors) // 2 + 1].mean() if len(errors) > 1 else 0.0
    return float(((errors > limit) == wanted).mean())


def float_model(folder: Path, name: str) -> Model | None:
    """Returns MLPerf Tiny's `ad`, `kws` or `str_ww` in floats, from a folder of its files; None if it is not there."""
    files = {"ad": "ad01_fp32.tflite", "kws": "kws_ref_model.tflite", "str_ww": "str_ww_ref_model.tflite"}
    path = folder / files[name]
    if not path.is_file():
        return None
    model = tflite.read(path)
    return model if name == "ad" else floated(model)
