"""The command that holds all runtimes against each other: prove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.compare import Json, Preprocess
from featherweight.cli.harness import check_outputs, check_report, command, open_data, print_json, refuse_idle, say
from featherweight.cli.quantize import Source


@command("featherweight prove model_int8.tflite --target tflm --data test.npz --report proof.html")
def prove(
    context: typer.Context,
    model: Source,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Inputs; random ones without.")] = None,
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="Whose runtime has to be equal.")] = "litert",
    vectors: Annotated[
        int, typer.Option("--vectors", "--samples", "--limit", min=1, max=10_000, help="Use at most so many inputs.")
    ] = 16,
    runtimes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of xnnpack, builtin, reference, tflm, openvino, tosa, vela; all without."),
    ] = None,
    preprocess: Preprocess = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as .html, .json or .txt, too.")] = None,
    as_json: Json = False,
) -> None:
    """Prove that every runtime computes the same integers.

    The file runs in all runtimes that are installed, each in a process of its own, and is compared with the reference
    kernels in that runtime's arithmetic, output by output and tensor by tensor. Exit status 1 where one differs, or
    where the target's own runtime refuses the file or aborts.
    """
    from featherweight import tflite
    from featherweight.tasks.device.prove import prove as run

    check_report(report)
    check_outputs(report, sources=[model])
    if data is None:
        refuse_idle(context, "without --data", "preprocess")
    samples = None if data is None else open_data(data, tflite.read(model), preprocess=preprocess).samples
    names = None if runtimes is None else [name.strip() for name in runtimes.split(",")]
    sheet = run(model, samples=samples, target=target, vectors=vectors, runtimes=names)
    if report is not None:
        sheet.save(report)
    if as_json:
        print_json(sheet.to_json())
    else:
        say(str(sheet))
    for row in sheet.rows:
        if row.status == "not installed":
            typer.echo(f"featherweight: {row.what} is not installed; it proves nothing here.", err=True)
    if not sheet.is_equal:
        raise typer.Exit(1)
