from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.models import import_keras

import featherweight as fw
from featherweight import demo
from featherweight.demo import dataset, story, training
from featherweight.errors import FeatherweightError
from featherweight.runtime.litert import Session

STEPS = 100
NAMES = story.ORDER
PLAIN = ("float32", "pruned")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.DemoResult, Path]:
    """A demo trained for a moment only: what it measures is true of any weights."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return demo.run(out, seed=3, full=False, steps=STEPS, progress=False), out


def test_every_recipe_has_a_row_and_its_files(result: tuple[demo.DemoResult, Path]) -> None:
    made, out = result
    assert tuple(row.name for row in made.rows) == NAMES
    expected = {f"{name}.tflite" for name in NAMES}
    expected |= {f"{name}.{kind}" for name in NAMES if name not in PLAIN for kind in ("plan.json", "report.html")}
    assert {path.name for path in out.iterdir()} == expected | {
        "model.keras",
        "report.txt",
        "report.html",
        "report.json",
    }


def test_the_rows_are_those_of_the_files_on_the_disk(result: tuple[demo.DemoResult, Path]) -> None:
    made, out = result
    data = dataset.load(full=False)
    for row in made.rows:
        content = (out / row.file).read_bytes()
        assert row.file_bytes == len(content)
        assert row.compressed_bytes == pytest.approx(len(zlib.compress(content, 6)), rel=0.001)
        assert outputs_one_by_one(out / row.file, data.x_test[:50]).shape == (50, 10)
    float32 = outputs_one_by_one(out / "float32.tflite", data.x_test)
    assert made.rows[0].accuracy == pytest.approx(np.mean(float32.argmax(axis=1) == data.y_test))


def outputs_one_by_one(file: Path, images: np.ndarray) -> np.ndarray:
    with Session(file) as session:
        return np.concatenate([next(iter(session.run((x[np.newaxis],)).values())) for x in images])


def test_small_files_work_as_well_as_the_float_model(result: tuple[demo.DemoResult, Path]) -> None:
    made, _ = result
    sizes = {row.name: row.file_bytes for row in made.rows}
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < 0.45 * sizes["float32"]
    assert sizes["dynamic"] < 0.45 * sizes["float32"]
    for row in made.rows:
        # Training on, and pruning, change what the model has learnt in these few steps: only the others stay near it.
        is_near = row.name in ("float32", "float16", "dynamic", "int8", "int16x8")
        assert not is_near or abs(row.accuracy_delta) <= max(4 * row.accuracy_delta_error, 0.005), row.name
        assert row.accuracy_delta == pytest.approx(row.accuracy - made.rows[0].accuracy)


def test_pruned_weights_are_zero_and_stay_so(result: tuple[demo.DemoResult, Path]) -> None:
    made, out = result
    for name in ("pruned", "pruned-int8"):
        graph = fw.load(out / f"{name}.tflite").main
        kernels = [graph.tensors[node.inputs[1]].array for node in graph.nodes if node.op == "CONV_2D"]
        assert len(kernels) == len(training.BLOCKS)
        for kernel in kernels:
            zeros = np.count_nonzero(kernel == 0)
            fewest = round(training.SPARSITY * kernel.size)
            assert zeros == fewest or (zeros > fewest and name == "pruned-int8")
    sizes = {row.name: row.compressed_bytes for row in made.rows}
    assert sizes["pruned"] < 0.6 * sizes["float32"]
    assert sizes["pruned-int8"] < 0.7 * sizes["int8"]


@pytest.mark.parametrize("name", ["int8", "int8-trained", "w4a8-trained", "pruned-int8"])
def test_int8_computes_in_integers_only(result: tuple[demo.DemoResult, Path], name: str) -> None:
    _, out = result
    graph = fw.load(out / f"{name}.tflite").main
    floats = {node.op for node in graph.nodes if any(graph.tensors[name].dtype == "float32" for name in node.outputs)}
    assert floats == {"DEQUANTIZE"}


def test_the_reports_say_the_same(result: tuple[demo.DemoResult, Path]) -> None:
    made, out = result
    stored = json.loads((out / "report.json").read_text())
    assert stored == json.loads(json.dumps(made.to_json()))
    assert stored["seed"] == 3
    text = (out / "report.txt").read_text()
    assert text == f"{made}\n"
    assert text.startswith("Fashion-MNIST, 6000 training and 2000 test images (bundled subset)")
    for row in made.rows:
        assert f"{row.accuracy:.4f}" in text
    assert max(map(len, text.splitlines())) <= 110


def test_notes_of_a_plan_are_printed(result: tuple[demo.DemoResult, Path]) -> None:
    made, _ = result
    rows = [dataclasses.replace(row, notes=("one [scale] was widened",)) for row in made.rows[:2]]
    assert "float16: one [scale] was widened" in str(dataclasses.replace(made, rows=tuple(rows)))


def test_the_same_seed_trains_the_same_model(result: tuple[demo.DemoResult, Path]) -> None:
    _, out = result
    again = training.train(dataset.load(full=False), 3, steps=STEPS, progress=False)
    saved = import_keras().models.load_model(out / "model.keras")
    for one, other in zip(again.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("strides", [1, 2])
def test_thequick_depthwise_layer_is_the_stock_one(size: int, strides: int, rng: np.random.Generator) -> None:
    keras = import_keras()
    layer = training.quick_depthwise(keras)(3, strides, padding="same", use_bias=False)
    x = rng.normal(size=(2, size, size, 5)).astype(np.float32)
    expected = np.array(layer(x))
    np.testing.assert_allclose(np.array(layer(x, training=True)), expected, atol=1e-5)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        FeatherweightError, match=r"The demo can't write into '.*file/out': .* another folder with --out"
    ):
        demo.run(tmp_path / "file" / "out")
