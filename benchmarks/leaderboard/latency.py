"""Latency of the files of a network, in turns, so that what disturbs one disturbs all; a cell by itself."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.leaderboard import environments, running
from benchmarks.leaderboard.cells import Cell, digest, key_of
from benchmarks.leaderboard.running import Task, Wish
from benchmarks.leaderboard.summary import FLOAT, LATENCY
from benchmarks.measuring import JobError, busy_fraction, run_job, say
from benchmarks.processes import Limits, run_limited

_RUNS = 60


def fill(wish: Wish) -> list[str]:
    """Measures the latencies that are missing, of the first draw's files; makes files again that are not at hand.

    Returns what is left, in words.
    """
    left: list[str] = []
    everything = [task for task in running.all_tasks(wish, left) if task.draw == 0]
    for name in wish.nets:
        of_net = [task for task in everything if task.net.name == name and _is_measured(task, wish)]
        for runtime, chosen in _by_runtime(of_net):
            place = (name, runtime, 0)
            files = {task.way.name: _file(task, wish) for task in chosen}
            there = {way: path for way, path in files.items() if path is not None}
            if len(there) < 2:
                continue
            key = key_of(files={way: digest(path) for way, path in there.items()}, runs=_RUNS)
            known = wish.store.read(place)
            if known is not None and known["status"] == "measured" and (known["key"] == key or wish.keep):
                continue
            say(f"{name}: {runtime} of {len(there)} files")
            cell = _timed(place, key, there, chosen, wish)
            wish.store.write(cell)
            if cell["status"] != "measured":
                left.append(f"{name} {runtime}: {cell['reason']}")
    return left


def _is_measured(task: Task, wish: Wish) -> bool:
    cell = wish.store.read(task.place)
    return cell is not None and cell["status"] == "measured"


def _by_runtime(tasks: list[Task]) -> Iterator[tuple[str, list[Task]]]:
    yield LATENCY, [task for task in tasks if task.way.suffix == ".tflite"]
    others = [task for task in tasks if task.way.suffix != ".tflite"]
    for environment in dict.fromkeys(task.way.environment for task in others):
        floats = [task for task in tasks if task.way.name == FLOAT]
        yield f"{LATENCY}-{environment}", floats + [t for t in others if t.way.environment == environment]


def _file(task: Task, wish: Wish) -> Path | None:
    """Returns the file that a cell was measured on; it is made again where it is not there."""
    cell = wish.store.read(task.place)
    made = task.out(wish.folder, key=cell["key"] if cell else None)
    if not made.is_file():
        say(f"  making {' '.join(map(str, task.place))} again")
        if running.made_file(task, wish, made)["status"] != "ok":
            return None
    return made


def _timed(place: tuple[str, str, int], key: str, files: Mapping[str, Path], tasks: list[Task], wish: Wish) -> Cell:
    net, way, draw = place
    cell: Cell = {"net": net, "way": way, "draw": draw, "key": key}
    cell |= {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "busy": round(busy_fraction(), 2)}
    order = {name: str(path) for name, path in files.items()}  # the float file is the first, all ratios are to it
    try:
        times = run_job("latency", files=order, runs=_RUNS) if way == LATENCY else _elsewhere(order, tasks[-1], wish)
    except JobError as error:
        return cell | {"status": "failed", "reason": str(error).splitlines()[-1]}
    return cell | {"status": "measured", "times": {name: times[name] for name in order}}


def _elsewhere(files: Mapping[str, str], task: Task, wish: Wish) -> dict[str, Any]:
    """Times files in the runtime of a peer, by the function `latency` of its maker."""
    python = str(environments.python_of(task.way.environment))
    arguments = json.dumps({"files": dict(files), "runs": _RUNS})
    command = [python, "-m", "benchmarks.leaderboard.making", task.way.maker, arguments]
    found = run_limited(command, Limits(wish.cell_seconds, 12000), environments.variables(task.way))
    if found["status"] != "ok":
        raise JobError(running.reason_of(found, wish.cell_seconds, "timing"))
    return found
