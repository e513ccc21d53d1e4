"""Cuts out the part of a float graph that lies behind some tensors, as a model that runs alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from featherweight.graph import Graph, Model, Node, Tensor, producers
from featherweight.operators import lookup


def static_nodes(graph: Graph) -> dict[str, Node]:
    """Maps each tensor that depends on nothing that is fed or kept between runs to its operator."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        read = [graph.tensors[name] for name in node.inputs if name]
        is_plain = bool(read) and not any(t.is_variable or t.dtype == "resource" for t in read)
        if is_plain and all(t.is_constant or t.name in found for t in read):
            found |= {name: node for name in node.outputs if name}
    return found


def behind(
    model: Model,
    changed: Mapping[str, Collection[str] | None],
    outputs: Collection[str],
) -> tuple[Model, dict[str, str]]:
    """Returns the operators between changed tensors and outputs as a model, and what it is fed of the changed ones.

    Args:
        model: a float model; its main graph is cut.
        changed: computed or fed tensor → the names of the operators that read it changed (None: all that read it).
        outputs: tensors that are wanted.

    Returns:
        The model, whose inputs are the changed tensors and whatever else its operators read, under the names that they
        have in the whole one, and whose outputs are the wanted tensors that depend on a changed one; and the name of
        each changed tensor's input, which is another where some operators read it unchanged.
    """
    graph = model.main
    names = {name: name if readers is None else f"{name}/changed" for name, readers in changed.items()}
    fed = {names[name]: replace(graph.tensors[name], name=names[name], file_name=None, data=None) for name in changed}

    def read(node: Node) -> Node:
        def one(name: str) -> str:
            readers = changed.get(name, ())
            return names[name] if name in changed and (readers is None or node.name in readers) else name

        return replace(node, inputs=tuple(map(one, node.inputs)))

    made_anew: set[str] = set()
    touched: list[Node] = []
    for node in map(read, graph.nodes):
        if any(name in fed or name in made_anew for name in node.inputs):
            new = [name for name in node.outputs if name and name not in changed]
            made_anew.update(new)
            if new:
                touched.append(node)
    wanted = [name for name in outputs if name in made_anew]
    nodes = _leading_to(touched, wanted)
    inputs, helpers = _fed_beside(graph, nodes, made_anew | fed.keys())
    used = _named([*helpers, *nodes])
    inputs = [name for name in (*fed, *inputs) if name in used]
    tensors = {name: tensor for name, tensor in {**graph.tensors, **fed}.items() if name in used or name in wanted}
    tensors |= {name: _as_input(tensors[name]) for name in inputs}
    tensors |= _scales(graph, tensors)
    # The order of the whole graph holds: what helpers compute does not depend on the rest.
    cut = Graph(graph.name, tuple(inputs), tuple(wanted), (*helpers, *nodes), tensors)
    others = model.graphs[1:] if any(lookup(node.op).calls for node in cut.nodes) else ()
    return Model((cut, *others)), {name: new for name, new in names.items() if new in inputs}


def alone(model: Model, node: Node, tensors: Mapping[str, Tensor] | None = None) -> Model:
    """Returns one operator of the main graph as a model; `tensors` take the place of the graph's of their names."""
    graph = model.main
    known = {**graph.tensors, **(tensors or {})}
    makers = static_nodes(graph)
    static = {name: makers[name] for name in node.inputs if name in makers and name not in (tensors or {})}
    helpers = _with_makers(static.values(), makers)
    held = {name for name in node.inputs if name and (known[name].is_constant or known[name].is_variable)}
    inputs = [name for name in dict.fromkeys(node.inputs) if name and name not in held and name not in static]
    used = _named([*helpers, node])
    kept = {name: known[name] for name in known if name in used}
    kept |= {name: _as_input(kept[name]) for name in inputs}
    kept |= _scales(graph, kept)
    outputs = tuple(name for name in node.outputs if name)
    cut = Graph(graph.name, tuple(inputs), outputs, (*helpers, node), kept)
    return Model((cut, *(model.graphs[1:] if lookup(node.op).calls else ())))


def _named(nodes: Collection[Node]) -> set[str]:
    """Returns the tensors that operators refer to."""
    found: set[str] = set()
    for node in nodes:
        found.update((*node.inputs, *node.outputs, *node.extras.get("intermediates", ())))
    return found - {""}


def _as_input(tensor: Tensor) -> Tensor:
    return replace(tensor, file_name=None, data=None)


def _scales(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors that hold the scales of others."""
    names = [t.quant.scale_tensor for t in tensors.values() if t.quant is not None and t.quant.scale_tensor]
    return {name: graph.tensors[name] for name in names}


def _leading_to(nodes: list[Node], wanted: Collection[str]) -> list[Node]:
    needed, kept = set(wanted), list[Node]()
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(name for name in node.inputs if name)
    return kept[::-1]


def _fed_beside(graph: Graph, nodes: list[Node], known: Collection[str]) -> tuple[list[str], list[Node]]:
    """Returns what else the operators read: computed tensors, which are fed, and operators over constants alone."""
    static = static_nodes(graph)
    fed: dict[str, None] = {}
    needed: dict[str, Node] = {}
    for node in nodes:
        for name in node.inputs:
            if not name or name in known or graph.tensors[name].is_constant or graph.tensors[name].is_variable:
                continue
            if name in static:
                needed[name] = static[name]
            else:
                fed[name] = None
    return list(fed), _with_makers(needed.values(), static)


def _with_makers(nodes: Collection[Node], static: Mapping[str, Node]) -> list[Node]:
    """Returns operators over constants with those that they read from, each once, in order."""
    found: dict[int, Node] = {}

    def add(node: Node) -> None:
        for name in node.inputs:
            if name in static:
                add(static[name])
        found.setdefault(id(node), node)

    for node in nodes:
        add(node)
    return list(found.values())


def computed(model: Model) -> tuple[str, ...]:
    """Returns the tensors of the main graph that depend on what is fed or kept, inputs first; no handles."""
    graph, static = model.main, static_nodes(model.main)
    made = producers(graph)
    names = (*graph.inputs, *(name for name in made if name not in static))
    return tuple(n for n in names if graph.tensors[n].dtype not in ("resource", "variant", "string"))
