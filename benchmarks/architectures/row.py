"""The row `architectures`: the whole roster in every recipe, and the page of its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.architectures import page, trial
from benchmarks.architectures.roster import ROSTER
from benchmarks.architectures.sense_nets import ZERO_TOKENS
from benchmarks.measuring import RESULTS, ROOT, Figure, Options, say, wait_until_calm
from benchmarks.processes import run_step

PAGE = ROOT / "docs" / "architectures.md"
# Lowered files are kept beside the other results; rows too, so that the page can be written again.
_CACHE, _ROWS = RESULTS / "architectures", RESULTS / "architectures_rows.json"
_TIMED, _LARGE = "sentences/", "torchvision/swin_t"
_NOT_CONVERTED = "litert-torch can't convert"
_TRANSFORMERS = ("transformers", "KerasHub")
_LEAST_INT8_DB = 20.0

Table = dict[str, dict[str, Mapping[str, Any]]]


def architectures(options: Options) -> list[Figure]:
    """Architectures of torchvision, timm, transformers and Keras in every recipe."""
    RESULTS.mkdir(exist_ok=True)
    rows = trial.Rows(_ROWS)
    for name in ROSTER:
        is_timed = name.startswith(_TIMED)
        if is_timed:
            wait_until_calm()
        for row in trial.rows_of(name, trial.Options(_CACHE, lower_again=True, latency=is_timed)):
            rows.put(row)
            say(trial.line(row))
    PAGE.write_text(page.markdown(rows.rows.values()), encoding="utf-8")
    alone = run_step("convert", trial.LIMITS, name=_LARGE)
    return [*_figures(page.by_name(rows.rows.values())), *_large(rows.rows[_LARGE, "float"], alone)]


def _figures(table: Table) -> list[Figure]:
    there = {name: made for name, made in table.items() if made["float"]["status"] != "missing"}
    lowered = {name: made for name, made in there.items() if page.is_running(made["float"])}
    refused = [name for name in there if _NOT_CONVERTED in str(there[name]["float"].get("error"))]
    left_out = [name for name in table if name not in there]
    figures = [
        Figure("architectures", len(there), at_least=60, note=_named("left out, not installed", left_out)),
        Figure(
            "not lowered, of those that litert-torch converts",
            len(there) - len(lowered) - len(refused),
            at_most=0,
            note=_named("it does not convert", refused),
        ),
    ]
    for recipe in trial.RECIPES:
        made = [row[recipe] for row in lowered.values() if recipe in row]
        wrong = [row["name"] for row in made if not page.is_running(row)]
        aborts = sum(row["status"] == "abort" for row in made)
        note = _named(f"{aborts} aborts", wrong) if wrong else f"of {len(made)}"
        figures.append(Figure(f"{recipe}: does not run", len(wrong), at_most=0, note=note))
    for recipe in ("int8", "int16x8"):
        found = [row[recipe] for row in lowered.values() if page.is_running(row.get(recipe))]
        differing = [row["name"] for row in found if not page.has_equal_kernels(row)]
        figures.append(
            Figure(
                f"{recipe}: reference kernels differ from LiteRT", len(differing), at_most=0, note=_named("", differing)
            )
        )
    return [*figures, *_closeness(lowered), *_sentences(table)]


def _large(lowered: Mapping[str, Any], alone: Mapping[str, Any]) -> list[Figure]:
    """Returns time and memory of lowering a large net, against the converter alone."""
    if lowered["status"] != "ok" or alone["status"] != "ok":
        return []
    time = lowered["lower_s"] / alone["convert_s"]
    memory = lowered["peak_mb"] / alone["peak_mb"]
    seconds = f"{lowered['lower_s']:.1f} s for {alone['convert_s']:.1f}"
    megabytes = f"{lowered['peak_mb']:.0f} MB for {alone['peak_mb']:.0f}"
    return [
        Figure(f"{_LARGE}: lowering / litert-torch, time", time, "x", at_most=1.3, note=seconds),
        Figure(
            f"{_LARGE}: lowering / litert-torch, memory",
            memory,
            "x",
            at_most=1.5,
            note=megabytes,
        ),
    ]


def _closeness(lowered: Table) -> list[Figure]:
    worse = page.worse_than_dynamic(lowered)
    note = "; ".join(f"{name} {sixteen:.1f} for {dynamic:.1f} dB" for name, sixteen, dynamic in worse[:10])
    figures = [Figure("int16x8 below dynamic − 1 dB", len(worse), at_most=0, note=note)]
    tiny = [
        made["int8"]
        for name, made in lowered.items()
        if name != ZERO_TOKENS and made["float"]["family"] in _TRANSFORMERS and page.is_running(made.get("int8"))
    ]
    low = [f"{row['name']} {row['db']:.1f} dB" for row in tiny if row["db"] < _LEAST_INT8_DB]
    what = f"tiny transformers in int8 below {_LEAST_INT8_DB:.0f} dB"
    return [*figures, Figure(what, len(low), at_most=0, note=_named(f"of {len(tiny)}", low))]


def _sentences(table: Table) -> list[Figure]:
    """Returns the figures of the sentence encoder: bytes, latency against float and `dynamic`, cosine."""
    figures = []
    for name, made in table.items():
        if not name.startswith(_TIMED):
            continue
        dynamic = made.get("dynamic", {}).get("ms")
        for recipe, row in made.items():
            if not page.is_running(row) or not row.get("ms"):
                continue
            is_int8 = recipe == "int8"
            note = f"{row['db']:.1f} dB, cosine {row['cosine']:.4f}; {row['ms'][0]:.2f} ms"
            size = row["file_bytes"] / 1e6
            figures.append(Figure(f"{name}, {recipe}: file", size, "MB", at_most=24 if is_int8 else None, note=note))
            if is_int8 and dynamic:
                ratio = row["ms"][0] / dynamic[0]
                figures.append(Figure(f"{name}, int8 / dynamic: latency", ratio, "x", at_most=1.5))
    return figures


def _named(head: str, names: list[str]) -> str:
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return ": ".join(part for part in (head, listed) if part)
