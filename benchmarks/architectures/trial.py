"""One architecture in all recipes: lowered once, each recipe in a process of its own, a row each."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.architectures.record import INSTALL
from benchmarks.architectures.roster import ROSTER
from benchmarks.architectures.steps import FLOAT_FILE
from benchmarks.processes import Limits, run_step

RECIPES = ("float16", "dynamic", "int8", "int16x8")
_LOWERED = "lowered.json"
LIMITS = Limits(seconds=300, memory_mb=9000)
_TIMED_RUNS = 60
_LONG_NAME = re.compile(r"'([^']{60,})'")


def default_cache() -> Path:
    """Returns the folder of lowered files: ``FEATHERWEIGHT_ARCHITECTURES``, or one of the temporary folder."""
    return Path(os.environ.get("FEATHERWEIGHT_ARCHITECTURES") or Path(tempfile.gettempdir(), "arch-cache"))


@dataclass(frozen=True)
class Options:
    """What to do with every architecture."""

    cache: Path
    recipes: tuple[str, ...] = RECIPES
    target: str = "litert"
    lower_again: bool = False
    latency: bool = False
    limits: Limits = LIMITS


class Rows:
    """Rows in a JSON file, by architecture and recipe; written whole at each change."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        known = json.loads(path.read_text()) if path and path.is_file() else []
        self.rows = {(row["name"], row["recipe"]): row for row in known}

    def has(self, name: str) -> bool:
        """Whether there is any row of an architecture."""
        return any(name == known for known, _ in self.rows)

    def put(self, row: dict[str, Any]) -> None:
        """Adds or replaces a row."""
        self.rows[row["name"], row["recipe"]] = row
        if self.path:
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text(json.dumps(list(self.rows.values()), indent=1, ensure_ascii=False))
            partial.rename(self.path)


def rows_of(name: str, options: Options) -> Iterator[dict[str, Any]]:
    """Yields the row of lowering (recipe ``float``), then one per recipe where that went well."""
    head = {"name": name, "family": ROSTER[name].family}
    if not ROSTER[name].is_there:
        yield {**head, "recipe": "float", "status": "missing", "error": f"not installed: {INSTALL}"}
        return
    folder = options.cache / "lowered" / name.replace("/", "-").replace(" ", "-")
    lowered = _lowered(name, folder, options)
    if lowered["status"] != "ok" or not options.latency:
        yield {**head, "recipe": "float", **lowered}
    if lowered["status"] != "ok":
        return
    with tempfile.TemporaryDirectory() as made:
        rows: list[dict[str, Any]] = []
        for recipe in options.recipes:
            row = {**head, "recipe": recipe, **_quantized(folder, recipe, options, Path(made, f"{recipe}.tflite"))}
            rows.append(row)
            if not options.latency:
                yield row
        if options.latency:
            yield from _timed([{**head, "recipe": "float", **lowered}, *rows], folder, Path(made), options)


def _lowered(name: str, folder: Path, options: Options) -> dict[str, Any]:
    """Returns the result of lowering, from the cache if it is there."""
    if (folder / _LOWERED).is_file() and not options.lower_again:
        return json.loads((folder / _LOWERED).read_text())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        result = run_step("lower", options.limits, name=name, folder=made)
        Path(made, _LOWERED).write_text(json.dumps(result))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
    return result


def _quantized(folder: Path, recipe: str, options: Options, out: Path) -> dict[str, Any]:
    result = run_step(
        "quantize", options.limits, folder=str(folder), recipe=recipe, target=options.target, out=str(out)
    )
    stage = result.get("stage", "")
    if result["status"] == "abort" and stage == "run on LiteRT":
        result |= run_step("refuse", options.limits, folder=str(folder), file=str(out)) | {"status": "abort"}
    if stage.startswith("compare") and result["status"] != "ok":
        # It runs; what failed is the comparison.
        kernels = {"error": f"{result['status']}: {result.get('error', '')}"}
        return result | {"status": "ok", "kernels": kernels, "error": None}
    return result


def _timed(rows: list[dict[str, Any]], folder: Path, made: Path, options: Options) -> Iterator[dict[str, Any]]:
    files = {row["recipe"]: str(made / f"{row['recipe']}.tflite") for row in rows if row["status"] == "ok"}
    files["float"] = str(folder / FLOAT_FILE)
    times = run_step("latency", options.limits, files=files, runs=_TIMED_RUNS).get("ms", {})
    for row in rows:
        yield row | {"ms": times.get(row["recipe"])}


def line(row: dict[str, Any]) -> str:
    """Returns a row in one line."""
    head = f"{row['name']:<36} {row['recipe']:<8}"
    if row["status"] != "ok":
        return f"{head} {row['status'].upper()} in '{row.get('stage', '')}': {short(row.get('error') or '')[:250]}"
    text = f"{head} {row['db']:6.1f} dB"
    if row["recipe"] == "float":
        return f"{text}  lowered in {row['lower_s']:.0f} s, {row['peak_mb']:.0f} MB, {row['nodes']} operators"
    text += f"  float {row['kept_float']}/{row['operators']}"
    kernels = row.get("kernels")
    if kernels:
        text += f"  kernels: {kernels_line(kernels)}"
    return text + (f"  {row['ms'][0]:.2f} ms" if row.get("ms") else "")


def short(text: str) -> str:
    """Returns a message in which long names of operators are their last part."""
    return _LONG_NAME.sub(lambda found: f"'…{found[1].rsplit('/', 1)[-1][-60:]}'", text)


def kernels_line(kernels: dict[str, Any]) -> str:
    """Returns what comparing with the reference kernels found, in words."""
    if "error" in kernels:
        return kernels["error"][:160]
    if kernels["differing"]:
        head = f"{kernels['differing']} of {kernels['elements']} differ, in {kernels['nodes_differing']} operators"
        return f"{head}; first {short(kernels['first'])}"
    return "equal"
