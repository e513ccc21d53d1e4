"""Leaves out of a file what a runtime never reads: names, the scales of biases, zero points but the first."""

from __future__ import annotations

from dataclasses import replace

from featherweight.graph import Graph, Model, Tensor
from featherweight.operators import lookup

# What can be left out. `Model.extras["unread"]` lists what is left out of a model's file.
NAMES, BIAS_SCALES, ZERO_POINTS = "names", "bias_scales", "zero_points"
UNREAD = (NAMES, BIAS_SCALES)  # by a target's files; zero points only where weights are encoded


def lean(model: Model) -> Model:
    """Returns the model as it is to be written: without what its `extras` say that nobody reads.

    Inputs and outputs keep their names. A bias needs no scales: they are those of the input times those of the weight.
    A single one stays: runtimes hold it against that product (GetQuantizedConvolutionMultipler), and refuse others. Of
    equal zero points, TFLite Micro wants one for all channels (its micro_allocator.cc); LiteRT loads no such file.
    """
    unread = model.extras.get("unread", ())
    if not unread:
        return model
    return replace(model, graphs=tuple(_lean(graph, unread) for graph in model.graphs))


def _lean(graph: Graph, unread: tuple[str, ...]) -> Graph:
    biases = {
        node.inputs[role.bias]
        for node in graph.nodes
        for role in lookup(node.op).weights
        if role.bias is not None and role.bias < len(node.inputs)
    }
    shown = {*graph.inputs, *graph.outputs}

    def written(tensor: Tensor) -> Tensor:
        if NAMES in unread and tensor.name not in shown:
            tensor = replace(tensor, file_name="")
        is_bias = tensor.name in biases and tensor.is_constant
        if BIAS_SCALES in unread and is_bias and tensor.quant is not None and len(tensor.quant.scale) > 1:
            extras = {key: value for key, value in tensor.extras.items() if key != "quantization"}
            return replace(tensor, quant=None, extras=extras)
        if ZERO_POINTS in unread and tensor.quant is not None and len({*tensor.quant.zero_point}) == 1:
            return replace(tensor, quant=replace(tensor.quant, zero_point=tensor.quant.zero_point[:1]))
        return tensor

    return replace(graph, tensors={name: written(tensor) for name, tensor in graph.tensors.items()})
