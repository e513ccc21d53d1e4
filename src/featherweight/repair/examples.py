"""The samples that repairs work with, and those of them that judge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from featherweight.calibration.copies import copies, counted
from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.repair.candidate import Arrays, digest
from featherweight.runtime.samples import feeds, input_tensors

# Examples that repairs work with, and those of them that judge: one in four, within these bounds.
MOST_EXAMPLES = 256
_LEAST_HELD_OUT, _MOST_HELD_OUT = 4, 32
LEAST_EXAMPLES = 8


def divided(
    samples: Iterable[Any], model: Model, limit: int | None, *, is_auto: bool
) -> tuple[tuple[Arrays, ...], tuple[Arrays, ...]]:
    """Returns feeds of single runs to repair with, and others to judge by: the same ones in whatever order they come.

    No example that judges repeats another, or nearly one of those that are repaired with (`calibration.copies`); where
    nearly all are alike, as before a fixed camera, none that is the same as another. Of a model that keeps state from
    run to run the last ones judge: samples follow each other there.

    Raises:
        DataError: if there are less than 8 different examples, and they are to decide.
    """
    found = examples(samples, model, limit)
    is_sequence = any(tensor.is_variable for tensor in model.main.tensors.values())
    if not is_sequence:
        found.sort(key=digest)
    kinds = list(range(len(found))) if is_sequence else copies(found)
    if len(set(kinds)) < LEAST_EXAMPLES:
        kinds = kinds if is_sequence else copies(found, nearly=False)
    different = sorted(set(kinds))
    if len(different) < LEAST_EXAMPLES and not is_auto:
        return tuple(found), ()
    if len(different) < LEAST_EXAMPLES:
        raise DataError(
            f"improve: {counted(found)} are too few to tell what helps (at least {LEAST_EXAMPLES}; a hundred are "
            "better). Pass more calibration samples, or name the repairs that are to be applied unmeasured."
        )
    count = min(max(_LEAST_HELD_OUT, len(different) // 4), _MOST_HELD_OUT)
    if is_sequence:
        return tuple(found[:-count]), tuple(found[-count:])
    judging = sorted({different[int(place)] for place in (np.arange(count) + 0.5) * len(different) / count})
    return tuple(found[i] for i, kind in enumerate(kinds) if kind not in judging), tuple(found[i] for i in judging)


def examples(samples: Iterable[Any], model: Model, limit: int | None) -> list[Arrays]:
    """Returns the first samples as feeds of single runs."""
    most = min(limit or MOST_EXAMPLES, MOST_EXAMPLES)
    return [feed.arrays for feed in feeds(samples, model, limit=most, batch=1 if input_tensors(model) else None)]
