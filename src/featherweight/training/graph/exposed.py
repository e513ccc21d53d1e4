"""The graph that a Keras model trains, and what is asked of it again and again: made once, handed on as one value."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.graph import Model, io_names
from featherweight.graph.editor import with_zeros
from featherweight.training.graph.batch import fixed_batch
from featherweight.training.graph.source_layers import callers
from featherweight.training.graph.split_constants import split_constants
from featherweight.training.graph.weights import Entry, layer_table


@dataclass(frozen=True, eq=False)
class Exposed:
    """A float graph in which everything that can be trained on its own is a constant of its own, and its index.

    Attributes:
        model: the graph.
        table: one entry for every float constant at every node that reads it: what trains it, or why nothing does.
        inputs: public name → tensor.
        outputs: public name → tensor.
        batch: the batch that the graph must be run at, or None where any will do.
        frozen: paths of variables that are not trained, as their user wants it.
    """

    model: Model
    table: tuple[Entry, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    batch: int | None
    frozen: tuple[str, ...] = ()

    @property
    def trained(self) -> frozenset[str]:
        """The names of the constants that are trained."""
        return frozenset(entry.tensor for entry in self.table if entry.variable is not None)

    def real(self, name: str) -> np.ndarray:
        """Returns the value that a constant begins with."""
        array = self.model.main.tensors[name].array
        assert array is not None
        return array

    def to_config(self) -> dict[str, Any]:
        """Returns plain values; what is trained is left out of the graph, for Keras stores it."""
        emptied = with_zeros(self.model, self.trained)
        table = [astuple(entry) for entry in self.table]
        return {"graph": packed(emptied), "table": table, "frozen": list(self.frozen)}


def expose(model: Model) -> Exposed:
    """Returns the same function with one constant for each thing that can be trained on its own, and its index."""
    calling = callers(model)
    split = split_constants(model, calling)
    return _indexed(split, layer_table(split, calling))


def exposed_from_config(config: Mapping[str, Any]) -> tuple[Exposed, dict[str, Any]]:
    """Returns what `to_config` told of, with zeros for what is trained, and the other settings."""
    others = dict(config)
    model, table = unpacked(others.pop("graph")), others.pop("table")
    # (Version 0.1.0 had no frozen ones.)
    exposed = replace(_indexed(model, (Entry(*row) for row in table)), frozen=tuple(others.pop("frozen", ())))
    return exposed, others


def packed(model: Model) -> str:
    """Returns a model as text."""
    return base64.b64encode(zlib.compress(tflite.write(model))).decode("ascii")


def unpacked(text: str) -> Model:
    """Returns the model that `packed` made text of."""
    return tflite.read(zlib.decompress(base64.b64decode(text)))


def _indexed(model: Model, table: Iterable[Entry]) -> Exposed:
    return Exposed(model, tuple(table), *io_names(model), fixed_batch(model))
