"""Training of lowered graphs with Keras, on any of its backends.

Importing it registers the classes that saved models are made of: `keras.saving.load_model` then needs no
`custom_objects`.
"""

from __future__ import annotations

from featherweight.training.clustered.optimizer import ClusterOptimizer
from featherweight.training.courses.several import SeveralTargets
from featherweight.training.float import control, conv, linear, recurrent
from featherweight.training.graph.graph_model import GraphModel, graph_model
from featherweight.training.graph.writeback import float_graph
from featherweight.training.integer import elementwise, lookup_tables, reductions, softmax, weighted, weightless
from featherweight.training.pruning.optimizer import SparseOptimizer
from featherweight.training.qat.quantized_model import QuantizedModel

__all__ = [
    "ClusterOptimizer",
    "GraphModel",
    "QuantizedModel",
    "SeveralTargets",
    "SparseOptimizer",
    "float_graph",
    "graph_model",
]

_FAMILIES = (control, conv, linear, recurrent)
_INTEGER_FAMILIES = (elementwise, lookup_tables, reductions, softmax, weighted, weightless)
