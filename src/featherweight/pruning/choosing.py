"""Which kernels are pruned, and in which pattern: exclusions, rules, defaults, with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.arguments import as_given, either, exactly, mapping, several, text
from featherweight.errors import RecipeError, listed
from featherweight.pruning.prunable import OPERATORS, Kernel, matches
from featherweight.sparsity import patterns
from featherweight.sparsity.patterns import Pattern, check_sparsity
from featherweight.targets.target import Target
from featherweight.targets.target import load as load_target

ROLES = ("first", "last", "depthwise")
_REASONS = {
    "first": "the first convolution",
    "last": "the last classifier",
    "depthwise": "a depthwise convolution",
}


@dataclass(frozen=True)
class Choice:
    """What the user asks for, checked.

    Attributes:
        pattern: name of a pattern, or ``auto`` for the one that `target` names for a kernel's operator.
        exclude: shell patterns of paths that stay dense.
        rules: shell pattern of paths → final sparsity, 0 for dense; the first that matches decides.
        keep: roles that stay dense unless a rule names them.
    """

    pattern: str
    target: Target | None
    exclude: tuple[str, ...]
    rules: tuple[tuple[str, float], ...]
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """The kernels to prune with their patterns, path → final sparsity by rules, and path → why a kernel stays dense."""

    kernels: tuple[tuple[Kernel, Pattern], ...]
    ruled: Mapping[str, float]
    reasons: Mapping[str, str]


def check_choice(
    pattern: str,
    target: str | Path | Target | None,
    exclude: str | Sequence[str],
    rules: Mapping[str, float] | Sequence[tuple[str, float]],
    keep: str | Sequence[str],
) -> Choice:
    """Returns what the user asks for, checked as far as that goes without a model.

    Raises:
        RecipeError: for an unknown pattern, target or role, a rule without a sparsity, or `auto` without a target.
    """
    found = None if target is None else load_target(target)
    kept, excluded = several(text)(keep, "keep"), several(text)(exclude, "exclude")
    if pattern != patterns.AUTO:
        patterns.parse(pattern)
    elif found is None:
        raise RecipeError("pattern='auto' takes the pattern from a target. Name one, such as target='litert'.")
    if unknown := [role for role in kept if role not in ROLES]:
        raise RecipeError(f"keep={listed(map(repr, unknown))} is not understood (allowed: {listed(ROLES)}).")
    said = "a dict from names of kernels to sparsities, or pairs of both"
    rows = either(
        mapping(text, as_given), several(exactly(text, as_given)), allowed=said, way="Such as {'block_1/*': 0.75}."
    )(rules, "rules")
    pairs = tuple(rows.items()) if isinstance(rows, dict) else rows
    checked = tuple((match, check_sparsity(value, f"Rule '{match}'")) for match, value in pairs)
    return Choice(pattern, found, excluded, checked, kept)


def choose(kernels: Sequence[Kernel], choice: Choice) -> Chosen:
    """Returns what is pruned.

    Raises:
        RecipeError: if there is nothing to prune, or a rule or an exclusion matches no kernel.
    """
    _check_use(kernels, choice)
    pruned: list[tuple[Kernel, Pattern]] = []
    ruled: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for kernel in kernels:
        rule = next((row for row in choice.rules if matches(kernel.path, row[0])), None)
        excluded = next((match for match in choice.exclude if matches(kernel.path, match)), None)
        if excluded is not None:
            reasons[kernel.path] = f"excluded by '{excluded}'"
        elif rule is not None and not rule[1]:
            reasons[kernel.path] = f"rule '{rule[0]}' gives it a sparsity of 0"
        elif kernel.role in choice.keep and (rule is None or rule[0] == "*"):
            reasons[kernel.path] = f"{_REASONS[kernel.role]}; name it in a rule, or leave '{kernel.role}' out of keep="
        else:
            pruned.append((kernel, _pattern_of(kernel, choice)))
            if rule is not None:
                ruled[kernel.path] = rule[1]
    if not pruned:
        raise RecipeError(_nothing(reasons))
    return Chosen(tuple(pruned), ruled, reasons)


def _check_use(kernels: Sequence[Kernel], choice: Choice) -> None:
    for what, names in (("rule", [row[0] for row in choice.rules]), ("exclude", choice.exclude)):
        for name in names:
            if name != "*" and not any(matches(kernel.path, name) for kernel in kernels):
                paths = [kernel.path for kernel in kernels]
                raise RecipeError(f"Pruning: {what} '{name}' matches no kernel. They are named {listed(paths)}.")


def _nothing(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return "Pruning: the model has no trainable kernel, so there is nothing to prune."
    rows = [f"'{path}' ({reason})" for path, reason in reasons.items()]
    return f"Pruning: there is nothing to prune; all kernels stay dense: {listed(rows)}."


def _pattern_of(kernel: Kernel, choice: Choice) -> Pattern:
    """With `auto`, kernels that the target's pattern does not divide, or that it has none for, are unstructured."""
    if choice.target is None or choice.pattern != patterns.AUTO:
        return patterns.parse(choice.pattern)
    pattern = patterns.parse(choice.target.sparsity.get(OPERATORS[kernel.kind], "unstructured"))
    return pattern if pattern.obstacle(kernel.layout) is None else patterns.parse("unstructured")
