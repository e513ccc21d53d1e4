"""Names for the tensors of a lowered graph: the layer and operation they come from, not the tracer's spelling."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from featherweight import operators
from featherweight.graph import Graph, Model, Node, Signature, Tensor, present_names
from featherweight.operators.layers import is_named_after_layers, layer_in, layer_names, shown_names

# What tracing puts before and around every name: "jit(main)/", "jit(main):", "vmap(", …
_TRACER = re.compile(r"(?:jit|pjit)\([^()]*\)[/:]?")
_NUMBER = re.compile(r"_\d+$")
# What JAX calls the operations that have weights.
_PRODUCT = re.compile(r"/(?:conv_general_dilated|dot_general)\d*$")
# Names that come from no layer: callees of the tracer and their like.
_NAMELESS = re.compile(r"^(?:main|call|jaxpr|unknown|arith\.constant\d*|tfl\.[a-z_0-9.]+)?\d*$")


def renamed(model: Model, scope: str = "", layers: Collection[str] = ()) -> Model:
    """Returns the model with the tracer's decoration cut from tensor names, still unique.

    A name fused from several operations, ``a/mul;b/conv;a/add``, keeps its last part, the operation that was
    written last, without the name `scope` of the whole model; or the last that is one of `layers`, those with weights.
    Inputs and outputs take their public names. Where several tensors want a name, the products with weights come first,
    and constants last.
    """
    public = {tensor: name for s in model.signatures for name, tensor in (*s.outputs, *s.inputs)}
    raw = model.tensors
    names: dict[str, str] = {}
    taken: set[str] = set()
    weighted = [node for graph in model.graphs for node in graph.nodes if _has_weight(node, graph)]
    products = {name for node in weighted for name in node.outputs}
    for old, _ in sorted(raw.items(), key=lambda x: (x[0] not in public, x[1].is_constant, x[0] not in products)):
        wish = public.get(old) or cleaned(_unnumbered(old, raw), scope, layers) or "tensor"
        names[old] = _free(wish, taken)
        taken.add(names[old])
    signatures = tuple(
        Signature(s.key, _mapped(s.inputs, names), _mapped(s.outputs, names), s.graph) for s in model.signatures
    )
    cleaned_model = replace(model, graphs=tuple(_renamed(g, names) for g in model.graphs), signatures=signatures)
    multiplied = {names[n.name]: layer for n in weighted if (layer := _multiplying(n.name, scope)) is not None}
    return after_layers(cleaned_model, layers, multiplied)


def after_layers(model: Model, layers: Collection[str] = (), multiplied: Mapping[str, str] | None = None) -> Model:
    """Returns the model with weights, biases and outputs named after their layers; tensors know their former names.

    What no layer tells, and what the signatures name, stays as it is; so does a tensor of a loop whose name would be
    another one's outside. The same names come of naming twice. A weight called like one of `layers` is that one's.
    Operators that are known to be `multiplied` by the weights of a layer are that one's, whatever batch norm went into
    them.
    """
    public = {tensor for s in model.signatures for _, tensor in (*s.inputs, *s.outputs)}
    wishes = {name: wish for graph in model.graphs for name, wish in _wishes(graph, public, layers).items()}
    for graph in model.graphs:
        wishes |= _of_products(graph, wishes, public, multiplied or {})
    names = {name: name for name in model.tensors if name not in wishes}
    taken = set(names)
    for graph in model.graphs:
        for name in (name for name in graph.tensors if name in wishes):
            wish = name if wishes[name] in taken and graph is not model.main else wishes[name]
            names[name] = _free(wish, taken)
            taken.add(names[name])
    graphs = tuple(_renamed(graph, names, keep=True) for graph in model.graphs)
    signatures = tuple(
        Signature(s.key, _mapped(s.inputs, names), _mapped(s.outputs, names), s.graph) for s in model.signatures
    )
    return replace(model, graphs=graphs, signatures=signatures)


def by_present_names(model: Model, reference: Model) -> Model:
    """Returns a model whose tensors are called as the reference's, where they have former names of these."""
    present = present_names(reference)
    old = {name: present[name] for name in model.tensors.keys() - reference.tensors.keys() if name in present}
    names = {name: new for name, new in old.items() if new not in model.tensors}
    if not names:
        return model
    full = {name: names.get(name, name) for name in model.tensors}
    signatures = tuple(
        replace(s, inputs=_mapped(s.inputs, full), outputs=_mapped(s.outputs, full)) for s in model.signatures
    )
    return replace(model, graphs=tuple(_renamed(graph, full) for graph in model.graphs), signatures=signatures)


def _wishes(graph: Graph, public: Collection[str], weighted: Collection[str]) -> dict[str, str]:
    """Returns what tensors are to be called after layers; the tracer's own operations, without a path, are none."""
    layers = {
        layer for n, layer in layer_names(graph, keep_scope=True).items() if "/" in n or layer != n or n in public
    }
    found = {name: wish for name, wish in shown_names(graph, keep_scope=True).items() if name not in public}
    wishes = {name: wish for name, wish in found.items() if wish in layers or wish.rpartition("/")[0] in layers}
    for node in () if is_named_after_layers(graph) else graph.nodes:
        op = operators.lookup(node.op)
        weight, bias = op.input_of(node, op.weight), op.input_of(node, op.bias)
        layer = layer_in(weight) if "/" in weight else _NUMBER.sub("", weight)
        if _has_weight(node, graph) and ("/" in weight or layer in weighted):
            wishes[weight] = f"{layer}/kernel"
            wishes |= {bias: f"{layer}/bias"} if bias and graph.tensors[bias].is_constant else {}
    return wishes


def _multiplying(name: str, scope: str) -> str | None:
    """Returns the layer of the product among the operations that a name is fused from; None where none is told."""
    parts = [part for part in name.split(";") if _PRODUCT.search(part)]
    return layer_in(cleaned(parts[-1], scope)) or None if parts else None


def _of_products(
    graph: Graph, wishes: Mapping[str, str], public: Collection[str], multiplied: Mapping[str, str]
) -> dict[str, str]:
    """Returns what the tensors of products are to be called whose layer the names of their weights do not tell."""
    changed: dict[str, str] = {}
    for node in graph.nodes:
        layer, op = multiplied.get(node.name), operators.lookup(node.op)
        weight = op.input_of(node, op.weight)
        other = wishes.get(weight, "").rpartition("/")[0]
        if layer is None or not other or other == layer:
            continue
        for name in (weight, op.input_of(node, op.bias), *node.outputs):
            wish = wishes.get(name, "")
            if name not in public and (wish == other or wish.startswith(f"{other}/")):
                changed[name] = layer + wish.removeprefix(other)
    return changed


def _has_weight(node: Node, graph: Graph) -> bool:
    position = operators.lookup(node.op).weight
    return position is not None and position < len(node.inputs) and graph.tensors[node.inputs[position]].is_constant


def _unnumbered(name: str, raw: Collection[str]) -> str:
    """Cuts the number that the exporter appends to a name that is taken."""
    base = name.rstrip("0123456789")
    return base if base in raw else name


def cleaned(name: str, scope: str = "", layers: Collection[str] = ()) -> str:
    """Cuts one name down to layer and operation, inside of `scope`; one of `layers` goes before all others.

    >>> cleaned("jit(main)/bn/mul;jit(main)/conv/conv_general_dilated1")
    'conv/conv_general_dilated1'
    >>> cleaned("self.query;self/view", layers={"self.query"})
    'self.query'
    """
    parts = [_TRACER.sub("", part).strip("/:") for part in name.split(";")]
    parts = [part for part in parts if not _NAMELESS.match(part)]
    parts = [part for part in parts if part in layers] or parts
    if not parts:
        return ""
    return parts[-1].removeprefix(f"{scope}/") if scope else parts[-1]


def _renamed(graph: Graph, names: Mapping[str, str], *, keep: bool = False) -> Graph:
    """Renames a graph's tensors; with `keep`, they know the names that they had."""

    def of(tensors: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in tensors)

    def former(tensor: Tensor) -> str | None:
        return tensor.name if keep and tensor.name != names[tensor.name] else tensor.former_name

    tensors: dict[str, Tensor] = {
        names[old]: replace(tensor, name=names[old], file_name=None, former_name=former(tensor))
        for old, tensor in graph.tensors.items()
    }
    nodes: list[Node] = [replace(n, inputs=of(n.inputs), outputs=of(n.outputs)) for n in graph.nodes]
    return replace(graph, inputs=of(graph.inputs), outputs=of(graph.outputs), nodes=tuple(nodes), tensors=tensors)


def _mapped(pairs: tuple[tuple[str, str], ...], names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((public, names.get(tensor, tensor)) for public, tensor in pairs)


def _free(wish: str, taken: set[str]) -> str:
    name, number = wish, 1
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    return name
