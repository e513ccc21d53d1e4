"""Training of lowered graphs with Keras, on any of its backends."""

from __future__ import annotations

from featherweight.training import (
    activation,
    control,
    conv,
    elementwise,
    indexing,
    integer_elementwise,
    integer_kernels,
    integer_reductions,
    integer_weighted,
    linear,
    pooling,
    recurrent,
    resize,
    shape,
    softmax,
    tables,
)
from featherweight.training.graph_model import GraphModel, graph_model
from featherweight.training.quantized_model import QuantizedModel
from featherweight.training.sparse_optimizer import SparseOptimizer
from featherweight.training.writeback import float_graph

__all__ = ["GraphModel", "QuantizedModel", "SparseOptimizer", "float_graph", "graph_model"]

_FAMILIES = (activation, control, conv, elementwise, indexing, linear, pooling, recurrent, resize, shape)
_INTEGER_FAMILIES = (integer_elementwise, integer_kernels, integer_reductions, integer_weighted, softmax, tables)
