"""The sparsity curve: points, knee, resuming, pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import import_keras

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.report.curve import Curve, CurvePoint, from_json


def task(seed: int = 0) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """A net that has learnt which of four clusters a point is of."""
    keras = import_keras()
    random = np.random.default_rng(seed)
    centres = random.normal(size=(4, 16))
    y = random.integers(0, 4, 400)
    x = (centres[y] + 0.7 * random.normal(size=(400, 16))).astype(np.float32)
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(32, activation="relu", name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.Input((16,), name="x"), *layers, keras.layers.Dense(4, name="last")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss=loss)
    model.fit(x, y, epochs=8, verbose=0)
    return model, (x, y)


@pytest.fixture(scope="module")
def made() -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    return task()


def test_points_are_what_evaluate_says(made: Any) -> None:
    model, data = made
    curve = fw.sparsity_curve(model, data, (0.5, 0.95), patterns=("unstructured", "1x4"), progress=False)
    assert [(p.pattern, p.sparsity) for p in curve.points] == [
        ("", 0.0), ("unstructured", 0.5), ("unstructured", 0.95), ("1x4", 0.5), ("1x4", 0.95),
    ]  # fmt: skip
    graph = fw.load(model)
    pruned = fw.prune(graph, 0.95, progress=False).model
    before, after = fw.evaluate(graph, data), fw.evaluate(pruned, data)
    point = curve.of("unstructured")[-1]
    difference = fw.paired_difference(after, before)
    assert (point.value, point.delta, point.delta_error) == (after.value, difference.value, difference.standard_error)
    assert point.file_bytes == len(fw.write(pruned))
    assert point.compressed_bytes < curve.points[0].compressed_bytes
    assert from_json(json.loads(json.dumps(curve.to_json())) | {}) == curve


def test_retraining_brings_accuracy_back_and_leaves_the_model_alone(made: Any) -> None:
    model, data = made
    before = [np.array(weight) for weight in model.get_weights()]
    once = fw.sparsity_curve(model, data, (0.97,), progress=False).points[1]
    options = {"train": data, "epochs": 6, "learning_rate": 1e-2, "progress": False}
    trained = fw.sparsity_curve(model, data, (0.97,), **options).points[1]
    assert trained.value > once.value + 0.05
    assert trained.reached == pytest.approx(once.reached, abs=0.02)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def points(*deltas: float) -> tuple[CurvePoint, ...]:
    dense = CurvePoint("", 0.0, 0.0, 0.9, 0.0, 0.0, 100, 90)
    return dense, *(CurvePoint("2:4", 0.1 * (i + 1), 0.1, 0.9 + d, d, 0.001, 100, 80) for i, d in enumerate(deltas))


@pytest.mark.parametrize(("deltas", "knee"), [((-0.02,), 0.0), ((0.01, -0.005, -0.3), 0.2), ((-0.005, -0.3, 0.0), 0.1)])
def test_the_knee_is_the_last_point_before_the_fall(deltas: tuple[float, ...], knee: float) -> None:
    curve = Curve("accuracy", "magnitude", 0.01, points(*deltas))
    assert curve.knee("2:4").sparsity == pytest.approx(knee)
    assert curve.to_json()["knees"] == {"2:4": curve.knee("2:4").sparsity}


def test_finished_points_are_kept(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = made
    first = fw.sparsity_curve(model, data, (0.5,), folder=tmp_path, progress=False)
    assert (tmp_path / "unstructured_0.5.tflite").stat().st_size == first.points[1].file_bytes
    content = json.loads((tmp_path / "curve.json").read_text())
    content["points"]["unstructured 0.5"]["value"] = 0.123  # to be told from one that is computed anew
    (tmp_path / "curve.json").write_text(json.dumps(content))
    again = fw.sparsity_curve(model, data, (0.5, 0.75), folder=tmp_path, progress=False)
    assert again.points[1] == replace(first.points[1], value=0.123)
    assert len(again.points) == 3
    with pytest.raises(RecipeError, match=r"holds a curve of other settings \(seed: 0, now 1\)"):
        fw.sparsity_curve(model, data, (0.5,), folder=tmp_path, seed=1, progress=False)


def test_it_is_written_in_every_form(tmp_path: Path) -> None:
    curve = Curve("accuracy", "magnitude", 0.01, points(0.0, -0.1))
    starts = {".txt": b"Sparsity", ".json": b"{", ".html": b"<!doctype", ".svg": b"<?xml", ".png": b"\x89PNG"}
    for suffix, start in starts.items():
        curve.save(tmp_path / f"curve{suffix}")
        assert (tmp_path / f"curve{suffix}").read_bytes().strip().startswith(start)
    page = (tmp_path / "curve.html").read_text()
    assert "<svg" in page
    assert "knee" in page
    with pytest.raises(RecipeError, match=r"can't be written as '.doc' \(allowed: .txt, .json"):
        curve.save(tmp_path / "curve.doc")


def test_bad_input(made: Any) -> None:
    model, data = made
    with pytest.raises(RecipeError, match="Sparsity pattern 'stripes' is unknown"):
        fw.sparsity_curve(model, data, patterns="stripes")
    with pytest.raises(RecipeError, match="Each is a sparsity, a fraction of zeros"):
        fw.sparsity_curve(model, data, (1.0,))
    with pytest.raises(RecipeError, match="only a live Keras model can be retrained"):
        fw.sparsity_curve(fw.load(model), data, (0.5,), train=data)


def test_two_workers_give_the_same_curve(made: Any, tmp_path: Path) -> None:
    model, data = made
    asked: dict[str, Any] = {"sparsities": (0.5, 0.9), "patterns": ("unstructured", "1x4"), "progress": False}
    one = fw.sparsity_curve(model, data, **asked, folder=tmp_path / "one")
    two = fw.sparsity_curve(model, data, **asked, folder=tmp_path / "two", jobs=2)
    assert one == two
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 5
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    with pytest.raises(RecipeError, match="training takes all processors by itself"):
        fw.sparsity_curve(model, data, (0.5,), train=data, jobs=2, progress=False)
