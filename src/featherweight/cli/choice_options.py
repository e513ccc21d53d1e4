"""Options of the commands that decide, each with its type and its help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Calibration = Annotated[str, typer.Option(metavar="DATA", help="Samples of the training split, at least 8.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "--validation",
        metavar="DATA",
        help="Labelled samples, as for `evaluate`; without, outputs are judged.",
    ),
]
Metric = Annotated[str, typer.Option(metavar="NAME", help="As for `evaluate`.")]
MaxDrop = Annotated[float | None, typer.Option(min=0, help="Of the metric below the float model's.")]
Confidence = Annotated[float, typer.Option(min=0, help="Count the drop with so many standard errors on top.")]
MinSqnr = Annotated[float | None, typer.Option(metavar="DB", help="Of the outputs, on held-out samples.")]
MaxBytes = Annotated[int | None, typer.Option(min=1, help="Of the file.")]
MaxCompressedBytes = Annotated[int | None, typer.Option(min=1, help="Of the file, deflated.")]
MaxLatency = Annotated[float | None, typer.Option(help="Fraction of the float model's, here.")]
MaxFlashBytes = Annotated[int | None, typer.Option(min=1, help="As Vela estimates it for an Ethos-U.")]
MaxSramBytes = Annotated[int | None, typer.Option(min=1, help="As Vela estimates it.")]
MaxCycles = Annotated[int | None, typer.Option(min=1, help="As Vela estimates them.")]
Accelerator = Annotated[
    str | None, typer.Option(metavar="NAME", help="What Vela compiles for: ethos-u55-256 …; else by the target.")
]
Target = Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")]
Forms = Annotated[str, typer.Option(metavar="LIST", help="That parts may take: int8, w4a8, int16x8, dynamic …")]
Limit = Annotated[int | None, typer.Option("--samples", min=1, help="Use at most so many labelled samples.")]
Folder = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Keep what is measured here, and go on from what is.")
]
PlanOut = Annotated[Path | None, typer.Option(metavar="P.json", help="Write the plan.")]
Estimate = Annotated[bool, typer.Option("--estimate", help="Propagate errors; run models where that decides.")]
Jobs = Annotated[int, typer.Option(min=1, max=4096, help="Processes that measure side by side.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


class Io(StrEnum):
    """Types of inputs and outputs."""

    float32 = "float32"
    int8 = "int8"
    uint8 = "uint8"


class Engine(StrEnum):
    """Where work is done."""

    processes = "processes"
    ray = "ray"


class Stop(StrEnum):
    """When the flow ends."""

    first = "first"
    best = "best"


class Objective(StrEnum):
    """What a search makes least, or best."""

    bytes = "bytes"
    latency = "latency"
    cycles = "cycles"
    accuracy = "accuracy"


IoOption = Annotated[Io | None, typer.Option(help="Inputs and outputs; the target's habit by default.")]
EngineOption = Annotated[Engine, typer.Option(help="Processes of this machine, or the workers of a Ray cluster.")]
Goal = Annotated[Objective, typer.Option(help="What is made least, or best, within the budget.")]
