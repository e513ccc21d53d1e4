"""What device's tools say of a file: the arena that it loads in and no smaller one, and Vela's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.analysis.small_models import classifier, features

import featherweight as fw
from featherweight.device_code.footprint import compiled_text, footprint
from featherweight.device_code.vela import npu_figures
from featherweight.pages.formats import amount
from featherweight.report.evidence import with_footprints
from featherweight.report.quantized_page import page
from featherweight.targets import target as targets

TFLM, U55 = targets.load("tflm"), targets.load("ethos-u55")


@pytest.fixture(scope="module")
def small():
    return fw.quantize(classifier(), calibration=features(), target="tflm", progress=False)


def test_the_arena_is_what_deploy_says(small, tmp_path):
    found = footprint(small.model, TFLM)
    assert found is not None
    kept = fw.deploy(small, tmp_path, keep_order=True)
    assert (found.memory_bytes, found.flash_bytes, found.cycles) == (kept.arena.total, None, None)


def test_a_report_has_both_arenas_and_a_card(small):
    report = with_footprints(small.report, classifier(), small.model, TFLM)
    assert [*report.footprints] == ["float", "int8"]
    sizes = [found.memory_bytes for found in report.footprints.values()]
    (card,) = [card for card in page(report).cards if card.label == "Arena"]
    assert (card.before, card.value) == tuple(map(amount, sizes))
    assert f"{sizes[1]:,} bytes" in str(report)
    assert report.to_json()["footprints"]["int8"]["memory_bytes"] == sizes[1]


def test_vela_says_flash_and_cycles_and_the_float_model_is_left_out():
    quantized = fw.quantize(classifier(), calibration=features(), target="ethos-u55", progress=False)
    figures = npu_figures(quantized.model, "ethos-u55-128")
    report = with_footprints(quantized.report, classifier(), quantized.model, U55)
    (found,) = report.footprints.values()
    assert (found.flash_bytes, found.memory_bytes) == (figures.flash_bytes, figures.sram_bytes)
    assert {"SRAM", "Flash", "NPU cycles"} <= {card.label for card in page(report).cards}
    assert compiled_text(quantized.model, U55) == str(found)


def test_other_targets_have_none():
    assert footprint(classifier(), targets.load("litert")) is None
    assert compiled_text(classifier(), TFLM) is None


def test_what_a_tool_says_when_it_fails_is_a_note(small, monkeypatch):
    from featherweight.device_code import arena
    from featherweight.processes.apart import Ended

    monkeypatch.setattr(arena, "run_apart", lambda *_: Ended(1, "no kernel for it"))
    report = with_footprints(small.report, classifier(), small.model, TFLM)
    assert not report.footprints
    assert any("no kernel for it" in note for note in report.notes)
    refused = replace(small.report, violations=(object(),))
    assert with_footprints(refused, classifier(), small.model, TFLM) is refused
