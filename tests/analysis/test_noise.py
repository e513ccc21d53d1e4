"""The error of each output and of its columns, and the one warning where something is noise."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, dense, layer, net, softmax, weights

from featherweight.analysis.noise import OutputError, notes_on_noise, output_errors
from featherweight.graph import Model, constant
from featherweight.tasks.finalize import finalize
from featherweight.tasks.quantize import quantize
from featherweight.tasks.quantize_aware import quantize_aware

ROW = (1, 8)
LOST = [OutputError("y", 16, 0.0, 0.0)]


def feeds(count: int = 16, low: float = -2.0, high: float = 2.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(low, high, ROW).astype(np.float32) for _ in range(count)]


def columns(*factors: float, layers: list[Layer] | None = None, **more: np.ndarray) -> Model:
    """Returns a dense layer whose outputs have these sizes, one a column."""
    w = weights(len(factors), 8) * np.array(factors, np.float32)[:, None]
    bias = {"b": np.zeros(len(factors), np.float32)} | more
    made = [dense("x", "w", "b", "y", (1, len(factors))), *(layers or [])]
    return net({"x": ROW}, {"w": w, **bias}, made, [made[-1][0].outputs[0]])


def warned(model: Model, caplog: Any, recipe: str = "int8", **more: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "featherweight"):
        found = quantize(model, recipe, calibration=more.pop("calibration", feeds()), progress=False, **more)
    warnings = [record.getMessage() for record in caplog.records if "calibration samples" in record.getMessage()]
    assert all(warning in found.plan.notes for warning in warnings)
    return warnings


def test_outputs_and_columns_are_in_the_report() -> None:
    q = quantize(columns(1, 1, 1), "int8", calibration=feeds(20), progress=False)
    (error,) = q.report.outputs
    assert (error.name, error.examples, len(error.columns_db), error.noisy_columns) == ("y", 16, 3, ())
    assert 25 < error.sqnr_db < 60
    assert min(error.columns_db) <= error.sqnr_db <= max(error.columns_db)
    assert "Outputs against the float model's\n" in str(q.report)
    assert f"{error.sqnr_db:.1f}" in str(q.report)
    assert q.report.to_json()["outputs"][0]["columns_db"] == list(error.columns_db)
    left_out = quantize(columns(1, 1, 1), "int8", calibration=feeds(), verify=False, progress=False)
    assert left_out.report.outputs == ()


@pytest.mark.parametrize("recipe", ["dynamic", "float16"])
def test_recipes_that_need_no_samples_are_measured_where_there_are_some(recipe: str) -> None:
    model = net({"x": ROW}, {"w": weights(256, 8)}, [dense("x", "w", "", "y", (1, 256))], ["y"])
    (error,) = quantize(model, recipe, calibration=feeds(), progress=False).report.outputs
    assert error.sqnr_db > 35
    assert quantize(model, recipe).report.outputs == ()


def test_columns_that_vanish_beside_wide_ones_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warned(columns(500, 500, 1, 500, 1), caplog)
    assert warning.startswith("columns 2, 4 (of 5) of output 'y' are less than 10 dB above their error (column ")
    assert "First cause, unlike-ranges: One scale holds all channels of the output of FULLY_CONNECTED 'y'" in warning
    assert "(improve='split-outputs'), or try recipe 'int16x8'" in warning
    assert warned(columns(500, 500, 1, 500, 1), caplog, "int16x8") == []
    assert warned(columns(500, 500, 1, 500, 1), caplog, verify=False) == []


def test_columns_whose_small_differences_vanish_beside_their_mean(caplog: pytest.LogCaptureFixture) -> None:
    """40 dB above the error, and always the same."""
    model = columns(500, 0.8, 500, b=np.array([0, 120, 0], np.float32))
    (warning,) = warned(model, caplog)
    assert warning.startswith("columns 1 (of 3) of output 'y' are one value each, and vary in the float model")
    assert "(improve='split-outputs')" in warning
    (error,) = quantize(model, "int8", calibration=feeds(), progress=False).report.outputs
    assert error.columns_db[1] > 30
    assert error.still_columns == (1,)
    repaired = quantize(model, "int8", calibration=feeds(), improve="split-outputs", progress=False)
    assert repaired.report.outputs[0].still_columns == ()
    assert warned(columns(500, 0.1, 500, b=np.array([0, 120, 0], np.float32)), caplog) == []


def test_rows_that_vanish_in_an_output_with_channels_first(caplog: pytest.LogCaptureFixture) -> None:
    sizes = np.repeat(np.array([500, 1, 500], np.float32), 8).tolist()
    model = columns(
        *sizes, layers=[layer("RESHAPE", ("y", "shape"), {"z": (1, 3, 8)})], shape=np.array([1, 3, 8], np.int32)
    )
    (warning,) = warned(model, caplog)
    assert warning.startswith("rows 1 of output 'z' are less than 10 dB above their error")


def test_constant_and_empty_columns_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(columns(500, 0, 500), caplog) == []
    assert warned(columns(500, 0, 500, b=np.array([0, 0.3, 0], np.float32)), caplog) == []


def test_a_column_is_not_judged_by_a_few_values(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(columns(500, 500, 1), caplog, calibration=feeds(7)) == []


def test_probabilities_are_meant_to_be_small(caplog: pytest.LogCaptureFixture) -> None:
    model = columns(6, 6, 6, 6, layers=[softmax("y", "p", (1, 4))], b=np.array([0, 0, -40, 0], np.float32))
    assert warned(model, caplog) == []


def test_features_that_are_small_are_in_the_report_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = columns(*[100.0] * 99, 0.1)
    assert warned(model, caplog) == []
    (error,) = quantize(model, "int8", calibration=feeds(), progress=False).report.outputs
    assert error.noisy_columns == (99,)
    assert error.worst_column == 99


def test_one_warning_names_all_outputs_and_the_worst_place(caplog: pytest.LogCaptureFixture) -> None:
    layers = [
        dense("x", "w", "", "h", ROW),
        # All but what is rounded away cancels.
        layer("SUB", ("h", "x"), {"d": ROW}),
        add("d", "one", "s", ROW),
        layer("SUB", ("s", "one"), {"y": ROW}),
        layer("MUL", ("y", "y"), {"z": ROW}),
    ]
    constants = {"w": np.eye(8, dtype=np.float32) * 1.0005, "one": np.full(ROW, 1000, np.float32)}
    model = net({"x": ROW}, constants, layers, ["y", "z"])
    (warning,) = warned(model, caplog)
    assert "output 'y' is only " in warning
    assert "output 'z' is only " in warning
    assert "First cause, activation-rounding: The output of FULLY_CONNECTED 'h'" in warning
    (note,) = notes_on_noise(model, quantize(model, calibration=feeds(), progress=False).model, feeds(), LOST)
    assert "; most is lost in " in note
    assert "or keep what is there float with a rule" in note


@pytest.mark.parametrize("low", [-np.inf, -1e9])
def test_masked_values_do_not_count(low: float, caplog: pytest.LogCaptureFixture) -> None:
    layers = [
        dense("x", "w", "", "h", ROW),
        layer("GREATER", ("h", "zero"), {"c": ROW}),
        layer("SELECT_V2", ("c", "h", "low"), {"y": ROW}),
    ]
    constants = {"w": weights(8, 8), "zero": np.float32(0), "low": np.float32(low)}
    built = net({"x": ROW}, constants, layers, ["y"])
    tensors = dict(built.main.tensors)
    tensors["c"] = replace(tensors["c"], dtype="bool")
    model = Model((replace(built.main, tensors=tensors),))
    assert warned(model, caplog) == []
    (error,) = quantize(model, "int8", calibration=feeds(), progress=False).report.outputs
    assert error.sqnr_db > 25
    assert error.masked_fraction < 0.05


def test_masks_that_differ_are_told() -> None:
    model = columns(1, 1)
    error = OutputError("y", 16, 40.0, 40.0, masked_fraction=0.25)
    (note,) = notes_on_noise(model, model, feeds(), [error])
    assert "25.0% of output 'y'" in note


def test_outputs_that_are_constants_leave_the_others_compared() -> None:
    made = columns(1, 2)
    tensors = {**made.main.tensors, "c": constant("c", np.float32([[3, 4]]))}
    model = Model((replace(made.main, outputs=("c", *made.main.outputs), tensors=tensors),))
    (error,) = quantize(model, calibration=feeds(), progress=False).report.outputs
    assert error.name == "y"
    assert error.sqnr_db > 25


def test_errors_are_those_of_the_samples() -> None:
    model = columns(1, 2)
    (error,) = output_errors(model, model, feeds(3))
    assert error == OutputError("y", 3, np.inf, np.inf, (np.inf, np.inf))


@pytest.mark.parametrize("axes", [(), (1,)], ids=["examples", "batches of one"])
def test_the_rows_of_an_array_are_measured(axes: tuple[int, ...]) -> None:
    model = columns(1.0, 1.0, 1.0)
    rows = np.random.default_rng(0).normal(size=(16, *axes, 8)).astype(np.float32)
    quantized = quantize(model, calibration=rows, progress=False)
    assert quantized.plan.notes == ()
    assert [error.examples for error in quantized.report.outputs] == [16]
    trained = finalize(quantize_aware(model, calibration=rows, progress=False), samples=rows)
    assert [error.examples for error in trained.report.outputs] == [16]
