"""A model as a target's runtime wants its file."""

from __future__ import annotations

from dataclasses import replace

from featherweight.graph import Model
from featherweight.memory.ordering import ordered
from featherweight.targets.target import Target
from featherweight.tflite.lean import NAMES


def for_device(
    model: Model, target: Target, *, keep_names: bool = False, keep_order: bool = False
) -> tuple[Model, tuple[str, ...]]:
    """Returns the model as the target's runtime wants it, and what is to be said about that.

    Its file will lack what the runtime never reads, and its operators are in the order that keeps least memory alive.
    """
    unread = tuple(what for what in target.unread if not (keep_names and what == NAMES))
    model = replace(model, extras={**model.extras, "unread": unread}) if unread else model
    if keep_order or not target.is_ordered:
        return model, ()
    found = ordered(model)
    better = [peak for peak in found.peaks if peak.after < peak.before]
    where = [f" in graph '{peak.graph}'" if len(found.peaks) > 1 else "" for peak in better]
    return found.model, tuple(
        f"operators are in another order, which needs less memory{place}: {peak}"
        for place, peak in zip(where, better, strict=True)
    )
