"""`make devices`: `check` against TFLite Micro and Vela over the whole table, and what came out.

`python -m tests.devices.conformance [OPERATOR …]` builds the models of the table, gives each to the clients, and writes
docs/devices.md. With operators named it only prints; with `--add` it adds those that the page has not. It ends with 1
where they disagree.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import pickle
import re
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.devices import elementwise_grid, movers_grid, stateful_grid, weighted_grid
from tests.devices.grid import GRID, Tried, tried
from tests.devices.judges import ACCELERATORS, Judge, Verdict
from tests.devices.judging import WRONG, judged

from featherweight.runtime.progress import track
from featherweight.targets import target as targets
from featherweight.tflite import write

FAMILIES = (elementwise_grid, movers_grid, stateful_grid, weighted_grid)  # importing them fills GRID
PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
TARGETS = ("tflm", *ACCELERATORS)
HEAD = """\
# What devices run

Written by `make devices`: one-operator models over every operator and type that the reference kernels know, and over
ranks, axes, broadcasting, strides, windows, paddings, dilations, fused activations, batches, kept dimensions, types of
sizes and places, and constants in place of computed operands; recurrent layers of every kind that files have, loops and
branches with what they carry along, variables that are assigned and read. Each goes to `check` and to the target's
client, in a process of its own: TFLite Micro's interpreter, whose results must be the reference kernels' (profile
`tflm`; integers exactly, floats as in [conformance.md](conformance.md)), and Vela, which must put all of it on the NPU.
Where `check` says nothing the client must run the model, and where it complains the client must not.

- Clients: tflite-micro {} (x86-64, its reference kernels); ethos-u-vela {} for {}.
- {}; the same models on every run: `make devices`, or some rows only: `make devices OPS='PAD CONV_2D'`.
"""
COLUMNS = ("models", "run", "refused, and said", "refused, not said", "wrong, not said", "said in vain", "not judged",
           "client ended", "elements compared")  # fmt: skip
COUNTED = (f"| target | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}")
OPERATORS = f"| operator | {' | '.join(TARGETS)} |"
FOOT = """
*Not judged*: conversions of floats on NPU targets, which are the processor's, and models that TFLite Micro runs
although `check` complains, of which the reference kernels can't say whether rightly (GREATER of int16, which is wrong
where they can); on NPU targets, too, variables, of which nothing says whether Vela's files keep them from run to run,
and recurrent layers that the reference kernels do not compute. *Client ended*: it aborted, or Vela made no file at all.
What Vela compiles is not run: there is no simulator among the clients.

## By operator

A cell is *run / models*: the rest is refused, and `check` says why.
"""


@dataclass
class Row:
    """What the models of one operator came to on one target."""

    op: str
    target: str
    outcomes: Counter[str] = field(default_factory=Counter[str])
    elements: int = 0
    crashes: int = 0
    wrong: list[str] = field(default_factory=list[str])

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())


def measure(op: str, answers: Path | None) -> list[Row]:
    """Returns what the targets make of one operator; verdicts are looked up in a folder where there is one."""
    models = list(tried(op))
    return [_measured(op, name, models, answers) for name in TARGETS]


def _measured(op: str, name: str, models: Sequence[Tried], answers: Path | None) -> Row:
    row, target, judge = Row(op, name), targets.load(name), Judge(name)
    path = None if answers is None else answers / f"{name}.{op}.pickle"
    known: dict[str, Verdict] = pickle.loads(path.read_bytes()) if path is not None and path.exists() else {}
    try:
        for model in models:
            content = write(model.model)
            key = hashlib.sha256(content + b"".join(array.tobytes() for array in model.fed)).hexdigest()
            if key not in known:
                known[key] = judge(content, model.fed, len(model.model.main.outputs))
            found = judged(model, target, known[key])
            row.outcomes[found.outcome] += 1
            row.elements += found.elements
            row.crashes += found.is_crash
            if found.outcome in WRONG:
                row.wrong.append(f"{name}: {model.name}: {found.outcome}: {found.words}")
    finally:
        judge.close()
    if path is not None:
        path.write_bytes(pickle.dumps(known))
    return row


def page(rows: Sequence[Row]) -> str:
    """Returns the page, in Markdown."""
    versions = (importlib.metadata.version(name) for name in ("tflite_micro", "ethos-u-vela"))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [HEAD.format(*versions, ", ".join(ACCELERATORS.values()), date), *COUNTED]
    for name in TARGETS:
        own = [row for row in rows if row.target == name]
        counts = sum((row.outcomes for row in own), Counter[str]())
        cells = [sum(counts.values()), counts["runs"], counts["refused"], *(counts[wrong] for wrong in WRONG)]
        cells += [counts["processor"] + counts["unproven"], sum(row.crashes for row in own)]
        cells.append(sum(row.elements for row in own))
        lines.append(f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    lines += [FOOT, OPERATORS, f"|---|{'---:|' * len(TARGETS)}"]
    by = {(row.op, row.target): row for row in rows}
    for op in sorted({row.op for row in rows}):
        cells = [f"{by[op, name].outcomes['runs']:,} / {by[op, name].cases:,}" for name in TARGETS]
        lines.append(f"| {op} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def added(old: str, new: str) -> str:
    """Returns a page with the rows of another one of other operators, and the sums of both.

    Raises:
        ValueError: for pages of other clients.
    """
    (clients, day), (now, today) = (re.findall(r"^- (?:Clients|\d).*$", part, re.MULTILINE)[:2] for part in (old, new))
    if clients != now:
        raise ValueError(f"the page is about other clients ({clients}): run all")
    sums, later = {cells[0]: cells[1:] for cells in _cells(old, COUNTED[0])}, _cells(new, OPERATORS)
    rows = {cells[0]: cells for cells in (*_cells(old, OPERATORS), *later)}
    lines = [f"{day}\n- {today[2:12]}: {', '.join(cells[0] for cells in later)}.", "", *COUNTED]
    for name, *cells in _cells(new, COUNTED[0]):
        pairs = zip(sums[name], cells, strict=True)
        total = (sum(int(cell.replace(",", "")) for cell in pair) for pair in pairs)
        lines.append(f"| {name} | {' | '.join(f'{cell:,}' for cell in total)} |")
    lines += [
        FOOT,
        OPERATORS,
        f"|---|{'---:|' * len(TARGETS)}",
        *(f"| {' | '.join(rows[op])} |" for op in sorted(rows)),
    ]
    return new.split(today)[0] + "\n".join(lines) + "\n"


def _cells(content: str, header: str) -> list[list[str]]:
    """Returns the cells of the rows of a table, by its header."""
    rows = content.split(header + "\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def main() -> int:
    """Measures, writes the page; 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.devices.conformance", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OPERATOR", help="operators; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes beside the clients (2)")
    parser.add_argument("--add", action="store_true", help="add operators that the page has not")
    parser.add_argument("--answers", type=Path, help="a folder in which verdicts are kept, for other runs")
    arguments = parser.parse_args()
    if unknown := set(arguments.ops) - set(GRID):
        parser.error(f"unknown: {', '.join(sorted(unknown))} (known: {', '.join(sorted(GRID))})")
    known = {cells[0] for cells in _cells(PAGE.read_text(encoding="utf-8"), OPERATORS)} if arguments.add else set[str]()
    ops = sorted(set(arguments.ops or GRID) - known)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        found = track(pool.map(partial(measure, answers=arguments.answers), ops), "Judging", total=len(ops))
        rows = [row for rows in found for row in rows]
    content = page(rows)
    if arguments.add:
        PAGE.write_text(added(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
        print(f"{', '.join(ops)} in {PAGE}")
    elif arguments.ops:
        print(content)
    else:
        PAGE.write_text(content, encoding="utf-8")
        print(f"{len(rows)} rows in {PAGE}")
    wrong = [line for row in rows for line in row.wrong]
    print(*wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
