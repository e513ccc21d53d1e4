"""Inputs and outputs of a model as C sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.errors import UnsupportedOp, listed
from featherweight.graph import Model, Tensor

# C's types of what borders hold.
C_TYPES: Mapping[str, str] = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "float32": "float",
    "bool": "bool",
}


@dataclass(frozen=True, eq=False)
class Border:
    """An input or output of the model as C sees it."""

    name: str
    tensor: Tensor

    @property
    def c_type(self) -> str:
        """The type of its elements."""
        return C_TYPES[self.tensor.dtype]

    @property
    def elements(self) -> int:
        """How many it has, for one example."""
        return int(np.prod([max(size, 1) for size in self.tensor.shape], dtype=np.int64))


Borders = tuple[Sequence[Border], Sequence[Border]]
"""A model's inputs and outputs."""


def borders_of(model: Model, names: Mapping[str, str], kind: str) -> tuple[Border, ...]:
    """Returns the inputs or outputs of a model as C sees them.

    Raises:
        UnsupportedOp: for a type that has none in C here.
    """
    found = tuple(Border(name, model.main.tensors[tensor]) for name, tensor in names.items())
    wrong = [border for border in found if border.tensor.dtype not in C_TYPES]
    if wrong:
        raise UnsupportedOp(
            f"deploy: {kind} '{wrong[0].name}' is {wrong[0].tensor.dtype} (allowed: {listed(C_TYPES)}). Convert it."
        )
    return found
