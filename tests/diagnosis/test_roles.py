"""Causes that follow from what a tensor is for: scores, statistics, spectra; and from how kernels compute."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import Layer, dense, layer, net, softmax, weights

from featherweight.analysis.places import Pair
from featherweight.diagnosis.evidence import gathered
from featherweight.diagnosis.exact import exact_values
from featherweight.diagnosis.kernels import kernel_causes
from featherweight.diagnosis.own_errors import own_errors
from featherweight.diagnosis.simulation import Simulation
from featherweight.graph import Model
from featherweight.report.diagnosis import Diagnosis
from featherweight.tasks.diagnose import diagnose
from featherweight.tasks.quantize import quantize

ROW, TABLE = (1, 16), (1, 16, 16)


def rows(shape: tuple[int, ...], count: int = 16, spread: float = 0.0) -> list[np.ndarray]:
    """Normal numbers; with a spread, each row is of another size."""
    random = np.random.default_rng(0)
    sizes = [np.exp(spread * random.normal(size=(*shape[:-1], 1))) for _ in range(count)]
    return [(random.normal(size=shape) * size).astype(np.float32) for size in sizes]


def diagnosed(model: Model, samples: list[np.ndarray]) -> Diagnosis:
    made = quantize(model, calibration=samples, integers=True, verify=False, progress=False)
    return diagnose(model, made, samples, progress=False)


def wide_dense(read: str, weight: str, made: str, units: int) -> Layer:
    shape = (*TABLE[:-1], units)
    return layer(
        "FULLY_CONNECTED", (read, weight, ""), {made: shape}, fused_activation_function="NONE", keep_num_dims=True
    )


def test_scores_in_large_steps() -> None:
    layers = [dense("x", "w", "", "s", (1, 6)), softmax("s", "p", (1, 6))]
    model = net({"x": ROW}, {"w": weights(6, 16, spread=8.0)}, layers, ["p"])
    causes = {cause.name: cause for cause in diagnosed(model, rows(ROW)).causes}
    assert causes["softmax-input"].layers == ("s",)
    assert "one step changes a probability by" in causes["softmax-input"].statement
    assert causes["softmax-input"].repairs == ("wide-places",)


def test_a_spectral_front_end() -> None:
    constants = {"w": weights(16, 16), "eps": np.float32(1e-3), "v": weights(8, 16, seed=3)}
    layers = [
        dense("x", "w", "", "h", ROW),
        layer("MUL", ("h", "h"), {"power": ROW}),
        layer("ADD", ("power", "eps"), {"shifted": ROW}),
        layer("LOG", ("shifted",), {"log": ROW}),
        dense("log", "v", "", "y", (1, 8)),
    ]
    first = diagnosed(net({"x": ROW}, constants, layers, ["y"]), rows(ROW, spread=2.0)).causes[0]
    assert (first.name, first.repairs) == ("spectral-front-end", ("wide-places",))
    assert set(first.layers) >= {"h", "power"}
    assert "y" not in first.layers
    assert first.without_db is not None
    assert first.without_db > first.alone_db + 20


def test_the_statistics_of_a_normalization() -> None:
    constants = {"axes": np.int32([2]), "eps": np.float32(1e-6), "v": weights(8, 16)}
    one = (1, 16, 1)
    layers = [
        layer("MEAN", ("x", "axes"), {"mean": one}, keep_dims=True),
        layer("SQUARED_DIFFERENCE", ("x", "mean"), {"squares": TABLE}),
        layer("MEAN", ("squares", "axes"), {"variance": one}, keep_dims=True),
        layer("ADD", ("variance", "eps"), {"shifted": one}),
        layer("RSQRT", ("shifted",), {"root": one}),
        layer("SUB", ("x", "mean"), {"centred": TABLE}),
        layer("MUL", ("centred", "root"), {"normal": TABLE}),
        wide_dense("normal", "v", "y", 8),
    ]
    found = diagnosed(net({"x": TABLE}, constants, layers, ["y"]), rows(TABLE, spread=1.0))
    causes = {cause.name: cause for cause in found.causes}
    assert not found.is_healthy
    assert {"variance", "squares"} & set(causes["normalization-input"].layers)
    assert "depends on small values" in causes["normalization-input"].statement


def test_few_values_that_make_the_steps_wide() -> None:
    samples = rows(TABLE)
    for index, sample in enumerate(samples):
        sample[0, index, index] = 60.0
    layers = [wide_dense("x", "w", "h", 16), layer("TANH", ("h",), {"t": TABLE}), wide_dense("t", "v", "y", 8)]
    model = net({"x": TABLE}, {"w": weights(16, 16), "v": weights(8, 16, seed=2)}, layers, ["y"])
    first = diagnosed(model, samples).causes[0]
    assert (first.name, first.layers, first.repairs[0]) == ("outliers", ("x",), "ranges")
    assert "reach 60" in first.statement


@pytest.mark.parametrize(("op", "recipe", "is_named"), [("RSQRT", "int16x8", True), ("TANH", "int8", False)])
def test_kernels_that_lose_more_than_rounding_does(op: str, recipe: str, is_named: bool) -> None:
    model = net({"x": ROW}, {}, [layer(op, ("x",), {"y": ROW})], ["y"])
    samples = [np.abs(row) + np.float32(0.5) for row in rows(ROW)]
    made = quantize(model, recipe, calibration=samples, integers=True, verify=False, progress=False).model
    pair, exact = Pair(model, made), exact_values(model, samples)
    evidence = gathered(pair, exact, own_errors(pair, exact))
    causes = kernel_causes(evidence, Simulation(pair, exact).level())
    assert [cause.name for cause in causes] == ["kernel-arithmetic"] * is_named
    assert all(cause.layers == ("y",) for cause in causes)
    assert kernel_causes(evidence, evidence.total) == []
