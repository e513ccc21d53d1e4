"""Sony's Model Compression Toolkit: its solver of mixed precision on our scores, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from unittest import mock

import numpy as np

# A folder of packages: model-compression-toolkit, mct-quantizers, edge-mdt-cl, PuLP, networkx, scikit-learn and what
# they ask for (pip install --no-deps), kept apart from the environment that measures.
_FOLDER = "MCT_PACKAGES"
_FRAMEWORKS = ("torch", "torchvision", "tensorflow")


def choices(
    noise: Mapping[str, Mapping[str, float]], size: Mapping[str, Mapping[str, float]], limits: Sequence[float]
) -> list[Mapping[str, str]] | None:
    """Returns its choice of the least added-up noise under each limit of added-up bytes; None where it is missing.

    Args:
        noise: part → form → what it costs.
        size: part → form → bytes above those of the smallest form.
        limits: of the sum of bytes.
    """
    if os.environ.get(_FOLDER):
        sys.path.append(os.environ[_FOLDER])
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name in _FRAMEWORKS else find(name, *rest)  # noqa: E731
    try:
        # The solver needs no framework; those that are installed without torchvision would stop it.
        with mock.patch("importlib.util.find_spec", hidden):
            from model_compression_toolkit.core.common.mixed_precision.resource_utilization_tools import (
                resource_utilization,
            )
            from model_compression_toolkit.core.common.mixed_precision.search_methods import linear_programming
    except ImportError:
        return None
    linear_programming.PULP_CBC_CMD = partial(linear_programming.PULP_CBC_CMD, msg=False)
    weights = resource_utilization.RUTarget.WEIGHTS
    forms = {part: list(costs) for part, costs in noise.items()}
    costs = {part: [noise[part][form] for form in names] for part, names in forms.items()}
    used = np.array([[size[part][form]] for part, names in forms.items() for form in names], np.float64)
    found: list[Mapping[str, str]] = []
    for limit in limits:
        solver = linear_programming.MixedPrecisionIntegerLPSolver(costs, {weights: used}, {weights: np.array([limit])})
        found.append({part: forms[part][index] for part, index in solver.run().items()})
    return found
