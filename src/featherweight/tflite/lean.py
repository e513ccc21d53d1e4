"""Leaves out of a file what a runtime never reads: names, scales of biases, notes of converters, equal zero points."""

from __future__ import annotations

from dataclasses import replace

from featherweight.graph import Graph, Model, Tensor
from featherweight.operators import lookup
from featherweight.tflite.memory_plan import without_stale_plan

# What can be left out. `Model.extras["unread"]` lists what is left out of a model's file.
NAMES, BIAS_SCALES, CONVERTER, ZERO_POINTS = "names", "bias_scales", "converter", "zero_points"
UNREAD = (NAMES, BIAS_SCALES, CONVERTER)  # by a target's files; zero points only where weights are encoded
# Metadata and descriptions that converters write about themselves.
_NOTES = ("min_runtime_version", "keep_stablehlo_constant", "CONVERSION_METADATA")
_DESCRIPTIONS = ("MLIR Converted.", "TOCO Converted.")


def lean(model: Model) -> Model:
    """Returns the model as it is to be written: without what its `extras` say that nobody reads, or a plan of others.

    Inputs and outputs keep their names. A bias needs no scales: they are those of the input times those of the weight.
    A single one stays: runtimes hold it against that product (GetQuantizedConvolutionMultipler), and refuse others. Of
    equal zero points, TFLite Micro wants one for all channels (its micro_allocator.cc); LiteRT loads no such file.
    """
    model = without_stale_plan(model)
    unread = model.extras.get("unread", ())
    if not unread:
        return model
    if CONVERTER in unread:
        kept = {name: content for name, content in model.metadata.items() if name not in _NOTES}
        description = "" if model.description in _DESCRIPTIONS else model.description
        model = replace(model, metadata=kept, description=description)
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
