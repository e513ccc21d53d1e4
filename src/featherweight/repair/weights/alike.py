"""Which samples are alike: crops of one picture, frames of one scene, sentences of one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from featherweight.graph import Model
from featherweight.repair.weights.prefix import keeps_state
from featherweight.runtime.litert import Session

# The longest steps of the walk part kinds of samples: one for so many samples.
_OF_A_KIND = 4
_FEWEST = 4

Feeds = Sequence[Mapping[str, np.ndarray]]


def alternating(model: Model, samples: Feeds) -> Feeds:
    """Returns samples in an order in which every other one, and those between, are two halves with little in common.

    Samples are alike where the model's outputs are: from the one farthest from their mean, a walk goes on to the
    nearest one that it has not seen, and its longest steps part one kind from another. A kind goes to one half as a
    whole, so that halves are not alike just because both hold crops of the same pictures. Samples of a model that keeps
    state stay in their order.
    """
    if len(samples) < _FEWEST or keeps_state(model):
        return samples
    with Session(model) as session:
        found = [_described(session.run(sample)) for sample in samples]
    if len({len(each) for each in found}) > 1 or not len(found[0]) or not np.isfinite(found).all():
        return samples
    order, steps = _walk(np.stack(found))
    cuts = sorted(np.argsort(-np.asarray(steps), kind="stable")[: len(samples) // _OF_A_KIND] + 1)
    halves: tuple[list[int], list[int]] = [], []
    for kind in sorted(np.split(order, cuts), key=len, reverse=True):
        min(halves, key=len).extend(kind.tolist())
    longer, shorter = sorted(halves, key=len, reverse=True)
    turns = [place for pair in zip(longer, shorter, strict=False) for place in pair]
    return [samples[place] for place in (*turns, *longer[len(shorter) :])]


def _walk(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Returns rows in the order of a walk to the nearest one each time, and how long its steps are."""
    values = values - values.mean(axis=0)
    powers = np.square(values).sum(axis=1)
    distances = np.maximum(powers[:, None] + powers - 2 * values @ values.T, 0.0)
    order, steps, left = [int(powers.argmax())], list[float](), np.ones(len(values), bool)
    left[order] = False
    while left.any():
        ahead = np.where(left, distances[order[-1]], np.inf)
        order.append(int(ahead.argmin()))
        steps.append(float(ahead.min()))
        left[order[-1]] = False
    return np.asarray(order), steps


def _described(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the float outputs of one run as one vector: means over all but the last axis."""
    rows = [y.astype(np.float64) for y in outputs.values() if y.dtype == np.float32 and y.size]
    means = [y.reshape(-1, y.shape[-1] if y.ndim else 1).mean(axis=0) for y in rows]
    return np.concatenate(means) if means else np.zeros(0)
