"""The main job on real data: train a small convnet, make it small in every way there is, and measure each."""

from __future__ import annotations

from featherweight.demo.story import DemoResult, Row, run
from featherweight.demo.table import table

__all__ = ["DemoResult", "Row", "run", "table"]
