"""The contents of pages: what they say of searches, curves, comparisons, and of very large models."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests import building
from tests.analysis.small_models import classifier, features

import featherweight as fw
from featherweight import tflite
from featherweight.analysis.comparison import TensorError
from featherweight.calibration import calibrate
from featherweight.choosing.budget import Miss, Tried
from featherweight.choosing.scores import IMPOSSIBLE, Score, Scores
from featherweight.choosing.searching import Found
from featherweight.graph.numerics import QuantParams
from featherweight.pages import Distribution, Page
from featherweight.report import Report, evidence
from featherweight.report.compared_page import compared_page
from featherweight.report.curve import Curve, CurvePoint
from featherweight.report.curve_rendering import page as curve_page
from featherweight.report.distributions import distributions
from featherweight.report.evidence import with_evidence
from featherweight.report.found_pages import scores_page, search_page, steps_page
from featherweight.report.overlay import save_node_data
from featherweight.report.quantized_page import page as quantized_page
from featherweight.report.saving import save_page
from featherweight.report.summary import NodeNote, QuantizedTensor
from featherweight.runtime.operator_times import OperatorTime, OperatorTimes


@pytest.fixture(scope="module")
def quantized() -> Any:
    return fw.quantize(classifier(), "int8", calibration=features(), progress=False)


@pytest.fixture(scope="module")
def report(quantized: Any) -> Report:
    given = quantized.float_model, quantized.model, quantized.plan, {0: iter(features())}
    return with_evidence(quantized.report, *given, progress=False)


def section(page: Page, title: str) -> Any:
    return next(each for each in page.sections if each.title == title)


def titles(page: Page) -> list[str]:
    return [each.title for each in page.sections]


def test_what_was_not_measured_is_noted(quantized: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise fw.FeatherweightError("it does not run here")

    monkeypatch.setattr(evidence, "benchmark", refuse)
    monkeypatch.setattr(evidence, "operator_times", refuse)
    given = quantized.float_model, quantized.model, quantized.plan, {0: iter(features())}
    found = with_evidence(quantized.report, *given, progress=False)
    assert (found.latency, found.times) == ((), None)
    assert found.notes[-2:] == (
        "The latency is not in the report: it does not run here",
        "The time per operator is not in the report: it does not run here",
    )


def test_a_report_with_evidence_shows_errors_ranges_and_scales(report: Report) -> None:
    page = quantized_page(report)
    assert titles(page) == [
        "Outputs against the float model's",
        "Error along the network",
        "Where errors come from, worst first",
        "Values and ranges",
        "Errors, worst first",
        "Time per operator, slowest first",
        "Ranges and scales",
        "Sizes in bytes",
    ]
    cards = {card.label: card for card in page.cards}
    assert {"File", "Compressed", "Latency", "Activations", "Output, signal to noise"} <= cards.keys()
    assert cards["Operators in integers"].value == "2 of 4"
    parts = section(page, "Where errors come from, worst first").rows[0].parts
    assert sum(parts) == pytest.approx(1)
    rows = {row[-1] or row[0]: row for row in section(page, "Ranges and scales").rows}
    scale, zero_point, low, high = rows["hidden"][5:-1]
    assert (low, high) == pytest.approx((scale * (-128 - zero_point), scale * (127 - zero_point)))
    assert rows["one/kernel"][4] > 1  # a scale for each channel
    assert [place.name for place in section(page, "Error along the network").places][-1] == "scores"


def test_json_has_what_the_page_shows(report: Report) -> None:
    table = report.to_json()
    assert table["version"] == 1
    assert {row["name"] for row in table["weights"]} >= {"one/kernel"}
    assert sum(table["histograms"][0]["counts"]) > 0
    json.dumps(table, allow_nan=False)


def test_a_histogram_tells_how_much_a_range_clips() -> None:
    model = classifier()
    stats = calibrate(model, features(200), histograms=True, progress=False)
    name = model.main.inputs[0]
    seen = stats.tensors[name]
    values = features(200)
    found = distributions(model.main, stats, {name: QuantParams("int8", (1 / 127,), (0,))})
    assert len(found) == 1
    row = found[0]
    outside = np.mean((values < -128.5 / 127) | (values > 127.5 / 127))
    assert 0 < outside < 1
    assert row.clipped == pytest.approx(outside, abs=0.01)
    assert (row.low, row.high, row.range_high) == (seen.low, seen.high, 1.0)
    assert row.start + 40 * row.width == pytest.approx(seen.high)
    assert distributions(model.main, stats, {name: QuantParams("float16", (), ())}) == ()


def test_what_masks_leave_out_is_neither_clipped_nor_an_error() -> None:
    """Scores of which a mask leaves some: how deep the others lie below makes no difference behind the softmax."""
    masked = {"x": np.zeros((1, 8), np.float32), "m": np.zeros((1, 8), np.float32)}
    masked["x"][0] = np.linspace(-2, 3, 8)
    masked["m"][0, 5:] = np.finfo(np.float32).min
    shape = (1, 8)
    layers = [building.add("x", "m", "scores", shape), building.softmax("scores", "p", shape)]
    model = building.net({"x": shape, "m": shape}, {}, layers, ["p"])
    quantized = fw.quantize(model, calibration=[masked], integers=True, progress=False)
    found = with_evidence(quantized.report, model, quantized.model, quantized.plan, {0: [masked]}, progress=False)
    (row,) = [row for row in found.errors if row.name == "scores"]
    assert row.sqnr_db > 20
    (drawn,) = [row for row in found.histograms if row.name == "scores"]
    assert (drawn.clipped, drawn.high) == (0, pytest.approx(masked["x"][0, 4], rel=1e-3))
    assert drawn.low > -1e3
    assert "38 % beyond what matters behind (masks), not drawn" in drawn.detail


def test_kept_float_is_grouped_by_reason(report: Report) -> None:
    notes = tuple(NodeNote(f"n{i}", "GATHER", "GATHER: it has no constant weights") for i in range(300))
    page = quantized_page(replace(report, kept_float=notes))
    assert [row[0] for row in section(page, "Kept float").rows] == [300]


def test_the_page_of_a_very_large_model_stays_small_and_says_what_it_leaves_out(report: Report) -> None:
    path = "encoder.layers.{}/torch.nn.modules.transformer.TransformerEncoderLayer_self_attn/out_projection"
    base = report.errors[0]
    errors = tuple(
        replace(base, name=path.format(i), layer=f"encoder.layers.{i}", kind="activation", op="FULLY_CONNECTED")
        for i in range(1500)
    )
    row = report.tensors[0]
    tensors = tuple(replace(row, name=path.format(i), op="FULLY_CONNECTED") for i in range(1500))
    histograms = tuple(
        Distribution(path.format(i), -1, 1, -1, 1, -1, 0.05, tuple(range(1000, 1040))) for i in range(1500)
    )
    large = replace(report, errors=errors, tensors=tensors, histograms=histograms, times=None)
    html = quantized_page(large).html()
    assert len(html.encode()) <= 300_000
    left_out = [int(n) for n in re.findall(r"(\d+) more rows, of less weight, are left out here; the JSON form", html)]
    errors_shown, tensors_shown = (1500 - n for n in left_out)
    assert (errors_shown, errors_shown + tensors_shown) == (html.count(">activation<"), html.count(">FULLY_CONNECTED<"))
    assert min(errors_shown, tensors_shown) > 100
    assert "1452 more histograms" in html
    assert "there are 1500" in html


def test_names_from_models_are_escaped_everywhere(report: Report) -> None:
    evil = '"><script>alert(1)</script>'
    errors = tuple(replace(row, name=evil, layer=evil, op=evil) for row in report.errors if row.kind != "weight") * 2
    histograms = tuple(replace(row, name=evil, detail=evil) for row in report.histograms)
    tensors = (QuantizedTensor(evil, evil, (1,), "int8", evil),)
    html = quantized_page(replace(report, errors=errors, histograms=histograms, tensors=tensors)).html()
    assert "<script>alert" not in html
    assert html.count("<script>") == 1


def tried(size: int, level: float, drop: float | None = None, misses: tuple[Miss, ...] = ()) -> Tried:
    return Tried({"a": "int8"}, size, size - 10, level, level, drop=drop, drop_error=drop and 0.001, misses=misses)


def found(best: Tried, *others: Tried) -> Found:
    rows = (Score("a", "int8", 0.01, 0.0, 100), Score("b", "int8", IMPOSSIBLE, 0.0, 0, kept_float="why"))
    scores = Scores({}, rows, {"a": ("a",)}, 4000, 16)
    return Found(best, classifier(), None, (best, *others), scores)  # pyright: ignore[reportArgumentType]


def test_a_search_shows_its_front_its_best_and_what_parts_cost() -> None:
    page = search_page(found(tried(1000, 30.0, 0.01), tried(2000, 40.0, 0.0), tried(3000, 35.0, 0.02)), "net.tflite")
    picture = page.sections[0]
    assert [(p.x, p.y, p.is_marked) for p in picture.points] == [
        (1.0, 0.01, True),
        (2.0, 0.0, False),
        (3.0, 0.02, False),
    ]
    assert [row[0] for row in section(page, "Files on the front").rows] == [1000, 2000]
    costs = section(page, "What each part costs, worst first").rows
    assert [(row[0], row[2]) for row in costs] == [("b", None), ("a", pytest.approx(20.0))]
    assert page.html().count("<svg") == 1


def test_a_search_without_labels_shows_levels_and_what_is_missed() -> None:
    page = search_page(found(tried(1000, 30.0, misses=(Miss("max_bytes", 500.0, 1.0),))), "net.tflite")
    assert "It misses the budget: " in page.subtitle
    assert page.sections[0].better == "more"
    assert {card.label: card.tone for card in page.cards}["Budget"] == "bad"


def test_scores_and_steps_have_pages() -> None:
    assert "16 examples" in scores_page(found(tried(1, 1.0)).scores, "net").subtitle
    steps = [
        SimpleNamespace(name="float16", measured=None, reason="no"),
        SimpleNamespace(name="int8", measured=tried(9, 9.0), reason=""),
    ]
    page = steps_page(steps, "int8", "net")  # pyright: ignore[reportArgumentType]
    assert section(page, "Steps").rows[0][1] is None
    assert "Step 'int8' keeps the budget." in page.html().replace("&#39;", "'")


def test_a_curve_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    points = [CurvePoint("", 0.0, 0.0, 0.9, 0.0, 0.0, 1000, 900)]
    points += [CurvePoint("2:4", s, s, 0.9 - d, -d, 0.002, 1000, 500) for s, d in ((0.5, 0.005), (0.75, 0.1))]
    curve = Curve("accuracy", "magnitude", 0.01, tuple(points))
    curve.save(tmp_path / "c.html")
    assert "Knee of 2:4" in (tmp_path / "c.html").read_text("utf-8")
    marked = [p.x for p in curve_page(curve).sections[0].points if p.is_marked]
    assert marked == [50.0]


def test_a_comparison_has_a_page_in_each_form(quantized: Any, tmp_path: Path) -> None:
    errors = fw.compare(classifier(), quantized.model, features(), progress=False)
    page = compared_page("a.tflite", "b.tflite", errors, quantized.float_model, quantized.model)
    assert page.cards[0].label == "Output scores"
    for suffix in (".html", ".json", ".txt"):
        save_page(page, tmp_path / f"c{suffix}")
    table = json.loads((tmp_path / "c.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert (table["schema"], table["version"], table["title"]) == ("featherweight.page", 1, "b.tflite against a.tflite")
    text = (tmp_path / "c.txt").read_text("utf-8")
    assert "Errors, worst first\n-----" in text
    with pytest.raises(fw.FeatherweightError, match="names no form of report"):
        save_page(page, tmp_path / "c.pdf")


def test_errors_that_are_infinite_or_nothing_are_shown(report: Report) -> None:
    errors: tuple[TensorError, ...] = tuple(
        replace(row, sqnr_db=level, mse=mse, operator_sqnr_db=level, inherited_sqnr_db=-math.inf)
        for row, level, mse in zip(
            report.errors, (-math.inf, math.inf, math.nan), (math.inf, 0.0, math.nan), strict=False
        )
    )
    html = quantized_page(replace(report, errors=errors)).html()
    assert "exact" in html
    assert "-inf" in html


def test_node_data_are_by_the_names_that_viewers_show(quantized: Any, tmp_path: Path) -> None:
    path = tmp_path / "q.tflite"
    quantized.save(path)
    model = tflite.read(path)
    errors = fw.compare(classifier(), model, features(), progress=False)
    made = save_node_data(tmp_path / "overlay", model, errors)
    assert [p.name for p in made] == ["bits.json", "sparsity.json", "error.json"]
    found = {p.stem: json.loads(p.read_text("utf-8"), parse_constant=pytest.fail) for p in made}
    graph = found["bits"][model.main.name]
    assert [stop["stop"] for stop in graph["gradient"]] == [0, 1]
    written = {node.outputs[0] for node in model.main.nodes}
    assert graph["results"].keys() == written
    assert graph["results"]["hidden"] == {"value": 8}
    levels = {row.name: row.sqnr_db for row in errors}
    assert found["error"][model.main.name]["results"]["hidden"]["value"] == pytest.approx(levels["hidden"], abs=1e-3)
    assert found["sparsity"][model.main.name]["results"].keys() == {
        node.outputs[0] for node in model.main.nodes if node.op == "FULLY_CONNECTED"
    }
    (tmp_path / "taken").write_text("")
    with pytest.raises(fw.FeatherweightError, match=r"taken' can't be made: .* Name another folder\."):
        save_node_data(tmp_path / "taken", model)


def test_operators_without_names_go_by_their_place(tmp_path: Path) -> None:
    lean = fw.quantize(classifier(), "int8", calibration=features(), target="tflm", progress=False)
    lean.save(tmp_path / "lean.tflite")
    model = tflite.read(tmp_path / "lean.tflite")
    (bits, *_) = save_node_data(tmp_path, model)
    results = json.loads(bits.read_text("utf-8"))[model.main.name]["results"]
    names = {model.main.tensors[n.outputs[0]].file_name for n in model.main.nodes}
    assert len(results) == len(model.main.nodes)
    assert ("" in names) == ("0" in results)


def test_names_that_are_no_text_are_shown_as_question_marks(report: Report, tmp_path: Path) -> None:
    odd = "caf\udce9"  # as the reader keeps bytes that are no UTF-8
    errors = tuple(replace(row, name=odd, layer=odd) for row in report.errors)
    for suffix in (".html", ".json", ".txt"):
        path = tmp_path / f"r{suffix}"
        replace(report, errors=errors, notes=(odd,)).save(path)
        assert "caf?" in path.read_text("utf-8")


def test_times_of_operators_are_in_the_report_and_in_node_data(quantized: Any, tmp_path: Path) -> None:
    model = quantized.model
    rows = tuple(OperatorTime(n.name, n.op, "one", float(i), 0.5, "GEMM") for i, n in enumerate(model.main.nodes))
    times = OperatorTimes("LiteRT's profiler", 20.0, 3.0, 5, 1, rows)
    report = replace(quantized.report, times=times)
    content = next(
        s for s in quantized_page(report).to_json()["sections"] if s["title"].startswith("Time per operator")
    )
    assert content["rows"][0][2] == len(rows) - 1
    assert "20 µs for a run, 1 thread; 3 µs are no operator's; by LiteRT's profiler" in str(report)
    assert report.to_json()["times"]["rows"][0]["op"] == rows[0].op
    made = {path.name: path for path in save_node_data(tmp_path, model, times=times)}
    results = json.loads(made["time.json"].read_text())
    (data,) = results.values()
    assert sorted(each["value"] for each in data["results"].values()) == [row.time_us for row in rows]
