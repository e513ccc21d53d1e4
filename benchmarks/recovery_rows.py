"""The row of repairs: what is had without training, beside peers, on images that no tool has chosen on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.leaderboard.nets import NETS
from benchmarks.leaderboard.record import Way
from benchmarks.leaderboard.roster import WAYS
from benchmarks.leaderboard.running import Wish, fill
from benchmarks.leaderboard.summary import Row, rows_of
from benchmarks.measuring import Figure, Options, say

_NET = NETS["efficientnet_lite0"]
_AUTO = WAYS["own-int8-auto"]


def _for(target: str) -> Way:
    return replace(_AUTO, name=f"own-{target}-auto", arguments={**_AUTO.arguments, "target": target})


# By name: the way of the leaderboard, and the least SQNR and agreement with the float network.
_WISHES: Mapping[str, tuple[Way, float | None, float | None]] = {
    "TensorFlow converter, int8": (WAYS["tensorflow-int8"], None, None),
    "ai-edge-quantizer, int8": (WAYS["ai-edge-int8"], None, None),
    "ai-edge-quantizer, int8, MSE": (WAYS["ai-edge-int8-mse"], None, None),
    "ai-edge-quantizer, int8, OCTAV": (WAYS["ai-edge-int8-octav"], None, None),
    "int8": (WAYS["own-int8"], None, None),
    "int8, improve=auto": (_AUTO, 23.5, 0.988),
    "ai-edge-quantizer, w4a8, OCTAV": (WAYS["ai-edge-w4a8-octav"], None, None),
    "w4a8": (WAYS["own-w4a8"], None, None),
    "w4a8, improve=auto": (WAYS["own-w4a8-auto"], None, 0.93),
    "int8-per-tensor, improve=auto": (_for("int8-per-tensor"), None, 0.975),
    "power-of-two, improve=auto": (_for("power-of-two"), None, 0.965),
}


def recovery(options: Options) -> list[Figure]:
    """EfficientNet-Lite0 in integers without training, repaired, beside peers: three draws of photographs.

    The cells are the leaderboard's, so that a run that was stopped goes on.
    """
    ways = {way.name: way for way in (WAYS["float"], *(way for way, _, _ in _WISHES.values()))}
    wish = Wish({_NET.name: _NET}, ways, cell_seconds=3600)
    for reason in fill(wish):
        say(f"left: {reason}")
    rows = {row.way.name: row for row in rows_of(wish.store.all(), wish.nets, ways)}
    return [figure for name, (way, *_) in _WISHES.items() for figure in _figures(name, rows[way.name])]


def _figures(name: str, row: Row) -> list[Figure]:
    _, level, least = _WISHES[name]
    what = f"{_NET.title}: {name}"
    if row.sqnr_db is None or row.agrees is None:
        return [Figure(f"{what}: SQNR", float("nan"), "dB", note=row.reason)]
    note = f"{', '.join(f'{one:.1f}' for one in row.draws_db)} dB; top-1 {row.points:+.2f} ± {row.points_error:.2f} "
    note += f"points; {row.size_bytes:,} bytes; {row.seconds:.0f} s of processor"
    return [
        Figure(f"{what}: SQNR", row.sqnr_db, "dB", at_least=level, note=note),
        Figure(f"{what}: agrees with float", row.agrees, at_least=least),
    ]
