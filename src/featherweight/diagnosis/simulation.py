"""The quantized model as a float graph that rounds where it does, so that single places can be left exact."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from featherweight.analysis.alone import as_quantized, converted
from featherweight.analysis.places import Pair, Place
from featherweight.diagnosis.exact import Exact
from featherweight.diagnosis.levels import Level
from featherweight.errors import UnsupportedOp
from featherweight.graph import Graph, Model
from featherweight.graph.editor import Editor
from featherweight.operators import lookup
from featherweight.runtime.litert import Session


class Simulation:
    """Rounds a float model's tensors as a quantized model holds them, and measures what that does to the outputs.

    What kernels do besides (rescaling in fixed point, tables of functions) is not in it.
    """

    def __init__(self, pair: Pair, exact: Exact) -> None:
        self.pair, self.exact = pair, exact

    def level(self, exact_places: Collection[Place] = ()) -> Level:
        """Returns the error at the outputs when these places are left exact and all others round.

        Raises:
            UnsupportedOp: if the model keeps variables: LiteRT may end the process over conversions around them.
            FeatherweightError: if LiteRT can't run the graph.
        """
        if any(tensor.dtype == "resource" for tensor in self.pair.before.tensors.values()):
            raise UnsupportedOp("a model that keeps variables is not simulated. Read its own errors.")
        left_out = {id(place) for place in exact_places}
        model, names = _rounding_model(self.pair, [p for p in self.pair.places if id(p) not in left_out])
        tensors = {output.tensor: names.get(output.tensor, output.tensor) for output in self.exact.outputs}
        found: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
        with Session(model, outputs=list(dict.fromkeys(tensors.values()))) as session:
            for feed in self.exact.feeds:
                session.invoke(feed)
                for name, shown in tensors.items():
                    found[name].append(session.read(shown))
        return self.exact.level(found)


def _rounding_model(pair: Pair, places: Iterable[Place]) -> tuple[Model, dict[str, str]]:
    """Returns the float model with conversions behind tensors and other constants, and what tensors are read as."""
    graph = pair.float_graph
    edit = Editor(graph, set(pair.before.tensors))
    rounded: dict[tuple[str, str], str] = {}  # (tensor, reader or "") → what it is read as
    own: dict[str, list[Place]] = {}
    for place in places:
        is_weight = place.kind == "weight" and place.node is not None
        own.setdefault(place.node.name if is_weight and place.node else place.tensor, []).append(place)

    def convert(place: Place) -> None:
        if place.params is not None:
            new = converted(edit, place.tensor, place.params)
            rounded.update(((place.tensor, reader), new) for reader in place.readers or ("",))

    for name in graph.inputs:
        for place in own.get(name, ()):
            convert(place)
    for node in graph.nodes:
        mine = own.get(node.name, ())
        inputs = tuple(rounded.get((name, node.name), rounded.get((name, ""), name)) for name in node.inputs)
        weights = {place.tensor for place in mine if place.kind == "weight"}
        if any(place.kind == "operator" for place in mine):
            edit.nodes.append(as_quantized(pair, edit, node, inputs))
        else:
            given = {i: pair.rounded_weight(node, i) for i, name in enumerate(node.inputs) if name in weights}
            new = {i: edit.constant(node.inputs[i], values) for i, values in given.items() if values is not None}
            edit.nodes.append(replace(node, inputs=tuple(new.get(i, name) for i, name in enumerate(inputs))))
        for output in node.outputs:
            for place in own.get(output, ()):
                if place.kind == "activation":
                    convert(place)
    graphs = (edit.result(), *_called(pair))
    return Model(graphs, pair.before.signatures), {name: new for (name, reader), new in rounded.items() if not reader}


def _called(pair: Pair) -> tuple[Graph, ...]:
    """Returns the graphs that operators call: the quantized model's, where one of these operators rounds."""
    rounding = [place.node for place in pair.places if place.kind == "operator" and place.node is not None]
    return (pair.after if any(lookup(node.op).calls for node in rounding) else pair.before).graphs[1:]
