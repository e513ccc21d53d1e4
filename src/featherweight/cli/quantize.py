"""Commands that write models: demo, lower, quantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.harness import (
    InputShape,
    ReportFile,
    check_outputs,
    check_report,
    command,
    open_calibration,
    open_data,
    open_lowered,
    print_table,
    refuse_idle,
    retired,
    say,
    working,
)

if TYPE_CHECKING:
    from featherweight.analysis import Dataset
    from featherweight.encoded_files.records import Encoded
    from featherweight.graph import Model
    from featherweight.targets.target import Target
    from featherweight.tasks.quantize import Quantized

Source = Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite, .keras or .h5 file.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.tflite", help="The file to write.")]


class Io(StrEnum):
    """Types of inputs and outputs."""

    int8 = "int8"
    uint8 = "uint8"
    float32 = "float32"


class Storage(StrEnum):
    """How weights are stored."""

    dense = "dense"
    decode = "decode"


class Recurrent(StrEnum):
    """Forms of recurrent layers."""

    auto = "auto"
    loop = "loop"
    fused = "fused"
    unrolled = "unrolled"


@command("featherweight demo --out demo-output")
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Decides the training.")] = 0,
) -> None:
    """Train, quantize and measure a small convnet.

    The whole story on real data that comes with the package; every file is kept.
    """
    from featherweight import demo as story

    say(str(story.run(out, seed)))
    say(f"\nEvery model with its plan and report, and this table as text, HTML and JSON: {out}")


@command("featherweight lower model.keras -o model.tflite")
def lower(
    model: Source,
    output: Output,
    unroll: Annotated[
        bool, typer.Option("--unroll", help="Write recurrent layers out step by step instead of as loops.")
    ] = False,
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Write LSTM layers as one operator each, where that has a kernel for them.")
    ] = False,
    input_shape: InputShape = None,
) -> None:
    """Turn a Keras model into a float .tflite file.

    Its outputs are verified against the source's.
    """
    if model.suffix.lower() == ".tflite":
        raise typer.BadParameter(
            f"'{model}' is a .tflite file already; `quantize` takes it as it is.", param_hint="MODEL"
        )
    check_outputs(output, sources=[model])
    lowered = open_lowered(model, input_shape, unroll=unroll, fuse=fuse)
    graph = lowered.model
    from featherweight import tflite

    size = tflite.save(graph, output)
    for note in lowered.notes:
        say(f"Note: {note}")
    say(f"{output}: {size:,} bytes, {len(graph.main.nodes)} operators; its outputs agree with {model.name}.")


def _improve(value: str) -> str:
    if value != "none":
        from featherweight.errors import RecipeError
        from featherweight.repair.improve import asked_repairs

        try:
            asked_repairs(value)
        except RecipeError as error:
            raise typer.BadParameter(str(error)) from error
    return value


@command("featherweight quantize model.tflite -o model_int8.tflite --recipe int8 --calibration train.npz")
def quantize(
    context: typer.Context,
    model: Source,
    output: Output,
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight recipes`.")] = "int8",
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")] = "litert",
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DATA",
            help="Samples of the training split: .npz, .npy, folder of images, or pkg.module:function; for a file of "
            "several signatures, NAME=DATA once for each.",
        ),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(metavar="STATS.json", help="Take ranges from recorded statistics; samples then only measure."),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "--limit", min=1, help="Use at most so many samples.")
    ] = None,
    ranges: Annotated[
        str, typer.Option(metavar="METHOD", help="minmax, percentile, mse, entropy, clip, or auto: by samples.")
    ] = "minmax",
    improve: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            callback=_improve,
            help="Repairs to make, with commas between; auto keeps what helps on a part of the samples.",
        ),
    ] = "none",
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --improve: keep what comes of each repair here, and go on from there."),
    ] = None,
    io: Annotated[Io | None, typer.Option(help="Type of inputs and outputs; default: the target's habit.")] = None,
    recurrent: Annotated[
        Recurrent, typer.Option(help="Style of a Keras model's recurrent layers; auto: by recipe and target.")
    ] = Recurrent.auto,
    input_shape: InputShape = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a result in which any operator but the borders is float.")
    ] = False,
    integers: Annotated[
        bool, typer.Option("--integers", help="Leave nothing float because it is faster or finer so on the target.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Measure the outputs on some calibration samples, and warn of noise."
        ),
    ] = True,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Write the names of all tensors, for targets too that don't read them.")
    ] = False,
    keep_order: Annotated[
        bool,
        typer.Option("--keep-order", help="Leave the operators in their order, also where another needs less RAM."),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Other samples: say what file and float model score on them; without labels, how often they agree.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --data: as for `evaluate`, or agreement; default: by labels."),
    ] = None,
    store: Annotated[
        Storage, typer.Option(help="decode: weights encoded where that is smaller, for runtimes that decode them.")
    ] = Storage.dense,
    plan_in: Annotated[Path | None, typer.Option(metavar="P.json", help="Carry out this plan.")] = None,
    plan_out: Annotated[Path | None, typer.Option(metavar="P.json", help="Write the plan.")] = None,
    report: ReportFile = None,
    engine: Annotated[str | None, typer.Option(hidden=True, callback=retired("--engine"))] = None,
    seed: Annotated[int | None, typer.Option(hidden=True, callback=retired("--seed"))] = None,
) -> None:
    """Quantize a model after training, by any recipe."""
    from featherweight.ptq import plan as plans
    from featherweight.ptq.recurrent import choose_style
    from featherweight.recipes import recipe as recipes
    from featherweight.targets import target as targets
    from featherweight.tasks import quantize as pipeline

    check_report(report)
    if not calibration:
        refuse_idle(context, "without --calibration", "samples", *(() if data else ("preprocess",)))
    if data is None:
        refuse_idle(context, "without --data", "metric")
    if plan_in is not None:
        refuse_idle(context, "beside --plan-in, which decides it", "io", "ranges", "integers")
    if model.suffix.lower() == ".tflite":
        refuse_idle(context, "on a .tflite file, whose recurrent layers are what they are", "recurrent")
    check_outputs(output, plan_out, report, sources=[path for path in (model, plan_in) if path])
    wish, device = recipes.load(recipe), targets.load(target)
    plan = None if plan_in is None else plans.load(plan_in)
    if improve == "none" and ranges != "auto":
        refuse_idle(context, "without --improve", "resume")
    if not wish.needs_ranges:
        refuse_idle(context, f"on recipe '{wish.name}', which measures none", "ranges")
    if plan is None and wish.needs_ranges and not calibration and stats is None:
        pipeline.quantize(model, wish, target=device)  # raises, and says what is missing
    style = choose_style(wish, device, recurrent.value)
    lowered = open_lowered(
        model, input_shape, calibration[0] if calibration else None, unroll=style.unroll, fuse=style.fuse
    )
    graph = lowered.model
    fed = open_calibration(calibration, graph, preprocess=preprocess) if calibration else None
    tested = None if data is None else open_tested(data, graph, metric, preprocess)
    result = pipeline.quantize(
        lowered,
        wish,
        calibration=fed,
        stats=stats,
        target=device,
        io=None if io is None else io.value,
        strict=strict,
        integers=integers,
        verify=verify,
        ranges=ranges,
        improve=improve,
        folder=resume,
        keep_names=keep_names,
        keep_order=keep_order,
        store=store.value,
        plan=plan,
        limit=samples,
        recurrent=recurrent.value,
        progress=True,
    )
    result = with_measurements(result, graph, device, tested, metric, is_reported=report is not None)
    summary = replace(result.report, name=output.name)
    if report is not None and calibration:
        from featherweight.report.evidence import with_evidence
        from featherweight.runtime.samples import by_signature

        seen = by_signature(open_calibration(calibration, graph, preprocess=preprocess), graph)
        before = result.float_model or graph
        summary = with_evidence(summary, before, result.model, result.plan, seen, limit=samples)
    result.save(output)
    if plan_out is not None:
        result.plan.save(plan_out)
    if report is not None:
        with working("Writing the report"):
            summary.save(report)
    print_result(output, result, graph)


def open_tested(data: str, graph: Model, metric: str | None, preprocess: str | None) -> Dataset:
    """Returns the samples that a model is judged on, once it is known that the metric suits them.

    Raises:
        DataError: if it does not.
    """
    from featherweight.analysis.agreement import metric_for

    dataset = open_data(data, graph, preprocess=preprocess)
    metric_for(metric, graph, dataset)
    return dataset


def with_measurements(
    result: Quantized, graph: Model, device: Target, tested: Dataset | None, metric: str | None, *, is_reported: bool
) -> Quantized:
    """Returns what was quantized with what it scores, and what its device takes, in its report."""
    from featherweight.device_code.footprint import is_compiled
    from featherweight.report.evidence import with_footprints, with_task

    summary = result.report
    if tested is not None:
        summary = with_task(summary, graph, result.model, tested, metric)
    if is_reported or is_compiled(device):
        with working("Asking the device's tools"):
            summary = with_footprints(summary, graph, result.model, device)
    return replace(result, report=summary)


def print_result(output: Path, result: Quantized, graph: Model) -> None:
    """Prints what was written, and what is not as asked for."""
    before, after = result.report.before.file_bytes, output.stat().st_size
    say(f"{output}: {after:,} bytes, {100 * after / before:.0f} % of the float graph's {before:,}.")
    nodes = ", ".join(f"{count} {kind}" for kind, count in result.report.nodes.items())
    say(f"Operators: {nodes}.")
    from featherweight.report import text

    if result.encoded is not None:
        print_encoded(result.encoded)
    kept, dropped = result.report.kept_float, result.report.dropped
    if kept:
        print_table(f"{_counted(kept, 'stays', 'stay')} float", text.NOTE_HEADERS, text.grouped(kept), right=(0,))
    if dropped:
        out = _counted(dropped, "was", "were")
        print_table(f"{out} left out", text.NOTE_HEADERS, text.grouped(dropped), right=(0,))
    if result.report.outputs:
        rows = text.output_rows(result.report.outputs)
        print_table("Outputs against the float model's", text.OUTPUT_HEADERS, rows, right=(1, 2, 3))
    if line := text.task_line(result.report):
        say(line)
    if line := text.footprint_line(result.report):
        say(line)
    for note in text.grouped_notes(result.report.notes):
        say(f"Note: {note}")
    if result.report.violations:
        rows = [(v.op, v.node, v.message) for v in result.report.violations]
        print_table(f"{len(rows)} violations of {result.report.target}", ("operator", "name", "what"), rows)


def _counted(notes: Sequence[object], one: str, more: str) -> str:
    return f"{len(notes)} operators {more}" if len(notes) > 1 else f"1 operator {one}"


def print_encoded(encoded: Encoded) -> None:
    """Prints what became of each weight."""
    rows = [
        (row.name, row.op, f"{row.plain_bytes:,}", f"{row.stored_bytes:,}", row.coding or "plain", row.reason)
        for row in encoded.tensors
    ]
    print_table("Weights", ("name", "operator", "bytes", "stored", "coding", "why"), rows, right=(2, 3))
