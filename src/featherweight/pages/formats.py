"""How names and numbers are written for people."""

from __future__ import annotations

import math

WIDEST_NAME = 60


def shortened(name: str, width: int = WIDEST_NAME) -> str:
    """Returns a name cut in its middle where it is too long: the two ends tell tensors apart.

    >>> shortened("block_1/conv/kernel", 11)
    'block…ernel'
    """
    if len(name) <= width:
        return name
    front = (width - 1) // 2
    return f"{name[:front]}…{name[len(name) - (width - 1 - front) :]}"


def decibels(value: float | None) -> str:
    """Returns a level for a table.

    >>> decibels(31.416), decibels(math.inf), decibels(None)
    ('31.4', 'exact', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "exact" if value > 0 else "-inf"
    return f"{value:.1f}"


def percent(part: float, whole: float) -> str:
    """Returns part / whole in per cent for a table; '-' where the whole is zero."""
    if whole == 0 or not math.isfinite(part / whole):
        return "-"
    return f"{100 * part / whole:.0f} %"


def amount(size_bytes: float) -> str:
    """Returns a number of bytes with a unit, three digits, for a card.

    >>> amount(812), amount(14_000_000), amount(27_550)
    ('812 B', '14.0 MB', '27.6 kB')
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= 0.9995 * factor:
            value = size_bytes / factor
            return f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(time_ms: float) -> str:
    """Returns milliseconds with a unit, three digits, for a card.

    >>> duration(16.24), duration(0.00549), duration(2500)
    ('16.2 ms', '5.49 µs', '2.5 s')
    """
    for least, factor, unit in ((1e3, 1e3, "s"), (0.1, 1.0, "ms")):
        if time_ms >= least:
            return f"{time_ms / factor:.3g} {unit}"
    return f"{1e3 * time_ms:.3g} µs"


def tick(value: float) -> str:
    """Returns a number at an axis.

    >>> tick(0.25), tick(40_000.0), tick(-0.0), tick(1e7)
    ('0.25', '40,000', '0', '1e+07')
    """
    if value == 0:
        return "0"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from low to high, `most` of them at most; one where both are the same.

    >>> ticks(0.0, 1.0, 6)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10, 20) if factor * unit >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, math.floor(high / step + 1e-9) + 1)]
