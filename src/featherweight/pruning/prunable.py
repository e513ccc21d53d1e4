"""Kernels that may be pruned, whatever holds them: an optimizer's variables, or a graph's constants."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from featherweight.sparsity.weight_layouts import Layout

# Kind → the operator that a kernel of that kind becomes; a target names blocks by operator.
OPERATORS = {
    "dense": "FULLY_CONNECTED",
    "recurrent": "FULLY_CONNECTED",
    "conv": "CONV_2D",
    "transposed": "TRANSPOSE_CONV",
    "depthwise": "DEPTHWISE_CONV_2D",
    "embedding": "EMBEDDING_LOOKUP",
}


@dataclass(frozen=True)
class Kernel:
    """A weight that may be pruned.

    Attributes:
        index: its place among the optimizer's variables, or the graph's kernels.
        kind: ``dense``, ``recurrent``, ``conv``, ``transposed``, ``depthwise`` or ``embedding``.
        role: ``first`` (convolution), ``last`` (classifier), ``depthwise``, or nothing.
    """

    index: int
    path: str
    kind: str
    layout: Layout
    role: str = ""


def matches(path: str, pattern: str) -> bool:
    """True if a shell pattern matches a variable's path or a part of it, from one slash to another.

    >>> matches("net/block_1/conv/kernel", "block_1"), matches("net/block_1/conv/kernel", "conv/*")
    (True, True)
    >>> matches("net/block_1/conv/kernel", "block")
    False
    """
    parts = path.split("/")
    spans = ("/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(span, pattern) for span in spans)
