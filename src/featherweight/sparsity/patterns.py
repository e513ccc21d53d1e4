"""Sparsity patterns: which weights may become zero together, and which do at a given sparsity.

A kernel is first viewed as the runtime reads it (`Layout`), then a pattern turns scores into the scores of its units
(elements, blocks, channels), the units with the lowest scores go, and the pattern spreads what is left over the
elements. `mask` does all of it in NumPy; the same patterns run inside a compiled training step, since they use only
operations that NumPy and ``keras.ops`` share.

A pattern is added here: a function under `@family`, from a matched name to a `Pattern`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.errors import DataError, RecipeError, listed
from featherweight.sparsity.weight_layouts import Layout, runtime_layout, unview, view

AUTO = "auto"


@dataclass(frozen=True)
class Pattern:
    """Which elements of a viewed kernel become zero together.

    Attributes:
        unit_shape: the shape of the units' scores.
        reduce: ``(xp, viewed scores, layout) -> scores of the units``; infinity for what must stay.
        spread: ``(xp, units, layout) -> viewed elements``, each unit's value over its elements.
        obstacle: why the pattern does not fit a kernel, or None.
        ceiling: the largest sparsity that the pattern can hold; 1 where there is no limit.
    """

    name: str
    unit_shape: Callable[[Layout], tuple[int, ...]]
    reduce: Callable[[Any, Any, Layout], Any]
    spread: Callable[[Any, Any, Layout], Any]
    obstacle: Callable[[Layout], str | None]
    ceiling: float = 1.0

    def units(self, layout: Layout) -> int:
        """The number of units in a kernel."""
        return math.prod(self.unit_shape(layout))


_FAMILIES: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], Pattern]]] = {}


def family(name: str, regex: str) -> Callable[[Callable[[re.Match[str]], Pattern]], Callable[[re.Match[str]], Pattern]]:
    """Registers a family of patterns under the names that a regular expression matches."""

    def add(build: Callable[[re.Match[str]], Pattern]) -> Callable[[re.Match[str]], Pattern]:
        if name in _FAMILIES:
            raise ValueError(f"pattern '{name}' is registered twice")
        _FAMILIES[name] = (re.compile(regex), build)
        return build

    return add


def families() -> tuple[str, ...]:
    """Returns the forms of the names that patterns have.

    >>> families()
    ('unstructured', 'RxC', 'N:M', 'channel')
    """
    return tuple(_FAMILIES)


@functools.cache
def parse(name: str) -> Pattern:
    """Returns the pattern of a name, such as ``unstructured``, ``1x4``, ``2:4`` or ``channel``.

    Raises:
        RecipeError: if there is none.

    >>> parse("2:4").ceiling
    0.5
    """
    for regex, build in _FAMILIES.values():
        if isinstance(name, str) and (match := regex.fullmatch(name)):
            return build(match)
    raise RecipeError(
        f"Sparsity pattern {name!r} is unknown (allowed: {listed(families())}, as in '1x4', '1x16', '4x1' or '2:4')."
    )


def _fits(_layout: Layout) -> None:
    return None


def _elements(layout: Layout) -> tuple[int, ...]:
    return layout.view_shape


def _same(_xp: Any, units: Any, _layout: Layout) -> Any:
    return units


@family("unstructured", "unstructured")
def _unstructured(_match: re.Match[str]) -> Pattern:
    """Every element by itself."""
    return Pattern("unstructured", _elements, _same, _same, _fits)


@family("RxC", r"([1-9]\d*)x([1-9]\d*)")
def _blocks(match: re.Match[str]) -> Pattern:
    """R output channels × C consecutive inputs; a block's score is the mean of its elements' scores."""
    high, wide = int(match[1]), int(match[2])

    def split(layout: Layout) -> tuple[int, ...]:
        gates, rows, positions, columns = layout.view_shape
        return gates, rows // high, high, positions, columns // wide, wide

    def unit_shape(layout: Layout) -> tuple[int, ...]:
        gates, rows, _, positions, columns, _ = split(layout)
        return gates, rows, 1, positions, columns, 1

    def reduce(xp: Any, scores: Any, layout: Layout) -> Any:
        return xp.mean(xp.reshape(scores, split(layout)), axis=(2, 5), keepdims=True)

    def spread(xp: Any, units: Any, layout: Layout) -> Any:
        return xp.reshape(xp.broadcast_to(units, split(layout)), layout.view_shape)

    def obstacle(layout: Layout) -> str | None:
        _, rows, _, columns = layout.view_shape
        return _undivided(rows, high, "output channels") or _undivided(columns, wide, "consecutive inputs")

    return Pattern(match[0], unit_shape, reduce, spread, obstacle)


@family("N:M", r"([1-9]\d*):([1-9]\d*)")
def _n_of_m(match: re.Match[str]) -> Pattern:
    """At most N elements of M consecutive inputs stay once the ceiling is reached; never fewer than N before it."""
    kept, group = int(match[1]), int(match[2])
    if not kept < group <= 64:
        raise RecipeError(f"Sparsity pattern '{match[0]}' keeps N of M elements: N must be below M, and M at most 64.")

    def reduce(xp: Any, scores: Any, layout: Layout) -> Any:
        shape = layout.view_shape
        grouped = xp.reshape(scores, (*shape[:3], shape[3] // group, group))
        rank = 0  # how many elements of the group go first: those with a lower score, or an equal one before them
        for i in range(group):
            other, is_behind = grouped[..., i : i + 1], np.arange(group) > i
            rank = rank + xp.where((other < grouped) | ((other == grouped) & is_behind), 1, 0)
        return xp.reshape(xp.where(rank < group - kept, grouped, math.inf), shape)

    def obstacle(layout: Layout) -> str | None:
        return _undivided(layout.view_shape[3], group, "consecutive inputs")

    return Pattern(match[0], _elements, reduce, _same, obstacle, ceiling=(group - kept) / group)


@family("channel", "channel")
def _channel(_match: re.Match[str]) -> Pattern:
    """Whole output channels, through all gates of a recurrent cell; a channel's score is the mean of its elements'."""

    def unit_shape(layout: Layout) -> tuple[int, ...]:
        _, rows, _, columns = layout.view_shape
        return (1, 1, 1, columns) if layout.has_channels_last else (1, rows, 1, 1)

    def reduce(xp: Any, scores: Any, layout: Layout) -> Any:
        return xp.mean(scores, axis=(0, 1, 2) if layout.has_channels_last else (0, 2, 3), keepdims=True)

    def spread(xp: Any, units: Any, layout: Layout) -> Any:
        return xp.broadcast_to(units, layout.view_shape)

    return Pattern("channel", unit_shape, reduce, spread, _fits)


def _undivided(size: int, by: int, what: str) -> str | None:
    """Returns why a size does not divide, with the nearest ones that do."""
    if size % by == 0 and size:
        return None
    below = size // by * by
    nearest = f"{below} or {below + by}" if below else f"{by}"
    return f"it has {size} {what}, which don't divide by {by} (nearest: {nearest})"


# -------------------------------------------------------------------------------------------------------------- masks


def check_sparsity(sparsity: float, where: str) -> float:
    """Returns a sparsity as a float.

    Raises:
        RecipeError: if it is not a number in [0, 1).

    >>> check_sparsity(1.5, "constant")
    Traceback (most recent call last):
    featherweight.errors.RecipeError: constant: a sparsity is a fraction of zeros in [0, 1), not 1.5.
    """
    is_number = isinstance(sparsity, (int, float, np.number)) and not isinstance(sparsity, bool)
    if not is_number or not 0 <= sparsity < 1:
        raise RecipeError(f"{where}: a sparsity is a fraction of zeros in [0, 1), not {shown(sparsity)}.")
    return float(sparsity)


def zero_units(pattern: Pattern, layout: Layout, sparsity: float, where: str) -> int:
    """Returns how many units of a kernel become zero: round(sparsity × units).

    Raises:
        RecipeError: if the pattern can't hold the sparsity.
        DataError: if it does not fit the kernel.

    >>> from featherweight.sparsity.weight_layouts import dense_layout
    >>> zero_units(parse("1x4"), dense_layout((8, 6)), 0.5, "Kernel 'a'")
    6
    """
    if problem := pattern.obstacle(layout):
        raise DataError(
            f"{where}, shape {layout.shape}: pattern '{pattern.name}' does not divide it: {problem}. Change the "
            "layer's size, exclude the layer, or choose another pattern."
        )
    if sparsity > pattern.ceiling:
        raise RecipeError(
            f"{where}: pattern '{pattern.name}' holds at most a sparsity of {pattern.ceiling:g}, not {sparsity:g}."
        )
    return round(sparsity * pattern.units(layout))


def keep_highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns True for all but the `count` lowest scores; of equal scores, those that come first go first.

    >>> keep_highest(np.zeros(4, np.float32), 3).tolist()
    [False, False, False, True]
    """
    kept = np.ones(scores.size, bool)
    if count:
        flat = scores.ravel()
        threshold = np.partition(flat, count - 1)[count - 1]
        kept[flat < threshold] = False
        ties = np.flatnonzero(flat == threshold)
        kept[ties[: count - np.count_nonzero(~kept)]] = False
    return kept.reshape(scores.shape)


def mask(
    scores: np.ndarray, sparsity: float, pattern: str = "unstructured", layout: Layout | None = None
) -> np.ndarray:
    """Returns what stays of a kernel, True = keep: exactly round(sparsity × units) units go, the lowest scores first.

    Args:
        scores: one score per weight, in the kernel's shape; its magnitude, for instance.
        sparsity: the fraction of zeros, in [0, 1).
        pattern: the name of a pattern.
        layout: how the runtime reads the kernel; by default it is stored that way, (out, in) or (out, kh, kw, in).

    Raises:
        RecipeError: if the sparsity or the pattern is not allowed.
        DataError: if the pattern does not fit the kernel, or a score is NaN.

    >>> mask(np.array([[3.0, 1.0, 2.0, 0.0], [5.0, 6.0, 7.0, 8.0]]), 0.25, "2:4").astype(int).tolist()
    [[1, 0, 1, 0], [1, 1, 1, 1]]
    """
    parsed, layout = parse(pattern), layout or runtime_layout(scores.shape)
    count = zero_units(parsed, layout, check_sparsity(sparsity, "mask"), "Kernel")
    values = scores.astype(np.float32)
    if np.isnan(values).any():
        raise DataError("The scores of a kernel contain NaN. Look for the step that made its weights NaN.")
    units = keep_highest(parsed.reduce(np, view(np, values, layout), layout), count)
    return unview(np, parsed.spread(np, units, layout), layout)
