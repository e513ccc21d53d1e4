"""The command that says where the error comes from, and what repairs it: diagnose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.compare import Data, Json, Preprocess, Samples
from featherweight.cli.harness import (
    InputShape,
    check_outputs,
    check_report,
    command,
    open_calibration,
    open_model,
    print_json,
    refuse_idle,
    say,
)


@command(
    "featherweight diagnose model.tflite model_int8.tflite --data test.npz\n  "
    "featherweight diagnose model.keras --recipe w4a8 --data train.npz --report diagnosis.html"
)
def diagnose(
    context: typer.Context,
    float_model: Annotated[Path, typer.Argument(metavar="FLOAT", help="The float model: .tflite, .keras or .h5.")],
    data: Data,
    quantized: Annotated[
        Path | None,
        typer.Argument(metavar="QUANTIZED", help="What was made of it; left out, it is quantized here with --recipe."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="Without QUANTIZED: see `featherweight recipes`.")
    ] = "int8",
    target: Annotated[
        str, typer.Option(metavar="NAME|FILE.toml", help="Without QUANTIZED: see `featherweight targets`.")
    ] = "litert",
    ranges: Annotated[
        str, typer.Option(metavar="METHOD", help="Without QUANTIZED: minmax, percentile, mse or entropy.")
    ] = "minmax",
    preprocess: Preprocess = None,
    samples: Samples = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as .html, .json or .txt, too.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Operators to show at most; 0 shows all.")] = 15,
    input_shape: InputShape = None,
    as_json: Json = False,
) -> None:
    """Say what makes the error, and what repairs it.

    Causes come worst first, each with its layers and its size at the output. Each operator's own error is carried to
    the output: it gets exact inputs, and everything behind it computes in float. A cause is named if the error goes
    when it alone is taken away.

    With QUANTIZED, DATA are samples that the model shall do well on; without, they calibrate it as well.
    """
    from featherweight.report.diagnosis_rendering import text
    from featherweight.tasks.diagnose import diagnose as run

    check_report(report)
    check_outputs(report, sources=[path for path in (float_model, quantized) if path is not None])
    if quantized is not None:
        refuse_idle(context, "beside QUANTIZED, which is made already", "recipe", "target", "ranges")
    model = open_model(float_model, input_shape, data)
    is_keras = float_model.suffix.lower() != ".tflite"
    found = run(
        # What a Keras file says of its training is in the file only.
        float_model if is_keras and not input_shape else model,
        quantized,
        open_calibration([data], model, preprocess=preprocess),
        recipe=recipe,
        target=target,
        ranges=ranges,
        limit=samples,
        progress=True,
    )
    if report is not None:
        found.save(report)
    if as_json:
        print_json(found.to_json())
    else:
        say(text(found, rows))
