"""Detectors: what their outputs say about boxes, what is on the images, and how well the two agree."""

from __future__ import annotations

from featherweight.detections.boxes import Boxes
from featherweight.detections.precision import Precision, mean_average_precision
from featherweight.detections.truth import Truth, as_truth

__all__ = ["Boxes", "Precision", "Truth", "as_truth", "mean_average_precision"]
