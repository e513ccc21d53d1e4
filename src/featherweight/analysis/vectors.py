"""Sets of inputs that a file is run on as it is: of samples, or random ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from featherweight.analysis.borders import integer_feeds, real_feeds
from featherweight.graph import Model, io_names
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.samples import input_tensors


def vectors(graph: Model, samples: Iterable[Any] | None, count: int) -> list[list[np.ndarray]]:
    """Returns up to `count` sets of inputs of one example each, in the model's order and types.

    Args:
        graph: the model; real numbers are quantized where it takes integers.
        samples: inputs; random ones without.
        count: how many sets.

    Raises:
        DataError: if a sample does not fit the model, or there are none.
    """
    if samples is None:
        found = [random_inputs(input_tensors(graph), seed) for seed in range(count)]
    else:
        rows = real_feeds(samples, graph, limit=count, batch=1, label="", progress=False)
        found = [integer_feeds(row, graph) for row in rows]
    return [[feed[name] for name in io_names(graph)[0]] for feed in found]
