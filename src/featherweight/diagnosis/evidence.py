"""Everything that causes are looked for in, measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featherweight.analysis.borders import dequantized, integer_feeds, matched_names
from featherweight.analysis.inspection import op_name
from featherweight.analysis.places import Pair, Place
from featherweight.diagnosis.exact import Exact, Runs
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.own_errors import OwnError
from featherweight.graph import Node
from featherweight.operators.layers import layer_names
from featherweight.runtime.litert import Session


@dataclass(frozen=True, eq=False)
class Evidence:
    """A quantized model beside its float one, on samples.

    Attributes:
        found: judged tensor → the quantized model's values of it, a run each, on the default runtime.
        total: the error of these.
        own: every operator's own error, worst first.
        layers: operator → the user's layer.
        is_calibrated: True where the ranges are of these samples.
    """

    pair: Pair
    exact: Exact
    found: Mapping[str, Runs]
    total: Level
    own: tuple[OwnError, ...]
    layers: Mapping[str, str]
    is_calibrated: bool = False

    def layer(self, place: Place) -> str:
        """Returns the user's name of the layer that a place is in; of an input of the model, the input's."""
        return place.tensor if place.node is None else self.layers.get(place.node.name, place.node.name)

    def said(self, node: Node) -> str:
        """Returns an operator with its layer, for messages."""
        return f"{op_name(node)} '{self.layers.get(node.name, node.name)}'"

    def places_of(self, name: str) -> tuple[Place, ...]:
        """Returns the places of one operator, or of an input of the model."""
        return tuple(p for p in self.pair.places if (p.tensor if p.node is None else p.node.name) == name)


def quantized_values(pair: Pair, exact: Exact) -> dict[str, Runs]:
    """Returns judged tensor → its real values in the quantized model, a run each; tensors that it lacks are left out.

    Raises:
        DataError: if inputs or outputs of the two models differ.
        FeatherweightError: if LiteRT can't run the model.
    """
    names = matched_names(pair.before, pair.after)
    shown = dict[str, str]()
    for ours, theirs in pair.meaning.items():
        if not pair.graph.tensors[ours].is_constant:
            shown.setdefault(theirs, ours)
    shown |= {pair.meaning[ours]: ours for ours in pair.graph.outputs if ours in pair.meaning}
    tensors = {output.tensor: shown[output.tensor] for output in exact.outputs if output.tensor in shown}
    found: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    with Session(pair.after, outputs=list(dict.fromkeys(tensors.values()))) as session:
        for feed in exact.feeds:
            session.invoke(integer_feeds({names[name]: values for name, values in feed.items()}, pair.after))
            for name, tensor in tensors.items():
                found[name].append(dequantized(session.read(tensor), pair.graph.tensors[tensor]))
    return dict(found)


def gathered(pair: Pair, exact: Exact, own: tuple[OwnError, ...]) -> Evidence:
    """Returns the evidence, with the quantized model run on the same samples."""
    found = quantized_values(pair, exact)
    return Evidence(pair, exact, found, exact.level(found), own, layer_names(pair.float_graph))
