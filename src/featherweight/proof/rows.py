"""What a runtime made of a file, and how many integers of each output and tensor were others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Endings that are a failure where it is the target's own runtime that ends so.
FAILED = ("refused", "aborted")


@dataclass(frozen=True)
class Mismatch:
    """How a tensor's values differ from the reference kernels' over all vectors.

    Attributes:
        elements: how many were compared.
        differing: how many were not equal, bit for bit (NaN counts as equal to NaN).
        largest: the largest difference, in steps of integers or in floats.
    """

    name: str
    dtype: str
    elements: int
    differing: int
    largest: float


@dataclass(frozen=True)
class RuntimeRow:
    """One runtime on the file.

    Attributes:
        runtime: its name.
        what: what it is, in words, with its version.
        profile: the arithmetic profile that it was compared with.
        status: ``equal``, ``differs``, ``ran`` (it was not compared), ``accepted`` (by a compiler), ``refused``,
            ``aborted`` or ``not installed``.
        is_claimed: whether it must compute the same; False where it has an arithmetic of its own, or computes floats.
        is_target: whether it is what the target runs.
        said: its last words where it refused or aborted; what it said else.
        outputs: differences of the model's outputs.
        tensors: of the tensors inside, where they can be read, on the first vectors.
        from_target: how many elements of outputs differ from the target's own arithmetic; None where it did not run.
    """

    runtime: str
    what: str
    profile: str
    status: str
    is_claimed: bool
    is_target: bool
    said: str = ""
    outputs: tuple[Mismatch, ...] = ()
    tensors: tuple[Mismatch, ...] = ()
    from_target: int | None = None

    @property
    def is_failure(self) -> bool:
        """True where it contradicts the proof: other integers than claimed, or the target's own runtime failing."""
        return (self.status == "differs" and self.is_claimed) or (self.status in FAILED and self.is_target)

    @property
    def first(self) -> Mismatch | None:
        """The first tensor inside that differs, in the order of the operators."""
        return next((each for each in self.tensors if each.differing), None)


def mismatch(name: str, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> Mismatch:
    """Returns how arrays differ from those that are wanted; other types or sizes differ in every element."""
    elements = differing = 0
    largest = 0.0
    for one, other in zip(found, wanted, strict=True):
        elements += other.size
        if one.dtype != other.dtype or one.size != other.size:
            differing += other.size
            continue
        a, b = one.reshape(-1), other.reshape(-1)
        unequal = a != b
        if a.dtype.kind == "f":
            unequal &= ~(np.isnan(a) & np.isnan(b))
        differing += int(unequal.sum())
        if unequal.any() and a.dtype.kind in "iufb":
            apart = np.abs(a[unequal].astype(np.float64) - b[unequal].astype(np.float64))
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max()))
    dtype = str(wanted[0].dtype) if wanted else ""
    return Mismatch(name, dtype, elements, differing, largest)
