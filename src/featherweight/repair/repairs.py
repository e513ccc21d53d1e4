"""The repairs that there are, in the order in which they build on each other: the graph, then ranges, then weights."""

from __future__ import annotations

from featherweight.repair.candidate import Repair
from featherweight.repair.equalize import EQUALIZE
from featherweight.repair.ranges import RANGES
from featherweight.repair.weights.repairs import WEIGHT_REPAIRS

REPAIRS: tuple[Repair, ...] = (EQUALIZE, RANGES, *WEIGHT_REPAIRS)
