"""What the roster holds of an architecture, and what building one gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Samples to calibrate with, and others to measure with.
CALIBRATION, HELD_OUT = 16, 6
INSTALL = "make setup-architectures"
SAMPLES = CALIBRATION + HELD_OUT


@dataclass(frozen=True)
class Built:
    """A source model with random weights, and its samples, one example (a batch of 1) each.

    Attributes:
        source: what `featherweight.load` takes.
        samples: an array, a tuple, or a dict by input name each; `CALIBRATION` to calibrate, the rest to measure with.
        run: from one sample to the source's float outputs, in order.
    """

    source: Any
    samples: Sequence[Any]
    run: Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Architecture:
    """One row of the roster.

    Attributes:
        family: the package whose architecture it is.
        build: makes the model; imports the package.
        module: the package's name in Python.
    """

    family: str
    build: Callable[[], Built]
    module: str

    @property
    def is_there(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.module) is not None
