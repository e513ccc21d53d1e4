"""Dense layers and matrix products. Weights: (out, in). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from featherweight.errors import DataError
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import round_half_away
from featherweight.operators.call import Call
from featherweight.operators.kernels import blocks, hybrid
from featherweight.operators.kernels.matrix import delegate_takes, finisher, prepare, prepare_pair
from featherweight.operators.kernels.rows import Rows, quantize_asymmetric, quantize_symmetric
from featherweight.operators.limits import refused_dense, refused_matmul
from featherweight.operators.record import HYBRID_FORMS, INTEGER_FORMS, Op, kernel, output_elements, placed, register
from featherweight.operators.scratch import for_narrow_weights


def _dense_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * graph.tensors[node.inputs[1]].shape[-1]


def _matmul_macs(node: Node, graph: Graph) -> int:
    left = graph.tensors[node.inputs[0]].shape
    return output_elements(node, graph) * left[-2 if node.attrs.get("adj_x") else -1]


def _delegate_takes_matmul(call: Call) -> bool:
    """XNNPACK takes no zero point of y; of scales it takes all, unlike for dense layers."""
    x, y = call.input(0), call.input(1)
    return y.dtype == "int8" and call.affine(y)[1] == 0 and x.dtype in ("int8", "float32")


register(
    Op(
        "FULLY_CONNECTED",
        "FullyConnectedOptions",
        axes="dense",
        fuses=True,
        weight=1,
        axis=0,
        weight_axes=(0, 1),
        weight_kind="dense",
        bias=2,
        trained={1: "kernel", 2: "bias"},
        nibbles=("int8", "int16"),
        # Found by running LiteRT 2.3 (x86-64); blocks of any other size give an error or wrong numbers.
        sparse_blocks={"float32": (1, 4), "float32*int8": (16,), "int8*int8": (16,)},
        versions={
            "float32*int8": 12,
            "float32*int4": 12,
            "int8*int8": 4,
            "int16*int8": 7,
            "int8*int4": 10,
        },
        delegated=delegate_takes,
        refused=refused_dense,
        biased=("int16",),  # without, LiteRT sums products in 32 bits
        macs=_dense_macs,
        scratch=for_narrow_weights,
    )
)
register(
    Op(
        "BATCH_MATMUL",
        "BatchMatMulOptions",
        axes="product",
        trained={0: "kernel", 1: "kernel"},
        versions={"int8": 2, "int16": 3},
        delegated=_delegate_takes_matmul,
        refused=refused_matmul,
        wants_symmetric=(1,),
        macs=_matmul_macs,
    )
)
register(
    Op(
        "EMBEDDING_LOOKUP",
        axes="lookup",
        weight=1,
        axis=0,
        weight_axes=(1, 0),
        weight_kind="embedding",
        trained={1: "embeddings"},
        activation=1,
        versions={"float32*int8": 4, "float32*int4": 4},
    )
)


def _shapes(call: Call) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Returns x as (rows, in), the weight (out, in), and the output's shape."""
    x, weight = call.array(0), call.array(1)
    if weight.ndim != 2 or weight.shape[1] == 0 or x.size % weight.shape[1]:
        raise call.unsupported(f"a weight of {list(weight.shape)} for inputs of {list(x.shape)} is not supported")
    if str(call.node.attrs.get("weights_format", 0)) not in ("0", "DEFAULT"):
        raise call.unsupported("shuffled weights are not supported")
    rows = x.reshape(-1, weight.shape[1])
    leading = x.shape[:-1] if call.node.attrs.get("keep_num_dims") else (rows.shape[0],)
    return rows, weight, (*leading, weight.shape[0])


@kernel("FULLY_CONNECTED", *INTEGER_FORMS)
def fully_connected(call: Call) -> tuple[np.ndarray, ...]:
    """Dense layer: x (…, in), weight (out, in), bias (out)."""
    rows, weight, shape = _shapes(call)
    call = placed(call)
    operands = prepare(call, weight)
    sums = operands.x.reshape(rows.shape) @ operands.weight.T
    return (finisher(call, operands)(sums).reshape(shape),)


@kernel("FULLY_CONNECTED", "float32")
def fully_connected_float(call: Call) -> tuple[np.ndarray, ...]:
    """Dense layer in float32."""
    rows, weight, shape = _shapes(call)
    sums, bias = rows @ weight.T, call.optional(2)
    return (call.clamp(sums if bias is None else sums + bias).reshape(shape),)


@kernel("FULLY_CONNECTED", *HYBRID_FORMS)
def fully_connected_hybrid(call: Call) -> tuple[np.ndarray, ...]:
    """Dense layer that quantizes every row, bit for bit LiteRT's."""
    rows, weight, shape = _shapes(call)
    kernel_of = blocks.fully_connected if blocks.is_blocked(call) else _fully_connected_by_channel
    return (kernel_of(placed(call), rows, weight).reshape(shape),)


# LiteRT's optimized kernel for int4 weights wants so many outputs and inputs at least (FilterWidth, FilterDepth).
_NIBBLE_UNITS, _NIBBLE_DEPTH = 4, 32


def _fully_connected_by_channel(call: Call, rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Quantizes every row; XNNPACK always with a zero point, LiteRT where `asymmetric_quantize_inputs` says so."""
    units, depth = weight.shape
    is_nibbles = call.profile.is_vectorized and call.input(1).dtype == "int4"
    is_nibbles = is_nibbles and depth % 2 == 0 and units >= _NIBBLE_UNITS and depth >= _NIBBLE_DEPTH
    flat = replace(call, arrays=(rows, *call.arrays[1:]))
    quantize = _quantize_one_by_one if is_nibbles else _quantize_of(call)
    operands = hybrid.prepare_hybrid(flat, weight, rows=(rows.shape[0], 1), quantize=quantize)
    sums = operands.x @ operands.weight.T
    if is_nibbles:
        return _nibbles(call, operands, sums)
    return operands.finish(call, sums, hybrid.delegated if call.profile.is_delegate else hybrid.joined)


def _quantize_of(call: Call) -> hybrid.Quantize:
    return quantize_asymmetric if call.node.attrs.get("asymmetric_quantize_inputs") else quantize_symmetric


def _quantize_one_by_one(x: np.ndarray) -> Rows:
    """As `quantize_symmetric` does, without its vectors' rounding (LiteRT's BatchQuantizeFloats4Bit)."""
    _, zero_points, scales = quantize_symmetric(x)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    return (
        round_half_away(x * (np.float32(127) / np.where(largest == 0, np.float32(127), largest))),
        zero_points,
        scales,
    )


def _nibbles(call: Call, operands: hybrid.Hybrid, sums: np.ndarray) -> np.ndarray:
    """LiteRT's optimized kernel stores int4 weights plus 7 and takes 7 times the row's sum away, each as float32.

    Raises:
        UnsupportedOp: if a weight is -8, which that kernel reads as 8.
    """
    if operands.weight.min(initial=0) < -7:
        raise call.unsupported("int4 weights of -8, which LiteRT's optimized kernel takes for 8, are not supported")
    totals = operands.x.sum(axis=1, keepdims=True, dtype=np.float64)
    start = (-7 * totals).astype(np.float32) * operands.row_scales * operands.weight_scales + operands.bias
    moved = (sums + 7 * totals).astype(np.float32) * operands.row_scales * operands.weight_scales
    return call.clamp(start + moved)


@kernel("BATCH_MATMUL", "float32")
def batch_matmul_float(call: Call) -> tuple[np.ndarray, ...]:
    """Matrix product in float32, summed in NumPy's order; operands as in `batch_matmul`."""
    return (_turned(call, "adj_x", call.array(0)) @ _turned(call, "adj_y", call.array(1)),)


@kernel("BATCH_MATMUL", "int8", "int16")
def batch_matmul(call: Call) -> tuple[np.ndarray, ...]:
    """Matrix product: x (…, rows, depth), y (…, depth, out), each transposed where `adj_x` or `adj_y` says so.

    Leading dimensions broadcast.
    """
    call = placed(call)
    operands = prepare_pair(call)
    sums = _turned(call, "adj_x", operands.x) @ _turned(call, "adj_y", operands.weight)
    return (finisher(call, operands, is_product=False)(sums),)


def _turned(call: Call, adjoint: str, x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2) if call.node.attrs.get(adjoint) else x


@kernel("BATCH_MATMUL", *HYBRID_FORMS)
def batch_matmul_hybrid(call: Call) -> tuple[np.ndarray, ...]:
    """Matrix product that quantizes every row of x, bit for bit LiteRT's.

    LiteRT's own kernel takes the zero point's share away in float32.
    """
    y, quantize = call.array(1), _quantize_of(call)
    # XNNPACK gives zeros for a y that is computed.
    if call.input(1).dtype != "int8" or not call.input(1).is_constant:
        raise call.unsupported("float activations times integers other than int8 constants are not supported")
    x = _turned(call, "adj_x", call.array(0))
    _check_row_scales(call, x.shape[:-2], y.shape[:-2], symmetric=quantize is quantize_symmetric)
    sides = y if call.node.attrs.get("adj_y") else np.swapaxes(y, -1, -2)
    flat = sides.reshape(-1, sides.shape[-1])
    turned = replace(call, arrays=(x, y))
    operands = hybrid.prepare_hybrid(turned, flat, rows=(*x.shape[:-1], 1), quantize=quantize)
    weight = np.swapaxes(operands.weight.reshape(sides.shape), -1, -2)
    sums = operands.x @ weight
    if call.profile.is_delegate:
        return (operands.finish(call, sums, hybrid.delegated),)
    if operands.dtype is np.float64:
        totals = weight.sum(axis=-2, keepdims=True)
        whole = (sums + operands.zero_points * totals).astype(np.float32)
        sums = np.trunc(whole - totals.astype(np.float32) * operands.zero_points)
    return (operands.finish(call, sums, hybrid.joined),)


def _check_row_scales(call: Call, x_lead: tuple[int, ...], y_lead: tuple[int, ...], *, symmetric: bool) -> None:
    """Raises where LiteRT's own hybrid product takes the scales of other rows: it steps by one matrix per dimension.

    Raises:
        UnsupportedOp: if two leading dimensions are larger than 1, less the one that LiteRT makes rows of.
    """
    if call.profile.is_delegate:
        return
    if x_lead and y_lead and y_lead[-1] == 1 and not call.node.attrs.get("adj_x"):
        x_lead, y_lead = x_lead[:-1], y_lead[:-1]
    large = [sum(size > 1 for size in lead) for lead in (x_lead, y_lead)]
    if large[0] > 1 or (large[1] > 1 and not symmetric):
        raise call.unsupported(
            f"hybrid products over leading dimensions {list(x_lead)} and {list(y_lead)}, of which LiteRT's own kernel "
            "reads the wrong scales, are not supported"
        )


@kernel("EMBEDDING_LOOKUP", "float32", "int8*int8", "int4*int4", *HYBRID_FORMS)
def embedding_lookup(call: Call) -> tuple[np.ndarray, ...]:
    """Rows of a table (rows, …) by index; a quantized table is read as ``scale * q`` where the output is float.

    Raises:
        DataError: if an index is outside the table.
        UnsupportedOp: if a row of an int4 table is no whole number of bytes, which LiteRT reads wrongly.
    """
    index, table = call.array(0).astype(np.int64), call.array(1)
    if index.size and (index.min() < 0 or index.max() >= table.shape[0]):
        raise DataError(
            f"{call.place}: its indices are {index.min()} to {index.max()}, but the table has {table.shape[0]} rows "
            f"(allowed: 0 to {table.shape[0] - 1}). Correct the inputs."
        )
    rows = table[index]
    if call.outputs[0].dtype == call.input(1).dtype:
        return (rows,)
    if call.input(1).dtype == "int4" and math.prod(table.shape[1:]) % 2:
        raise call.unsupported(f"int4 tables of {math.prod(table.shape[1:])} (odd) columns are not supported")
    if blocks.is_blocked(call):
        scales = blocks.scales_of(call, table.shape)
        return (rows.astype(np.float32) * np.repeat(scales[index], table.shape[1] // scales.shape[1], axis=-1),)
    scales = hybrid.weight_scales(call)
    scales = scales if scales.size == 1 else scales[index].reshape(-1, *(1,) * (table.ndim - 1))
    return (rows.astype(np.float32) * scales,)
