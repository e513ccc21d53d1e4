"""Samples that reach much farther than all others: a range made for them leaves few steps to the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from featherweight.errors import listed
from featherweight.runtime import Feed

# Two of eight bits: what the others lose by a range that is made for the odd ones.
_FARTHER = 4.0
# Among fewer samples none is odd, and more than this part of them are a kind of their own.
_LEAST_SAMPLES, _MOST_ODD = 8, 0.05


@dataclass(frozen=True)
class OddSamples:
    """The few samples that make the range of an input.

    Attributes:
        name: the input's.
        indices: of these samples, the farthest first.
        samples: how many there are in all.
        reach: the largest absolute value of them.
        rest: that of all others.
    """

    name: str
    indices: tuple[int, ...]
    samples: int
    reach: float
    rest: float

    def __str__(self) -> str:
        one = len(self.indices) == 1
        which = f"sample{'' if one else 's'} {listed([str(index) for index in self.indices], 8)} (of {self.samples})"
        return (
            f"{which} {'reaches' if one else 'reach'} {self.reach:.3g} in input '{self.name}', all others stay within "
            f"{self.rest:.3g}: 1 in {self.reach / self.rest:.0f} of its steps is left for these"
        )


@dataclass
class Reaches:
    """Collects how far from zero examples reach, input by input."""

    _found: dict[str, list[np.ndarray]] = field(default_factory=dict[str, list[np.ndarray]])

    def add(self, feed: Mapping[str, np.ndarray], rows: int = 1) -> None:
        """Adds what is fed to one run, of so many examples along the first axis."""
        for name, values in feed.items():
            x = np.asarray(values)
            if x.dtype.kind == "f" and x.size:
                is_batch = rows > 1 and x.ndim > 0 and len(x) == rows
                each = np.abs(x.reshape(rows if is_batch else 1, -1)).max(axis=1)
                self._found.setdefault(name, []).append(each if is_batch else each.repeat(rows))

    def watching(self, feeds: Iterable[Feed]) -> Iterator[Feed]:
        """Yields feeds as they come, and adds them."""
        for feed in feeds:
            self.add(feed.arrays, feed.rows)
            yield feed

    def odd(self) -> tuple[OddSamples, ...]:
        """Returns the inputs whose range a few samples make.

        >>> reaches = Reaches()
        >>> for value in (1, 2, 1, 1, 1, 90, 2, 1):
        ...     reaches.add({"x": np.float32([value])})
        >>> print(*reaches.odd())
        sample 5 (of 8) reaches 90 in input 'x', all others stay within 2: 1 in 45 of its steps is left for these
        """
        found = {name: _odd(name, np.concatenate(parts).astype(np.float64)) for name, parts in self._found.items()}
        return tuple(each for each in found.values() if each is not None)


def odd_samples(feeds: Iterable[Mapping[str, np.ndarray]]) -> tuple[OddSamples, ...]:
    """Returns the inputs whose range a few examples make, of the feeds of single examples."""
    reaches = Reaches()
    for feed in feeds:
        reaches.add(feed)
    return reaches.odd()


def _odd(name: str, reach: np.ndarray) -> OddSamples | None:
    if len(reach) < _LEAST_SAMPLES:
        return None
    order = np.argsort(-reach, kind="stable")
    for count in range(1, max(1, int(_MOST_ODD * len(reach))) + 1):
        least, rest = float(reach[order[count - 1]]), float(reach[order[count]])
        if rest > 0 and least > _FARTHER * rest:
            return OddSamples(name, tuple(order[:count].tolist()), len(reach), float(reach[order[0]]), rest)
    return None
