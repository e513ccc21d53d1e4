"""The commands that decide: sensitivity, search."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.harness import (
    InputShape,
    check_outputs,
    command,
    open_data,
    open_lowered,
    print_json,
    print_table,
    refuse_idle,
    say,
)
from featherweight.cli.quantize import Output, Source

Calibration = Annotated[str, typer.Option(metavar="DATA", help="Samples of the training split, at least 8.")]
Data = Annotated[
    str | None, typer.Option(metavar="DATA", help="Labelled samples, as for `evaluate`; without, outputs are judged.")
]
Metric = Annotated[str, typer.Option(metavar="NAME", help="As for `evaluate`.")]
Target = Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")]
Limit = Annotated[int | None, typer.Option("--samples", min=1, help="Use at most so many labelled samples.")]
Folder = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Keep what is measured here, and go on from what is.")
]
Jobs = Annotated[int, typer.Option(min=1, max=4096, help="Processes that measure side by side.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


class Engine(StrEnum):
    """Where work is done."""

    processes = "processes"
    ray = "ray"


EngineOption = Annotated[Engine, typer.Option(help="Processes of this machine, or the workers of a Ray cluster.")]


class Objective(StrEnum):
    """What a search makes least, or best."""

    bytes = "bytes"
    latency = "latency"
    accuracy = "accuracy"


@command("featherweight sensitivity model.tflite --calibration train.npz --data test.npz --forms int8,w4a8")
def sensitivity(
    context: typer.Context,
    model: Source,
    calibration: Calibration,
    data: Data = None,
    metric: Metric = "accuracy",
    forms: Annotated[str, typer.Option(metavar="LIST", help="int8, w4a8, int16x8, dynamic …")] = "int8",
    target: Target = "litert",
    samples: Limit = None,
    resume: Folder = None,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each part costs in each form.

    At the outputs, and in the task where there are labels.
    """
    from featherweight.tasks.choose import sensitivity as measure

    if data is None:
        refuse_idle(context, "without --data", "metric", "samples")
    lowered = open_lowered(model, input_shape, calibration, unroll=True)
    scores = measure(
        lowered,
        None if data is None else open_data(data, lowered.model, labels=True),
        calibration=open_data(calibration, lowered.model).samples,
        metric=metric,
        forms=_listed(forms),
        target=target,
        limit=samples,
        folder=resume,
        jobs=jobs,
        engine=engine.value,
    )
    if as_json:
        print_json(scores.to_json())
    else:
        from featherweight.report.choices import SCORE_HEADERS, score_rows

        title = "What each part costs when it alone is quantized, worst first"
        print_table(title, SCORE_HEADERS, score_rows(scores), right=(2, 3, 4, 5))


@command("featherweight search model.tflite -o small.tflite --calibration train.npz --data test.npz --max-drop 0.005")
def search(
    context: typer.Context,
    model: Source,
    output: Output,
    calibration: Calibration,
    data: Data = None,
    metric: Metric = "accuracy",
    objective: Annotated[Objective, typer.Option(help="What is made least, or best.")] = Objective.bytes,
    max_drop: Annotated[float | None, typer.Option(min=0, help="Of the metric below the float model's.")] = None,
    confidence: Annotated[float, typer.Option(min=0, help="Count the drop with so many standard errors on top.")] = 0.0,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of the file.")] = None,
    max_compressed_bytes: Annotated[int | None, typer.Option(min=1, help="Of the file, deflated.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Fraction of the float model's, here.")] = None,
    min_sqnr: Annotated[float | None, typer.Option(metavar="DB", help="Of the outputs, on held-out samples.")] = None,
    forms: Annotated[str, typer.Option(metavar="LIST", help="That parts may take.")] = "int8,w4a8,int16x8,float32",
    target: Target = "litert",
    samples: Limit = None,
    resume: Folder = None,
    plan_out: Annotated[Path | None, typer.Option(metavar="P.json", help="Write the plan.")] = None,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Find the best file within a budget.

    The smallest, fastest or most accurate, which is checked on the file. Where no model keeps the
    budget, the nearest one is written, what it misses is said, and the exit status is 1.
    """
    from featherweight import tflite
    from featherweight.tasks.choose import search as find

    if data is None:
        refuse_idle(context, "without --data", "metric", "samples", "max_drop", "confidence")
    check_outputs(output, plan_out, sources=[model])
    lowered = open_lowered(model, input_shape, calibration, unroll=True)
    found = find(
        lowered,
        None if data is None else open_data(data, lowered.model, labels=True),
        calibration=open_data(calibration, lowered.model).samples,
        metric=metric,
        objective=objective.value,
        max_drop=max_drop,
        confidence=confidence,
        max_bytes=max_bytes,
        max_compressed_bytes=max_compressed_bytes,
        max_latency=max_latency,
        min_sqnr_db=min_sqnr,
        forms=_listed(forms),
        target=target,
        limit=samples,
        folder=resume,
        jobs=jobs,
        engine=engine.value,
    )
    tflite.save(found.model, output)
    if plan_out is not None:
        found.plan.save(plan_out)
    if as_json:
        print_json(found.to_json())
    else:
        from featherweight.report.choices import FRONT_HEADERS, front_rows, summary

        print_table(
            "Files that no other beats in size and loss", FRONT_HEADERS, front_rows(found), right=(0, 1, 2, 3, 4)
        )
        say(f"{output}: {summary(found)}")
    if not found.best.fits:
        raise typer.Exit(1)


@command("featherweight optimize model.tflite -o small.tflite --calibration train.npz --data test.npz --max-drop 0.01")
def optimize(
    context: typer.Context,
    model: Source,
    output: Output,
    calibration: Calibration,
    data: Data = None,
    metric: Metric = "accuracy",
    objective: Annotated[Objective, typer.Option(help="What is least among files that fit.")] = Objective.bytes,
    max_drop: Annotated[float | None, typer.Option(min=0, help="Of the metric below the float model's.")] = None,
    confidence: Annotated[float, typer.Option(min=0, help="Count the drop with so many standard errors on top.")] = 0.0,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Of the file.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Fraction of the float model's, here.")] = None,
    min_sqnr: Annotated[float | None, typer.Option(metavar="DB", help="Of the outputs, on held-out samples.")] = None,
    target: Target = "litert",
    samples: Limit = None,
    train: Annotated[
        str | None, typer.Option(metavar="DATA", help="Samples to train on as the last resort, by distillation.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of that training.")] = 3,
    resume: Folder = None,
    plan_out: Annotated[Path | None, typer.Option(metavar="P.json", help="Write the plan.")] = None,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Go from float16 to trained integers, measured.

    It stops where the budget is kept. Where nothing keeps it, the nearest file is written, and the exit status is 1.
    """
    from featherweight import tflite
    from featherweight.tasks.optimize import optimize as run

    if data is None:
        refuse_idle(context, "without --data", "metric", "samples", "max_drop", "confidence")
    if train is None:
        refuse_idle(context, "without --train", "epochs")
    if objective is Objective.accuracy:
        raise typer.BadParameter("the most accurate file is the float one; choose bytes or latency.")
    check_outputs(output, plan_out, sources=[model])
    lowered = open_lowered(model, input_shape, calibration, unroll=True)
    found = run(
        lowered,
        None if data is None else open_data(data, lowered.model, labels=True),
        calibration=open_data(calibration, lowered.model).samples,
        metric=metric,
        objective=objective.value,
        max_drop=max_drop,
        confidence=confidence,
        max_bytes=max_bytes,
        max_latency=max_latency,
        min_sqnr_db=min_sqnr,
        target=target,
        limit=samples,
        train=None if train is None else open_data(train, lowered.model).samples,
        epochs=epochs,
        folder=resume,
    )
    tflite.save(found.model, output)
    if plan_out is not None:
        found.plan.save(plan_out)
    if as_json:
        print_json(found.to_json())
    else:
        from featherweight.report.choices import STEP_HEADERS, step_rows

        print_table("Steps", STEP_HEADERS, step_rows(found.steps), right=(1, 2, 3, 4, 5))
        said = "keeps the budget" if found.fits else "misses the budget by least"
        say(f"{output}: {found.best.file_bytes:,} bytes, made by step '{found.name}', which {said}.")
    if not found.fits:
        raise typer.Exit(1)


def _listed(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
