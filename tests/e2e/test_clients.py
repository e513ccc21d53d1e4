"""Files that other tools must accept: Vela, TFLM and OpenVINO read what LiteRT reads, and compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests import clients, models

import featherweight as fw

NETS = ("convnet", "depthwise", "dense")


def quantized_file(name: str, folder: Path, **options) -> Path:
    path = folder / f"{name}.tflite"
    source = models.lowered(name, unroll=name in models.RECURRENT)
    options = {"recipe": "int8", "calibration": models.samples(name, 32, seed=1)} | options
    fw.quantize(source, progress=False, **options).save(path)
    return path


def integer_inputs(path: Path, name: str, count: int = 1) -> list[np.ndarray]:
    model = fw.read(path)
    feeds = []
    for sample in models.samples(name, count, seed=5):
        for key, tensor in zip(sample, model.main.inputs, strict=True):
            params = model.main.tensors[tensor].quant
            real = sample[key] / params.scale[0] + params.zero_point[0]
            feeds.append(np.clip(np.round(real), -128, 127).astype(np.int8))
    return feeds


@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
@pytest.mark.parametrize("name", ["depthwise", "upsampling"])
def test_vela_places_everything_on_the_npu(name: str, accelerator: str, tmp_path: Path) -> None:
    target = "-".join(accelerator.split("-")[:2])
    path = quantized_file(name, tmp_path, target=target, strict=True)
    assert fw.check(fw.read(path), target) == ()
    result = clients.vela(path, accelerator)
    assert (result.cpu_ops, result.npu_fraction) == (0, 1.0), result.text


@pytest.mark.parametrize("name", [*NETS, "upsampling"])
def test_tflm_computes_what_the_reference_kernels_compute(name: str, tmp_path: Path) -> None:
    path = quantized_file(name, tmp_path, target="tflm")
    inputs = integer_inputs(path, name)
    found = clients.tflm_run(path, inputs)
    expected = clients.litert_run(path, inputs, "ref")
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 2


def test_tflm_runs_a_thousand_classes_because_the_softmax_is_cut(tmp_path: Path) -> None:
    keras = models.import_keras()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1000, activation="softmax")])
    random = np.random.default_rng(0)
    samples = [random.normal(size=(1, 64)).astype(np.float32) for _ in range(16)]
    result = fw.quantize(model, "int8", calibration=samples, target="tflm", progress=False)
    (reason,) = result.plan.dropped.values()
    assert "512 classes" in reason
    path = tmp_path / "thousand.tflite"
    result.save(path)
    params = result.model.main.tensors[result.model.main.inputs[0]].quant
    x = np.clip(np.round(samples[0] / params.scale[0]) + params.zero_point[0], -128, 127).astype(np.int8)
    (logits,) = clients.tflm_run(path, x)
    probabilities = model.predict(samples[0], verbose=0)
    assert probabilities[0, logits.argmax()] >= np.sort(probabilities[0])[-5]


@pytest.mark.parametrize("io", ["float32", "int8"])
@pytest.mark.parametrize("name", [*NETS, "upsampling", "multi_input"])
def test_openvino_reads_and_runs_int8_files(name: str, io: str, tmp_path: Path) -> None:
    path = quantized_file(name, tmp_path, io=io)
    floats = list(models.samples(name, 1, seed=5)[0].values())
    inputs = integer_inputs(path, name) if io == "int8" else floats
    found = clients.openvino_run(path, inputs)
    expected = clients.litert_run(path, inputs)
    for a, b in zip(found, expected, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        step = np.ptp(b) / 255 if io == "float32" else 1.0
        assert np.abs(a - b).max() <= 6 * max(step, 1e-6)


@pytest.mark.parametrize("resolver", clients.RESOLVERS)
@pytest.mark.parametrize("recipe", ["int8", "int16x8", "dynamic", "float16"])
def test_every_litert_resolver_runs_the_files(recipe: str, resolver: str, tmp_path: Path) -> None:
    path = quantized_file("depthwise", tmp_path, recipe=recipe)
    sample = models.samples("depthwise", 1, seed=5)[0]
    (found,) = clients.litert_run(path, list(sample.values()), resolver)
    expected = fw.run(models.lowered("depthwise"), sample)
    error = np.square(found - expected).sum() / np.square(expected).sum()
    assert error < 10 ** -(15 / 10)
