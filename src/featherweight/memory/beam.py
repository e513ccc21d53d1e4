"""Good orders of operators for graphs of any size, by a beam search over the sets of operators done."""

from __future__ import annotations

from featherweight.memory.live import Live
from featherweight.memory.search import Place, ready

Kept = tuple[int, int, tuple[int, "Kept"] | None]
"""The peak so far, the bytes that live now, and the last operator with what was kept before it."""


def beam_order(live: Live, part: int, begun: Place, width: int) -> tuple[int, ...]:
    """Returns an order of a part of the operators with a low peak, as `order_within` takes them.

    Of the sets of each size, the best `width` are gone on with.
    """
    goal = begun[0] | part
    level: dict[int, Kept] = {begun[0]: (begun[1], begun[1], None)}
    for _ in range(part.bit_count()):
        following: dict[int, Kept] = {}
        for done, kept in sorted(level.items(), key=lambda item: (item[1][:2], item[0]))[:width]:
            for operator in ready(live, done, goal):
                running, after = live.step(operator, done, kept[1])
                reached = done | 1 << operator
                peak = max(kept[0], running)
                if reached not in following or peak < following[reached][0]:
                    following[reached] = (peak, after, (operator, kept))
        level = following
    order: list[int] = []
    ((*_, last),) = level.values()
    while last is not None:
        operator, (*_, last) = last
        order.append(operator)
    return tuple(reversed(order))
