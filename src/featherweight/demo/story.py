"""The demo's one job: train, quantize by every recipe, train on, prune, and measure each file on the real runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.analysis.evaluation import Evaluation, evaluate, paired_difference
from featherweight.demo import dataset as datasets
from featherweight.demo import training
from featherweight.demo.page import page
from featherweight.demo.table import render
from featherweight.errors import DataError, FeatherweightError
from featherweight.graph import Model
from featherweight.report import environment
from featherweight.runtime import benchmark
from featherweight.runtime.sizes import sizes_bytes
from featherweight.tasks import load as loading
from featherweight.tasks import quantize as pipeline
from featherweight.tasks.finalize import finalize
from featherweight.tasks.quantize_aware import quantize_aware

BASELINE = "float32"
RECIPES = ("float16", "dynamic", "int8", "int16x8", "w4a8")
TRAINED = ("int8", "w4a8")
ORDER = (
    *(BASELINE, "float16", "dynamic", "int8", "int8-trained", "int16x8", "w4a8", "w4a8-trained"),
    *("pruned", "pruned-int8"),
)
CALIBRATION_SAMPLES = 500


@dataclass(frozen=True)
class Row:
    """One model file: what it is, what it weighs, how well and how fast it works.

    `accuracy_delta` is accuracy minus the float model's over the same test images, with the standard error of
    the paired difference; `changed` the fraction (0..1) of images that only one of the two gets right.
    """

    name: str
    file: str
    accuracy: float
    accuracy_delta: float
    accuracy_delta_error: float
    changed: float
    file_bytes: int
    compressed_bytes: int
    latency_ms: float
    latency_ratio: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DemoResult:
    """The rows of the table, the float model's first, with the data's source and what measured them."""

    data: str
    seed: int
    test_images: int
    rows: tuple[Row, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        return render(self)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain dicts, lists, strings and numbers."""
        return asdict(self)


def run(
    out: str | Path = "demo-output",
    seed: int = 0,
    *,
    full: bool | None = None,
    steps: int = training.STEPS,
    progress: bool = True,
) -> DemoResult:
    """Runs the main job on Fashion-MNIST and write every file of it into `out`, which is made if need be.

    Written are `model.keras`, one `.tflite` for each row of the table, a plan and a report beside each quantized one,
    and the table as `report.txt`, `report.html` and `report.json`.

    Args:
        out: the folder to write into.
        seed: decides the training; the calibration samples are every n-th training image.
        full: see `dataset.load`.
        steps: batches to train for; less is quicker and less accurate.
        progress: show progress bars on a terminal.

    Raises:
        DataError: the data set can't be read.
        FeatherweightError: `out` can't be written, or Keras is not installed.
    """
    folder = _writable_folder(out)
    data = datasets.load(full)
    network = training.train(data, seed, steps=steps, progress=progress)
    network.save(folder / "model.keras")
    baseline = loading.load(network)
    samples = data.x_train[:: max(len(data.x_train) // CALIBRATION_SAMPLES, 1)][:CALIBRATION_SAMPLES, np.newaxis]

    quantized = {
        recipe: pipeline.quantize(baseline, recipe, calibration=samples, progress=progress) for recipe in RECIPES
    }
    pruned = training.prune(network, data, seed, steps=steps, progress=progress)
    for name, source, recipe in (
        *((f"{recipe}-trained", network, recipe) for recipe in TRAINED),
        ("pruned-int8", pruned, "int8"),
    ):
        learner = quantize_aware(source, recipe, calibration=samples, teacher=network, dropout=False, progress=progress)
        training.train_on(learner, data, seed, steps=max(steps // 5, 1), progress=progress)
        quantized[name] = finalize(learner)
    models = {BASELINE: baseline, "pruned": loading.load(pruned)}
    models |= {name: made.model for name, made in quantized.items()}
    for name, made in quantized.items():
        made.plan.save(folder / f"{name}.plan.json")
        made.report.html(folder / f"{name}.report.html")
    models = {name: models[name] for name in ORDER}
    notes = {name: made.plan.notes for name, made in quantized.items()}
    for name, model in models.items():
        tflite.save(model, folder / f"{name}.tflite")

    result = DemoResult(
        data=data.source,
        seed=seed,
        test_images=len(data.x_test),
        rows=_measure(models, folder, (data.x_test, data.y_test), notes, progress),
        environment=environment(),
    )
    tflite.write_atomically(folder / "report.txt", [f"{result}\n".encode()])
    tflite.write_atomically(folder / "report.html", [page(result).html().encode()])
    content = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
    tflite.write_atomically(folder / "report.json", [f"{content}\n".encode()])
    return result


def _measure(
    models: Mapping[str, Model],
    folder: Path,
    test: tuple[np.ndarray, np.ndarray],
    notes: Mapping[str, Sequence[str]],
    progress: bool,
) -> tuple[Row, ...]:
    """Measures the written files: what is reported is what is on the disk."""
    paths = {name: folder / f"{name}.tflite" for name in models}
    evaluations: dict[str, Evaluation] = {
        name: evaluate(path, test, "accuracy", progress=progress) for name, path in paths.items()
    }
    latencies = benchmark(paths, threads=1, progress=progress)
    rows: list[Row] = []
    for (name, path), latency in zip(paths.items(), latencies, strict=True):
        difference = paired_difference(evaluations[name], evaluations[BASELINE])
        file_bytes, compressed_bytes = sizes_bytes(path)
        if compressed_bytes is None:
            raise DataError(f"The compressed size of {path} was not measured.")
        rows.append(
            Row(
                name=name,
                file=path.name,
                accuracy=evaluations[name].value,
                accuracy_delta=difference.value,
                accuracy_delta_error=difference.standard_error,
                changed=difference.changed,
                file_bytes=file_bytes,
                compressed_bytes=compressed_bytes,
                latency_ms=latency.median_ms,
                latency_ratio=latency.ratio,
                notes=tuple(notes.get(name, ())),
            )
        )
    return tuple(rows)


def _writable_folder(out: str | Path) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatherweightError(
            f"The demo can't write into '{folder}': {error.strerror or error}. Choose another folder with --out."
        ) from error
    return folder
