"""What is given for each output goes where it goes in the Keras model that a graph was lowered from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import featherweight as fw

CLASSES = "sparse_categorical_crossentropy"
NAMES = "zz", "mm", "aa"


def source() -> Any:
    keras.utils.set_random_seed(0)
    x, layers = keras.Input((6,)), keras.layers
    sizes = {"zz": 3, "mm": 2, "aa": 1}
    return keras.Model(x, [layers.Dense(n, "softmax" if n == 2 else None, name=name)(x) for name, n in sizes.items()])


@pytest.fixture(scope="module")
def graph() -> fw.Model:
    return fw.load(source())


def data() -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x, first, last = (rng.normal(size=(16, size)).astype(np.float32) for size in (6, 3, 1))
    return x, [first, rng.integers(0, 2, 16), last], [rng.uniform(size=16).astype(np.float32) for _ in range(3)]


X, LABELS, WEIGHTS = data()
CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "all": (
        {
            "loss": ["mse", CLASSES, "mae"],
            "loss_weights": [1, 2, 0.5],
            "metrics": [["mae", "mse"], ["accuracy"], None],
            "weighted_metrics": [["mse"], None, ["mae"]],
        },
        LABELS,
        WEIGHTS,
    ),
    "one loss without": ({"loss": ["mse", None, "mae"]}, [LABELS[0], LABELS[2]], None),
    "one array for one loss": ({"loss": (None, CLASSES, None)}, LABELS[1], WEIGHTS[0]),
}


@pytest.mark.parametrize("case", CASES)
def test_lists_go_to_outputs_as_in_the_source(case: str, graph: fw.Model) -> None:
    settings, labels, weights = CASES[case]
    found: list[Any] = []
    for model in (source(), fw.graph_model(graph)):
        model.compile(keras.optimizers.SGD(0.05), **settings)
        history = model.fit(X, labels, sample_weight=weights, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        measured = model.evaluate(X, labels, sample_weight=weights, verbose=0)
        found.append((history, np.ravel(measured)))
    (expected, values), (history, others) = found
    assert list(history) == list(expected)
    for name, numbers in expected.items():
        np.testing.assert_allclose(history[name], numbers, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(others, values, rtol=1e-4)


def test_dicts_say_the_same_in_integers(graph: fw.Model) -> None:
    model = fw.quantize_aware(graph, calibration=[X], progress=False)
    settings, found = CASES["all"][0], list[Any]()
    given = {key: dict(zip(NAMES, parts, strict=True)) for key, parts in settings.items()}
    for options, labels in ((settings, LABELS), (given, dict(zip(NAMES[::-1], LABELS[::-1], strict=True)))):
        model.compile(keras.optimizers.SGD(0.05), **options)
        found.append(model.evaluate(X, labels, verbose=0, return_dict=True))
    assert found[0] == found[1]
    assert list(model.predict(X, verbose=0)) == list(NAMES) == model.output_names


def test_labels_have_the_structure_of_the_source() -> None:
    keras.utils.set_random_seed(0)
    x, dense = keras.Input((6,)), keras.layers.Dense
    nested = keras.Model(x, {"b": dense(3)(x), "a": [dense(3)(x), dense(2)(x)]})
    labels = {"b": LABELS[0], "a": [2 * LABELS[0], LABELS[0][:, :2]]}
    settings: Any = {"loss": {"b": "mse", "a": ["mae", "mse"]}, "metrics": {"b": ["mae"], "a": [["mse"], ["mae"]]}}
    found: list[np.ndarray] = []
    for model in (nested, fw.graph_model(fw.load(nested))):
        model.compile("sgd", **settings)
        found.append(np.sort(model.evaluate(X, labels, verbose=0)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize("labels", [LABELS[:1], {"zz": LABELS[0]}])
@pytest.mark.parametrize("loss", [["mse"], {"zz": "mse", "other": "mse"}, "mse"])
def test_what_fits_no_output_is_named(loss: Any, labels: Any, graph: fw.Model) -> None:
    model = fw.graph_model(graph)
    if loss != "mse":
        with pytest.raises(fw.DataError, match=r"3 outputs \('zz', 'mm', 'aa'\), but loss is a (list of 1|dict with)"):
            model.compile("sgd", loss)
        return
    model.compile("sgd", loss)
    said = "no labels for the output 'mm'" if isinstance(labels, dict) else "but y is a list of 1"
    with pytest.raises(fw.DataError, match=said):
        model.fit(X, labels, verbose=0)


def test_losses_and_metrics_are_saved(graph: fw.Model, tmp_path: Path) -> None:
    model, (settings, labels, weights) = fw.graph_model(graph), CASES["all"]
    model.compile("adam", **settings)
    model.fit(X, labels, sample_weight=weights, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.iterations == 1
    expected = model.evaluate(X, labels, sample_weight=weights, verbose=0)
    np.testing.assert_allclose(loaded.evaluate(X, labels, sample_weight=weights, verbose=0), expected, rtol=1e-6)
