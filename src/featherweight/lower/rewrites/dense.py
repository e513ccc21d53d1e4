"""Dense layers on arrays whose inner sizes are all one, as in squeeze-and-excitation: the converter refuses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.placeholders import operator


def _is_dense_on_ones(equation: Any) -> bool:
    """Whether (n, 1, …, 1, c) is multiplied with a matrix (c, out)."""
    x, weight = (var.aval for var in equation.invars)
    contracted, batch = equation.params["dimension_numbers"]
    return (
        x.ndim > 2
        and weight.ndim == 2
        and math.prod(x.shape[1:-1]) == 1
        and [tuple(map(int, axes)) for axes in contracted] == [(x.ndim - 1,), (0,)]
        and not any(map(len, batch))
        and x.dtype == weight.dtype == np.float32
    )


def _dense(tracing: Tracing, _: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    x, weight = inputs[0], tracing.concrete(inputs[1])
    if weight is None:
        return None

    def plain(x: Any, weight: Any) -> Any:
        return x @ weight.T

    attrs = {"fused_activation_function": "NONE", "weights_format": "DEFAULT", "keep_num_dims": True}
    return [operator("fully_connected", plain, x, np.ascontiguousarray(weight.T), **attrs)]


DENSE_RULE = Rule("dense on ones", "dot_general", _is_dense_on_ones, _dense)
