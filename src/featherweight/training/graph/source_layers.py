"""Which source layer a node or constant of a graph belongs to, as far as names tell."""

from __future__ import annotations

import re
from itertools import takewhile

from featherweight.graph import Graph, Model, Node
from featherweight.operators import lookup

UNMAPPED = "unmapped"
_MODULE_PART = re.compile(r"^(?:\w+\.)+[A-Z]\w*_\w+$")
_PLAIN_PART = re.compile(r"^[A-Za-z0-9_.\-]+$")
# What loops put between the layer's name and the operation's.
_LOOP_PARTS = ("while", "body", "cond")


def callers(model: Model) -> list[str]:
    """Returns, for each graph, the layer of the first node that calls it; empty for the main graph."""
    layers = [""] * len(model.graphs)
    for index, graph in enumerate(model.graphs):
        for node in graph.nodes:
            for field in lookup(node.op).calls:
                callee = int(node.attrs.get(field, 0))
                if 0 < callee < len(layers) and not layers[callee]:
                    layers[callee] = layer_path(node.name) or layers[index]
    return layers


def layer_of(graph: Graph, node: Node, names: tuple[str, ...], caller: str) -> str:
    """Returns the layer that these tensor names tell, else the node's name, else the loop's, else nothing."""
    if path := _module_path([*names, node.name]):
        return path
    for name in (*names, node.name):
        if path := layer_path(name):
            return path
    is_public = node.name in graph.outputs and _PLAIN_PART.match(node.name)
    return node.name if is_public and not caller else caller


def layer_path(name: str) -> str:
    """Returns the layer's part of a tensor's name.

    >>> layer_path("attention/query/abc,cde->abde/dot_general_1")
    'attention/query'
    """
    if path := _module_path([name]):
        return path
    parts: list[str] = []
    for part in name.split(";")[-1].split("/")[:-1]:
        if not _PLAIN_PART.match(part):
            break
        if part not in _LOOP_PARTS:
            parts.append(part)
    return "/".join(parts)


def _module_path(names: list[str]) -> str:
    """Returns the path of attributes that names from PyTorch tell, or nothing.

    Every part is a class and an attribute, ``torch.nn.modules.conv.Conv2d_stem``. The last one may end in a number that
    makes it unique; where several names of one node are known, what they share is the attribute.

    >>> _module_path(["net.Net/net.Block_first/torch.nn.modules.conv.Conv2d_conv_1"])
    'first/conv'
    """
    parts = [name.split(";")[-1].split("/") for name in names]
    parts = [part for part in parts if _MODULE_PART.match(part[-1])]
    if not parts:
        return ""
    *parents, last = parts[0]
    tokens = [part[-1].rpartition(".")[2].split("_") for part in parts if part[:-1] == parents]
    common = takewhile(lambda words: len(set(words)) == 1, zip(*tokens, strict=False))
    shared = _attribute([words[0] for words in common])
    own = _attribute(last.rpartition(".")[2].split("_"))
    if len(tokens) == 1 or not shared:
        shared = own[:-1] if len(own) > 1 and own[-1].isdigit() else own
    outer = [_attribute(part.rpartition(".")[2].split("_")) for part in parents]
    return "/".join("_".join(attribute) for attribute in (*outer, shared) if attribute)


def _attribute(tokens: list[str]) -> list[str]:
    """Returns what follows the class, whose words begin with capital letters."""
    capitals = [at for at, token in enumerate(tokens) if token[:1].isupper()]
    return tokens[capitals[-1] + 1 :] if capitals else []


def plain_name(name: str) -> str:
    """Returns a tensor's name as one that Keras takes.

    >>> plain_name("arith.constant;0/x")
    'arith.constant_0_x'
    """
    return re.sub(r"[^A-Za-z0-9_.\-]+", "_", name).strip("_") or "node"
