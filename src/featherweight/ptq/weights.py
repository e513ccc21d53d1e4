"""Parameters of weights: symmetric scales per channel, per tensor or per block, with room for the biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight import operators
from featherweight.errors import DataError
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import (
    DEAD_WEIGHT,
    LARGEST_BIAS,
    QuantParams,
    check_scale,
    dequantize,
    quantize,
    scales_from_largest,
)
from featherweight.ptq import clipping
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.nodes import looks_up, weight_roles
from featherweight.ptq.plan import edge
from featherweight.recipes.recipe import Scheme
from featherweight.targets.target import Target
from featherweight.tflite import release_pages

# What int8 activations leave, about: a weight with more noise would show beside them.
_LEAST_SHARED_DB = 30.0
# Kernels take blocks of multiples of so many weights.
_BLOCK_UNIT = 32
# The smallest normal float16 number: below it, scales lose bits.
_SMALLEST_BLOCK_SCALE = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Weight:
    """A weight as one operator reads it.

    Attributes:
        position: of the weight among the operator's inputs.
        notes: what there is to say about its parameters.
    """

    node: Node
    position: int
    tensor: Tensor
    params: QuantParams
    notes: tuple[str, ...] = ()


def planned_weights(
    model: Model, forms: Forms, target: Target, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams]
) -> Iterator[Weight]:
    """Yields every weight that is quantized, with its parameters; `params` and `edges` are those of activations."""
    for graph, node in ((part, node) for part in model.graphs for node in part.nodes):
        form = forms.forms.get(node.name)
        if form is None or not ("*" in form or "+" in form):
            continue
        for role in weight_roles(node, graph):
            tensor = graph.tensors[node.inputs[role.weight]]
            activation = None
            if forms.activation(node):
                activation = edges.get(edge(node.name, role.activation)) or params[node.inputs[role.activation]]
            scheme = forms.rules[node.name].weight or Scheme("int8")
            found, notes = weight_params(node, graph, role, form, scheme, target, activation)
            yield Weight(node, role.weight, tensor, found, tuple(notes))


def shared_weights(
    weights: Sequence[Weight], forms: Forms, tables: Mapping[int, str], params: Mapping[str, QuantParams]
) -> Iterator[Weight]:
    """Yields the weights; where operators read one constant, it has the same parameters for all of them if it can.

    Args:
        weights: of all operators.
        forms: what they compute in.
        tables: id of a constant that is looked up, too → the name of the tensor there.
        params: of tensors; what was yielded before may be among them.
    """
    by_channel = {id(each.tensor.data): each.params for each in weights if each.params.axis is not None}
    in_blocks = {
        id(each.tensor.data): each.params for each in weights if each.params.block_size and not looks_up(each.node)
    }
    for each in weights:
        node, own, key = each.node, each.params, id(each.tensor.data)
        table, notes = params.get(tables.get(key, "")), each.notes
        if "+" in forms.forms[node.name]:  # unpacked before it is read, whatever its scales
            wanted = by_channel.get(key, own)
            own = wanted if wanted.dtype == own.dtype else own
        elif looks_up(node) and key in in_blocks:
            own = in_blocks[key]
        elif table is not None and can_take(np.asarray(each.tensor.array), own, table):
            own = table
        elif table is not None:
            notes += (
                f"{node.op} '{node.name}': its weight '{each.tensor.name}' is stored twice: the one scale at which "
                "another operator looks it up does not suit it",
            )
        yield replace(each, params=own, notes=notes)
        release_pages(each.tensor.data)


def weight_params(
    node: Node,
    graph: Graph,
    role: operators.WeightRole,
    form: str,
    scheme: Scheme,
    target: Target,
    activation: QuantParams | None,
) -> tuple[QuantParams, list[str]]:
    """Returns the parameters of one weight of a node, and what there is to note about them.

    Args:
        node: an operator with a constant weight.
        graph: its graph.
        role: where its weight is, and the bias that goes with it.
        form: the form that the node computes in; its weight's type may differ from the scheme's.
        scheme: what the recipe asks for.
        target: says whether scales may be per channel and must be powers of two.
        activation: the parameters of what the weight is multiplied with where it computes in integers, else None.

    Raises:
        DataError: if weight or bias hold NaN or infinity, or a scale can't be represented.
    """
    op, dtype = operators.lookup(node.op), form.replace("+", "*").split("*")[1]
    tensor = graph.tensors[node.inputs[role.weight]]
    where = f"{node.op} '{node.name}', weight '{tensor.name}'"
    values = tensor.array
    if values is None or values.size == 0:
        raise DataError(f"{where} is empty. Remove the layer.")
    if dtype == "float16":
        if op.weight is not None:
            _check_float16(values, where)
        return QuantParams("float16", (), ()), []
    axis = op.axis if scheme.per_channel and target.is_per_channel else None
    largest = _largest(values, axis)
    notes: list[str] = []
    if scheme.block_size and dtype == "int4" and form == "float32*int4" and axis == 0:
        size = _block_size(values, scheme.block_size)
        if size != scheme.block_size:
            instead = f"blocks of {size}" if size else "one scale per channel"
            notes.append(
                f"{where}: rows of {values.shape[-1]} are no multiple of the block of {scheme.block_size}; {instead} "
                "instead"
            )
        if size:
            if largest.max() != 0:
                _check_block_scales(scales_from_largest(largest, dtype, power_of_two=False, where=where), where)
            if op.weight != op.activation:
                notes.append(f"{where}: block scales are computed right by LiteRT's XNNPACK kernels only")
            return QuantParams(dtype, (), (), 0, size, f"{tensor.name}_scales"), notes
    steps = scheme.grid if scheme.grid and dtype == scheme.dtype else dtype
    scales = scales_from_largest(largest, steps, power_of_two=target.is_power_of_two, where=where)
    if steps == "int4":
        clipped = clipping.clipped(values, scales, axis, steps, power_of_two=target.is_power_of_two)
        scales = np.where(largest >= DEAD_WEIGHT, clipped, scales)
    if activation is not None:
        needed = _needed_for_bias(node, graph, role, scales.size, activation)
        narrow = scales < needed
        if target.is_power_of_two:
            needed = np.exp2(np.ceil(np.log2(needed)))
        scales = np.where(narrow, needed, scales).astype(np.float32)
        # Wider scales cost nothing in a channel whose weights are nought all the same.
        check_scale(activation.scale[0] * float(scales.max()), f"{node.op} '{node.name}', its bias")
        if widened := int((narrow & (largest >= DEAD_WEIGHT)).sum()):
            notes.append(f"{where}: scales of {widened} channels were widened so that their biases fit their integers")
    return QuantParams(dtype, tuple(scales.tolist()), (0,) * scales.size, axis), notes


def _block_size(values: np.ndarray, wanted: int) -> int:
    """Returns the size of blocks that divides the rows: that wanted, or a half or quarter of it; 0 where none does."""
    sizes = [wanted, *(wanted // part for part in (2, 4) if wanted % (part * _BLOCK_UNIT) == 0)]
    return next((size for size in sizes if values.ndim == 2 and values.shape[1] % size == 0), 0)


def can_take(values: np.ndarray, params: QuantParams, shared: QuantParams) -> bool:
    """True where a weight can have the one scale of a table that it is, too, and keeps 30 dB of its values in it."""
    if shared.dtype != params.dtype or len(shared.scale) != 1 or any(shared.zero_point) or params.block_size:
        return False
    if max(params.scale) > shared.scale[0] * (1 + 1e-6):  # widened for its bias
        return False
    noise = np.square(dequantize(quantize(values, shared, narrow=True), shared) - values, dtype=np.float64).sum()
    return bool(noise * 10 ** (_LEAST_SHARED_DB / 10) <= np.square(values, dtype=np.float64).sum())


def _needed_for_bias(
    node: Node, graph: Graph, role: operators.WeightRole, channels: int, activation: QuantParams
) -> np.ndarray:
    """Returns the smallest weight scales at which biases fit at input scale × weight scale, float64."""
    input_scale = activation.scale[0]
    needed = np.full(channels, float(np.finfo(np.float32).tiny) / input_scale)
    name = node.inputs[role.bias] if role.bias is not None and role.bias < len(node.inputs) else ""
    if not name:
        return needed
    bias = np.asarray(graph.tensors[name].array, np.float64)
    if not np.isfinite(bias).all():
        raise DataError(f"{node.op} '{node.name}', bias '{name}' holds NaN or infinite values. Repair the model.")
    largest = LARGEST_BIAS["int64" if activation.dtype == "int16" else "int32"]
    magnitude = np.abs(bias) if channels == bias.size else np.abs(bias).max(initial=0.0)
    return np.maximum(needed, magnitude / (largest * input_scale))


def _largest(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns max|w| in float64, per index of `axis` or for all; NaN and infinities show in it."""
    if axis is None:
        extremes = (np.atleast_1d(values.min()), np.atleast_1d(values.max()))
    else:
        reduced = tuple(d for d in range(values.ndim) if d != axis)
        extremes = (values.min(axis=reduced), values.max(axis=reduced))
    return np.maximum(-extremes[0].astype(np.float64), extremes[1].astype(np.float64))


def _check_block_scales(scales: np.ndarray, where: str) -> None:
    if not _SMALLEST_BLOCK_SCALE <= scales.max() <= float(np.finfo(np.float16).max):
        raise DataError(
            f"{where}: block scales are float16, from {_SMALLEST_BLOCK_SCALE:.2g} to 65504 without loss; the "
            f"largest would be {scales.max():.3g}. Rescale the layer, or choose the recipe weights8."
        )


def _check_float16(values: np.ndarray, where: str) -> None:
    largest = max(-float(values.min()), float(values.max()))
    if not largest <= float(np.finfo(np.float16).max):
        found = "NaN" if largest != largest else f"{largest:g}"
        raise DataError(f"{where}: its largest value is {found}, float16 ends at 65504. Keep it float with a rule.")
