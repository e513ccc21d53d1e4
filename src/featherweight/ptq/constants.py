"""Float constants as what a plan stores: integers with their scales, or float16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.errors import RecipeError
from featherweight.graph import Tensor, constant
from featherweight.graph.numerics import QuantParams, integer_range, quantize, round_half_away, row_blocks
from featherweight.tflite import release_pages


def quantized_constant(tensor: Tensor, params: QuantParams, name: str, *, narrow: bool) -> tuple[Tensor, ...]:
    """Returns a float constant as integers or float16 under a name, and the tensor of its block scales, if any."""
    values = tensor.array
    if values is None:
        raise RecipeError(f"Tensor '{tensor.name}' is no constant; it can't be stored in {params.dtype}.")
    if tensor.is_float and not np.isfinite(values).all():
        # What stands for infinity becomes the end of the range; what is never chosen, zero.
        values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    if params.dtype == "float16":
        largest = np.finfo(np.float16).max
        finite = np.where(np.isinf(values), values, np.clip(values, -largest, largest))
        stored = (constant(name, finite.astype(np.float16)),)
    elif params.block_size is not None:
        stored = _in_blocks(values, params, name)
    else:
        stored = (constant(name, quantize(values, params, narrow=narrow), params.dtype, params),)
    release_pages(tensor.data)
    kept = replace(stored[0], shape_signature=tensor.shape_signature, file_name=None)
    return (kept, *stored[1:])


def _in_blocks(values: np.ndarray, params: QuantParams, name: str) -> tuple[Tensor, Tensor]:
    """Quantizes rows in blocks, each by its own scale (`block_scales`)."""
    size = params.block_size or 1
    qmax = integer_range(params.dtype, narrow=True)[1]
    blocks = values.reshape(*values.shape[:-1], -1, size)
    scales = block_scales(blocks, qmax)
    integers = np.empty(blocks.shape, np.int8)
    inverse = np.float32(1) / scales.astype(np.float32)[..., None]
    for rows in row_blocks(blocks.shape):
        integers[rows] = np.clip(round_half_away(blocks[rows] * inverse[rows]), -qmax, qmax)
    integers = integers.reshape(values.shape)
    scale_name = f"{name}_scales"
    quant = replace(params, scale_tensor=scale_name)
    return constant(name, integers, params.dtype, quant), constant(scale_name, scales)


def block_scales(blocks: np.ndarray, qmax: int) -> np.ndarray:
    """Returns the scales of blocks of weights, (..., block), in float16 as LiteRT reads them.

    It is ``max|w| / qmax``; a block that lies on a grid already, but does not reach its end, keeps that grid: the
    scale is ``max|w| / k`` for the largest k at which all its values are whole multiples of it.
    """
    largest = np.maximum(-blocks.min(axis=-1), blocks.max(axis=-1))

    def rounded(most: int) -> np.ndarray:
        scales = np.where(largest > 0, largest / most, 1.0).astype(np.float16)
        return np.maximum(scales, np.finfo(np.float16).smallest_subnormal)

    scales = rounded(qmax)
    # What lies on no grid is told by a few of its values.
    few = blocks[..., :4]
    for most in range(qmax - 1, 0, -1):
        finer = rounded(most)
        likely = _is_on_grid(few, finer)
        if likely.any():
            kept = ~_is_on_grid(blocks[likely], scales[likely]) & _is_on_grid(blocks[likely], finer[likely])
            scales[likely] = np.where(kept, finer[likely], scales[likely])
    return scales


def _is_on_grid(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """True for blocks whose values are whole multiples of their scale."""
    wide = scales.astype(np.float32)[..., None]
    return (np.rint(blocks / wide) * wide == blocks).all(axis=-1)
