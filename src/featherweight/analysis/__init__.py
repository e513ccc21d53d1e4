"""Evidence: what is in a model, how far its tensors are off, how well it does its task."""

from __future__ import annotations

from featherweight.analysis.comparison import TensorError, compare
from featherweight.analysis.datasets import Dataset
from featherweight.analysis.evaluation import Difference, Evaluation, evaluate, paired_difference, predict
from featherweight.analysis.inspection import Inspection, inspect
from featherweight.analysis.metrics import METRICS, Metric
from featherweight.analysis.tensor_errors import sqnr_db

__all__ = [
    "METRICS",
    "Dataset",
    "Difference",
    "Evaluation",
    "Inspection",
    "Metric",
    "TensorError",
    "compare",
    "evaluate",
    "inspect",
    "paired_difference",
    "predict",
    "sqnr_db",
]
