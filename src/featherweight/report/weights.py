"""The weights of a model: which are how large, and how much of them is zero."""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.analysis.inspection import is_weight, op_name, zero_count
from featherweight.graph import Model
from featherweight.operators.layers import shown_names


@dataclass(frozen=True)
class WeightRow:
    """One weight: where it is read, what it takes in the file, and the fraction (0..1) of its zeros.

    Attributes:
        shown: its name after the user's layer, as far as names tell.
    """

    name: str
    shown: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int
    sparsity: float


def weight_rows(model: Model) -> tuple[WeightRow, ...]:
    """Returns all weights in the order in which they are read first."""
    found: dict[str, WeightRow] = {}
    for graph in model.graphs:
        names = shown_names(graph)
        for node in graph.nodes:
            for name in node.inputs:
                tensor = graph.tensors.get(name)
                if tensor is None or name in found or not is_weight(tensor) or not tensor.elements:
                    continue
                found[name] = WeightRow(
                    name,
                    names.get(name, name),
                    op_name(node),
                    tensor.shape,
                    tensor.dtype,
                    tensor.stored_bytes,
                    zero_count(tensor) / tensor.elements,
                )
    return tuple(found.values())
