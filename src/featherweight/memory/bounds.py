"""A bound on the peak that no order of a graph's operators can be below.

While an operator runs, a set D of operators is done that holds all that it needs and nothing that needs it. What lives
then is at least the least m(D) of such sets: a minimum cut of the graph (a closure with tensors as arcs; Picard, 1976).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from featherweight.memory.live import Live

_UNLIMITED = 1 << 60


def least_peak(live: Live, order: Sequence[int]) -> int:
    """Returns a bound, in bytes; `order` is any: operators that it runs cheaply need no cut."""
    needs = needs_of(live)
    needed = [1 << operator for operator in range(live.count)]
    for operator, others in enumerate(needs):
        for other in _bits(others):
            needed[other] |= 1 << operator
    running = dict(zip(order, live.steps(order), strict=True))
    bound = live.begun()
    for operator in sorted(running, key=running.__getitem__, reverse=True):
        if running[operator] <= bound:
            break
        outputs = sum(live.sizes[tensor] for tensor in live.outputs[operator])
        bound = max(bound, outputs + live.working[operator] + _least_alive(live, needs[operator], needed[operator]))
    return bound


def needs_of(live: Live) -> list[int]:
    """Returns the operators that each needs, directly or not, as bits."""
    needs = [0] * live.count
    for operator in range(live.count):
        for other in _bits(live.before[operator]):
            needs[operator] |= needs[other] | 1 << other
    return needs


def _bits(value: int) -> list[int]:
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


def _least_alive(live: Live, done: int, left: int) -> int:
    """Returns the least that lives after a set of operators that holds those in `done` and none in `left`."""
    source, sink = 0, 1
    free = [o for o in range(live.count) if not (done | left) >> o & 1]
    place = {o: 2 + i for i, o in enumerate(free)}

    def node(operator: int) -> int:
        return source if done >> operator & 1 else sink if left >> operator & 1 else place[operator]

    flow = _Flow(2 + len(free) + len(live.sizes))
    for operator in free:
        for other in _bits(live.before[operator]):
            if other in place:
                flow.arc(place[operator], place[other], _UNLIMITED)
    writers = {tensor: operator for operator, outputs in enumerate(live.outputs) for tensor in outputs}
    for tensor, size in enumerate(live.sizes):
        writer = node(writers[tensor]) if tensor in writers else source
        if writer == sink or not (live.readers[tensor] or live.is_kept[tensor]):
            continue
        own = 2 + len(free) + tensor
        flow.arc(writer, own, size)
        if live.is_kept[tensor]:
            flow.arc(own, sink, _UNLIMITED)
        for reader in _bits(live.readers[tensor]):
            if (end := node(reader)) != source:
                flow.arc(own, end, _UNLIMITED)
    return flow.maximum(source, sink)


class _Flow:
    """A network whose greatest flow is found by blocking flows (Dinic, 1970)."""

    def __init__(self, nodes: int) -> None:
        self.ends: list[int] = []
        self.room: list[int] = []
        self.arcs: list[list[int]] = [[] for _ in range(nodes)]

    def arc(self, start: int, end: int, capacity: int) -> None:
        """Adds an arc."""
        for a, b, room in ((start, end, capacity), (end, start, 0)):
            self.arcs[a].append(len(self.ends))
            self.ends.append(b)
            self.room.append(room)

    def maximum(self, source: int, sink: int) -> int:
        """Returns the greatest flow."""
        total = 0
        while (depth := self._depths(source))[sink] >= 0:
            tried = [0] * len(self.arcs)
            while path := self._path(source, sink, depth, tried):
                amount = min(self.room[arc] for arc in path)
                for arc in path:
                    self.room[arc] -= amount
                    self.room[arc ^ 1] += amount
                total += amount
        return total

    def _depths(self, source: int) -> list[int]:
        depth = [-1] * len(self.arcs)
        depth[source] = 0
        waiting = deque([source])
        while waiting:
            start = waiting.popleft()
            for arc in self.arcs[start]:
                if self.room[arc] > 0 and depth[self.ends[arc]] < 0:
                    depth[self.ends[arc]] = depth[start] + 1
                    waiting.append(self.ends[arc])
        return depth

    def _path(self, source: int, sink: int, depth: list[int], tried: list[int]) -> list[int]:
        path: list[int] = []
        at = source
        while at != sink:
            while tried[at] < len(self.arcs[at]):
                arc = self.arcs[at][tried[at]]
                if self.room[arc] > 0 and depth[self.ends[arc]] == depth[at] + 1:
                    break
                tried[at] += 1
            else:
                if not path:
                    return []
                at = self.ends[path.pop() ^ 1]
                tried[at] += 1
                continue
            path.append(arc)
            at = self.ends[arc]
        return path
