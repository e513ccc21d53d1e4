"""Diagnoses of every kind of model: recipes, borders, several signatures, state, integers for outputs, odd samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.building import add, dense, layer, net, softmax, tensor, weights
from tests.diagnosis.planted import Parts, pictures

from featherweight import tflite
from featherweight.diagnosis.sequences import fed_back
from featherweight.errors import DataError
from featherweight.graph import Graph, Model, Signature
from featherweight.report.diagnosis import Diagnosis
from featherweight.tasks.diagnose import diagnose
from featherweight.tasks.load import load, load_with_notes
from featherweight.tasks.quantize import quantize

ROW = (1, 8)


def diagnosed(model: Any, quantized: Any = None, samples: Any = None, **more: Any) -> Diagnosis:
    return diagnose(model, quantized, pictures(8) if samples is None else samples, progress=False, **more)


def rows(count: int = 16, size: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, size, ROW).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("recipe", ["dynamic", "float16", "weights8", "int16x8"])
def test_recipes(recipe: str) -> None:
    found = diagnosed(Parts().model(), recipe=recipe)
    assert found.is_healthy, str(found)
    assert found.notes == ()
    assert found.simulated_db == pytest.approx(found.level_db, abs=0.5)
    assert {row.name for row in found.own_errors} >= {"stem", "pw", "deep", "y"}


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_integer_borders_in_a_file(io: str, tmp_path: Path) -> None:
    made = quantize(Parts().model(), calibration=pictures(), io=io, progress=False)
    tflite.save(made.model, tmp_path / "q.tflite")
    found = diagnosed(Parts().model(), tmp_path / "q.tflite")
    assert found.is_healthy, str(found)
    assert found.notes == ()
    assert {row.name for row in found.own_errors} == {"x", "stem", "dw", "pw", "deep", "pool", "y"}


def test_a_softmax_that_a_target_leaves_out_is_judged_by_what_it_reads() -> None:
    constants = {"w": weights(600, 8), "b": np.zeros(600, np.float32)}
    model = net({"x": ROW}, constants, [dense("x", "w", "b", "y", (1, 600)), softmax("y", "p", (1, 600))], ["p"])
    made = quantize(model, calibration=rows(), target="tflm", progress=False)
    assert made.plan.dropped
    found = diagnosed(model, made, rows())
    assert found.outputs[0].sqnr_db > 25
    assert "p" not in {row.name for row in found.own_errors}


def test_a_class_is_judged_by_its_scores() -> None:
    parts = Parts()
    parts.constants["axis"] = np.int32(1)
    parts.layers.append(
        layer("ARG_MAX", ("y", "axis"), {"class": replace(tensor("class", (1,)), dtype="int64")}, output_type=4)
    )
    parts.outputs = ["class"]
    (output,) = diagnosed(parts.model()).outputs
    assert output.name == "class"
    assert output.sqnr_db > 25


def test_one_sample_and_an_array_and_a_generator() -> None:
    model = Parts().model()
    assert diagnosed(model, samples=pictures(1)).examples == 1
    assert diagnosed(model, samples=np.concatenate(pictures(5))).examples == 5
    assert diagnosed(model, samples=iter(pictures(40))).examples == 16
    assert diagnosed(model, samples=pictures(6), limit=3).examples == 3


def two_signatures() -> tuple[Model, dict[str, list[np.ndarray]]]:
    graphs: list[Graph] = []
    for name in ("encode", "decode"):
        constants = {f"{name}/w": weights(8, 8, seed=len(graphs)), f"{name}/b": np.zeros(8, np.float32)}
        made = net({f"{name}/x": ROW}, constants, [dense(*(f"{name}/{i}" for i in "xwby"), ROW)], [f"{name}/y"])
        graphs.append(replace(made.main, name=name))
    signatures = tuple(
        Signature(graph.name, (("x", f"{graph.name}/x"),), (("y", f"{graph.name}/y"),), index)
        for index, graph in enumerate(graphs)
    )
    return Model(tuple(graphs), signatures), {"encode": rows(), "decode": rows(size=30)}


def test_several_signatures_are_told_together() -> None:
    model, samples = two_signatures()
    found = diagnosed(model, samples=samples)
    assert [output.name for output in found.outputs] == ["encode: y", "decode: y"]
    assert {row.name for row in found.own_errors} == {"encode/x", "encode/y", "decode/x", "decode/y"}
    small = {name: [row / 50 for row in part] for name, part in samples.items()} | {"encode": samples["encode"]}
    worse = diagnosed(model, quantize(model, calibration=small, progress=False), samples)
    assert worse.causes[0].output == "decode: y"
    with pytest.raises(DataError, match="no signature of the model"):
        diagnosed(model, samples={"decode": rows(), "translate": rows()})


def slow_state() -> tuple[Model, list[dict[str, np.ndarray]]]:
    """A state that moves by about a step of eight bits in each step; its way from where it began is the output."""
    constants = {"w": np.eye(8, dtype=np.float32), "b": np.zeros(8, np.float32)}
    constants |= {"take": np.float32(0.002), "half": np.float32(0.5)}
    layers = [
        dense("x", "w", "b", "h", ROW),
        layer("MUL", ("h", "take"), {"part": ROW}),
        add("state_in", "part", "state_out", ROW),
        layer("SUB", ("state_out", "half"), {"y": ROW}),
    ]
    model = net({"x": ROW, "state_in": ROW}, constants, layers, ["y", "state_out"])
    state, samples = np.full(ROW, 0.5, np.float32), list[dict[str, np.ndarray]]()
    for row in rows(16):
        samples.append({"x": row, "state_in": state})
        state = state + np.float32(0.002) * row
    return model, samples


def test_state_that_comes_back_rounded() -> None:
    model, samples = slow_state()
    assert fed_back(model) == {"state_out": "state_in"}
    found = diagnosed(model, samples=samples, io="int8")
    (cause,) = (cause for cause in found.causes if cause.name == "state-feedback")
    assert cause.without_db is not None
    assert cause.without_db > cause.alone_db + 3
    assert "from output 'state_out' into 'state_in'" in cause.statement


def test_models_without_state_have_none() -> None:
    shape = {"x": ROW, "z": ROW}
    both = net(shape, {}, [add("x", "z", "y", ROW)], ["y"])
    assert fed_back(both) == {}
    autoencoder = net({"x": ROW}, {"w": weights(8, 8)}, [dense("x", "w", "", "y", ROW)], ["y"])
    assert fed_back(autoencoder) == {}


def test_state_in_variables_is_not_simulated() -> None:
    given = keras.Input(batch_shape=(1, 1, 8))
    model = keras.Model(given, keras.layers.Dense(4)(keras.layers.GRU(6, stateful=True)(given)))
    samples = [np.random.default_rng(i % 8).normal(size=(1, 1, 8)).astype(np.float32) for i in range(16)]
    model = load(model)
    found = diagnosed(model, samples=samples)
    integers = quantize(model, calibration=samples, progress=False)
    (error,) = integers.report.outputs
    again = diagnosed(model, integers.model, samples=samples)
    assert again.sqnr_db == pytest.approx(found.sqnr_db) == pytest.approx(error.sqnr_db)
    assert [row.name for row in again.own_errors] == [row.name for row in found.own_errors]
    assert found.simulated_db is None
    assert len(found.notes) == 1  # steps may repeat each other
    assert "a model that keeps variables is not simulated" in found.notes[0]
    assert found.own_errors


def test_recurrent_layers_of_keras() -> None:
    given = keras.Input((6, 8))
    model = keras.Model(given, keras.layers.Dense(4)(keras.layers.LSTM(8)(given)))
    samples = [np.random.default_rng(i).normal(size=(1, 6, 8)).astype(np.float32) for i in range(8)]
    for recipe in ("int8", "dynamic"):
        found = diagnosed(model, samples=samples, recipe=recipe)
        assert found.level_db > 15
        assert found.own_errors
    made = quantize(model, calibration=samples, progress=False, verify=False)
    assert diagnosed(model, made, samples).own_db < 60


def test_batches_and_dictionaries_of_batches_are_examples_each(caplog: pytest.LogCaptureFixture) -> None:
    keras.utils.set_random_seed(0)
    given = {"small": keras.Input((8,), name="small"), "large": keras.Input((8,), name="large")}
    model = keras.Model(given, keras.layers.Dense(3, name="y")(keras.layers.Concatenate()(list(given.values()))))
    kernel, bias = model.layers[-1].get_weights()
    kernel[8:] /= 1e5
    model.layers[-1].set_weights([kernel, bias])
    whole = np.concatenate(rows(80))
    fed = {"small": whole[:40], "large": whole[40:] * np.float32(1e5)}
    made = quantize(model, calibration=fed, progress=False)
    assert made.report.outputs[0].examples == 16
    assert "output 'y' is only" in caplog.text
    assert any("First cause, " in note for note in made.plan.notes)
    batches = [{name: array[i : i + 10] for name, array in fed.items()} for i in range(0, 40, 10)]
    for samples in (fed, batches):
        found = diagnosed(model, samples=samples)
        assert found.examples == 16
        assert {cause.repairs for cause in found.causes if cause.name == "unlike-ranges"} == {("wide-places",)}
        assert not found.notes


def trained_norm() -> keras.Model:
    """A convolution with a batch norm that was trained on pictures from −1 to 1."""
    keras.utils.set_random_seed(0)
    given = keras.Input((16, 16, 3))
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Model(given, keras.layers.GlobalAveragePooling2D()(norm(keras.layers.Conv2D(8, 3)(given))))
    first = keras.Model(given, model.layers[1].output)(np.concatenate(pictures(16, seed=5)))
    norm.moving_mean.assign(np.asarray(first).mean(axis=(0, 1, 2)))
    norm.moving_variance.assign(np.asarray(first).var(axis=(0, 1, 2)))
    return model


def test_a_batch_norm_tells_data_that_are_normalized_otherwise(tmp_path: Path) -> None:
    model = trained_norm()
    assert [cause for cause in diagnosed(model).causes if cause.name == "unlike-data"] == []
    kept = [np.asarray(weight) for weight in model.get_weights()]
    bytes_of = [(picture + 1) * 127.5 for picture in pictures(8)]
    first = diagnosed(model, samples=bytes_of).causes[0]
    assert (first.name, first.layers) == ("unlike-data", ("norm",))
    assert "deviations off the mean that it was trained on" in first.statement
    assert first.alone_db < 10
    for before, after in zip(kept, model.get_weights(), strict=True):
        assert np.array_equal(before, after)
    model.save(tmp_path / "net.keras")
    assert diagnosed(tmp_path / "net.keras", samples=bytes_of).causes[0].name == "unlike-data"


def test_quantize_warns_of_calibration_data_that_are_normalized_otherwise(tmp_path: Path) -> None:
    model = trained_norm()
    bytes_of = [(picture + 1) * 127.5 for picture in pictures(8)]
    model.save(tmp_path / "net.keras")
    for source in (model, tmp_path / "net.keras", load_with_notes(tmp_path / "net.keras")):
        (note,) = quantize(source, calibration=bytes_of, progress=False).plan.notes
        assert note.startswith("calibration data: What batch norm 'norm' reads of these samples is ")
        assert note.endswith("Normalize them as in training")
        assert not quantize(source, calibration=pictures(8), progress=False).plan.notes


def test_a_few_hot_pixels_are_no_matter_of_normalization() -> None:
    hot, random = np.concatenate(pictures(16)), np.random.default_rng(4)
    hot[random.random(hot.shape) < 5e-4] = 90
    assert not [cause for cause in diagnosed(trained_norm(), samples=list(hot[:, None])).causes if "data" in cause.name]


def test_a_batch_norm_inside_of_a_layer_tells_diagnosis_too() -> None:
    given = keras.Input((16, 16, 3))
    model = keras.Model(given, trained_norm()(given))
    bytes_of = [(picture + 1) * 127.5 for picture in pictures(8)]
    assert diagnosed(model, samples=bytes_of).causes[0].name == "unlike-data"
    assert not quantize(model, calibration=bytes_of, progress=False).plan.notes


def test_a_batch_norm_that_was_not_trained_tells_nothing() -> None:
    given = keras.Input((8,))
    model = keras.Model(given, keras.layers.Dense(3)(keras.layers.BatchNormalization()(given)))
    causes = diagnosed(model, samples=rows(8, size=200)).causes
    assert [cause for cause in causes if cause.name == "unlike-data"] == []
