"""The integers that a plan gives a weight, as rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.graph import Node
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.ptq.constants import block_scales
from featherweight.ptq.plan import Plan, edge
from featherweight.repair.weights.gptq import Grid


def planned_params(plan: Plan, node: Node, position: int) -> QuantParams:
    """Returns the parameters of an operator's input."""
    return plan.edges.get(edge(node.name, position)) or plan.params[node.inputs[position]]


def params_of(plan: Plan, node: Node, position: int, params: QuantParams) -> Plan:
    """Returns the plan with other parameters for an operator's input."""
    key, name = edge(node.name, position), node.inputs[position]
    if key in plan.edges:
        return replace(plan, edges={**plan.edges, key: params})
    return replace(plan, params={**plan.params, name: params})


def grid_of(params: QuantParams, weights: np.ndarray, *, is_narrow: bool) -> Grid:
    """Returns the grid of a weight's rows, (groups, rows, depth), as its parameters give it."""
    low, high = integer_range(params.dtype, narrow=is_narrow)
    groups, rows = weights.shape[:2]
    if params.block_size is not None:
        blocks = weights.astype(np.float32).reshape(groups, rows, -1, params.block_size)
        scale = block_scales(blocks, high).astype(np.float64)
        return Grid(np.repeat(scale, params.block_size, axis=2), 0, low, high, params.block_size)
    scales = np.asarray(params.scale, np.float64)
    scale = scales.reshape(groups, rows, 1) if len(scales) > 1 else np.full((groups, rows, 1), scales[0])
    return Grid(scale, params.zero_point[0], low, high)


def scales_of(grid: Grid, params: QuantParams) -> QuantParams:
    """Returns parameters with the scales of a grid; those of blocks are told by the weights."""
    if grid.block:
        return params
    scales = grid.scale.astype(np.float32).ravel()
    return replace(params, scale=tuple(scales.tolist()) if len(params.scale) > 1 else (float(scales[0]),))
