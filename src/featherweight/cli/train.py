"""The command that trains: train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.harness import (
    InputShape,
    ReportFile,
    check_outputs,
    check_report,
    command,
    open_data,
    open_lowered,
    refuse_idle,
    say,
    working,
)
from featherweight.cli.quantize import Output, Source, Storage, open_tested, print_result, with_measurements

if TYPE_CHECKING:
    import numpy as np

    from featherweight.training.courses.loop import Course

_CALIBRATION_SAMPLES = 500
_EXAMPLE = "featherweight train model.keras -o model_w4.tflite --recipe w4a8 --data train.npz --epochs 10"


@command(_EXAMPLE)
def train(
    context: typer.Context,
    model: Source,
    output: Output,
    data: Annotated[
        str,
        typer.Option(metavar="DATA", help="Samples to train on: .npz, .npy, folder of images, or pkg.module:function."),
    ],
    recipe: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight recipes`.")] = "int8",
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")] = "litert",
    epochs: Annotated[int, typer.Option(min=1, help="How often to go through the samples.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a step.")] = 32,
    learning_rate: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|auto",
            help="Of Adam, at its peak, in units of each channel's weights; auto: by a trial on held-out samples.",
        ),
    ] = "1e-4",
    distil: Annotated[
        bool | None,
        typer.Option(
            "--distil/--labels",
            help="Learn from the float model or from DATA's labels; default: from labels where DATA has them.",
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="NAME", help="A loss of Keras, for labels; default: by labels and output.")
    ] = None,
    train_ranges: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="How activation ranges move: fixed, learned (weight scales too), moving_average, minmax.",
        ),
    ] = "fixed",
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Samples that ranges start from; default: 500 of the training samples."),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", "--limit", min=1, help="Calibrate with at most so many samples.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the state is kept after each epoch; default: OUT.tflite.training"),
    ] = None,
    report: ReportFile = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Samples that are not trained on: say what file and float model score on them; without labels, how "
            "often they agree.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --validation: as for `evaluate`, or agreement; default: by labels."),
    ] = None,
    store: Annotated[
        Storage, typer.Option(help="decode: weights encoded where that is smaller, for runtimes that decode them.")
    ] = Storage.dense,
    input_shape: InputShape = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of the samples.")] = 0,
) -> None:
    """Train a quantized model, by distillation or labels.

    What is trained computes the integers of the file that is written. After a kill or Ctrl-C, the same command goes on
    after the last complete epoch, and writes the same file as a run that was never stopped.
    """
    rate = None if learning_rate == "auto" else _rate(learning_rate)
    if distil and loss is not None:
        raise typer.BadParameter("a loss is for labels; leave it or --distil out.", param_hint="--loss")
    check_report(report)
    check_outputs(output, report, sources=[model])
    from featherweight.targets import target as targets

    device = targets.load(target)
    if store is Storage.decode:
        from featherweight.encoded_files.store import check_decodes

        check_decodes(device)
    folder = checkpoint or output.with_name(f"{output.name}.training")
    lowered, settings = _opened(model, recipe, target, input_shape, data)
    graph = lowered.model
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.training.courses import loop

    if validation is None:
        refuse_idle(context, "without --validation", "metric")
    tested = None if validation is None else open_tested(validation, graph, metric, preprocess)
    dataset = open_data(data, graph, preprocess=preprocess, labels=distil is False or loss is not None)
    labels = None if distil else dataset.labels
    inputs = loop.gathered(dataset.samples, graph, labels)
    course = loop.Course(epochs, batch_size, seed=seed) if rate is None else loop.Course(epochs, batch_size, rate, seed)
    settings |= vars(course) | {
        "learning_rate": rate or "auto",
        "data": data,
        "preprocess": preprocess,
        "samples": len(next(iter(inputs.values()))),
        "labels": labels is not None,
        "loss": loss,
        "ranges": train_ranges,
        "calibration": calibration,
        "calibration samples": samples,
    }
    checkpoints = loop.Checkpoints(folder, settings)
    compiled = None if labels is None else loop.loss_for(graph, labels, loss)
    trained, done = checkpoints.latest()
    if trained is None:
        ranges = open_data(calibration, graph, preprocess=preprocess).samples if calibration else _spread(inputs)
        trained = quantize_aware(
            lowered,
            recipe,
            calibration=ranges,
            target=target,
            limit=samples,
            train_ranges=settings["ranges"],
            teacher=True if labels is None else None,
            dropout=model.suffix.lower() != ".tflite" and model,
        )
        if rate is None:
            course = replace(course, learning_rate=_tried(trained, inputs, labels, compiled, course))
        loop.compile_for(trained, course, settings["samples"], compiled)
        checkpoints.begin(trained)
        say(f"Training by {'distillation from the float model' if labels is None else 'labels'}.")
    else:
        say(f"Going on after epoch {done} of {epochs}, from {folder}.")
    _train(trained, inputs, labels, course, checkpoints, done)
    from featherweight.tasks.finalize import finalize

    fed = _spread(inputs)
    with working("Writing the model"):
        result = finalize(trained, samples=fed, store=store.value)
        result.save(output)
    result = with_measurements(result, graph, device, tested, metric, is_reported=report is not None)
    if report is not None:
        from featherweight.report.evidence import with_evidence

        before = result.float_model or graph
        summary = replace(result.report, name=output.name)
        with_evidence(summary, before, result.model, result.plan, {0: fed}).save(report)
    print_result(output, result, graph)
    checkpoints.remove()


def _rate(given: str) -> float:
    try:
        rate = float(given)
    except ValueError:
        raise typer.BadParameter(f"{given} is neither a number nor auto.", param_hint="--learning-rate") from None
    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"{rate} is no positive number.", param_hint="--learning-rate")
    return rate


def _tried(trained: Any, inputs: Any, labels: Any, compiled: Any, course: Course) -> float:
    """Returns the learning rate that a short trial finds, and says what it found."""
    from featherweight.training.courses.trial import tried_for

    with working("Trying learning rates"):
        trial = tried_for(trained, inputs, labels, course, compiled)
    say(f"{trial}")
    rate = trial.best or trial.rows[0].rate
    say(
        f"Learning rate {rate:g}" + ("." if trial.best else ", the lowest tried: none lowers the loss in so few steps.")
    )
    return rate


def _opened(
    model: Path, recipe: str, target: str, input_shape: list[str] | None, data: str
) -> tuple[Any, dict[str, Any]]:
    """Returns the lowered model, and what of the settings tells one model, recipe and target from another."""
    import featherweight
    from featherweight.lower import keras as framework
    from featherweight.recipes import recipe as recipes
    from featherweight.targets import target as targets

    wish, device = recipes.load(recipe), targets.load(target)
    backend = framework.backend()
    lowered = open_lowered(model, input_shape, data, unroll=wish.needs_ranges)
    return lowered, {
        "model": f"{model.name} {_digest(model.read_bytes())}",
        "recipe": f"{wish.name} {_digest(repr(wish).encode())}",
        "target": f"{device.name} {_digest(targets.to_json(device).encode())}",
        "featherweight": featherweight.__version__,
        "backend": backend,
        "input shapes": sorted(input_shape or ()),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _spread(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns samples from all over the training set."""
    count = len(next(iter(inputs.values())))
    rows = range(0, count, max(count // _CALIBRATION_SAMPLES, 1))[:_CALIBRATION_SAMPLES]
    return [{name: array[row : row + 1] for name, array in inputs.items()} for row in rows]


def _train(trained: Any, inputs: Any, labels: Any, course: Course, checkpoints: Any, done: int) -> None:
    from featherweight.training.courses import loop

    try:
        loop.train(trained, inputs, labels, course, checkpoints, done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted. The state after the last complete epoch is in '{checkpoints.folder}'; run the same command "
            "again to go on."
        ) from None
