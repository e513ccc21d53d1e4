"""The commands that decide: sensitivity, search, optimize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.choice_options import (
    Accelerator,
    AsJson,
    Calibration,
    Confidence,
    Data,
    Engine,
    EngineOption,
    Estimate,
    Folder,
    Forms,
    Goal,
    IoOption,
    Jobs,
    Limit,
    MaxBytes,
    MaxCompressedBytes,
    MaxCycles,
    MaxDrop,
    MaxFlashBytes,
    MaxLatency,
    MaxSramBytes,
    Metric,
    MinSqnr,
    Objective,
    PlanOut,
    Stop,
    Target,
)
from featherweight.cli.harness import (
    InputShape,
    ReportFile,
    check_outputs,
    check_report,
    command,
    open_data,
    open_lowered,
    print_json,
    print_table,
    refuse_idle,
    say,
)
from featherweight.cli.quantize import Output, Source

if TYPE_CHECKING:
    from featherweight.choosing.flow import Optimized
    from featherweight.choosing.searching import Found


def asked(context: typer.Context) -> dict[str, Any]:
    """Returns what a call is asked for: the model, its samples, and all options by the names that functions know.

    Raises:
        typer.BadParameter: for options about a metric without labelled data.
    """
    from featherweight.analysis.evaluation import needs_labels

    same = (
        *("metric", "max_drop", "confidence", "max_bytes", "max_compressed_bytes", "max_latency", "max_flash_bytes"),
        *("max_sram_bytes", "max_cycles", "accelerator", "target", "jobs", "improve", "epochs", "estimate"),
    )
    renamed = {"samples": "limit", "min_sqnr": "min_sqnr_db", "resume": "folder"}
    given = dict(context.params)
    if given["data"] is None:
        if given.get("max_drop") is not None:
            raise typer.BadParameter(
                "it is about a metric, which needs labelled samples: pass them (--data DATA). Without labels, say how "
                "far the outputs must be above their error: --min-sqnr DB.",
                param_hint="--max-drop",
            )
        refuse_idle(context, "without --data", "metric", "samples", "confidence")
    check_report(given["report"])
    check_outputs(given.get("output"), given.get("plan_out"), given["report"], sources=[given["model"]])
    lowered = open_lowered(given["model"], given["input_shape"], given["calibration"], unroll=True)
    data = given["data"]
    found: dict[str, Any] = {
        "source": lowered,
        "data": None if data is None else open_data(data, lowered.model, labels=needs_labels(given["metric"])),
        "calibration": open_data(given["calibration"], lowered.model).samples,
    }
    found |= {name: given[name] for name in same if name in given}
    found |= {to: given[name] for name, to in renamed.items() if name in given}
    found |= {
        name: given[name] and given[name].value for name in ("objective", "io", "engine", "stop") if name in given
    }
    if "forms" in given:
        found["forms"] = [part.strip() for part in given["forms"].split(",") if part.strip()]
    if given.get("train") is not None:
        found["train"] = open_data(given["train"], lowered.model).samples
    return found


@command("featherweight sensitivity model.tflite --calibration train.npz --data test.npz --forms int8,w4a8")
def sensitivity(
    context: typer.Context,
    model: Source,
    calibration: Calibration,
    data: Data = None,
    metric: Metric = "accuracy",
    forms: Forms = "int8",
    target: Target = "litert",
    samples: Limit = None,
    estimate: Estimate = False,
    resume: Folder = None,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    report: ReportFile = None,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each part costs in each form.

    At the outputs, and in the task where there are labels.
    """
    from featherweight.tasks.choose import sensitivity as measure

    scores = measure(**asked(context))
    if report is not None:
        from featherweight.report.found_pages import scores_page
        from featherweight.report.saving import save_page

        save_page(scores_page(scores, model.name), report)
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
    objective: Goal = Objective.bytes,
    max_drop: MaxDrop = None,
    confidence: Confidence = 0.0,
    min_sqnr: MinSqnr = None,
    max_bytes: MaxBytes = None,
    max_compressed_bytes: MaxCompressedBytes = None,
    max_latency: MaxLatency = None,
    max_flash_bytes: MaxFlashBytes = None,
    max_sram_bytes: MaxSramBytes = None,
    max_cycles: MaxCycles = None,
    accelerator: Accelerator = None,
    forms: Forms = "int8,w4a8,grid4,int16x8,dynamic,weights4,float32",
    improve: Annotated[str | None, typer.Option(metavar="LIST", help="Repairs to make, as for `quantize`.")] = None,
    target: Target = "litert",
    io: IoOption = None,
    samples: Limit = None,
    estimate: Estimate = False,
    resume: Folder = None,
    plan_out: PlanOut = None,
    report: ReportFile = None,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Find the best file within a budget.

    The smallest, fastest or most accurate, which is checked on the file. Where no model keeps the
    budget, the nearest one is written, what it misses is said, and the exit status is 1.
    """
    from featherweight.tasks.choose import search as find

    found = find(**asked(context))
    _written(found, output, plan_out)
    if report is not None:
        from featherweight.report.found_pages import search_page
        from featherweight.report.saving import save_page

        save_page(search_page(found, model.name), report)
    if as_json:
        print_json(found.to_json())
    else:
        from featherweight.report.choices import FRONT_HEADERS, front_rows, summary

        print_table(
            "Files that no other beats in size and loss", FRONT_HEADERS, front_rows(found), right=(0, 1, 2, 3, 4, 5)
        )
        say(f"{output}: {summary(found)}" + (f" {found.doubt}." if found.doubt else ""))
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
    objective: Goal = Objective.bytes,
    max_drop: MaxDrop = None,
    confidence: Confidence = 0.0,
    min_sqnr: MinSqnr = None,
    max_bytes: MaxBytes = None,
    max_compressed_bytes: MaxCompressedBytes = None,
    max_latency: MaxLatency = None,
    max_flash_bytes: MaxFlashBytes = None,
    max_sram_bytes: MaxSramBytes = None,
    max_cycles: MaxCycles = None,
    accelerator: Accelerator = None,
    target: Target = "litert",
    io: IoOption = None,
    samples: Limit = None,
    stop: Annotated[
        Stop, typer.Option(help="first: with the first step behind the recipes that keeps the budget; best: go on.")
    ] = Stop.first,
    train: Annotated[
        str | None, typer.Option(metavar="DATA", help="Samples to train on as the last resort, by distillation.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of that training.")] = 3,
    estimate: Estimate = False,
    resume: Folder = None,
    plan_out: PlanOut = None,
    report: ReportFile = None,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    input_shape: InputShape = None,
    as_json: AsJson = False,
) -> None:
    """Make recipes, repairs, mixed forms, and train: measured.

    It stops where the budget is kept, or with --stop best where nothing can be better. Where
    nothing keeps it, the nearest file is written, and the exit status is 1.
    """
    from featherweight.tasks.optimize import optimize as run

    if train is None:
        refuse_idle(context, "without --train", "epochs")
    found = run(**asked(context))
    _written(found, output, plan_out)
    if report is not None:
        from featherweight.report.found_pages import steps_page
        from featherweight.report.saving import save_page

        save_page(steps_page(found.steps, found.name, model.name), report)
    if as_json:
        print_json(found.to_json())
    else:
        from featherweight.report.choices import STEP_HEADERS, step_rows

        print_table("Steps", STEP_HEADERS, step_rows(found.steps), right=(1, 2, 3, 4, 5))
        said = "keeps the budget" if found.fits else "misses the budget by least"
        say(
            f"{output}: {found.best.file_bytes:,} bytes, made by step '{found.name}', which {said}."
            + (f" {found.doubt}." if found.doubt else "")
        )
    if not found.fits:
        raise typer.Exit(1)


def _written(found: Found | Optimized, output: Path, plan_out: Path | None) -> None:
    """Writes what was found, and its plan where that is wanted."""
    from featherweight import tflite

    tflite.save(found.model, output)
    if plan_out is not None:
        found.plan.save(plan_out)
