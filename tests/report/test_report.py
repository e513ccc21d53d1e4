from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.analysis.small_models import classifier, features

from featherweight import tflite
from featherweight.analysis import compare, evaluate
from featherweight.errors import FeatherweightError
from featherweight.report import to_plain
from featherweight.report.text import decibels, percent, shortened
from featherweight.runtime import benchmark
from featherweight.targets.target import Violation
from featherweight.tasks import quantize as pipeline


@pytest.fixture(scope="module")
def quantized():
    return pipeline.quantize(classifier(), "int8", calibration=features(), progress=False)


@pytest.fixture(scope="module")
def full_report(quantized):
    """A report with every section filled."""
    x = features(30)
    labels = x[:, 0] > 0
    plan = replace(
        quantized.plan, kept_float={"hidden": "too <wide>"}, dropped={"logits": "not needed"}, notes=("a note & more",)
    )
    from featherweight.report import make_report

    violations = [Violation("logits", "FULLY_CONNECTED", "forms", "FULLY_CONNECTED 'logits' is not run")]
    return replace(
        make_report(classifier(), quantized.model, plan, violations),
        errors=tuple(compare(classifier(), quantized.model, x)),
        evaluations={"int8": evaluate(quantized.model, (x, labels.astype(int)))},
        latency=tuple(benchmark({"int8": quantized.model}, runs=2, warmup=0)),
    )


def test_report_says_what_was_done(quantized):
    report = quantized.report
    assert (report.recipe, report.target, report.profile, report.io) == ("int8", "litert", "xnnpack", "float32")
    assert report.before.file_bytes == len(tflite.write(classifier()))
    assert report.after.file_bytes == len(tflite.write(quantized.model))
    assert 0 < report.after.compressed_bytes < report.after.file_bytes
    assert report.nodes == {"integer": 2, "conversion": 2}
    rows = {row.name: row for row in report.tensors}
    assert (rows["one/kernel"].dtype, rows["one/kernel"].op) == ("int8", "")
    assert (rows["hidden"].dtype, rows["hidden"].op) == ("int8", "FULLY_CONNECTED")
    assert {"python", "numpy", "ai-edge-litert"} <= set(report.environment)


def test_text_has_every_section_and_no_control_characters(full_report):
    text = str(full_report)
    assert not set(text) & {"\x1b", "\r", "\t"}
    assert not text.endswith("\n")
    for expected in [
        "Recipe int8 for target litert\n=====",
        "arithmetic xnnpack, inputs and outputs float32",
        "Sizes in bytes\n-----",
        "float32 constants",
        "Task\n",
        "Latency in ms\n",
        "Kept float\n",
        "too <wide>",
        "Left out\n",
        "Notes\n-----\na note & more",
        "Violations of target litert\n",
        "FULLY_CONNECTED 'logits' is not run",
        "Errors, worst first\n",
        "Quantized tensors\n",
        "Environment\n",
    ]:
        assert expected in text


def test_sections_without_content_are_left_out(quantized):
    assert "Kept float" not in str(quantized.report)
    assert "Latency" not in str(quantized.report)


def test_json_is_strict_and_complete(full_report, tmp_path):
    full_report.save(tmp_path / "report.json")
    table = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert table["recipe"] == "int8"
    assert table["before"]["file_bytes"] > table["after"]["compressed_bytes"]
    assert table["kept_float"] == [{"name": "hidden", "op": "FULLY_CONNECTED", "reason": "too <wide>"}]
    assert table["dropped"][0]["reason"] == "not needed"
    assert table["violations"][0]["constraint"] == "forms"
    assert table["evaluations"]["int8"]["count"] == 30
    assert "scores" not in table["evaluations"]["int8"]
    levels = [row["sqnr_db"] for row in table["errors"]]
    assert levels == sorted(levels)
    assert table["latency"][0]["ratio"] == 1.0


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert all(name != "src" and (name != "href" or value.startswith("#")) for name, value in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_well_formed_escaped_and_needs_nothing_else(full_report, tmp_path):
    full_report.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    assert {"table", "style", "h2"} <= parser.seen
    assert not {"link", "img"} & parser.seen
    assert "too &lt;wide&gt;" in text
    assert "a note &amp; more" in text


def test_save_goes_by_suffix(quantized, tmp_path):
    quantized.report.save(tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text("utf-8") == f"{quantized.report}\n"
    with pytest.raises(
        FeatherweightError, match=r"the suffix '\.pdf' names no form of report \(allowed: \.json, \.txt, \.html\)"
    ):
        quantized.report.save(tmp_path / "r.pdf")


def test_a_report_that_can_not_be_written_leaves_nothing(quantized, tmp_path):
    with pytest.raises(FeatherweightError, match="can't be written"):
        quantized.report.save(tmp_path / "none" / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_the_same_work_gives_the_same_bytes(tmp_path):
    for name in ("a.json", "b.json"):
        pipeline.quantize(classifier(), "int8", calibration=features(), progress=False).report.save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_plain_values():
    assert to_plain({"a": (1, math.nan, -math.inf, "x", None, True)}) == {"a": [1, None, None, "x", None, True]}


def test_cells():
    assert [decibels(v) for v in (None, math.inf, -math.inf, 3.14159)] == ["-", "exact", "-inf", "3.1"]
    assert [percent(1, 4), percent(1, 0), percent(math.inf, math.inf)] == ["25 %", "-", "-"]
    assert shortened("a" * 30 + "b" * 30, 21) == "a" * 10 + "…" + "b" * 10
    assert shortened("short", 21) == "short"


def test_reasons_are_grouped_and_long_names_are_shortened_where_shown(quantized):
    from featherweight.report.summary import NodeNote
    from featherweight.report.text import grouped, grouped_notes

    long = "encoder/" * 30 + "query"
    kept = [NodeNote(f"add_{i}", "ADD", "ADD: it has no constant weights") for i in range(265)]
    kept.append(NodeNote(long, "GREATER", f"GREATER: '{long}' holds infinity"))
    report = replace(quantized.report, kept_float=tuple(kept), notes=(f"FULLY_CONNECTED '{long}': 3 dB",) * 3)
    text = str(report)
    assert "265  ADD       add_0, add_1, add_2, and 262 more" in text
    assert long not in text
    assert "(and 2 more like it)" in text
    assert len(grouped(kept)) == 2
    assert [row.name for row in report.kept_float] == [note.name for note in kept]
    assert long in report.to_json()["notes"][0]
    assert grouped_notes(["ADD 'a': 3 µs", "MUL 'b': slow"]) == ["ADD 'a': 3 µs", "MUL 'b': slow"]
