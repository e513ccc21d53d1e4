"""The quantized model as a float graph that rounds where it does, so that single places can be left exact."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from featherweight.analysis.inspection import arithmetic
from featherweight.diagnosis.exact import Exact
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.places import Pair, Place
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.editor import Editor
from featherweight.graph.numerics import QuantParams
from featherweight.operators import lookup
from featherweight.operators.families.quantize import conversion
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
            FeatherweightError: if LiteRT can't run the graph.
        """
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
            new = _converted(edit, place.tensor, place.params)
            rounded.update(((place.tensor, reader), new) for reader in place.readers or ("",))

    for name in graph.inputs:
        for place in own.get(name, ()):
            convert(place)
    for node in graph.nodes:
        mine = own.get(node.name, ())
        inputs = tuple(rounded.get((name, node.name), rounded.get((name, ""), name)) for name in node.inputs)
        weights = {place.tensor for place in mine if place.kind == "weight"}
        if any(place.kind == "operator" for place in mine):
            edit.nodes.append(_as_quantized(pair, edit, node, inputs))
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


def _converted(edit: Editor, name: str, params: QuantParams) -> str:
    tensor = replace(edit.tensors[name], file_name=None, data=None)
    integers = edit.add(replace(tensor, name=f"{name}/integers", dtype=params.dtype, quant=params))
    real = edit.add(replace(tensor, name=f"{name}/rounded"))
    steps = [edit.tensors[each] for each in (name, integers, real)]
    edit.nodes += [conversion(*steps[:2]), conversion(*steps[1:])]
    return real


def _as_quantized(pair: Pair, edit: Editor, node: Node, inputs: tuple[str, ...]) -> Node:
    """Returns the quantized model's operator, which reads float activations, in the float graph."""
    match = pair.matches[node.name]

    def constant_of(name: str) -> str:
        tensor: Tensor = pair.graph.tensors[name]
        if tensor.quant is not None and tensor.quant.scale_tensor is not None:
            scales = edit.add(pair.graph.tensors[tensor.quant.scale_tensor])
            tensor = replace(tensor, quant=replace(tensor.quant, scale_tensor=scales))
        return edit.add(tensor)

    read = list(inputs) + [""] * (len(match.inputs) - len(inputs))
    for position, name in enumerate(match.inputs):
        if name and pair.graph.tensors[name].is_constant:
            read[position] = constant_of(name)
    return replace(match, inputs=tuple(read), outputs=node.outputs)


def is_supported(pair: Pair) -> bool:
    """True where every operator that the quantized model rounds in was found in the float model."""
    matched = {id(node) for node in pair.matches.values()}
    return all(
        id(node) in matched or arithmetic(node, pair.graph) not in ("integer", "hybrid") for node in pair.graph.nodes
    )
