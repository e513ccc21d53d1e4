"""Sparsity against the task metric: where the cliff is, measured on the runtime that runs the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.analysis.evaluation import Evaluation, evaluate, paired_difference
from featherweight.arguments import (
    as_given,
    checked,
    choice,
    count,
    exactly,
    flag,
    number,
    path,
    several,
    shapes,
    stream,
    text,
)
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.lower.keras import is_keras_model
from featherweight.report.curve import Curve, CurvePoint
from featherweight.runtime.progress import track
from featherweight.runtime.sizes import sizes_bytes
from featherweight.runtime.workers import ENGINES, MOST_JOBS, mapped
from featherweight.sparsity.patterns import check_sparsity, parse
from featherweight.tasks.load import load
from featherweight.tasks.prune import prune
from featherweight.tflite import save, write_atomically

_SETTINGS = "curve.json"


@checked(
    sparsities=several(number(0, 1, open_at="high", way="Each is a sparsity, a fraction of zeros."), at_least=1),
    patterns=several(text, at_least=1),
    method=text,
    calibration=stream,
    train=exactly(as_given, as_given),
    epochs=count(),
    learning_rate=number(0, open_at="low"),
    max_drop=number(0),
    folder=path,
    seed=count(0),
    jobs=count(1, MOST_JOBS),
    engine=choice(*ENGINES),
    input_shapes=shapes,
    progress=flag,
)
def sparsity_curve(
    source: Any,
    data: Any,
    sparsities: Sequence[float] = (0.5, 0.75, 0.875, 0.95),
    *,
    patterns: str | Sequence[str] = "unstructured",
    method: str = "magnitude",
    calibration: Iterable[Any] | None = None,
    train: tuple[Any, Any] | None = None,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    metric: str = "accuracy",
    max_drop: float = 0.01,
    folder: str | Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    engine: str = "processes",
    input_shapes: Any = None,
    progress: bool = True,
) -> Curve:
    """Prunes a model to several sparsities, and evaluates every file on LiteRT beside the dense one.

    Args:
        source: what `load` takes; a live Keras model to retrain.
        data: what `evaluate` takes: (inputs, labels), or a data set.
        sparsities: fractions of zeros, in [0, 1).
        patterns: of zeros, one or several; each gives a curve.
        method: of pruning without training, as in `prune`.
        calibration: samples for methods that need them.
        train: (inputs, labels) to train each point on, from the dense weights; None prunes without training.
        epochs: of that training.
        learning_rate: of it, Adam's at its peak.
        metric: as in `evaluate`.
        max_drop: how far the metric may fall below the dense model's before the knee.
        folder: where finished points are kept; the same call goes on from there.
        seed: decides the training.
        jobs: processes that prune and evaluate side by side; the curve is the same on any number. Training, which
            takes all processors by itself, is not shared.
        engine: ``processes``, or ``ray`` for the workers of a Ray cluster.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an option that is not understood, a source that can't be retrained, jobs beside training, or a
            folder of other settings.
    """
    names = [patterns] if isinstance(patterns, str) else list(patterns)
    for name in names:
        parse(name)
    wanted = [(n, check_sparsity(s, "sparsity_curve")) for n in names for s in sparsities if s]
    if train is not None and not is_keras_model(source):
        raise RecipeError(
            "sparsity_curve: only a live Keras model can be retrained. Load it with Keras, or leave train out."
        )
    if train is not None and (jobs > 1 or engine != ENGINES[0]):
        raise RecipeError("sparsity_curve: training takes all processors by itself. Leave jobs and engine out.")
    graph = load(source, input_shapes=input_shapes)
    samples = None if calibration is None else list(calibration)
    dense = evaluate(graph, data, metric, progress=False)
    how = method if train is None else f"retrained for {epochs} epochs"
    kept = _Kept.of(folder, {"metric": metric, "method": how, "seed": seed, "learning_rate": learning_rate})
    raw, compressed = sizes_bytes(graph)
    missing = [each for each in wanted if kept.find(*each) is None]
    if train is None:
        prune_to = partial(_pruned, graph, method=method, calibration=samples)
    else:
        prune_to = partial(
            _retrained, source, train, input_shapes, epochs=epochs, learning_rate=learning_rate, seed=seed
        )
    made = mapped(partial(_point, prune_to, data, metric, dense), missing, jobs=jobs, engine=engine)
    for point, pruned in track(made, "Pruning", total=len(missing), enabled=progress):
        kept.add(point, pruned)
    points = [CurvePoint("", 0.0, 0.0, dense.value, 0.0, 0.0, raw, compressed or 0)]
    points += [point for each in wanted if (point := kept.find(*each)) is not None]
    return Curve(metric, how, max_drop, tuple(points))


def _pruned(graph: Model, pattern: str, sparsity: float, *, method: str, calibration: list[Any] | None) -> Model:
    return prune(graph, sparsity, pattern=pattern, method=method, calibration=calibration, progress=False).model


def _retrained(
    source: Any, train: tuple[Any, Any], input_shapes: Any, pattern: str, sparsity: float, **options: Any
) -> Model:
    from featherweight.training.keras_models.retraining import retrained

    return load(retrained(source, sparsity, pattern, train, **options), input_shapes=input_shapes)


def _point(
    prune_to: Callable[[str, float], Model], data: Any, metric: str, dense: Evaluation, wanted: tuple[str, float]
) -> tuple[CurvePoint, Model]:
    pruned = prune_to(*wanted)
    return _measured(pruned, *wanted, data, metric, dense), pruned


def _measured(pruned: Model, pattern: str, sparsity: float, data: Any, metric: str, dense: Evaluation) -> CurvePoint:
    found = evaluate(pruned, data, metric, progress=False)
    difference = paired_difference(found, dense)
    raw, compressed = sizes_bytes(pruned)
    kernels = [t.array for t in pruned.tensors.values() if t.is_constant and len(t.shape) > 1]
    arrays = [array for array in kernels if array is not None and array.dtype == np.float32]
    zeros, size = sum(int((a == 0).sum()) for a in arrays), sum(a.size for a in arrays)
    values = (found.value, difference.value, difference.standard_error)
    return CurvePoint(pattern, sparsity, zeros / max(size, 1), *values, raw, compressed or 0)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A folder of finished points; without one nothing is kept."""

    folder: Path | None
    points: dict[str, Any]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, folder: str | Path | None, settings: Mapping[str, Any]) -> _Kept:
        if folder is None:
            return cls(None, {}, settings)
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = path / _SETTINGS
            if not file.is_file():
                return cls(path, {}, settings)
            content = json.loads(file.read_text("utf-8"))
            for row in content["points"].values():
                CurvePoint(**row)
            dict(content["settings"])
        except OSError as error:
            raise RecipeError(
                f"'{path}' is no folder to keep a curve in: {error.strerror}. Name another one."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(
                f"'{path / _SETTINGS}' is no curve ({error}). Name another folder, or delete it."
            ) from error
        if content["settings"] != settings:
            changed = [f"{k}: {content['settings'].get(k)!r}, now {v!r}" for k, v in settings.items()
                       if content["settings"].get(k) != v]  # fmt: skip
            raise RecipeError(
                f"'{path}' holds a curve of other settings ({listed(changed)}). Name another folder, or delete it."
            )
        return cls(path, content["points"], settings)

    def find(self, pattern: str, sparsity: float) -> CurvePoint | None:
        found = self.points.get(f"{pattern} {sparsity:g}")
        return None if found is None else CurvePoint(**found)

    def add(self, point: CurvePoint, model: Model) -> None:
        self.points[f"{point.pattern} {point.sparsity:g}"] = asdict(point)
        if self.folder is None:
            return
        name = f"{point.pattern} {point.sparsity:g}"
        save(model, self.folder / f"{name.replace(' ', '_').replace(':', 'of')}.tflite")
        content = {"settings": dict(self.settings), "points": self.points}
        write_atomically(self.folder / _SETTINGS, [json.dumps(content, indent=1).encode()])
