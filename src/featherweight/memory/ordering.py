"""The order of a model's operators that keeps least memory alive at once: proven where the graph is not too wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from featherweight.graph import Graph, Model, replace_graph
from featherweight.memory.beam import beam_order
from featherweight.memory.bounds import least_peak, needs_of
from featherweight.memory.live import Live, called_first, is_ordered, live_of
from featherweight.memory.search import SearchEnded, order_within

# Sets of operators that are gone on with at a time: more find little (measured on NASNet-like cells).
_WIDTH = 64
# Sets that one search visits at most: about ten seconds. Graphs of 60 operators like Inception's, NASNet's and
# SwiftNet's need some thousands.
_MOST = 200_000


@dataclass(frozen=True)
class Peak:
    """The most that lives at once in one graph, in bytes, before and after its operators were put in order.

    Attributes:
        graph: its name.
        bound: what no order can be below.
    """

    graph: str
    operators: int
    before: int
    after: int
    bound: int

    @property
    def is_proven(self) -> bool:
        """True where no order keeps less alive."""
        return self.after == self.bound

    def __str__(self) -> str:
        if self.after == self.before:
            found = f"{self.after:,} bytes of tensors live at once at most, in the order that there is"
        else:
            found = f"{self.after:,} bytes of tensors live at once at most, instead of {self.before:,}"
        proof = "no order needs less" if self.is_proven else f"no order needs less than {self.bound:,}"
        return f"{found} ({proof})"


@dataclass(frozen=True, eq=False)
class Ordered:
    """A model whose operators are in an order that keeps less alive, and what that brings graph by graph."""

    model: Model
    peaks: tuple[Peak, ...]

    @property
    def is_changed(self) -> bool:
        """True where an order is another than it was."""
        return any(peak.after < peak.before for peak in self.peaks)


def ordered(model: Model, *, width: int = _WIDTH, most: int = _MOST) -> Ordered:
    """Returns a model with the same operators in an order that keeps less memory alive at once.

    What it computes stays the same: operators run behind all that they read, and those with effects beyond their
    outputs (variables, random numbers, calls of other graphs, and what nothing is known about) keep their order.
    A graph stays as it is where no better order is found.

    Args:
        model: whose graphs are put in order, those that others call first.
        width: sets of operators that the search for a good order goes on with at a time.
        most: sets that the proof visits at most.
    """
    peaks: dict[int, Peak] = {}
    for index in called_first(model):
        graph = model.graphs[index]
        live = live_of(graph, {called: peak.after for called, peak in peaks.items()})
        given = tuple(range(live.count))
        if is_ordered(graph):
            order, bound = best_order(live, width, most)
        else:
            order, bound = given, 0
        before, after = live.peak(given), live.peak(order)
        if after < before:
            model = replace_graph(model, index, _in_order(graph, order))
        peaks[index] = Peak(graph.name, live.count, before, after, bound)
    return Ordered(model, tuple(peaks[index] for index in sorted(peaks)))


def best_order(live: Live, width: int, most: int) -> tuple[tuple[int, ...], int]:
    """Returns an order with a low peak, and a bound that no order is below, in bytes."""
    given = tuple(range(live.count))
    bound = least_peak(live, given)
    parts = [_Part.of(live, part) for part in _parts(live)]
    peak = max((part.peak for part in parts), default=live.begun())
    if peak > bound:
        parts = [part.beamed(live, width) if part.peak > bound else part for part in parts]
    # The widest part decides: others need not be better than it.
    for index in sorted(range(len(parts)), key=lambda i: -parts[i].peak):
        parts[index], least = parts[index].searched(live, bound, most)
        bound = max(bound, least)
    return tuple(operator for part in parts for operator in part.order), bound


@dataclass(frozen=True)
class _Part:
    """Operators that all others stand before or behind, in an order."""

    done: int
    held: int
    order: tuple[int, ...]
    peak: int

    @classmethod
    def of(cls, live: Live, given: Sequence[int]) -> _Part:
        """Returns the operators of a part as they are given; those before it are the ones of lower numbers."""
        done, held = 0, live.begun()
        for operator in range(min(given)):
            held = live.step(operator, done, held)[1]
            done |= 1 << operator
        return cls(done, held, (), 0).reordered(live, given)

    def reordered(self, live: Live, order: Sequence[int]) -> _Part:
        """Returns the same operators in another order."""
        done, held, peak = self.done, self.held, self.held
        for operator in order:
            running, held = live.step(operator, done, held)
            done |= 1 << operator
            peak = max(peak, running)
        return replace(self, order=tuple(order), peak=peak)

    @property
    def operators(self) -> int:
        """Its operators, as bits."""
        return sum(1 << operator for operator in self.order)

    def beamed(self, live: Live, width: int) -> _Part:
        """Returns the better one of its order and that of a beam search."""
        found = self.reordered(live, beam_order(live, self.operators, (self.done, self.held), width))
        return found if found.peak < self.peak else self

    def searched(self, live: Live, bound: int, most: int) -> tuple[_Part, int]:
        """Returns the part in better orders until none is left, or it is within the bound; and its own bound."""
        part = self
        while part.peak > bound:
            try:
                order = order_within(live, part.operators, (part.done, part.held), part.peak - 1, most)
            except SearchEnded:
                return part, 0
            if order is None:
                return part, part.peak
            part = part.reordered(live, order)
        return part, 0


def _parts(live: Live) -> Iterator[list[int]]:
    """Yields the operators in the groups that follow one another in every order."""
    needs = needs_of(live)
    part: list[int] = []
    for operator in range(live.count):
        part.append(operator)
        # All before are needed by it, and all behind need it.
        behind = range(operator + 1, live.count)
        if needs[operator] | 1 << operator == (2 << operator) - 1 and all(needs[b] >> operator & 1 for b in behind):
            yield part
            part = []
    if part:
        yield part


def _in_order(graph: Graph, order: Sequence[int]) -> Graph:
    return replace(graph, nodes=tuple(graph.nodes[operator] for operator in order))
