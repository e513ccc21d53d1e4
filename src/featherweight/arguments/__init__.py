"""What public functions make of their arguments before they work: kinds of values, and what they are called."""

from __future__ import annotations

from featherweight.arguments.checked import bound, checked, renamed
from featherweight.arguments.kinds import (
    Kind,
    as_given,
    can_iterate,
    choice,
    count,
    either,
    exactly,
    flag,
    function,
    instance,
    layer_name,
    mapping,
    number,
    path,
    several,
    shapes,
    shown,
    stream,
    text,
    wrong,
)

__all__ = [
    "Kind",
    "as_given",
    "bound",
    "can_iterate",
    "checked",
    "choice",
    "count",
    "either",
    "exactly",
    "flag",
    "function",
    "instance",
    "layer_name",
    "mapping",
    "number",
    "path",
    "renamed",
    "several",
    "shapes",
    "shown",
    "stream",
    "text",
    "wrong",
]
