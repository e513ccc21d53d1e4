"""Arithmetic profiles: in which integer arithmetic an accumulator becomes an output.

One graph gives different integers on different kernels, always by their rounding. A profile names one arithmetic: it is
data, and says which functions of `fixed_point` rescale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from featherweight.arguments import shown
from featherweight.errors import RecipeError, listed
from featherweight.operators.fixed_point import (
    Rescale,
    rescale_once,
    rescale_once_even,
    rescale_short,
    rescale_twice,
    rescale_twice_up,
)


@dataclass(frozen=True)
class Profile:
    """One integer arithmetic.

    Attributes:
        rescale: multiplies by a real number that is given as multiplier and shift.
        rescale_products: the same after matrix products (convolutions, dense layers).
        rescale_wide: the same for the 64-bit accumulators of int16 activations.
        is_litert: one of LiteRT's own arithmetics, with what its single kernels do differently.
        is_reference: LiteRT's reference kernels where its other kernels compute differently.
        is_micro: TFLite Micro's, where they compute differently from LiteRT's reference kernels.
        is_delegate: XNNPACK's kernels, which multiply by a float32 scale.
        only_shifts: there is no multiplier: every factor must be a power of two.
        fallback: the profile of the operators that this one's runtime does not take.
    """

    name: str
    description: str
    rescale: Rescale
    rescale_products: Rescale
    rescale_wide: Rescale
    is_litert: bool = False
    is_reference: bool = False
    is_micro: bool = False
    is_delegate: bool = False
    only_shifts: bool = False
    fallback: Profile | None = None

    @property
    def is_vectorized(self) -> bool:
        """True for LiteRT's optimized kernels: several values at a time in one arithmetic, the rest in another."""
        return self.is_litert and not self.is_reference and not self.is_delegate


_TFLITE_OPT = Profile(
    "tflite_opt",
    "LiteRT's optimized kernels without delegate",
    rescale=rescale_twice,
    rescale_products=rescale_twice_up,
    rescale_wide=rescale_short,
    is_litert=True,
)
_TFLITE_REF = Profile(
    "tflite_ref",
    "LiteRT's reference kernels",
    rescale=rescale_twice,
    rescale_products=rescale_twice,
    rescale_wide=rescale_short,
    is_litert=True,
    is_reference=True,
)
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _TFLITE_REF,
        replace(
            _TFLITE_REF,
            name="tflm",
            description="TFLite Micro: LiteRT's reference kernels, but for dense layers in fixed point, and LSTM",
            is_micro=True,
        ),
        _TFLITE_OPT,
        replace(
            _TFLITE_OPT,
            name="xnnpack",
            description="LiteRT as devices run it: XNNPACK where it takes a node, else optimized kernels",
            is_delegate=True,
            fallback=_TFLITE_OPT,
        ),
        Profile(
            "integer_multiplier",
            "chips with a 32-bit multiplier, a shift and one rounding",
            rescale=rescale_once,
            rescale_products=rescale_once,
            rescale_wide=rescale_short,
            is_reference=True,
        ),
        Profile(
            "power_of_two",
            "chips that shift only: every scale is a power of two",
            rescale=rescale_once,
            rescale_products=rescale_once,
            rescale_wide=rescale_short,
            is_reference=True,
            only_shifts=True,
        ),
        Profile(
            "power_of_two_even",
            "chips that shift only, and round halves to even",
            rescale=rescale_once_even,
            rescale_products=rescale_once_even,
            rescale_wide=rescale_short,
            is_reference=True,
            only_shifts=True,
        ),
    )
}


def find(name: str) -> Profile:
    """Returns the profile of that name.

    Raises:
        RecipeError: if there is none.

    >>> find("xnnpack").fallback.name
    'tflite_opt'
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise RecipeError(f"profile {shown(name)} is unknown (allowed: {listed(PROFILES)}).")
    return PROFILES[name]
