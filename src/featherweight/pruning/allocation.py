"""How many weights each kernel gives up: rules, and the spreading of one sparsity over layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.errors import RecipeError, listed
from featherweight.pruning.prunable import Kernel
from featherweight.sparsity.patterns import Pattern, zero_units

ALLOCATIONS = ("uniform", "global", "erk")


@dataclass(frozen=True)
class Share:
    """What one kernel gives up.

    Attributes:
        units: the number of its units: elements, blocks or channels.
        zeros: how many of them are zero in the end; in a global allocation, at most.
        fraction: its final sparsity; it follows the schedule in proportion.
    """

    kernel: Kernel
    pattern: Pattern
    units: int
    zeros: int
    fraction: float


def allocate(
    kernels: Sequence[tuple[Kernel, Pattern]], ruled: Mapping[str, float], final: float, allocation: str
) -> tuple[Share, ...]:
    """Returns what each kernel gives up.

    Uniform: each kernel the same fraction. ERK (Evci et al. 2020, arXiv 1911.11134, section 3): density in proportion
    to (n_in + n_out + kh + kw)/(n_in·n_out·kh·kw), so that small kernels stay denser, and the total of the zeros is
    that of a uniform allocation. Global: the lowest scores of all kernels go, whatever their shares.

    Args:
        kernels: what is pruned, and in which pattern.
        ruled: path → final sparsity, for the kernels that a rule gives one.
        final: the schedule's final sparsity, for the others.
        allocation: ``uniform``, ``global`` or ``erk``.

    Raises:
        RecipeError: if a pattern can't hold its sparsity or means another, or rules contradict the allocation.
        DataError: if a pattern does not fit its kernel.
    """
    if allocation == "global" and ruled:
        raise RecipeError(
            "Pruning: a global allocation gives no kernel its own sparsity; its rules may say 0 only. Found "
            f"rules for {listed(ruled)}."
        )
    if ruled and not final:
        raise RecipeError("Pruning: rules follow the schedule, which ends at a sparsity of 0. Let it end at another.")
    fractions = {kernel.path: ruled.get(kernel.path, final) for kernel, _ in kernels}
    shares = [_share(kernel, pattern, fractions[kernel.path]) for kernel, pattern in kernels]
    if allocation == "erk":
        free = [share for share in shares if share.kernel.path not in ruled]
        spread = dict(zip((share.kernel.path for share in free), _erk(free), strict=True))
        shares = [spread.get(share.kernel.path, share) for share in shares]
    for share in shares:
        _check_ceiling(share)
        if allocation != "global":
            _check_rest(share)
    return tuple(shares)


def _share(kernel: Kernel, pattern: Pattern, fraction: float) -> Share:
    zeros = zero_units(pattern, kernel.layout, fraction, f"Kernel '{kernel.path}'")
    return Share(kernel, pattern, pattern.units(kernel.layout), zeros, fraction)


def _check_rest(share: Share) -> None:
    if share.zeros == share.units:
        warnings.warn(
            f"Kernel '{share.kernel.path}', shape {share.kernel.layout.shape}: a sparsity of {share.fraction:g} leaves "
            f"none of its {share.units} {share.pattern.name} units. Exclude it, or ask for less.",
            stacklevel=3,
        )


def _check_ceiling(share: Share) -> None:
    """A pattern N:M means one sparsity: below it, kernels of its hardware can't run."""
    ceiling = share.pattern.ceiling
    if ceiling < 1 and share.zeros != round(ceiling * share.units):
        raise RecipeError(
            f"Kernel '{share.kernel.path}': pattern '{share.pattern.name}' means a final sparsity of {ceiling:g}, "
            f"not {share.fraction:g}. Let the schedule end there."
        )


def _erk(shares: Sequence[Share]) -> list[Share]:
    """Spreads the zeros of all shares; kernels whose density would exceed 1 stay dense, and the others take it up."""
    units = np.array([share.units for share in shares], np.float64)
    size = np.array([share.kernel.layout.size for share in shares], np.float64)
    total = sum(share.zeros * share.kernel.layout.size / share.units for share in shares)
    raw = np.array([sum(_sides(share)) / math.prod(_sides(share)) for share in shares])
    is_dense = np.zeros(len(shares), bool)
    density = np.ones(len(shares))
    while not is_dense.all():
        kept = size[~is_dense].sum() - total
        density[~is_dense] = raw[~is_dense] * kept / (raw * size)[~is_dense].sum()
        density[is_dense] = 1.0
        if not (density > 1).any():
            break
        is_dense |= density > 1
    zeros = _rounded((1 - density) * units)
    return [
        Share(share.kernel, share.pattern, share.units, int(count), count / share.units)
        for share, count in zip(shares, zeros, strict=True)
    ]


def _sides(share: Share) -> list[int]:
    return [side for side in share.kernel.layout.shape if side > 1] or [1]


def _rounded(values: np.ndarray) -> np.ndarray:
    """Rounds numbers so that their sum is the rounded sum: the largest remainders are rounded up."""
    floors = np.floor(values)
    missing = round(values.sum() - floors.sum())
    up = np.argsort(floors - values, kind="stable")[:missing]
    floors[up] += 1
    return floors
