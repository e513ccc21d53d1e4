"""Neural networks made small and fast: float models in, integer ``.tflite`` files out, with proof.

>>> import featherweight as fw
>>> "quantize" in dir(fw)
True
"""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
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
    from featherweight.analysis.comparison import TensorError
    from featherweight.analysis.datasets import Dataset
    from featherweight.analysis.evaluation import Difference, Evaluation, paired_difference
    from featherweight.analysis.inspection import Inspection, OperatorRow, PortRow, TensorRow
    from featherweight.analysis.noise import OutputError
    from featherweight.calibration.details import Magnitudes
    from featherweight.calibration.histogram import Histogram
    from featherweight.calibration.recorder import Recorder, drift
    from featherweight.calibration.stats import ChannelMoments, Stats, TensorStats
    from featherweight.calibration.stats_file import load_stats
    from featherweight.choosing.budget import Miss, Tried
    from featherweight.choosing.flow import Optimized, Step
    from featherweight.choosing.scores import Score, Scores, load_scores
    from featherweight.choosing.searching import Found
    from featherweight.detections.boxes import Boxes
    from featherweight.device_code.arena import Arena
    from featherweight.device_code.footprint import Footprint
    from featherweight.device_code.vela import NpuFigures
    from featherweight.diagnosis.cause import Cause
    from featherweight.encoded_files.records import Encoded, EncodedTensor
    from featherweight.graph.model import Graph, Model, ModelLike, Node, Signature, Tensor
    from featherweight.graph.numerics import QuantParams
    from featherweight.operators.profiles import Profile
    from featherweight.pages.content import Distribution
    from featherweight.proof.rows import Mismatch, RuntimeRow
    from featherweight.ptq.plan import Plan
    from featherweight.recipes.recipe import Recipe, Rule, Scheme
    from featherweight.repair.factors.equalize import Equalized, EqualizedTensor
    from featherweight.report.curve import Curve, CurvePoint
    from featherweight.report.diagnosis import Diagnosis, JudgedOutput, OwnErrorRow
    from featherweight.report.proof import ProofSheet
    from featherweight.report.summary import FileSize, NodeNote, QuantizedTensor, Report
    from featherweight.runtime.benchmark import Latency
    from featherweight.runtime.operator_times import OperatorTime, OperatorTimes
    from featherweight.sparse_files.store import Stored, StoredTensor
    from featherweight.targets.constraints import Constraint
    from featherweight.targets.target import Target, Violation
    from featherweight.tasks.choose import search, sensitivity
    from featherweight.tasks.cluster import Clustered, ClusteredKernel, cluster
    from featherweight.tasks.device.deploy import Deployed, deploy
    from featherweight.tasks.device.prove import prove
    from featherweight.tasks.diagnose import diagnose
    from featherweight.tasks.finalize import finalize
    from featherweight.tasks.front import (
        benchmark,
        calibrate,
        check,
        compare,
        evaluate,
        inspect,
        operator_times,
        plan,
        rewrite,
        run,
        save,
        store_encoded,
        store_sparse,
        write,
    )
    from featherweight.tasks.load import load
    from featherweight.tasks.optimize import optimize
    from featherweight.tasks.prune import Pruned, PrunedKernel, prune
    from featherweight.tasks.quantize import Quantized, equalize, quantize
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.tasks.remove_channels import ChannelGroup, Removed, remove_channels
    from featherweight.tasks.sparsity_curve import sparsity_curve
    from featherweight.tasks.trainable import graph_model
    from featherweight.tasks.unfold import Unfolded, unfold
    from featherweight.tflite import read
    from featherweight.training import schedules
    from featherweight.training.clustered.optimizer import ClusterOptimizer
    from featherweight.training.courses.several import SeveralTargets
    from featherweight.training.courses.trial import RateTrial, TriedRate, try_learning_rates
    from featherweight.training.graph.graph_model import GraphModel
    from featherweight.training.keras_models.batch_norms import reestimate_batch_norm
    from featherweight.training.keras_models.regularizers import KurtosisRegularizer, add_kurtosis, kurtosis_regularizer
    from featherweight.training.keras_models.variable_search import UnfoldedWeight
    from featherweight.training.pruning.log import SparsityLog
    from featherweight.training.pruning.optimizer import SparseOptimizer
    from featherweight.training.qat.quantized_model import QuantizedModel
    from featherweight.training.qat.settings import Oscillations, RangeTraining
    from featherweight.training.schedules import Schedule

# Public names are imported when first used: importing the package costs next to nothing.
_HOMES = {
    "analysis.comparison": ("TensorError",),
    "analysis.datasets": ("Dataset",),
    "analysis.evaluation": (
        "Difference",
        "Evaluation",
        "paired_difference",
    ),
    "analysis.inspection": (
        "Inspection",
        "OperatorRow",
        "PortRow",
        "TensorRow",
    ),
    "analysis.noise": ("OutputError",),
    "calibration.details": ("Magnitudes",),
    "calibration.histogram": ("Histogram",),
    "calibration.recorder": (
        "Recorder",
        "drift",
    ),
    "calibration.stats": (
        "ChannelMoments",
        "Stats",
        "TensorStats",
    ),
    "calibration.stats_file": ("load_stats",),
    "choosing.scores": (
        "Score",
        "Scores",
        "load_scores",
    ),
    "choosing.budget": (
        "Miss",
        "Tried",
    ),
    "choosing.flow": (
        "Optimized",
        "Step",
    ),
    "choosing.searching": ("Found",),
    "detections.boxes": ("Boxes",),
    "diagnosis.cause": ("Cause",),
    "device_code.arena": ("Arena",),
    "device_code.footprint": ("Footprint",),
    "device_code.vela": ("NpuFigures",),
    "encoded_files.records": (
        "Encoded",
        "EncodedTensor",
    ),
    "graph.model": (
        "Graph",
        "Model",
        "ModelLike",
        "Node",
        "Signature",
        "Tensor",
    ),
    "graph.numerics": ("QuantParams",),
    "operators.profiles": ("Profile",),
    "pages.content": ("Distribution",),
    "repair.factors.equalize": (
        "Equalized",
        "EqualizedTensor",
    ),
    "proof.rows": (
        "Mismatch",
        "RuntimeRow",
    ),
    "ptq.plan": ("Plan",),
    "recipes.recipe": (
        "Recipe",
        "Rule",
        "Scheme",
    ),
    "report.curve": (
        "Curve",
        "CurvePoint",
    ),
    "report.diagnosis": (
        "Diagnosis",
        "JudgedOutput",
        "OwnErrorRow",
    ),
    "report.proof": ("ProofSheet",),
    "report.summary": (
        "FileSize",
        "NodeNote",
        "QuantizedTensor",
        "RateTrial",
        "Report",
    ),
    "runtime.benchmark": ("Latency",),
    "runtime.operator_times": ("OperatorTime", "OperatorTimes"),
    "sparse_files.store": (
        "Stored",
        "StoredTensor",
    ),
    "targets.constraints": ("Constraint",),
    "targets.target": (
        "Target",
        "Violation",
    ),
    "tasks.choose": (
        "search",
        "sensitivity",
    ),
    "tasks.cluster": (
        "ClusterOptimizer",
        "Clustered",
        "ClusteredKernel",
        "cluster",
    ),
    "tasks.diagnose": ("diagnose",),
    "tasks.device.deploy": (
        "Deployed",
        "deploy",
    ),
    "tasks.device.prove": ("prove",),
    "tasks.finalize": ("finalize",),
    "tasks.front": (
        "benchmark",
        "calibrate",
        "check",
        "compare",
        "evaluate",
        "inspect",
        "operator_times",
        "plan",
        "rewrite",
        "run",
        "save",
        "store_encoded",
        "store_sparse",
        "write",
    ),
    "tasks.load": ("load",),
    "tasks.optimize": ("optimize",),
    "tasks.prune": (
        "Pruned",
        "PrunedKernel",
        "prune",
    ),
    "tasks.quantize": (
        "Quantized",
        "equalize",
        "quantize",
    ),
    "tasks.quantize_aware": ("quantize_aware",),
    "tasks.remove_channels": (
        "ChannelGroup",
        "Removed",
        "remove_channels",
    ),
    "tasks.sparsity_curve": ("sparsity_curve",),
    "tasks.trainable": ("graph_model",),
    "tasks.unfold": (
        "TriedRate",
        "Unfolded",
        "try_learning_rates",
        "unfold",
    ),
    "tflite": ("read",),
    "training.courses.several": ("SeveralTargets",),
    "training.courses.trial": ("RateTrial", "TriedRate", "try_learning_rates"),
    "training.graph.graph_model": ("GraphModel",),
    "training.keras_models.batch_norms": ("reestimate_batch_norm",),
    "training.keras_models.regularizers": (
        "KurtosisRegularizer",
        "add_kurtosis",
        "kurtosis_regularizer",
    ),
    "training.keras_models.variable_search": ("UnfoldedWeight",),
    "training.pruning.log": ("SparsityLog",),
    "training.clustered.optimizer": ("ClusterOptimizer",),
    "training.pruning.optimizer": ("SparseOptimizer",),
    "training.qat.quantized_model": ("QuantizedModel",),
    "training.qat.settings": (
        "Oscillations",
        "RangeTraining",
    ),
    "training.schedules": ("Schedule",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
# Schedules under the names of version 0.1.
_OLD_SCHEDULES = ("constant", "cosine", "join", "linear", "polynomial_decay")

__all__ = [
    "Arena",
    "Boxes",
    "Cause",
    "ChannelGroup",
    "ChannelMoments",
    "ClusterOptimizer",
    "Clustered",
    "ClusteredKernel",
    "Constraint",
    "Curve",
    "CurvePoint",
    "DataError",
    "Dataset",
    "Deployed",
    "Diagnosis",
    "Difference",
    "Distribution",
    "Encoded",
    "EncodedTensor",
    "Equalized",
    "EqualizedTensor",
    "Evaluation",
    "FeatherweightError",
    "FileSize",
    "Footprint",
    "FormatError",
    "Found",
    "Graph",
    "GraphModel",
    "Histogram",
    "Inspection",
    "JudgedOutput",
    "KurtosisRegularizer",
    "Latency",
    "LoweringError",
    "Magnitudes",
    "Mismatch",
    "Miss",
    "Model",
    "ModelLike",
    "Node",
    "NodeNote",
    "NpuFigures",
    "OperatorRow",
    "OperatorTime",
    "OperatorTimes",
    "Optimized",
    "Oscillations",
    "OutputError",
    "OwnErrorRow",
    "Plan",
    "PortRow",
    "Profile",
    "ProofSheet",
    "Pruned",
    "PrunedKernel",
    "QuantParams",
    "Quantized",
    "QuantizedModel",
    "QuantizedTensor",
    "RangeTraining",
    "RateTrial",
    "Recipe",
    "RecipeError",
    "Recorder",
    "Removed",
    "Report",
    "Rule",
    "RuntimeRow",
    "Schedule",
    "Scheme",
    "Score",
    "Scores",
    "SeveralTargets",
    "Signature",
    "SparseOptimizer",
    "SparsityLog",
    "Stats",
    "Step",
    "Stored",
    "StoredTensor",
    "Target",
    "TargetViolation",
    "Tensor",
    "TensorError",
    "TensorRow",
    "TensorStats",
    "Tried",
    "TriedRate",
    "Unfolded",
    "UnfoldedWeight",
    "UnsupportedOp",
    "Violation",
    "__version__",
    "add_kurtosis",
    "benchmark",
    "calibrate",
    "check",
    "cluster",
    "compare",
    "deploy",
    "diagnose",
    "drift",
    "equalize",
    "evaluate",
    "finalize",
    "graph_model",
    "inspect",
    "kurtosis_regularizer",
    "load",
    "load_scores",
    "load_stats",
    "operator_times",
    "optimize",
    "paired_difference",
    "plan",
    "prove",
    "prune",
    "quantize",
    "quantize_aware",
    "read",
    "reestimate_batch_norm",
    "remove_channels",
    "rewrite",
    "run",
    "save",
    "schedules",
    "search",
    "sensitivity",
    "sparsity_curve",
    "store_encoded",
    "store_sparse",
    "try_learning_rates",
    "unfold",
    "write",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return package_version()
    if name == "schedules" or name in _OLD_SCHEDULES:
        schedules = importlib.import_module("featherweight.training.schedules")
        if name == "schedules":
            return schedules
        said = f"featherweight.{name} is featherweight.schedules.{name}, and goes with the next version. Write that."
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        return getattr(schedules, name)
    if name not in _HOME_OF:
        raise AttributeError(f"module 'featherweight' has no attribute '{name}'.{_meant(name)}")
    return getattr(importlib.import_module(f"featherweight.{_HOME_OF[name]}"), name)


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, __all__, 3)
    return f" Near it: {', '.join(near)}." if near else ""


def __dir__() -> list[str]:
    return sorted(__all__)


if hasattr(sys.modules.get("keras"), "ops"):  # Keras 3 is imported already
    importlib.import_module("featherweight.training")  # whose classes it finds in saved models from then on
