"""Places of tensors in the arena that are better than the interpreter's own.

The interpreter places the largest tensors first, which leaves gaps. Here the order is changed until no gap is left, or
for long enough: what lies highest comes earlier in the next try ("squeaky wheel" optimization, Joslin and Clements,
1999).
"""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.memory.placing import Buffer, by_size, height, placed

# Tries at most: nets of a hundred tensors take some seconds, and most are packed after a few.
_TRIES = 400


def packed(buffers: Sequence[Buffer]) -> tuple[int, ...]:
    """Returns where each buffer lies, so that all end as low as is found.

    >>> some = [Buffer(3, 0, 1), Buffer(2, 1, 3), Buffer(4, 3, 4), Buffer(2, 0, 0), Buffer(1, 3, 3)]
    >>> height(some, packed(some))
    7
    """
    order = by_size(buffers)
    least = _most_alive(buffers)
    best = placed(buffers, order)
    lowest = height(buffers, best)
    blame = [0.0] * len(buffers)
    for _ in range(_TRIES):
        if lowest <= least:
            break
        places = placed(buffers, order)
        top = height(buffers, places)
        if top < lowest:
            best, lowest = places, top
        for index, (each, place) in enumerate(zip(buffers, places, strict=True)):
            # What lies above the bound is in the way of it, by as much.
            blame[index] += max(0, place + each.size - least) / max(least, 1)
        order = sorted(
            range(len(buffers)), key=lambda index: (-buffers[index].size / max(least, 1) - blame[index], index)
        )
    return best


def _most_alive(buffers: Sequence[Buffer]) -> int:
    """Returns what lives at once at most, which no places are below."""
    moments = {each.first for each in buffers}
    return max((sum(b.size for b in buffers if b.first <= moment <= b.last) for moment in moments), default=0)
