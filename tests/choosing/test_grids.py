"""Weights on a 4-bit grid in some layers: a form that saves bytes where files are compressed, by Vela or deflated."""

from __future__ import annotations

import pytest
from tests import models

import featherweight as fw
from featherweight.choosing.parts import allowed_forms, parts_of, recipe_of
from featherweight.device_code.vela import npu_figures
from featherweight.targets import target as targets


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


@pytest.fixture(scope="module")
def asked():
    return {"calibration": models.samples("convnet", 16), "target": "ethos-u55", "progress": False}


def test_a_layer_takes_the_grid_and_stays_int8(model):
    parts = parts_of(model)
    weighted = [part.name for part in parts if part.weight_elements]
    choice = {part.name: "int8" for part in parts} | {weighted[1]: "grid4"}
    stats = fw.calibrate(model, models.samples("convnet", 4), progress=False)
    plan = fw.plan(model, stats, recipe_of(choice, parts), integers=True)
    assert {plan.forms[name] for name in weighted} == {"int8*int8"}
    quantized = fw.quantize(model, recipe_of(choice, parts), calibration=models.samples("convnet", 4), progress=False)
    graph = quantized.model.main
    largest = {
        node.name: abs(graph.tensors[node.inputs[1]].array.astype(int)).max()
        for node in graph.nodes
        if node.name in weighted
    }
    assert largest[weighted[1]] <= 20
    assert largest[weighted[2]] == 127


def test_depthwise_convolutions_do_not_take_it():
    model, target = models.lowered("depthwise"), targets.load("ethos-u55")
    kinds = {node.name: node.op for node in model.main.nodes}
    for part in parts_of(model):
        is_taken = "grid4" in allowed_forms(part, model, target, ["int8", "grid4"])
        assert is_taken == (bool(part.weight_elements) and kinds[part.operators[0]] != "DEPTHWISE_CONV_2D")


def test_scores_beside_it_are_of_flash_and_elsewhere_of_deflated_files(model, asked):
    flash = fw.sensitivity(model, forms=["int8", "grid4"], **asked)
    assert flash.about["bytes"] == "flash of ethos-u55-128"
    deflated = fw.sensitivity(model, forms=["int8", "grid4"], **asked | {"target": "tflm"})
    assert deflated.about["bytes"] == "deflated"
    for scores in (flash, deflated):
        saved = {(row.part, row.form): row.saved_bytes for row in scores.rows}
        noise = {(row.part, row.form): row.noise for row in scores.rows}
        parts = [part for part, form in saved if form == "grid4"]
        assert len(parts) >= 5
        assert all(saved[part, "grid4"] > saved[part, "int8"] for part in parts)
        assert all(noise[part, "grid4"] > noise[part, "int8"] for part in parts)


def test_flash_is_kept_by_a_grid_in_the_layers_that_bear_it(model, asked):
    sizes = {}
    for recipe in ("int8", "grid4"):
        made = fw.quantize(model, recipe, verify=False, **asked).model
        sizes[recipe] = npu_figures(made, "ethos-u55-128").flash_bytes
    limit = (sizes["int8"] + sizes["grid4"]) // 2
    found = fw.search(model, objective="accuracy", max_flash_bytes=limit, forms=["int8", "grid4"], **asked)
    assert found.best.fits
    assert set(found.best.choice.values()) == {"int8", "grid4"}
    assert npu_figures(found.model, "ethos-u55-128").flash_bytes == found.best.npu.flash_bytes <= limit
    levels = {tuple(set(row.choice.values())): row.sqnr_db for row in found.tried}
    assert levels["grid4",] < found.best.sqnr_db < levels["int8",]
    flash = [row.npu.flash_bytes for row in found.front]
    assert flash == sorted(flash)
    assert [row.sqnr_db for row in found.front] == sorted(row.sqnr_db for row in found.front)


def test_where_nothing_is_compressed_it_is_left_out_and_an_error_by_name(model, asked):
    found = fw.search(model, min_sqnr_db=20, **asked)
    assert "grid4" not in {form for row in found.tried for form in row.choice.values()}
    with pytest.raises(fw.RecipeError, match=r"'grid4' saves bytes only where files are compressed.*max_flash_bytes"):
        fw.search(model, min_sqnr_db=20, forms=["int8", "grid4"], **asked)


def test_scores_of_other_bytes_are_not_taken_over(model, asked, tmp_path):
    fw.search(model, objective="accuracy", max_compressed_bytes=7000, folder=tmp_path, **asked)
    with pytest.raises(fw.RecipeError, match="bytes there: deflated, here: file"):
        fw.search(model, objective="accuracy", max_bytes=9000, folder=tmp_path, **asked)
