"""Calibration: what a model's tensors hold over samples, and the ranges that follow from it."""

from __future__ import annotations

from featherweight.calibration.collect import calibrate, measurable
from featherweight.calibration.histogram import Histogram
from featherweight.calibration.ranges import (
    RANGE_METHODS,
    find_range,
    needs_histogram,
    register_range_method,
    share_beyond,
)
from featherweight.calibration.recorder import Recorder, drift
from featherweight.calibration.stats import ChannelMoments, Stats, TensorStats
from featherweight.calibration.stats_file import load_stats

__all__ = [
    "RANGE_METHODS",
    "ChannelMoments",
    "Histogram",
    "Recorder",
    "Stats",
    "TensorStats",
    "calibrate",
    "drift",
    "find_range",
    "load_stats",
    "measurable",
    "needs_histogram",
    "register_range_method",
    "share_beyond",
]
