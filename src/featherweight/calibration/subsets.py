"""Which values of a large tensor a histogram counts: every p-th of each example, the same ones in every run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from featherweight.graph import Tensor
from featherweight.runtime.batches import has_free_batch, unit_of

# Values of one example that are counted one by one. Of larger tensors about as many are: a percentile of 99.99 is then
# still told from two values, and counting costs less than inference.
MOST_COUNTED = 1 << 14


def step_of(elements: int) -> int:
    """Returns p, where every p-th of so many values is counted: the least that leaves few enough and shares no divisor.

    Without a common divisor with the number of values, and so with any axis, all channels and columns are met alike.

    >>> step_of(1000), step_of(112 * 112 * 32)
    (1, 25)
    """
    step = -(-elements // MOST_COUNTED) or 1
    while math.gcd(step, elements) > 1:
        step += 1
    return step


def examples_lead(tensor: Tensor, inputs: Mapping[str, Tensor]) -> bool:
    """True where a tensor holds one example after the other, whatever is run together with what.

    Args:
        tensor: of the graph.
        inputs: what the graph is fed.
    """
    if any(has_free_batch(each) for each in inputs.values()):
        signature = tensor.shape_signature or ()
        return signature[:1] == (-1,) and -1 not in signature[1:]
    unit = unit_of(inputs, None) or 1
    return unit == 1 or (tensor.shape[:1] == (unit,) and unit not in tensor.shape[1:])


def subset(values: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """Returns the values to count of so many examples, one after the other, and how many values each stands for.

    >>> subset(np.arange(6), 2)
    (array([0, 1, 2, 3, 4, 5]), 1)
    """
    if not values.size or values.size % rows:
        return values.reshape(-1), 1
    each = values.reshape(rows, -1)
    step = step_of(each.shape[1])
    return each[:, ::step].reshape(-1), step
