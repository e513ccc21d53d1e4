"""What the cells of one network and one way say together, over all draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.leaderboard.cells import Cell
from benchmarks.leaderboard.judging import flags
from benchmarks.leaderboard.record import Net, Way
from benchmarks.measuring import paired

Cells = Mapping[tuple[str, str, int], Cell]
FLOAT, LATENCY = "float", "latency"
# An output without any error counts as so many dB in a mean.
_EQUAL_DB = 120.0


@dataclass(frozen=True)
class Row:
    """One way on one network.

    Attributes:
        sqnr_db: mean over draws, of the worst output; None where nothing was measured.
        draws_db: of each draw.
        outputs_db: of each output, in the first draw.
        points, points_error: classes right minus the float network's, paired, with its standard error, in points.
        agrees: fraction of examples with the float network's class.
        size_bytes: of the file, the first draw's.
        seconds: of processor time to make it, the median of the draws.
        ratio: of latency to the float file in the same runtime.
        exact: what differs between the tool's simulation and its file, summed over draws.
        draws: how many were measured.
        reason: why there is nothing.
        status: of the first cell.
    """

    net: Net
    way: Way
    draws: int = 0
    sqnr_db: float | None = None
    draws_db: tuple[float, ...] = ()
    outputs_db: tuple[float, ...] = ()
    points: float | None = None
    points_error: float | None = None
    agrees: float | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    ratio: float | None = None
    exact: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    reason: str = ""
    status: str = "missing"


def rows_of(cells: Iterable[Cell], nets: Mapping[str, Net], ways: Mapping[str, Way]) -> list[Row]:
    """Returns a row for each network and way, in the order of the rosters; also where nothing was measured."""
    table = {(cell["net"], cell["way"], cell["draw"]): cell for cell in cells}
    return [_row(net, way, table) for net in nets.values() for way in ways.values()]


def _row(net: Net, way: Way, table: Cells) -> Row:
    all_draws = [table[place] for draw in range(net.draws) if (place := (net.name, way.name, draw)) in table]
    found = [cell for cell in all_draws if cell["status"] == "measured"]
    if not found:
        first: Mapping[str, Any] = all_draws[0] if all_draws else {"status": "missing", "reason": "not measured yet"}
        return Row(net, way, reason=first["reason"], status=first["status"])
    worst = [min(_levels(cell)) for cell in found]
    points = difference(found, table, FLOAT) if net.judged != "levels" else None
    return Row(
        net,
        way,
        draws=len(found),
        sqnr_db=float(np.mean(worst)),
        draws_db=tuple(worst),
        outputs_db=tuple(_levels(found[0])),
        points=points[0] if points else None,
        points_error=points[1] if points else None,
        agrees=float(np.mean([cell["agrees"] for cell in found])) if net.judged != "levels" else None,
        size_bytes=found[0]["bytes"],
        seconds=float(np.median([cell["cpu_seconds"] for cell in found])),
        ratio=_ratio(net, way, table),
        exact=_exact(found),
        notes=tuple(found[0].get("notes", ())),
        status="measured",
    )


def _levels(cell: Cell) -> list[float]:
    return [_EQUAL_DB if level is None else float(level) for level in cell["sqnr_db"]]


def difference(found: Sequence[Cell], table: Cells, other: str) -> tuple[float, float] | None:
    """Returns points of accuracy minus another way's on the same examples, with the standard error over groups.

    None where the other way was measured on none of the same draws. Examples of one image, and an example that several
    draws share, count as one.
    """
    differences: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    for cell in found:
        against = table.get((cell["net"], other, cell["draw"]))
        if against is None or against["status"] != "measured" or against["given"] != cell["given"]:
            continue  # of another float file, or of other examples: a cell that another machine filled
        count = cell["examples"]
        differences.append(flags(cell["right"], count) * 1.0 - flags(against["right"], count))
        runs = cell.get("groups") or [[index, 1] for index in range(count)]
        groups.append(np.repeat([group for group, _ in runs], [length for _, length in runs]))
    if not differences:
        return None
    mean, error = paired(np.concatenate(differences), np.concatenate(groups))
    return 100 * mean, 100 * error


def _ratio(net: Net, way: Way, table: Cells) -> float | None:
    cell = table.get((net.name, LATENCY if way.suffix == ".tflite" else f"{LATENCY}-{way.environment}", 0))
    if cell is None or cell["status"] != "measured" or way.name not in cell["times"]:
        return None
    return float(cell["times"][way.name][3])


def _exact(found: Sequence[Cell]) -> Mapping[str, Any] | None:
    known = [cell["exact"] for cell in found if cell.get("exact")]
    if not known:
        return None
    return {
        "what": known[0]["what"],
        "differing": sum(one["differing"] for one in known),
        "of": sum(one["of"] for one in known),
        "largest": max(one["largest"] for one in known),
    }
