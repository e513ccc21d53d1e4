"""Every error that featherweight raises on purpose.

```
FeatherweightError
├── FormatError       a file or byte string is not a readable .tflite model
├── LoweringError     a framework model could not be turned into a float graph, or the result differs from it
├── UnsupportedOp     an operator, data type or attribute that the asked-for step can't treat
├── RecipeError       an unknown recipe, target, plan, option or a rule that matches nothing
├── TargetViolation   the model breaks constraints of the target (or of `strict`)
└── DataError         samples, labels or weights that can't be used: shape, dtype, NaN, exhausted, missing
```

A message says where, what was found, what is allowed, and the way out.
"""

from __future__ import annotations

from collections.abc import Iterable


class FeatherweightError(Exception):
    """The root of all errors that featherweight raises on purpose."""


class FormatError(FeatherweightError):
    """A file or byte string is not a readable ``.tflite`` model."""


class LoweringError(FeatherweightError):
    """A framework model could not be lowered to a float graph, or the graph differs from its source."""


class UnsupportedOp(FeatherweightError):
    """An operator, data type or attribute that the asked-for step can't treat."""


class RecipeError(FeatherweightError):
    """An unknown recipe, target, plan or option, or a rule that matches nothing."""


class TargetViolation(FeatherweightError):
    """The model breaks constraints of its target, or is not integer from end to end although it must be."""


class DataError(FeatherweightError):
    """Samples, labels or weights that can't be used."""


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Joins names for a message, cut after `limit` of them.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b, and 1 more'
    """
    items = [str(name) for name in names]
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown}, and {len(items) - limit} more"
