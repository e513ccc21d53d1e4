"""Kinds of arguments: each takes a value and where it was given, and returns it, or says what is allowed.

None of them sees a value that is an argument's default: what a function takes for "left out" is always allowed.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import DataError, FeatherweightError, RecipeError, listed

Kind = Callable[[Any, str], Any]
"""``(value, where) -> value``; raises a `FeatherweightError` that begins with `where`."""

_LONGEST = 60


def shown(value: object) -> str:
    """Says what a value is, in few words, whatever it is.

    >>> shown(1.5), shown([1, 2]), shown(np.ones((2, 3)))
    ('1.5', 'a list of 2', 'an ndarray of shape [2, 3]')
    """
    if value is None or isinstance(value, (str, bytes, Path, bool, int, float, np.number, np.bool_)):
        plain = value.item() if isinstance(value, (np.number, np.bool_)) else value
        said = repr(str(plain)) if isinstance(plain, Path) else repr(plain)
        return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    if isinstance(value, type):
        return f"the class {name}"
    said = f"{'an' if name[:1].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, (tuple, list)):
        return f"{said} of shape {list(shape)}"
    return f"{said} of {len(value)}" if isinstance(value, (list, tuple, dict, set)) else said


def wrong(value: object, where: str, allowed: str, way: str = "") -> RecipeError:
    """Returns the error that says where, what was found, what is allowed, and the way out."""
    return RecipeError(f"{where} is {shown(value)} (allowed: {allowed}). {way}".strip())


def as_given(value: Any, where: str) -> Any:
    """Anything: the function itself says what is wrong with it."""
    return value


def flag(value: Any, where: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong(value, where, "True or False")
    return bool(value)


def count(low: int = 1, high: int | None = None, way: str = "") -> Kind:
    """A whole number from `low` to `high`."""

    def kind(value: Any, where: str) -> int:
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_whole or value < low or (high is not None and value > high):
            limits = f"a whole number from {low} on" if high is None else f"a whole number from {low} to {high}"
            raise wrong(value, where, limits, way)
        return int(value)

    return kind


def number(low: float = -math.inf, high: float = math.inf, *, open_at: str = "", way: str = "") -> Kind:
    """A finite number from `low` to `high`; ``"low"``, ``"high"`` or both in `open_at` leave these out."""

    def kind(value: Any, where: str) -> float:
        is_real = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, bool)
        is_inside = is_real and math.isfinite(float(value)) and low <= float(value) <= high
        is_end = is_inside and (("low" in open_at and value == low) or ("high" in open_at and value == high))
        if not is_inside or is_end:
            ends = [f"from {low:g} on"] if low > -math.inf and high == math.inf else []
            ends += [f"from {low:g} to {high:g}"] if low > -math.inf and high < math.inf else []
            left_out = [f"{v:g}" for n, v in (("low", low), ("high", high)) if n in open_at]
            but = f", without {' and '.join(left_out)}" if left_out else ""
            raise wrong(value, where, " ".join(["a finite number", *ends]) + but, way)
        return float(value)

    return kind


def choice(*allowed: str) -> Kind:
    """One of several words."""

    def kind(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise wrong(value, where, listed(allowed, 20))
        return value

    return kind


def text(value: Any, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(value, where, "a text")
    return value


def layer_name(value: Any, where: str) -> str:
    """A name that Keras takes."""
    if not isinstance(value, str) or not value or "/" in value:
        raise wrong(value, where, "a text without '/'")
    return value


def function(value: Any, where: str) -> Any:
    """A function; what it raises is its author's."""
    if not callable(value) or isinstance(value, type):
        raise wrong(value, where, "a function")
    return value


def path(value: Any, where: str) -> Path:
    """The path of a file or folder."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise wrong(value, where, "a path, as a text or a Path")
    if "\0" in str(value):
        raise wrong(value, where, "a path without a zero byte")
    return Path(value)


def several(one: Kind, *, at_least: int = 0) -> Kind:
    """One value of a kind, or several of them in a list or tuple; returns a tuple."""

    def kind(value: Any, where: str) -> tuple[Any, ...]:
        if isinstance(value, (list, tuple, set, frozenset, np.ndarray, range)):
            found = tuple(one(item, f"{where}[{index}]") for index, item in enumerate(value))
        else:
            found = (one(value, where),)
        if len(found) < at_least:
            raise wrong(value, where, f"{at_least} or more values")
        return found

    return kind


def exactly(*kinds: Kind) -> Kind:
    """A list or tuple with one value for each of the kinds; returns a tuple."""

    def kind(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise wrong(value, where, f"{len(kinds)} values, in a tuple or list")
        return tuple(one(item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True)))

    return kind


def mapping(keys: Kind, values: Kind) -> Kind:
    """A dict from keys of one kind to values of another."""

    def kind(value: Any, where: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise wrong(value, where, "a dict")
        return {keys(key, f"a key of {where}"): values(item, f"{where}[{key!r:.60}]") for key, item in value.items()}

    return kind


def instance(*classes: type, way: str = "") -> Kind:
    """An instance of one of these classes."""

    def kind(value: Any, where: str) -> Any:
        if not isinstance(value, classes):
            raise wrong(value, where, " or ".join(c.__name__ for c in classes), way)
        return value

    return kind


def either(*kinds: Kind, allowed: str, way: str = "") -> Kind:
    """What one of several kinds takes; the first that does decides."""

    def kind(value: Any, where: str) -> Any:
        for one in kinds:
            try:
                return one(value, where)
            except FeatherweightError:
                continue
        raise wrong(value, where, allowed, way)

    return kind


def shapes(value: Any, where: str) -> Any:
    """Shapes of inputs: one, a list of them, or a dict by input name; None in a shape leaves a size free."""
    said = "one shape such as (1, 64), a list of shapes, or a dict of shapes by input name; None: free"

    def is_shape(item: Any) -> bool:
        return isinstance(item, (list, tuple)) and all(
            size is None or (isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size > 0)
            for size in item
        )

    if isinstance(value, Mapping):
        if all(isinstance(key, str) and is_shape(item) for key, item in value.items()):
            return value
    elif is_shape(value) or (isinstance(value, Sequence) and not isinstance(value, str) and all(map(is_shape, value))):
        return value
    raise wrong(value, where, said)


def stream(value: Any, where: str) -> Any:
    """Samples: anything that can be iterated over, and is not a text, a path or a function.

    What the samples are is checked one by one when they are used.
    """
    allowed = "an iterable of samples: a list, an array, a generator, a data set"
    said = f"{where} is {shown(value)} (allowed: {allowed})"
    if hasattr(value, "get_next"):
        raise DataError(f"{said}. Pass iter({where.rpartition(' ')[2]}.get_next, None).")
    if isinstance(value, (str, bytes, bytearray, Path)):
        raise DataError(f"{said}. Load the data first, and pass its arrays.")
    if not can_iterate(value):
        way = " Call it, and pass what it returns." if callable(value) else ""
        raise DataError(f"{said}.{way}")
    return value


def can_iterate(value: object) -> bool:
    """Says whether a value can be iterated over, without doing it; classes and single numbers can't."""
    has_items = hasattr(type(value), "__iter__") or hasattr(type(value), "__getitem__")
    return has_items and not isinstance(value, type) and getattr(value, "shape", None) != ()
