"""The repairs that there are, in the order in which they build on each other: graph, ranges, weights, wide places."""

from __future__ import annotations

from featherweight.repair.candidate import Repair
from featherweight.repair.factors.equalize import EQUALIZE
from featherweight.repair.factors.fill import FILL_POWERS
from featherweight.repair.factors.smooth import SMOOTH
from featherweight.repair.outputs import SPLIT_OUTPUTS
from featherweight.repair.ranges import RANGES
from featherweight.repair.weights.repairs import EIGHT_BITS, ONE_SCALE, WEIGHT_REPAIRS
from featherweight.repair.wide_places import WIDE_PLACES

REPAIRS: tuple[Repair, ...] = (
    EQUALIZE, SMOOTH, FILL_POWERS, SPLIT_OUTPUTS, RANGES, EIGHT_BITS, ONE_SCALE, *WEIGHT_REPAIRS, WIDE_PLACES,
)  # fmt: skip
