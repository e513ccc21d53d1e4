"""The user's names of layers, read off the names of operators and tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from featherweight.graph import Graph, Node

# What TensorFlow's converter puts behind a layer's name where the operator was named by the reading of its variable.
_VARIABLE = re.compile(r"/ReadVariableOp(/resource)?\d*$")
# A step of a path as PyTorch's exporter writes it: the module's class, and what the module is called.
_MODULE = re.compile(r"^(?:\w+\.)+[A-Z]\w*?_((?:[A-Za-z]\w*|\d+)?)$")
# A scope that this part of all names begins with is the whole model's.
_MOST_OF_ALL = 0.8


def layer_names(graph: Graph) -> Mapping[str, str]:
    """Maps each operator's name to the layer that it comes from, as far as names tell; else to its own name.

    The name of an operator is that of a tensor, a path: ``layer/operation`` where this package lowered the model,
    several of these in one, ``activation/Relu;layer/BiasAdd;layer/Conv2D1``, where TensorFlow's converter did, and a
    path of classes, ``net.Block_first/torch.nn.modules.linear.Linear_dense``, where PyTorch's did.
    """
    parts = {node.name: _last(node.name) for node in graph.nodes}
    scope = _scope(list(parts.values()))
    return {name: _layer(part.removeprefix(scope)) or name for name, part in parts.items()}


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


def _layer(path: str) -> str:
    """Cuts the operation off a path, or the classes.

    >>> _layer("block_1/conv/Conv2D"), _layer("dense"), _layer("net.Block_first/torch.nn.modules.linear.Linear_dense;")
    ('block_1/conv', 'dense', 'first.dense')
    """
    steps = [step.strip(";") for step in path.split("/")]
    modules = [found[1] for step in steps if (found := _MODULE.match(step)) is not None]
    named = ".".join(name.strip("_") for name in modules if name.strip("_"))
    if named.strip(".0123456789"):
        return named
    kept = [step for step in steps[1:] if "->" not in step]  # the equation of a product is no layer
    return "/".join([steps[0], *kept[:-1]])
