"""The page of results, `docs/architectures.md`: one table by family, why operators stay float, what fails."""

from __future__ import annotations

import datetime
import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.architectures.trial import RECIPES

Row = Mapping[str, Any]

# What a recipe that stores weights says of an operator that has none; that is no loss.
WITHOUT_WEIGHTS = "it has no constant weights"
_NAMES, _NUMBERS = re.compile(r"'[^']*'"), re.compile(r"\b\d+(\.\d+)?(e-?\d+)?\b")
_INTEGER_RECIPES = ("int8", "int16x8")
_LONGEST = 160
_PACKAGES = ("torch", "litert-torch", "torchvision", "timm", "transformers", "keras", "keras-hub", "ai-edge-litert")

_INTRODUCTION = """\
# Architectures, as measured

Written by `python -m benchmarks architectures`: architectures of torchvision, timm, transformers, keras.applications
and KerasHub, lowered and quantized in four recipes. All but the sentence encoder have random weights and small
inputs; batch norms have the statistics of one batch. **Their decibels are no accuracy**: they say whether an
architecture lowers, runs and keeps its signal, and random nets amplify errors more than trained ones.

- *float* to *int16x8*: signal over error at the outputs in dB, of the lowered file and of each recipe on LiteRT,
  against the source model in its framework, on samples that were not calibrated with. In their place: *abort* (LiteRT
  ended the process) or *error* with a number, listed below.
- *stays float*: operators that compute in float where the recipe would have integers, of all that handle real numbers.
- *kernels*: whether the reference kernels give LiteRT's integers: every operator on LiteRT's own inputs, every integer
  tensor compared, in the profile `xnnpack` for int8 and `tflite_opt` for int16x8. `=` if all are equal, else how many
  operators differ.
"""


def markdown(rows: Iterable[Row]) -> str:
    """Returns the page, with the day and the versions of now."""
    table = by_name(rows)
    kinds = list(failure_kinds(row for made in table.values() for row in made.values()))
    lines = [_INTRODUCTION, _about(), "", *_summary(table), ""]
    for family in dict.fromkeys(made["float"]["family"] for made in table.values()):
        lines += [f"## {family}", ""]
        lines += ["| architecture | float | float16 | dynamic | int8 | stays float | kernels | int16x8 | stays float |"]
        lines[-1] += " kernels |"
        lines += ["|---|" + "---:|" * 9]
        for name, made in table.items():
            if made["float"]["family"] == family:
                lines.append(_line(name.split("/", 1)[1], made, kinds))
        lines.append("")
    return "\n".join([*lines, *_reasons(table), *_failures(table, kinds), *_sentences(table)]).rstrip() + "\n"


def _about() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{datetime.datetime.now(datetime.UTC).date().isoformat()}; {', '.join(found)}."


def by_name(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Returns name → recipe → row."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row["name"], {})[row["recipe"]] = row
    return table


def has_equal_kernels(row: Row) -> bool:
    """Whether the reference kernels gave LiteRT's integers."""
    return row["kernels"].get("differing") == 0


def is_running(row: Row | None) -> bool:
    """Whether a recipe made a file that LiteRT runs."""
    return row is not None and row["status"] == "ok"


def kept_float(row: Row) -> int:
    """Returns how many operators stay float that have something to quantize in this recipe."""
    trivial = 0 if row["recipe"] in _INTEGER_RECIPES else _without_weights(row)
    return row["kept_float"] - trivial


def _without_weights(row: Row) -> int:
    return sum(count for reason, count in row["reasons"] if WITHOUT_WEIGHTS in reason)


def failure_kinds(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns failed rows by what their messages have in common, most frequent kinds first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] not in ("ok", "missing"):
            found.setdefault(failure_kind(row), []).append(row)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def failure_kind(row: Row) -> str:
    """Returns a message without its names and numbers."""
    if row["status"] == "abort":
        reference = f"; the reference kernel {row['reference'].split(':')[0]}" if row.get("reference") else ""
        return f"aborts (stage '{row['stage']}'){reference}"
    if row["status"] in ("time", "memory"):
        return f"more {row['status']} than one process may take (stage '{row.get('stage', '')}')"
    text = _NUMBERS.sub("N", _NAMES.sub("'…'", row["error"]))
    return text if len(text) <= _LONGEST else text[:_LONGEST].rsplit(" ", 1)[0] + " …"


def _summary(table: Mapping[str, Mapping[str, Row]]) -> list[str]:
    there = [made for made in table.values() if made["float"]["status"] != "missing"]
    lowered = [made for made in there if is_running(made["float"])]
    counts = [f"{sum(is_running(made.get(recipe)) for made in lowered)} run in {recipe}" for recipe in RECIPES]
    text = [f"{len(there)} architectures; {len(lowered)} lower; of these, {', '.join(counts)}."]
    if missing := [name for name, made in table.items() if made["float"]["status"] == "missing"]:
        text.append(f"{len(missing)} are left out because their package is not installed.")
    return text


def _line(name: str, made: Mapping[str, Row], kinds: Sequence[str]) -> str:
    cells = [name, _decibels(made["float"], kinds)]
    for recipe in RECIPES:
        row = made.get(recipe)
        cells.append(_decibels(row, kinds) if row else "")
        if recipe in _INTEGER_RECIPES:
            cells += [f"{kept_float(row)} of {row['operators']}" if row and is_running(row) else "", _kernels(row)]
    return "| " + " | ".join(cells) + " |"


def _decibels(row: Row, kinds: Sequence[str]) -> str:
    if row["status"] == "ok":
        return f"{row['db']:.1f}"
    if row["status"] == "missing":
        return "not installed"
    word = "abort" if row["status"] == "abort" else "error"
    return f"**{word}** {kinds.index(failure_kind(row)) + 1}"


def _kernels(row: Row | None) -> str:
    if row is None or not is_running(row) or "kernels" not in row:
        return ""
    found = row["kernels"]
    if "error" in found:
        return "refused"
    return "=" if not found["differing"] else f"{found['nodes_differing']} differ"


def _reasons(table: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """Returns the section of why operators stay float: recipe, reason, operators, architectures."""
    lines = ["## Why operators stay float", ""]
    for recipe in RECIPES:
        operators, nets = Counter[str](), Counter[str]()
        for made in table.values():
            for reason, count in made.get(recipe, {}).get("reasons", ()):
                if WITHOUT_WEIGHTS not in reason or recipe in _INTEGER_RECIPES:
                    general = _NUMBERS.sub("N", reason)
                    operators[general] += count
                    nets[general] += 1
        if operators:
            lines += [f"{recipe}:", "", "| reason | operators | architectures |", "|---|---:|---:|"]
            lines += [f"| {reason} | {count} | {nets[reason]} |" for reason, count in operators.most_common()]
            lines.append("")
    return lines if len(lines) > 2 else []


def _failures(table: Mapping[str, Mapping[str, Row]], kinds: Sequence[str]) -> list[str]:
    """Returns the sections of what fails, and of 16 bits that are worse than `dynamic`."""
    lines: list[str] = []
    if kinds:
        groups = failure_kinds(row for made in table.values() for row in made.values())
        lines += ["## What fails", "", "| | what | architectures | recipes |", "|---:|---|---:|---|"]
        for number, kind in enumerate(kinds, 1):
            names = {row["name"] for row in groups[kind]}
            recipes = ", ".join(dict.fromkeys(row["recipe"] for row in groups[kind]))
            lines.append(f"| {number} | {kind} | {len(names)} | {recipes} |")
        lines.append("")
    if worse := worse_than_dynamic(table):
        lines += ["## int16x8 below dynamic − 1 dB", ""]
        lines += [f"- {name}: {sixteen:.1f} dB, dynamic {dynamic:.1f} dB" for name, sixteen, dynamic in worse]
        lines.append("")
    return lines


def worse_than_dynamic(table: Mapping[str, Mapping[str, Row]]) -> list[tuple[str, float, float]]:
    """Returns (name, decibels of int16x8, of dynamic) where 16 bits lose over a decibel, the largest loss first."""
    found = []
    for name, made in table.items():
        sixteen, dynamic = made.get("int16x8"), made.get("dynamic")
        if sixteen and dynamic and is_running(sixteen) and is_running(dynamic) and sixteen["db"] < dynamic["db"] - 1:
            found.append((name, sixteen["db"], dynamic["db"]))
    return sorted(found, key=lambda item: item[1] - item[2])


def _sentences(table: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """Returns the section of the files that were timed: bytes, latency, cosine."""
    timed = {name: made for name, made in table.items() if made["float"].get("ms")}
    if not timed:
        return []
    lines = ["## The sentence encoder all-MiniLM-L6-v2", ""]
    lines += ["Real weights, 32 tokens; latency is the median of interleaved runs on one thread.", ""]
    lines += ["| architecture | recipe | dB | cosine | MB | ms |", "|---|---|---:|---:|---:|---:|"]
    for name, made in timed.items():
        for recipe, row in made.items():
            if is_running(row):
                values = f"{row['db']:.1f} | {row['cosine']:.4f} | {row['file_bytes'] / 1e6:.1f} | {row['ms'][0]:.2f}"
                lines.append(f"| {name.split('/', 1)[1]} | {recipe} | {values} |")
    return [*lines, ""]
