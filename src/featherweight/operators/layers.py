"""The names that a person knows: of layers, of their weights and outputs, read off those of operators and tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

from featherweight.graph import Graph, Node
from featherweight.operators.record import lookup

# What TensorFlow's converter puts behind a layer's name where the operator was named by the reading of its variable.
_VARIABLE = re.compile(r"/ReadVariableOp(/resource)?\d*$")
# A step of a path as PyTorch's exporter writes it: the module's class, and what the module is called.
_MODULE = re.compile(r"^(?:\w+\.)+[A-Z]\w*?_((?:[A-Za-z]\w*|\d+)?)$")
_NUMBERED = re.compile(r"_\d+$")
# A scope that this part of all names begins with is the whole model's.
_MOST_OF_ALL = 0.8
_KERNEL = re.compile(r"(.+)/kernel(_\d+)?")


def layer_names(graph: Graph, *, keep_scope: bool = False) -> Mapping[str, str]:
    """Maps each operator's name to the layer that it comes from, as far as names tell; else to its own name.

    The name of an operator is that of a tensor, a path: ``layer/operation`` where this package lowered the model,
    several of these in one, ``activation/Relu;layer/BiasAdd;layer/Conv2D1``, where TensorFlow's converter did, and a
    path of classes, ``net.Block_first/torch.nn.modules.linear.Linear_dense``, where PyTorch's did. In a graph
    that is named after its layers it is the layer's, or that with the operation behind it.
    What nearly all paths begin with is taken for the whole model's scope and cut, unless `keep_scope`.
    """
    if kernels := _kernels(graph):
        layers = {*kernels.values(), *(node.name for node in graph.nodes)}
        return {node.name: _layer_of_named(node, kernels, layers) for node in graph.nodes}
    parts = {node.name: _unnumbered(_last(_named_by(node, graph)), graph) for node in graph.nodes}
    scope = "" if keep_scope else _scope(list(parts.values()))
    return {name: layer_in(part.removeprefix(scope)) or name for name, part in parts.items()}


def shown_names(graph: Graph, *, keep_scope: bool = False) -> dict[str, str]:
    """Maps tensors to the names that a person knows: ``layer/kernel``, ``layer/bias``, and outputs after the layer.

    Of the tensors that one layer computes, the last has its name, and others that of the operation besides. What is
    not named here (shapes, constants of no layer) keeps its own name, and so do the model's inputs. In a graph that is
    named after its layers, everything does.
    """
    if is_named_after_layers(graph):
        return {name: name for name in graph.tensors}
    layers = layer_names(graph, keep_scope=keep_scope)
    found: dict[str, str] = {name: name for name in graph.inputs}
    taken = set(found)

    def add(tensor: str, wish: str) -> None:
        if tensor and tensor not in found:
            name, number = wish, 1
            while name in taken:
                name, number = f"{wish}_{number}", number + 1
            found[tensor] = name
            taken.add(name)

    for name in graph.outputs:
        add(name, name)
    last = {layers[node.name]: node.name for node in graph.nodes}
    for node in graph.nodes:
        layer = layers[node.name]
        for number, role in enumerate(lookup(node.op).weights):
            for position, what in ((role.weight, "kernel"), (role.bias, "bias")):
                if position is not None and position < len(node.inputs) and node.inputs[position]:
                    name = node.inputs[position]
                    if graph.tensors[name].is_constant:
                        add(name, f"{layer}/{what}" + (f"_{number}" if number else ""))
        for name in node.outputs:
            is_last = last[layer] == node.name and len(node.outputs) == 1
            add(name, layer if is_last else f"{layer}/{node.op.lower()}")
    return found


def is_named_after_layers(graph: Graph) -> bool:
    """True where weights are called ``layer/kernel`` and what reads them ``layer``, as far as nearly all of them go."""
    return bool(_kernels(graph))


def _kernels(graph: Graph) -> dict[str, str]:
    """Returns kernel → its layer, of a graph that is named after its layers; nothing of any other."""
    constants = [name for name, tensor in graph.tensors.items() if tensor.is_constant]
    kernels = {name: found[1] for name in constants if (found := _KERNEL.fullmatch(name))}
    layers = set(kernels.values())
    weighted = [node.name for node in graph.nodes if lookup(node.op).weight is not None]
    fitting = sum(name in layers or name.rpartition("/")[0] in layers or name in graph.outputs for name in weighted)
    return kernels if fitting and fitting >= _MOST_OF_ALL * len(weighted) else {}


def _layer_of_named(node: Node, kernels: Mapping[str, str], layers: Collection[str]) -> str:
    position = lookup(node.op).weight
    weight = node.inputs[position] if position is not None and position < len(node.inputs) else ""
    above, base = node.name.rpartition("/")[0], _NUMBERED.sub("", node.name)
    if layer := kernels.get(weight):
        return layer
    if above in layers or (above and len(node.outputs) > 1):
        return above
    return base if base in kernels.values() and node.name not in kernels.values() else node.name


def _named_by(node: Node, graph: Graph) -> str:
    """Returns the name that tells the layer: that of the weight, which is its own; of others the operator's."""
    position = lookup(node.op).weight
    weight = node.inputs[position] if position is not None and position < len(node.inputs) else ""
    is_path = "/" in weight and graph.tensors[weight].is_constant and "/" in node.name and ";" not in node.name
    return weight if is_path else node.name


def _unnumbered(name: str, graph: Graph) -> str:
    """Cuts the number that tells several tensors of one module apart."""
    base = _NUMBERED.sub("", name)
    return base if base in graph.tensors and _MODULE.match(base.rsplit("/", 1)[-1]) else name


def layer_of(node: Node | None, names: Mapping[str, str], tensor: str = "") -> str:
    """Returns the layer of an operator; of an input of the model, the tensor's name."""
    return names.get(node.name, node.name) if node is not None else tensor


def _last(name: str) -> str:
    parts = [part for part in name.split(";") if part]
    return _VARIABLE.sub("", parts[-1]) if parts else name


def _scope(names: list[str]) -> str:
    """Returns the first part of nearly all paths, with its slash; empty where they have none in common."""
    heads = Counter(name.split("/", 1)[0] for name in names if name.count("/") > 1)
    if not heads:
        return ""
    head, count = heads.most_common(1)[0]
    return f"{head}/" if count >= _MOST_OF_ALL * sum("/" in name for name in names) and count > 1 else ""


def layer_in(path: str) -> str:
    """Cuts the operation off a path, or the classes.

    >>> layer_in("block_1/conv/Conv2D"), layer_in("dense"), layer_in("net.Block_first/torch.nn.modules.Linear_fc")
    ('block_1/conv', 'dense', 'first.fc')
    """
    steps = [step.strip(";") for step in path.split("/")]
    modules = [found[1] for step in steps if (found := _MODULE.match(step)) is not None]
    named = ".".join(name.strip("_") for name in modules if name.strip("_"))
    if named.strip(".0123456789"):
        return named
    kept = [step for step in steps[1:] if "->" not in step and "(" not in step]  # equations and calls are no layers
    return "/".join([steps[0], *kept[:-1]])
