"""Commands that look and measure: inspect, compare, evaluate, check."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.harness import (
    InputShape,
    ReportFile,
    check_outputs,
    check_report,
    command,
    open_data,
    open_lowered,
    open_model,
    print_json,
    print_table,
    refuse_idle,
    say,
)

if TYPE_CHECKING:
    from featherweight.analysis.comparison import TensorError
    from featherweight.analysis.inspection import Inspection

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite, .keras or .h5 file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A .npz (arrays named after inputs, or 'x'; labels 'y'), .npy, folder of images, or pkg.module:function.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset."),
]
Samples = Annotated[int | None, typer.Option("--samples", "--limit", min=1, help="Use at most so many samples.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")]
Rows = Annotated[int, typer.Option("--rows", min=0, help="Rows to show at most; 0 shows all.")]


@command("featherweight inspect model_int8.tflite")
def inspect(model: Model, rows: Rows = 40, input_shape: InputShape = None, as_json: Json = False) -> None:
    """Show what is in a model, and how it computes.

    Operators and their arithmetic, tensors, bytes, compressed bytes, quantization, sparsity.
    """
    from featherweight.analysis import inspect as look

    source = open_model(model, input_shape) if input_shape or not _is_ready(model) else model
    found = look(source, progress=True)
    if as_json:
        print_json(found.to_json())
    else:
        _print_inspection(str(model), found, rows)


def _is_ready(path: Path) -> bool:
    return path.suffix.lower() == ".tflite"


def _print_inspection(name: str, found: Inspection, rows: int) -> None:
    from featherweight.report.text import shortened

    arithmetic = ", ".join(f"{count} {kind}" for kind, count in found.nodes.items())
    constants = ", ".join(f"{count:,} {dtype}" for dtype, count in found.constant_bytes.items())
    if not found.float_nodes:
        verdict = (
            "integers from end to end (but conversions)" if "conversion" in found.nodes else "integers from end to end"
        )
    else:
        verdict = f"{len(found.float_nodes)} of {sum(found.nodes.values())} operators compute with floats"
    say(name)
    say(f"  size        {found.size_bytes:,} bytes, {found.compressed_bytes or 0:,} compressed (deflate)")
    say(f"  constants   {constants or 'none'} (bytes)")
    say(f"  sparsity    {'no weights' if found.sparsity is None else f'{found.sparsity:.4f} of the weights are zero'}")
    say(f"  work        {found.macs:,} multiply-accumulates")
    say(f"  arithmetic  {arithmetic or 'no operators'}: {verdict}")
    ports = [("input", p) for p in found.inputs] + [("output", p) for p in found.outputs]
    cells = [(kind, p.name, p.dtype, _shape(p.shape), p.quantization or "-") for kind, p in ports]
    print_table("Inputs and outputs", ("", "name", "dtype", "shape", "quantization"), cells)
    kinds = list(found.nodes)
    print_table(
        "Operators",
        ("operator", "count", *kinds),
        [(r.op, r.count, *(r.arithmetic.get(kind, "") for kind in kinds)) for r in found.operators],
        right=range(1, 2 + len(kinds)),
    )
    cells = [
        (
            shortened(t.shown, 44),
            shortened(t.name, 44),
            t.role,
            t.dtype,
            _shape(t.shape),
            t.stored_bytes or "",
            "" if t.sparsity is None else f"{t.sparsity:.2f}",
            t.quantization or "",
        )
        for t in found.tensors
    ]
    headers = ("name", "in the file", "role", "dtype", "shape", "bytes", "sparsity", "quantization")
    print_table("Tensors", headers, _shown(cells, rows), right=(5, 6))
    _say_rest(len(cells), rows)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join("any" if size < 0 else str(size) for size in shape) or "scalar"


def _shown(cells: Sequence[Sequence[object]], rows: int) -> Sequence[Sequence[object]]:
    return cells[:rows] if rows else cells


def _say_rest(count: int, rows: int) -> None:
    if rows and count > rows:
        say(f"{count - rows} more rows; --rows 0 shows all, --json as well.")


@command(
    "featherweight compare model.tflite model_int8.tflite --data test.npz\n  "
    "featherweight compare shifts.tflite --data test.npz --profile integer_multiplier --profile power_of_two"
)
def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="MODEL", help="The model to hold the other against: the float one.")],
    data: Data,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="The model to judge; MODEL itself with --profile.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Twice: run MODEL and OTHER on the reference kernels, each in its own arithmetic."
        ),
    ] = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    threads: Threads = None,
    rows: Rows = 40,
    report: ReportFile = None,
    node_data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write error, bits and sparsity of OTHER's operators for Model Explorer."),
    ] = None,
    input_shape: InputShape = None,
    as_json: Json = False,
) -> None:
    """Show every tensor's error, worst first.

    SQNR is in dB; "own" is the part from rounding and clipping this very tensor, "operator" that of its operator alone,
    its weights included, and "inherited" what comes to it from earlier ones: the worse of the two says where to look.
    "Channel" is the worst along the last axis (of weights: the one that has scales), of outputs the worst column.
    Errors are mean squares, split into what clipping and what rounding (all the rest) contribute.

    `featherweight diagnose` says what the causes are, and what each costs at the output.

    With --profile, what another arithmetic changes: the share of values that differ, and the largest difference in
    steps of the integers.
    """
    from featherweight.analysis import compare as run
    from featherweight.tasks.load import nearest_form

    if other is None and not profile:
        raise typer.BadParameter("name a second model, or two profiles to run this one in.", param_hint="'OTHER'")
    if profile:
        refuse_idle(
            context, "with --profile, which compares two arithmetics and not a float model", "report", "node_data"
        )
    check_report(report)
    check_outputs(report, sources=[path for path in (first, other) if path])
    before = open_model(first, input_shape, data)
    after = before if other is None else open_model(other, None if _is_ready(other) else input_shape, data)
    dataset = open_data(data, before, preprocess=preprocess)
    if other is not None:
        again = functools.partial(open_lowered, first, input_shape, data, unroll=True)
        before = nearest_form(before, after, lambda fuse: before if _is_ready(first) else again(fuse=fuse).model)
    found = run(before, after, dataset.samples, profiles=profile or None, limit=samples, threads=threads, progress=True)
    if node_data is not None:
        from featherweight.report.overlay import save_node_data

        for path in save_node_data(node_data, after, found):
            typer.echo(f"Node data for Model Explorer: {path}", err=True)
    if report is not None:
        from featherweight.report.compared_page import compared_page
        from featherweight.report.saving import save_page

        save_page(compared_page(first.name, (other or first).name, found, before, after), report)
    if as_json:
        print_json({"tensors": found})
        return
    what = [str(path) for path in (other or first, first)]
    if profile:
        what = [f"{path} in {name}" for path, name in zip(what, reversed(profile), strict=True)]
    headers, cells = _differences(found) if profile else _errors(found)
    right = range(headers.index("SQNR dB"), len(headers))
    print_table(f"{' against '.join(what)}, worst first", headers, _shown(cells, rows), right=right)
    _say_rest(len(cells), rows)


def _errors(found: Sequence[TensorError]) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Returns the headers and rows of quantized tensors against float ones."""
    from featherweight.report.text import decibels, shortened

    cells: list[tuple[object, ...]] = [
        (
            shortened(e.name, 44),
            "" if f"{e.name}/".startswith(f"{e.layer}/") else shortened(e.layer, 28),
            e.kind,
            e.op,
            e.dtype,
            decibels(e.sqnr_db),
            decibels(e.own_sqnr_db),
            decibels(e.operator_sqnr_db),
            decibels(e.inherited_sqnr_db),
            "-" if e.worst_channel is None else f"{decibels(e.worst_channel_db)} ({e.worst_channel})",
            f"{e.rounding_mse:.3g}",
            f"{e.clipping_mse:.3g}",
            f"{e.cosine:.5f}",
            f"{e.max_abs_error:.4g}",
        )
        for e in found
    ]
    levels = ("SQNR dB", "own dB", "operator dB", "inherited dB", "channel dB")
    quality = (*levels, "rounding", "clipping", "cosine", "largest")
    headers = ("tensor", "layer", "kind", "operator", "dtype", *quality)
    if not any(row[1] for row in cells):  # names say it already
        return headers[:1] + headers[2:], [row[:1] + row[2:] for row in cells]
    return headers, cells


def _differences(found: Sequence[TensorError]) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Returns the headers and rows of tensors in two arithmetics."""
    from featherweight.report.text import decibels, shortened

    cells: list[tuple[object, ...]] = [
        (
            shortened(e.name, 70),
            e.kind,
            e.op,
            e.dtype,
            decibels(e.sqnr_db),
            f"{e.differing_fraction:.4%}",
            "" if e.largest_steps is None else f"{e.largest_steps:.4g}",
            f"{e.max_abs_error:.4g}",
        )
        for e in found
    ]
    return ("tensor", "kind", "operator", "dtype", "SQNR dB", "differing", "steps", "largest"), cells


@command("featherweight evaluate model_int8.tflite --data test.npz --metric accuracy")
def evaluate(
    model: Model,
    data: Data,
    metric: Annotated[
        str,
        typer.Option(
            help="accuracy, top5, probability (of the label's class), auc, mse, mae, map (detectors; map:FILE.toml or "
            "map:key=value,… says how outputs become boxes), or pkg.module:function (y_true, y_pred) -> number."
        ),
    ] = "accuracy",
    preprocess: Preprocess = None,
    samples: Samples = None,
    output: Annotated[str | None, typer.Option(help="The output to score, where there are several.")] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Score the reference kernels in this arithmetic, not LiteRT.")
    ] = None,
    threads: Threads = None,
    input_shape: InputShape = None,
    as_json: Json = False,
) -> None:
    """Measure a task metric on the real runtime.

    With --profile, in the arithmetic of another chip.
    """
    from featherweight.analysis import evaluate as run
    from featherweight.analysis.evaluation import needs_labels

    is_labelled = needs_labels(metric)
    graph = open_model(model, input_shape, data)
    dataset = open_data(data, graph, preprocess=preprocess, labels=is_labelled)
    found = run(graph, dataset, metric, limit=samples, output=output, profile=profile, threads=threads, progress=True)
    if as_json:
        print_json(found)
    else:
        say(str(found))


@command("featherweight check model_int8.tflite --target ethos-u55")
def check(
    model: Model,
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")],
    input_shape: InputShape = None,
    as_json: Json = False,
) -> None:
    """List what a target does not run, and why.

    Exits with 1 if there is anything.
    """
    from featherweight import tflite
    from featherweight.targets import target as targets

    chosen = targets.load(target)
    is_whole = _is_ready(model) and not input_shape
    held = tflite.read(model) if is_whole else open_model(model, input_shape)
    found = targets.check(held, chosen)
    if as_json:
        print_json({"target": chosen.name, "violations": found})
    elif found:
        rows = [(v.op, v.node, v.constraint, v.message) for v in found]
        print_table(f"{len(found)} violations of {chosen.name}", ("operator", "name", "constraint", "what"), rows)
    else:
        from featherweight.device_code.footprint import compiled_text

        say(f"{model} runs on {chosen.name}: no violations.")
        if note := compiled_text(held, chosen):
            say(f"{note.rstrip('.')}.")
    if found:
        raise typer.Exit(1)
