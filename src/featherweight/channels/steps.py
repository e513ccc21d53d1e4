"""What goes of a group of channels first, second, and so on, so that whole packs are left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.channels.groups import Group


@dataclass(frozen=True)
class Step:
    """The next channels of a group to go, and their mean score."""

    score: float
    labels: tuple[int, ...]


def steps_of(group: Group, scores: np.ndarray, multiple: int) -> list[Step]:
    """Returns what goes first, second, and so on: after each step, a multiple of channels is left, and not nothing."""
    if group.reason:
        return []
    order = np.argsort(scores, kind="stable")
    stride = math.lcm(multiple, group.rows) // group.rows
    count, start = len(order), 0
    ends = [count - left for left in range((count - 1) // stride * stride, 0, -stride)]
    steps: list[Step] = []
    for end in ends:
        chosen = order[start:end]
        steps.append(Step(float(scores[chosen].mean()), tuple(group.labels[i] for i in chosen)))
        start = end
    return steps


def fraction_of(group: Group, steps: Sequence[Step], fraction: float) -> set[int]:
    """Returns what goes of one group: as many steps as stay within the fraction."""
    removed: set[int] = set()
    for step in steps:
        if len(removed) + len(step.labels) > fraction * len(group.labels) + 1e-9:
            break
        removed |= set(step.labels)
    return removed
