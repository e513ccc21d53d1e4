"""Every recipe on every family of network, run on LiteRT and held against float."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.targets.target import form_of

pytestmark = pytest.mark.beside

RECIPES = ("float16", "dynamic", "weights8", "weights4", "int8", "int16x8", "w4a8")
# Least SQNR in dB at the outputs of small random networks, most of which amplify errors more than trained ones.
LEAST_DB = {
    "float16": 50.0,
    "dynamic": 22.0,
    "weights8": 25.0,
    "weights4": 7.0,
    "int8": 18.0,
    "int16x8": 24.0,
    "w4a8": 6.0,
}


@functools.cache
def quantized(name: str, recipe: str, **options: str) -> fw.Quantized:
    integer = recipe in {"int8", "int16x8", "w4a8"}
    source = models.lowered(name, unroll=integer and name in models.RECURRENT)
    calibration = models.samples(name, 64, seed=1) if integer else None
    return fw.quantize(source, recipe, calibration=calibration, progress=False, **options)


def outputs(model: fw.Model, name: str) -> dict[str, np.ndarray]:
    runs = [fw.run(model, sample) for sample in models.samples(name, 16, seed=2)]
    named = [run if isinstance(run, dict) else {"output": run} for run in runs]
    return {key: np.concatenate([run[key] for run in named]) for key in named[0]}


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    error = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(error, 1e-30)))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", models.BUILDERS)
def test_outputs_stay_close_to_float(name: str, recipe: str) -> None:
    result = quantized(name, recipe)
    float_outputs = outputs(models.lowered(name), name)
    integer_outputs = outputs(result.model, name)
    assert list(float_outputs) == list(integer_outputs)
    found = {key: sqnr_db(value, integer_outputs[key]) for key, value in float_outputs.items()}
    assert min(found.values()) >= LEAST_DB[recipe], found


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", models.BUILDERS)
def test_every_operator_is_accounted_for(name: str, recipe: str) -> None:
    result = quantized(name, recipe)
    source = models.lowered(name, unroll=result.plan.recipe in {"int8", "int16x8", "w4a8"} and name in models.RECURRENT)
    for graph in source.graphs:
        for node in graph.nodes:
            places = [node.name in part for part in (result.plan.forms, result.plan.kept_float, result.plan.dropped)]
            is_real = any(n and graph.tensors[n].is_float for n in (*node.inputs, *node.outputs))
            assert sum(places) == int(is_real), f"{node.op} '{node.name}': {places}"


@pytest.mark.parametrize("name", models.BUILDERS)
def test_int8_is_integer_from_end_to_end(name: str) -> None:
    source = models.lowered(name, unroll=name in models.RECURRENT)
    result = fw.quantize(source, "int8", calibration=models.samples(name, 8), io="int8", strict=True, progress=False)
    for graph in result.model.graphs:
        assert not [t.name for t in graph.tensors.values() if t.dtype == "float32"]
        assert not [n.name for n in graph.nodes if (form_of(n, graph) or "").startswith("float")]


@pytest.mark.parametrize("recipe", ["dynamic", "weights8", "float16"])
@pytest.mark.parametrize("name", models.RECURRENT)
def test_loops_hold_small_weights(name: str, recipe: str) -> None:
    result = quantized(name, recipe)
    bodies = result.model.graphs[1:]
    assert bodies, "the recurrent layer was not lowered to a loop"
    weights = [t for g in bodies for t in g.tensors.values() if t.is_constant and t.elements >= 256]
    assert weights
    assert {t.dtype for t in weights} == {"float16" if recipe == "float16" else "int8"}


@pytest.mark.parametrize("name", models.RECURRENT)
def test_a_loop_in_a_file_stays_float_with_its_reason(name: str) -> None:
    result = fw.quantize(models.lowered(name), "int8", calibration=models.samples(name, 8), progress=False)
    loops = [node for node in result.model.main.nodes if node.op == "WHILE"]
    assert loops
    assert "unrolled" in result.plan.kept_float[loops[0].name]
    with pytest.raises(fw.TargetViolation, match="WHILE"):
        fw.quantize(models.lowered(name), "int8", calibration=models.samples(name, 8), strict=True, progress=False)


@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense"])
def test_the_order_of_samples_changes_no_byte(name: str) -> None:
    samples = models.samples(name, 24, seed=3)
    source = models.lowered(name)
    for ranges in ("minmax", "mse"):
        files = {
            fw.write(fw.quantize(source, "int8", calibration=order, ranges=ranges, progress=False).model)
            for order in (samples, samples[::-1], samples[7:] + samples[:7])
        }
        assert len(files) == 1, ranges


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse", "entropy"])
def test_range_methods_work_end_to_end(ranges: str) -> None:
    result = fw.quantize(
        models.lowered("convnet"), "int8", calibration=models.samples("convnet", 32), ranges=ranges, progress=False
    )
    assert (
        sqnr_db(outputs(models.lowered("convnet"), "convnet")["output"], outputs(result.model, "convnet")["output"])
        > 15
    )


def test_a_plan_gives_the_same_bytes_again(tmp_path) -> None:
    first = quantized("depthwise", "int8")
    first.plan.save(tmp_path / "plan.json")
    second = fw.quantize(models.lowered("depthwise"), "int8", plan=tmp_path / "plan.json", progress=False)
    assert fw.write(second.model) == fw.write(first.model)
