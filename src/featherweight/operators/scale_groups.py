"""Tensors that share their parameters, because operators copy integers from one to the other."""

from __future__ import annotations

from collections.abc import Iterable

from featherweight.graph import Node
from featherweight.operators.record import lookup


def sharing(node: Node) -> tuple[str, ...]:
    """Returns a node's outputs and the inputs that must have their parameters; nothing where none must."""
    positions = lookup(node.op).same_scale
    inputs = [name for position, name in enumerate(node.inputs) if name and position in positions]
    return (*node.outputs, *inputs) if positions else ()


def united(names: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns name → the name that stands for its group, once linked names are in one group.

    >>> united("abcd", [("a", "c"), ("c", "d")])
    {'a': 'd', 'b': 'b', 'c': 'd', 'd': 'd'}
    """
    parent = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for first, second in links:
        parent[find(first)] = find(second)
    return {name: find(name) for name in parent}
