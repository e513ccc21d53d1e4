"""Fills the cells that are missing: made and judged in processes of their own, and kept as soon as they are known."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.leaderboard import environments, nets
from benchmarks.leaderboard.cells import Cell, Store, digest, key_of
from benchmarks.leaderboard.making import RAN, SIMULATED
from benchmarks.leaderboard.record import Inputs, Net, Way
from benchmarks.leaderboard.roster import why_not
from benchmarks.measuring import RESULTS, ROOT, JobError, busy_fraction, say
from benchmarks.processes import Limits, run_limited

FOLDER = RESULTS / "leaderboard"
# So many examples are simulated: the peers' simulations and the reference kernels take longer than LiteRT.
_EXACT = 100
# What Python says where a module of ours is not there.
_NOT_BEGUN = "Error while finding module specification for 'benchmarks."


@dataclass(frozen=True)
class Wish:
    """What one run of the leaderboard is to do.

    Attributes:
        nets: to fill cells of.
        ways: as well.
        models: a folder of the user's models.
        seconds: no cell is begun after so many.
        cell_seconds: a process that takes longer is ended, and that is the cell.
        retry: cells that failed are tried again, whatever the reason.
        keep: cells that were measured with other versions stay.
        folder: where cells and files are kept.
    """

    nets: Mapping[str, Net]
    ways: Mapping[str, Way]
    models: Path | None = None
    seconds: float = float("inf")
    cell_seconds: float = 900.0
    retry: bool = False
    keep: bool = False
    folder: Path = FOLDER

    @property
    def store(self) -> Store:
        """Where the cells are."""
        return Store(self.folder / "cells")


@dataclass(frozen=True)
class Task:
    """One cell to be filled; `given` stands for the contents of its inputs, `key` for all that decides about it."""

    net: Net
    way: Way
    draw: int
    inputs: Inputs
    given: str
    key: str
    versions: Mapping[str, str]

    @property
    def place(self) -> tuple[str, str, int]:
        """Where the cell is kept."""
        return self.net.name, self.way.name, self.draw

    def out(self, folder: Path, key: str | None = None) -> Path:
        """Returns the file that is made: of this key, or of that of a kept cell, so that no stale one is taken."""
        return folder / "files" / f"{self.net.name}.{self.way.name}.{self.draw}.{key or self.key}{self.way.suffix}"


def fill(wish: Wish, make: Callable[[Task, Wish], Cell] | None = None) -> list[str]:
    """Fills missing cells until all are there or the time is over; returns what is left, in words.

    A cell that fails is a cell with its reason. An environment that is not there makes no cell that would be kept.
    """
    start, left = time.monotonic(), list[str]()
    fresh = list(tasks(wish, left))
    for task in fresh:
        name = " ".join(map(str, task.place))
        if time.monotonic() - start > wish.seconds:
            left.append(f"{name}: not begun, the time was over")
            continue
        say(name)
        cell = (make or measured)(task, wish)
        wish.store.write(cell)
        say(f"  {line(cell)}")
    return left


def tasks(wish: Wish, left: list[str]) -> Iterator[Task]:
    """Yields the cells that are missing, all first draws before the second ones; appends to `left` what cannot be."""
    for task in all_tasks(wish, left):
        known = wish.store.read(task.place)
        if known is None or not _is_done(known, task, wish):
            yield task


def all_tasks(wish: Wish, left: list[str]) -> Iterator[Task]:
    """Yields all cells that were wished for."""
    prepared: dict[str, list[Inputs]] = {}
    for name, net in wish.nets.items():
        try:
            prepared[name] = net.prepare(wish.models)
        except (nets.NotAtHand, JobError) as error:
            left.append(f"{name}: {str(error).splitlines()[-1]}")
    digests: dict[str, str] = {}
    for draw in range(max((len(found) for found in prepared.values()), default=0)):
        for name, found in prepared.items():
            for way in wish.ways.values() if draw < len(found) else ():
                yield _task(wish.nets[name], way, draw, found[draw], digests)


def _is_done(known: Cell, task: Task, wish: Wish) -> bool:
    if known["status"] == "absent":  # an environment may have been made since
        return False
    if known["status"] == "failed" and wish.retry:
        return False
    return wish.keep or known["key"] == task.key


def _task(net: Net, way: Way, draw: int, inputs: Inputs, digests: dict[str, str]) -> Task:
    def of(path: str) -> str:
        if path not in digests:
            digests[path] = digest(path)
        return digests[path]

    is_there = environments.python_of(way.environment).is_file()
    versions = environments.versions(way.environment, way.packages) if is_there else {}
    given = key_of(**{name: of(getattr(inputs, name)) for name in ("model", "samples", "test")})
    key = key_of(
        given=given, maker=way.maker, settings=way.arguments, versions=versions, judged=net.judged, seed=inputs.seed
    )
    return Task(net, way, draw, inputs, given, key, versions)


def measured(task: Task, wish: Wish) -> Cell:
    """Returns the cell of a task: what was measured, or why there is nothing."""
    head: Cell = {"net": task.net.name, "way": task.way.name, "draw": task.draw, "given": task.given, "key": task.key}
    head |= {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "versions": dict(task.versions)}
    reason = why_not(task.way, task.net, task.inputs)
    if reason:
        return head | {"status": "none", "reason": reason}
    reason = environments.why_missing(task.way)
    if reason:
        return head | {"status": "absent", "reason": reason}
    out = task.out(wish.folder)
    busy = busy_fraction(0.5)
    made = made_file(task, wish, out)
    if made["status"] != "ok":
        return head | _failure(made, wish, "making it")
    reference = wish.folder / "files" / f"float.{digest(task.inputs.model)}.{digest(task.inputs.test)}.npz"
    arguments = {
        "model": task.inputs.model,
        "out": str(out),
        "test": task.inputs.test,
        "judged": task.net.judged,
        "reference": str(reference),
    }
    command = [sys.executable, "-m", "benchmarks.leaderboard.judging", json.dumps(arguments)]
    found = run_limited(command, _limits(wish), environments.variables(task.way) | {"TF_USE_LEGACY_KERAS": "0"})
    for suffix in (RAN, SIMULATED):
        Path(str(out) + suffix).unlink(missing_ok=True)
    if found.pop("status") != "ok":
        return head | _failure(found, wish, "running its file")
    figures = {name: value for name, value in (made | found).items() if name != "status"}
    return head | {"status": "measured", "busy": round(busy, 2), "file": digest(out), **figures}


def _failure(result: Mapping[str, Any], wish: Wish, what: str) -> Cell:
    """Returns status and reason of a process without a result: what is no tool's fault is tried again."""
    if _NOT_BEGUN in result.get("said", ""):
        return {"status": "absent", "reason": f"{what} could not begin: the files of this repository were changing"}
    return {"status": "failed", "reason": reason_of(result, wish.cell_seconds, what)}


def made_file(task: Task, wish: Wish, out: Path) -> dict[str, Any]:
    """Runs a task's maker in its environment; the result with its status, as `run_limited`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = {
        "inputs": task.inputs.to_json(),
        "out": str(out),
        "exact": _EXACT,
        "settings": dict(task.way.arguments),
    }
    python = str(environments.python_of(task.way.environment))
    command = [python, "-m", "benchmarks.leaderboard.making", task.way.maker, json.dumps(arguments)]
    return run_limited(command, _limits(wish), environments.variables(task.way))


def _limits(wish: Wish) -> Limits:
    return Limits(wish.cell_seconds, memory_mb=12000)


def reason_of(result: Mapping[str, Any], seconds: float, what: str) -> str:
    """Returns in words why a process has no result."""
    status = result.get("status", "abort")
    if status == "time":
        return f"{what} took more than {seconds:.0f} s"
    if status == "memory":
        return f"{what} took more than 12 GB of memory"
    # A published reason holds no path of this machine.
    return f"{what}: {result.get('error', 'it ended without a word')}".replace(f"{ROOT}/", "")


def line(cell: Mapping[str, Any]) -> str:
    """Returns a cell in a line."""
    if cell["status"] != "measured":
        return f"{cell['status']}: {cell['reason']}"
    levels: Sequence[float | None] = cell["sqnr_db"]
    said = ", ".join("equal" if level is None else f"{level:.1f} dB" for level in levels)
    exact = cell.get("exact")
    differs = f"; {exact['differing']} of {exact['of']} {exact['what']} differ from its simulation" if exact else ""
    return f"{said}; {cell['bytes']:,} bytes; {cell['cpu_seconds']:.1f} s of processor{differs}"
