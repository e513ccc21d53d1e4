"""Pictures as SVG: colours come from the page's style, and each carries a text that says what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from featherweight.pages.content import Distribution, Network, Place, Point, Scatter
from featherweight.pages.formats import decibels, shortened, tick, ticks

# A network of more places than this is drawn by groups of neighbours, the worst of each.
MOST_PLACES = 240
_LOW_DB = 20.0
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 340, 80, 20, 14, 44
# A quantity that spans more than this factor has a logarithmic axis.
_WIDE_SPAN = 30.0
_GROUPS = 8
_LETTER, _LINE = 7.2, 14


class _Axis:
    """From a quantity to a place in the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float, margin: float = 0.06) -> None:
        low, high = min(values), max(values)
        self.is_log = low > 0 and high / low > _WIDE_SPAN
        low, high = (math.log10(low), math.log10(high)) if self.is_log else (low, high)
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - margin * spread, high + margin * spread, start, end

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.is_log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        found = ticks(self.low, self.high, 7)
        return sorted({round(10**t, -math.floor(t)) for t in found}) if self.is_log else found


def scatter(picture: Scatter) -> str:
    """Returns a picture of things by two quantities."""
    known = [p for p in picture.points if math.isfinite(p.x) and math.isfinite(p.y)]
    points = [p if math.isfinite(p.y_error) else replace(p, y_error=0.0) for p in known]
    if not points:
        return ""
    x = _Axis([p.x for p in points], _LEFT, _WIDTH - _RIGHT)
    y = _Axis([v for p in points for v in (p.y - p.y_error, p.y + p.y_error)], _HEIGHT - _BOTTOM, _TOP)
    groups = list(dict.fromkeys(p.group for p in points))
    parts = [_grid(x, y, picture.x_label, picture.y_label)]
    if has_line(picture):
        line = " ".join(f"{x(p.x):.0f},{y(p.y):.0f}" for p in front(points, picture.better))
        parts.append(f'<polyline class="front" points="{line}"/>')
    for index, group in enumerate(groups):
        same = [p for p in points if p.group == group]
        if picture.is_joined:
            line = " ".join(f"{x(p.x):.0f},{y(p.y):.0f}" for p in same)
            parts.append(f'<polyline class="line g{index % _GROUPS}" points="{line}"/>')
        parts += [_point(p, x, y, index % _GROUPS, picture) for p in same]
    parts += _labels(points, x, y)
    return _svg("".join(parts), _scatter_text(picture, points), _WIDTH, _HEIGHT)


def has_line(picture: Scatter) -> bool:
    """True where a line along the front is drawn: where it has more than one point."""
    points = [p for p in picture.points if math.isfinite(p.x) and math.isfinite(p.y)]
    return picture.has_front and len(front(points, picture.better)) > 1


def front(points: Sequence[Point], better: str) -> list[Point]:
    """Returns the points that no other beats in both quantities, by x.

    >>> [p.name for p in front([Point("a", 1, 5), Point("b", 2, 4), Point("c", 3, 6)], "more")]
    ['a', 'c']
    """
    sign = 1 if better == "more" else -1
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not found or sign * point.y > sign * found[-1].y:
            found.append(point)
    return found


def _grid(x: _Axis, y: _Axis, x_label: str, y_label: str) -> str:
    lines: list[str] = []
    for value in y.ticks():
        at = y(value)
        lines.append(f'<path class="grid" d="M{_LEFT} {at:.0f}H{_WIDTH - _RIGHT}"/>')
        lines.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.0f}" text-anchor="end">{tick(value)}</text>')
    for value in x.ticks():
        at = x(value)
        if _LEFT <= at <= _WIDTH - _RIGHT:
            place = f'x="{at:.0f}" y="{_HEIGHT - _BOTTOM + 18}"'
            lines.append(f'<text class="tick" {place} text-anchor="middle">{tick(value)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) // 2
    lines.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    lines.append(
        f'<text class="axis" transform="rotate(-90)" x="{-(_TOP + _HEIGHT - _BOTTOM) // 2}" y="14" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(lines)


def _point(point: Point, x: _Axis, y: _Axis, group: int, picture: Scatter) -> str:
    at, level = x(point.x), y(point.y)
    bar = ""
    if point.y_error:
        line = f"M{at:.0f} {y(point.y - point.y_error):.0f}V{y(point.y + point.y_error):.0f}"
        bar = f'<path class="error g{group}" d="{line}"/>'
    error = f" ± {tick(point.y_error)}" if point.y_error else ""
    group_name = f" ({point.group})" if point.group else ""
    said = f"{point.name}{group_name}: {picture.x_label} {tick(point.x)}, {picture.y_label} {tick(point.y)}{error}"
    ring = f'<circle class="ring g{group}" cx="{at:.0f}" cy="{level:.0f}" r="10"/>' if point.is_marked else ""
    return (
        f'{bar}{ring}<circle class="dot g{group}" cx="{at:.0f}" cy="{level:.0f}" r="5">'
        f"<title>{escape(said)}</title></circle>"
    )


def _labels(points: Sequence[Point], x: _Axis, y: _Axis) -> list[str]:
    """Names beside the points, each where it hides nothing; one that finds no place is left out."""
    taken = [(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in points]
    found: list[str] = []
    for point in sorted(points, key=lambda p: not p.is_marked):
        name = shortened(point.name, 24)
        if not name:
            continue
        wide, at, level, gap = _LETTER * len(name), x(point.x), y(point.y), 15 if point.is_marked else 9
        places = (
            (at + gap, level - _LINE / 2),
            (at - gap - wide, level - _LINE / 2),
            (at - wide / 2, level - gap - _LINE),
            (at - wide / 2, level + gap),
            (at + gap, level - gap - _LINE),
            (at + gap, level + gap),
        )
        for left, top in places:
            box = (left, top, left + wide, top + _LINE)
            inside = left >= _LEFT and box[2] <= _WIDTH - 4 and top >= 0 and box[3] <= _HEIGHT - _BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                found.append(f'<text class="label" x="{left:.0f}" y="{top + 11:.0f}">{escape(name)}</text>')
                break
    return found


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _scatter_text(picture: Scatter, points: Sequence[Point]) -> str:
    best = (max if picture.better == "more" else min)(points, key=lambda p: p.y)
    least = min(points, key=lambda p: p.x)
    said = (
        f"{picture.y_label} over {picture.x_label} of {len(points)} points. Best {picture.y_label}: {best.name}, "
        f"{tick(best.y)} at {tick(best.x)}. Least {picture.x_label}: {least.name}, {tick(least.x)} and {tick(least.y)}"
        "."
    )
    marked = [p.name for p in points if p.is_marked]
    return said + (f" Marked: {', '.join(marked)}." if marked else "")


# ----------------------------------------------------------------------------------------------------- along a network


def network(picture: Network) -> str:
    """Returns the levels along a network as bars; low ones are worse."""
    groups = grouped([place for place in picture.places if not math.isnan(place.total_db)], MOST_PLACES)
    if not groups:
        return ""
    places = [min(group, key=lambda place: place.total_db) for group in groups]
    finite = [v for p in places for v in (p.total_db, p.own_db) if v is not None and math.isfinite(v)]
    top = max([*finite, 40.0]) * 1.05
    low = min([*finite, 0.0])
    floor, ceiling = 240.0, float(_TOP)

    def level(value: float) -> float:
        return floor - (min(max(value, low), top) - low) / (top - low) * (floor - ceiling)

    step = (_WIDTH - _LEFT - _RIGHT) / len(places)
    parts: list[str] = []
    for value in ticks(low, top, 6):
        parts.append(f'<path class="grid" d="M{_LEFT} {level(value):.0f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{level(value) + 4:.0f}" text-anchor="end">{tick(value)}</text>'
        )
    bars: list[str] = []
    for index, place in enumerate(places):
        at = _LEFT + (index + 0.5) * step
        said = f"{shortened(place.name, 48)}: {decibels(place.total_db)} dB"
        own = ""
        if place.own_db is not None and not math.isnan(place.own_db):
            said += f", its operator alone {decibels(place.own_db)} dB"
            half = max(step * 0.42, 1.0)
            own = f'<path class="own" d="M{at - half:.1f} {level(place.own_db):.0f}h{2 * half:.1f}"/>'
        kind = ' class="low"' if place.total_db < _LOW_DB else ""
        line = f"M{at:.1f} {level(low):.0f}V{level(place.total_db):.0f}"
        bars.append(f'<path{kind} d="{line}"><title>{escape(said)}</title></path>{own}')
    parts.append(f'<g class="bars" stroke-width="{max(step * 0.7, 1.0):.1f}">{"".join(bars)}</g>')
    parts.append(
        f'<text class="axis" transform="rotate(-90)" x="-130" y="14" text-anchor="middle">signal to noise, dB</text>'
        f'<text class="axis" x="{(_LEFT + _WIDTH) // 2}" y="262" text-anchor="middle">input → output</text>'
    )
    worst = min(places, key=lambda place: place.total_db)
    text = (
        f"Signal to noise of {len(picture.places)} tensors along the network. Worst: {worst.name}, "
        f"{decibels(worst.total_db)} dB. Last: {places[-1].name}, {decibels(places[-1].total_db)} dB."
    )
    return _svg("".join(parts), text, _WIDTH, 270)


def grouped(places: Sequence[Place], most: int) -> list[Sequence[Place]]:
    """Returns neighbours in as few groups as keep within `most`; one each where they are few.

    >>> [len(group) for group in grouped([Place("a", 1.0)] * 5, 3)]
    [2, 2, 1]
    """
    size = max(1, math.ceil(len(places) / most))
    return [places[start : start + size] for start in range(0, len(places), size)]


# ---------------------------------------------------------------------------------------------------------- histograms


def distribution(row: Distribution) -> str:
    """Returns a histogram with the range that the integers hold; heights are square roots of the counts."""
    width, height, base = 240, 84, 66
    ends = [row.start, row.start + row.width * len(row.counts), row.low, row.high]
    ends += [v for v in (row.range_low, row.range_high) if v is not None]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return (value - low) / span * width

    most = math.sqrt(max([*row.counts, 1]))
    inside: list[str] = []
    outside: list[str] = []
    for index, count in enumerate(row.counts):
        if not count:
            continue
        left, right = row.start + index * row.width, row.start + (index + 1) * row.width
        middle = (left + right) / 2
        is_out = (row.range_low is not None and middle < row.range_low) or (
            row.range_high is not None and middle > row.range_high
        )
        tall = max(round(math.sqrt(count) / most * (base - 6)), 1)
        bar = f"M{at(left):.0f} {base}v-{tall}H{max(at(right), at(left) + 1):.0f}v{tall}"
        (outside if is_out else inside).append(bar)
    parts = [f'<path class="fill" d="{"".join(inside)}"/>']
    if outside:
        parts.append(f'<path class="cut" d="{"".join(outside)}"/>')
    edges = [edge for edge in (row.range_low, row.range_high) if edge is not None]
    parts += [f'<path class="edge" d="M{at(edge):.0f} 0V{base}"/>' for edge in edges]
    parts.append(
        f'<path class="grid" d="M0 {base}H{width}"/><text class="tick" x="0" y="{height - 4}">{tick(low)}</text>'
        f'<text class="tick" x="{width}" y="{height - 4}" text-anchor="end">{tick(high)}</text>'
    )
    return _svg("".join(parts), distribution_text(row), width, height)


def distribution_text(row: Distribution) -> str:
    """Returns what a histogram shows, in a sentence."""
    said = f"Values of {row.name} from {tick(row.low)} to {tick(row.high)}"
    if row.range_low is None or row.range_high is None:
        return f"{said}, held in float."
    clipped = f"{100 * row.clipped:.2g} % clipped" if row.clipped else "none clipped"
    return f"{said}; integers hold {tick(row.range_low)} to {tick(row.range_high)}, {clipped}."


def _svg(content: str, text: str, width: int, height: int) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(text)}">{content}</svg>'
