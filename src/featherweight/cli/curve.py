"""The command that finds the cliff: curve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from featherweight.cli.choose import Engine, EngineOption, Jobs
from featherweight.cli.harness import (
    InputShape,
    check_outputs,
    command,
    open_data,
    open_lowered,
    print_json,
    refuse_idle,
    say,
)
from featherweight.cli.quantize import Source

_FORMS = (".txt", ".json", ".html", ".svg", ".png")
_EXAMPLE = "featherweight curve model.keras --data test.npz --sparsities 0.5,0.75,0.9 --report curve.html"


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is no list of numbers, such as 0.5,0.75,0.9.", param_hint="--sparsities"
        ) from None


@command(_EXAMPLE)
def curve(
    context: typer.Context,
    model: Source,
    data: Annotated[str, typer.Option(metavar="DATA", help="Labelled samples to evaluate on, as for `evaluate`.")],
    sparsities: Annotated[str, typer.Option(metavar="LIST", help="Fractions of zeros.")] = "0.5,0.75,0.875,0.95",
    patterns: Annotated[str, typer.Option(metavar="LIST", help="unstructured, 1x4, 2:4 …; each gives a curve.")] = (
        "unstructured"
    ),
    method: Annotated[str, typer.Option(metavar="NAME", help="magnitude, wanda or sparsegpt.")] = "magnitude",
    calibration: Annotated[
        str | None, typer.Option(metavar="DATA", help="Samples of the training split, for wanda and sparsegpt.")
    ] = None,
    retrain: Annotated[
        int, typer.Option(metavar="EPOCHS", min=0, help="Train each point so long on --train (Keras models).")
    ] = 0,
    train: Annotated[str | None, typer.Option(metavar="DATA", help="Labelled samples to retrain on.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, when retraining.")] = 1e-3,
    preprocess: Annotated[
        str | None, typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset.")
    ] = None,
    metric: Annotated[str, typer.Option(metavar="NAME", help="As for `evaluate`.")] = "accuracy",
    max_drop: Annotated[float, typer.Option(help="How far the metric may fall before the knee.")] = 0.01,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep finished points here, and go on from those that are.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the curve: .txt, .json, .html, .svg or .png.")
    ] = None,
    input_shape: InputShape = None,
    seed: Annotated[int, typer.Option(help="Decides the training.")] = 0,
    jobs: Jobs = 1,
    engine: EngineOption = Engine.processes,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Measure what sparsity costs, and where the cliff is.

    The model is pruned to several sparsities; every file is evaluated on LiteRT beside the dense one.
    """
    from featherweight.analysis.evaluation import needs_labels
    from featherweight.tasks.sparsity_curve import sparsity_curve

    wanted = _numbers(sparsities)
    if bool(retrain) != (train is not None):
        raise typer.BadParameter("--retrain and --train belong together.", param_hint="--retrain")
    if retrain:
        refuse_idle(context, "with --retrain, which prunes by magnitude while it trains", "method", "calibration")
        refuse_idle(context, "with --retrain, which takes all processors by itself", "jobs", "engine")
    else:
        refuse_idle(context, "without --retrain", "learning_rate", "seed")
    is_labelled = needs_labels(metric)
    if method == "magnitude":
        refuse_idle(context, "on --method magnitude, which looks at weights alone", "calibration")
    if report is not None and report.suffix not in _FORMS:
        raise typer.BadParameter(f"'{report}' names no form (allowed: {', '.join(_FORMS)}).", param_hint="--report")
    check_outputs(report, sources=[model])
    lowered = open_lowered(model, input_shape, data)
    graph = lowered.model
    tested = open_data(data, graph, preprocess=preprocess, labels=is_labelled)
    fed = None if calibration is None else open_data(calibration, graph, preprocess=preprocess).samples
    result = sparsity_curve(
        lowered if train is None else _live(model),
        tested,
        wanted,
        patterns=[part.strip() for part in patterns.split(",")],
        method=method,
        calibration=fed,
        train=None if train is None else _arrays(open_data(train, graph, preprocess=preprocess, labels=True)),
        epochs=max(retrain, 1),
        learning_rate=learning_rate,
        metric=metric,
        max_drop=max_drop,
        folder=resume,
        seed=seed,
        jobs=jobs,
        engine=engine.value,
    )
    if report is not None:
        result.save(report)
    if as_json:
        print_json(result.to_json())
    else:
        say(str(result))


def _live(path: Path) -> Any:
    """Returns a Keras model from its file."""
    from featherweight.training.keras_models.retraining import opened

    return opened(path)


def _arrays(dataset: Any) -> tuple[Any, np.ndarray]:
    """Returns a data set's samples as one array (or arrays by input name), and its labels."""
    samples = list(dataset.samples)
    if isinstance(samples[0], dict):
        return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}, dataset.labels
    return np.stack([np.asarray(sample) for sample in samples]), dataset.labels
