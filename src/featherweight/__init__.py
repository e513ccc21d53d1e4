"""Neural networks made small and fast: float models in, integer ``.tflite`` files out, with proof.

>>> import featherweight as fw
>>> "quantize" in dir(fw)
True
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from featherweight.errors import (
    DataError,
    FeatherweightError,
    FormatError,
    LoweringError,
    RecipeError,
    TargetViolation,
    UnsupportedOp,
)
from featherweight.version import package_version

if TYPE_CHECKING:
    __version__: str
    from featherweight.analysis import compare, evaluate, inspect, paired_difference
    from featherweight.calibration import Stats, calibrate
    from featherweight.graph import Graph, Model, Node, Tensor
    from featherweight.graph.numerics import QuantParams
    from featherweight.ptq.equalization import Equalized
    from featherweight.ptq.plan import Plan
    from featherweight.ptq.planning import plan
    from featherweight.ptq.rewrite import rewrite
    from featherweight.recipes.recipe import Recipe, Rule, Scheme
    from featherweight.report import Report
    from featherweight.report.curve import Curve
    from featherweight.runtime import benchmark, run
    from featherweight.sparse_files.store import Stored, store_sparse
    from featherweight.targets.target import Target, check
    from featherweight.tasks.finalize import finalize
    from featherweight.tasks.load import load
    from featherweight.tasks.prune import Pruned, prune
    from featherweight.tasks.quantize import Quantized, equalize, quantize
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.tasks.remove_channels import ChannelGroup, Removed, remove_channels
    from featherweight.tasks.sparsity_curve import sparsity_curve
    from featherweight.tasks.unfold import unfold
    from featherweight.tflite import read, save, write
    from featherweight.training import graph_model
    from featherweight.training.keras_models.batch_norms import reestimate_batch_norm
    from featherweight.training.keras_models.regularizers import add_kurtosis, kurtosis_regularizer
    from featherweight.training.pruning.log import SparsityLog
    from featherweight.training.pruning.optimizer import SparseOptimizer
    from featherweight.training.qat.settings import Oscillations, RangeTraining
    from featherweight.training.schedules import constant, cosine, join, linear, polynomial_decay

# Public names are imported when first used: importing the package costs next to nothing.
_HOMES = {
    "analysis": ("compare", "evaluate", "inspect", "paired_difference"),
    "calibration": ("Stats", "calibrate"),
    "graph": ("Graph", "Model", "Node", "Tensor"),
    "graph.numerics": ("QuantParams",),
    "tasks.load": ("load",),
    "tasks.quantize": ("Quantized", "equalize", "quantize"),
    "ptq.equalization": ("Equalized",),
    "ptq.plan": ("Plan",),
    "ptq.planning": ("plan",),
    "ptq.rewrite": ("rewrite",),
    "tasks.quantize_aware": ("quantize_aware",),
    "tasks.finalize": ("finalize",),
    "recipes.recipe": ("Recipe", "Rule", "Scheme"),
    "report": ("Report",),
    "runtime": ("benchmark", "run"),
    "tasks.remove_channels": ("ChannelGroup", "Removed", "remove_channels"),
    "tasks.prune": ("Pruned", "prune"),
    "sparse_files.store": ("Stored", "store_sparse"),
    "report.curve": ("Curve",),
    "tasks.sparsity_curve": ("sparsity_curve",),
    "targets.target": ("Target", "check"),
    "tflite": ("read", "save", "write"),
    "training": ("graph_model",),
    "training.keras_models.batch_norms": ("reestimate_batch_norm",),
    "training.qat.settings": ("Oscillations", "RangeTraining"),
    "training.keras_models.regularizers": ("add_kurtosis", "kurtosis_regularizer"),
    "training.schedules": ("constant", "cosine", "join", "linear", "polynomial_decay"),
    "training.pruning.optimizer": ("SparseOptimizer",),
    "training.pruning.log": ("SparsityLog",),
    "tasks.unfold": ("unfold",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ChannelGroup",
    "Curve",
    "DataError",
    "Equalized",
    "FeatherweightError",
    "FormatError",
    "Graph",
    "LoweringError",
    "Model",
    "Node",
    "Oscillations",
    "Plan",
    "Pruned",
    "QuantParams",
    "Quantized",
    "RangeTraining",
    "Recipe",
    "RecipeError",
    "Removed",
    "Report",
    "Rule",
    "Scheme",
    "SparseOptimizer",
    "SparsityLog",
    "Stats",
    "Stored",
    "Target",
    "TargetViolation",
    "Tensor",
    "UnsupportedOp",
    "__version__",
    "add_kurtosis",
    "benchmark",
    "calibrate",
    "check",
    "compare",
    "constant",
    "cosine",
    "equalize",
    "evaluate",
    "finalize",
    "graph_model",
    "inspect",
    "join",
    "kurtosis_regularizer",
    "linear",
    "load",
    "paired_difference",
    "plan",
    "polynomial_decay",
    "prune",
    "quantize",
    "quantize_aware",
    "read",
    "reestimate_batch_norm",
    "remove_channels",
    "rewrite",
    "run",
    "save",
    "sparsity_curve",
    "store_sparse",
    "unfold",
    "write",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return package_version()
    if name not in _HOME_OF:
        raise AttributeError(f"module 'featherweight' has no attribute '{name}'")
    return getattr(importlib.import_module(f"featherweight.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if hasattr(sys.modules.get("keras"), "ops"):  # Keras 3 is imported already
    importlib.import_module("featherweight.training")  # whose classes it finds in saved models from then on
