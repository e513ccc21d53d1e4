"""Orders of operators whose peak stays within a limit, by an exhaustive search over the sets of operators done.

How much lives after a set D of operators, m(D), does not depend on their order, and it is submodular: for the union and
the intersection of two sets, m(A or B) + m(A and B) ≤ m(A) + m(B). So an operator, or a chain of them each of which
reads the one before, that can run now within the limit and leaves no more alive than there is, can run now in a best
order, too: every order through other operators stays within the limit with the chain before it. Such steps are taken
without trying others, and the search over sets, each visited once, is left with real choices.
"""

from __future__ import annotations

from collections.abc import Iterator

from featherweight.memory.live import Live


class SearchEnded(Exception):
    """The search has visited as many sets as it may."""


Place = tuple[int, int]
"""Operators done, as bits, and the bytes that live then."""


def order_within(live: Live, part: int, begun: Place, limit: int, most: int) -> tuple[int, ...] | None:
    """Returns an order of a part of the operators whose peak is within a limit, in bytes, or None: there is none.

    Args:
        live: of the graph.
        part: the operators to order, as bits; those done before are behind none of them.
        begun: what is done before.
        limit: the most that may live at once.
        most: sets of operators to visit.

    Raises:
        SearchEnded: when these are visited.
    """
    goal = begun[0] | part
    if begun[1] > limit:
        return None
    start, path = _settled(live, begun, goal, limit)
    seen = {start[0]}
    # Each level: the operators taken to come there, and what is still to be tried from there.
    levels = [(path, _choices(live, start, goal, limit))]
    if start[0] == goal:
        return tuple(path)
    while levels:
        place = next(levels[-1][1], None)
        if place is None:
            levels.pop()
            continue
        (done, held), first = place
        settled, taken = _settled(live, (done, held), goal, limit)
        if settled[0] in seen:
            continue
        seen.add(settled[0])
        path = [first, *taken]
        if settled[0] == goal:
            return tuple(operator for level, _ in levels for operator in level) + tuple(path)
        if len(seen) > most:
            raise SearchEnded
        levels.append((path, _choices(live, settled, goal, limit)))
    return None


def ready(live: Live, done: int, goal: int) -> Iterator[int]:
    """Yields the operators of a set that can run when others are done."""
    left = goal & ~done
    while left:
        lowest = left & -left
        operator = lowest.bit_length() - 1
        if not live.before[operator] & ~done:
            yield operator
        left ^= lowest


def _choices(live: Live, place: Place, goal: int, limit: int) -> Iterator[tuple[Place, int]]:
    """Yields what can be done next within the limit, what leaves least alive first."""
    done, held = place
    found: list[tuple[int, int]] = []
    for operator in ready(live, done, goal):
        running, after = live.step(operator, done, held)
        if running <= limit:
            found.append((after, operator))
    return iter([((done | 1 << operator, after), operator) for after, operator in sorted(found)])


def _settled(live: Live, place: Place, goal: int, limit: int) -> tuple[Place, list[int]]:
    """Returns where the steps lead that a best order can begin with, and these steps."""
    path: list[int] = []
    while (chain := _free_chain(live, place, goal, limit)) is not None:
        place, taken = chain
        path += taken
    return place, path


def _free_chain(live: Live, place: Place, goal: int, limit: int) -> tuple[Place, list[int]] | None:
    """Returns a chain of operators that stays within the limit and leaves no more alive, or None."""
    start, alive = place
    for first in ready(live, start, goal):
        done, held = start, alive
        taken: list[int] = []
        operator: int | None = first
        while operator is not None:
            running, held = live.step(operator, done, held)
            if running > limit:
                break
            done |= 1 << operator
            taken.append(operator)
            if held <= alive:
                return (done, held), taken
            operator = _follower(live, operator, done, goal)
    return None


def _follower(live: Live, operator: int, done: int, goal: int) -> int | None:
    """Returns an operator that reads what another has written and can run behind it, or None."""
    for tensor in live.outputs[operator]:
        for reader in ready(live, done, live.readers[tensor] & goal):
            return reader
    return None
