"""Writes factors of channels into a graph's constants: the same function, up to float32's rounding, in other units."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from featherweight.graph import Model, Node, constant, consumers, replace_graph
from featherweight.graph.editor import Editor, without_unused
from featherweight.operators.call import FUSED_BOUNDS
from featherweight.repair.factors.freedom import Freedom

# What an operator with a bound above zero becomes where the bound is a number for each channel.
OPEN, MINIMUM = "RELU", "MINIMUM"
_EXACT = 1e-12


def scaled(model: Model, freedom: Freedom, factors: np.ndarray, keep: Collection[str] = ()) -> Model:
    """Returns the model with each channel divided by the factor of its label, (count,) float64.

    An operator that ends in a bound keeps it where all its channels have the factor 1; others get a MINIMUM of numbers
    for each channel behind them, but those named in `keep`: theirs stays the one for all channels.
    """
    read, edit = consumers(model.main), Editor(model.main, set(model.tensors))
    changed = _constants(freedom, factors)
    caps = {cap.node.name: cap for cap in freedom.caps if cap.node.name not in keep and _differs(factors[cap.labels])}
    moved: dict[str, str] = {}
    for node in model.main.nodes:
        inputs = [moved.get(name, name) for name in node.inputs]
        for position, name in enumerate(node.inputs):
            if (values := changed.get((node.name, position))) is None:
                continue
            tensor, made = model.main.tensors[name], constant(name, values.astype(np.float32))
            if len(read[name]) == 1 and made.shape == tensor.shape:
                edit.tensors[name] = replace(tensor, data=made.data)
            else:
                inputs[position] = edit.add(replace(made, name=f"{node.name}/scaled"))
        edit.nodes.append(replace(node, inputs=tuple(inputs)))
        if node.name in caps:
            edit.nodes[-1] = opened(edit.nodes[-1])
            result = edit.add(replace(edit.tensors[node.name], name=f"{node.name}/capped", file_name=None))
            bounds = caps[node.name].high / factors[caps[node.name].labels]
            moved[node.name] = result
            edit.node(MINIMUM, (node.name, edit.constant(f"{node.name}/caps", bounds.astype(np.float32))), (result,))
    return replace_graph(model, 0, without_unused(edit.result(), before=model.main))


def opened(node: Node) -> Node:
    """Returns an operator that ends in a bound above zero without it."""
    if node.op in FUSED_BOUNDS:
        return replace(node, op=OPEN)
    return replace(node, attrs={**node.attrs, "fused_activation_function": OPEN})


def _differs(factors: np.ndarray) -> bool:
    return bool((np.abs(factors - 1) > _EXACT).any())


def _constants(freedom: Freedom, factors: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Returns (node, position) → new values in float64, of the constants that change."""
    found: dict[tuple[str, int], np.ndarray] = {}

    def values(node: Node, position: int) -> np.ndarray:
        return np.asarray(freedom.graph.tensors[node.inputs[position]].array, np.float64)

    for weight in freedom.weights:
        writes, reads = factors[weight.writes], factors[weight.reads]
        if _differs(writes) or _differs(reads):
            found[weight.node.name, weight.position] = values(weight.node, weight.position) * (reads / writes)
        if weight.bias is not None and _differs(writes):
            found[weight.node.name, weight.bias] = values(weight.node, weight.bias) / writes.ravel()
    for offset in freedom.offsets:
        if _differs(of := factors[offset.labels]):
            found[offset.node.name, offset.position] = values(offset.node, offset.position) / of
    return found
