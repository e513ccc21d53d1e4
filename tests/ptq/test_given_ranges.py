"""Parameters that stand, where an operator joins tensors of several."""

from __future__ import annotations

import numpy as np
from tests.building import layer, net, weights
from tests.ptq.nets import planned, ranges

from featherweight.graph.numerics import QuantParams
from featherweight.ptq.plan import Plan


def joined(**given: QuantParams) -> Plan:
    """Returns the plan of two dense layers that are joined and read together."""
    model = net({"x": (1, 8)}, {"w": weights(4, 8), "v": weights(4, 8, seed=1), "u": weights(2, 8)}, [
        layer("FULLY_CONNECTED", ("x", "w", ""), {"a": (1, 4)}),
        layer("FULLY_CONNECTED", ("x", "v", ""), {"b": (1, 4)}),
        layer("CONCATENATION", ("a", "b"), {"c": (1, 8)}, axis=1),
        layer("FULLY_CONNECTED", ("c", "u", ""), {"y": (1, 2)}),
    ], ["y"])  # fmt: skip
    stats = ranges(x=(-1.0, 1.0), a=(-1.0, 1.0), b=(-2.0, 2.0), c=(-2.0, 2.0), y=(-3.0, 3.0))
    return planned(model, stats=stats, given=given)[0]


def test_what_joins_two_that_stand_holds_both() -> None:
    """In either order: the range of the one that comes first would clip the other."""
    narrow, wide = QuantParams("int8", (1 / 128,), (0,)), QuantParams("int8", (2 / 128,), (0,))
    for first, second in ((narrow, wide), (wide, narrow)):
        found = joined(a=first, b=second).params["c"]
        low, high = (found.scale[0] * (q - found.zero_point[0]) for q in (-128, 127))
        assert low <= -2 + 1e-2
        assert high >= 2 * 127 / 128 - 1e-2


def test_what_stands_alone_in_its_group_stands_as_it_is() -> None:
    given = QuantParams("int8", (np.float32(0.03).item(),), (3,))
    found = joined(c=given).params
    assert found["c"] == given
