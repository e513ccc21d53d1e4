"""Which kernels get few values, and how many: roles, exclusions, rules and sizes, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.arguments import count, either, exactly, mapping, several, text
from featherweight.errors import RecipeError, listed
from featherweight.pruning.choosing import ROLES
from featherweight.pruning.prunable import Kernel, matches

# Tables of TFLite Micro's DECODE have at most 2^7 values; with fewer than 4 there is nothing between zero and the ends.
FEWEST, MOST = 4, 128
# A kernel has so many weights for each value at least: the table of values is to be small beside them.
_WEIGHTS_PER_VALUE = 16
_WHY = {
    "first": "the first convolution",
    "last": "the last classifier",
    "depthwise": "a depthwise convolution, whose few weights matter most",
}


@dataclass(frozen=True)
class Choice:
    """What the user asks for, checked as far as that goes without a model.

    Attributes:
        clusters: values in a kernel.
        rules: shell pattern of names → values, 0 for a kernel that stays as it is; the first that matches decides.
        exclude: shell patterns of kernels that stay as they are.
        keep: roles of kernels that stay as they are unless a rule other than ``*`` names them.
        where: the function or class that was called, for messages.
    """

    clusters: int
    rules: tuple[tuple[str, int], ...]
    exclude: tuple[str, ...]
    keep: tuple[str, ...]
    where: str


def check_choice(
    clusters: int,
    rules: Mapping[str, int] | Sequence[tuple[str, int]],
    exclude: str | Sequence[str],
    keep: str | Sequence[str],
    where: str,
) -> Choice:
    """Returns what the user asks for.

    Raises:
        RecipeError: for an unknown role, or a rule without a number of values.
    """
    number = either(count(0, 0), count(FEWEST, MOST), allowed=f"0, or a whole number from {FEWEST} to {MOST}")
    said = "a dict from names of kernels to numbers of values, or pairs of both"
    rows = either(
        mapping(text, number), several(exactly(text, number)), allowed=said, way="Such as {'block_1/*': 32}."
    )(rules, f"{where}: rules")
    kept, excluded = several(text)(keep, "keep"), several(text)(exclude, "exclude")
    if unknown := [role for role in kept if role not in ROLES]:
        raise RecipeError(f"{where}: keep={listed(map(repr, unknown))} is not understood (allowed: {listed(ROLES)}).")
    return Choice(clusters, tuple(rows.items()) if isinstance(rows, dict) else rows, excluded, kept, where)


def chosen(kernels: Sequence[Kernel], choice: Choice) -> tuple[dict[str, int], dict[str, str]]:
    """Returns path → number of values of each kernel that gets few, and path → reason of each that stays as it is.

    Raises:
        RecipeError: if nothing is left to cluster, or a rule or an exclusion matches no kernel.
    """
    paths = [kernel.path for kernel in kernels]
    for what, patterns in (("rule", [row[0] for row in choice.rules]), ("exclude", choice.exclude)):
        for pattern in patterns:
            if pattern != "*" and not any(matches(path, pattern) for path in paths):
                raise RecipeError(
                    f"{choice.where}: {what} '{pattern}' matches no kernel. They are named {listed(paths)}."
                )
    found, reasons = dict[str, int](), dict[str, str]()
    for kernel in kernels:
        rule = next((row for row in choice.rules if matches(kernel.path, row[0])), None)
        values = choice.clusters if rule is None else rule[1]
        if reason := _reason(kernel, values, rule, choice):
            reasons[kernel.path] = reason
        else:
            found[kernel.path] = values
    if not found:
        said = listed(f"'{path}' ({reason})" for path, reason in reasons.items()) or "it has none"
        raise RecipeError(f"{choice.where}: there is nothing to cluster; all kernels stay as they are: {said}.")
    return found, reasons


def _reason(kernel: Kernel, values: int, rule: tuple[str, int] | None, choice: Choice) -> str:
    """Returns why a kernel stays as it is, or nothing."""
    size, is_named = kernel.layout.size, rule is not None and rule[0] != "*"
    excluded = next((pattern for pattern in choice.exclude if matches(kernel.path, pattern)), None)
    if excluded is not None:
        return f"excluded by '{excluded}'"
    if not values:
        return f"rule '{rule[0] if rule else ''}' gives it 0 values"
    if kernel.role in choice.keep and not is_named:
        return f"{_WHY[kernel.role]}; name it in a rule, or leave '{kernel.role}' out of keep= to cluster it"
    if size < _WEIGHTS_PER_VALUE * values and not is_named:
        return f"small: {size} weights, fewer than {_WEIGHTS_PER_VALUE} for each of {values} values"
    return ""
