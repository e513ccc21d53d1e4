"""A diagnosis as text, JSON and HTML: everything that it found is in each."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from featherweight.diagnosis.cause import REMEDIES, Cause
from featherweight.errors import FeatherweightError
from featherweight.report.diagnosis import Diagnosis, JudgedOutput, OwnErrorRow

CAUSE = Cause(
    "unlike-ranges",
    "The output of <A> spans little.",
    ("boxes", "scores"),
    ("CONCATENATION 'head'",),
    ("head",),
    "out",
    3.25,
    31.0,
    22.0,
    (2, -4.0),
    *REMEDIES["unlike-ranges"],
)
ROWS = (
    OwnErrorRow("conv", "CONV_2D", "conv/Conv2D", 25.5, 26.0, 40.0, 33.0, is_carried=True),
    OwnErrorRow("late", "ADD", "late", math.inf, None, None, 51.0, is_carried=False),
)


def diagnosis(**more: object) -> Diagnosis:
    given = {
        "what": "recipe int8 for target litert",
        "examples": 16,
        "outputs": (JudgedOutput("out", 30.0, 4.0, (2, -3.0)), JudgedOutput("mask", 41.0, 41.0, None)),
        "level_db": 4.0,
        "sqnr_db": 30.0,
        "is_enough": False,
        "simulated_db": 4.5,
        "causes": (CAUSE,),
        "own_errors": ROWS,
        "notes": ("something could not be measured",),
        "environment": {"python": "3"},
    }
    return Diagnosis(**{**given, **more})


class Reader(HTMLParser):
    """Collects texts, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_has_the_verdict_first_then_causes_then_operators() -> None:
    text = str(diagnosis())
    assert text.splitlines()[2] == (
        "Output 'out' is 30.0 dB above its error, its column 2 only -3.0 dB; first cause: unlike-ranges."
    )
    assert "Own errors of 1 operators add up to 25.5 dB; rounding alone, simulated, 4.5 dB." in text
    cause = text[text.index("1. unlike-ranges") : text.index("Outputs\n")]
    assert (
        "alone, output 'out' would be 31.0 dB above its error, column 2 -4.0 dB; without it, the model 22.0 dB" in cause
    )
    assert "layers  boxes, scores" in cause
    assert "(--improve split-outputs,wide-places)" in cause
    assert text.index("conv   CONV_2D   25.5") < text.index("late   ADD")
    assert "something could not be measured" in text
    assert all(len(line) <= 140 for line in text.splitlines())


def test_verdicts_without_causes() -> None:
    healthy = diagnosis(causes=(), level_db=30.0, is_enough=True, outputs=(JudgedOutput("out", 30.0, 30.0, None),))
    assert healthy.is_healthy
    assert healthy.verdict.startswith("Healthy: output 'out' is 30.0 dB above its error, which is enough")
    assert "Causes" not in str(healthy)
    hidden = diagnosis(causes=())
    assert hidden.verdict.startswith("Not found: output 'out'")
    many = diagnosis(causes=(), level_db=22.0)
    assert not many.is_healthy
    assert many.verdict.startswith("No single cause: output 'out'")
    assert diagnosis(causes=(), outputs=(), level_db=math.inf).verdict == "Healthy: no output has an error."
    assert repr(many).startswith("Diagnosis of recipe int8")


def test_json_has_a_version_and_is_strict() -> None:
    table = json.loads(json.dumps(diagnosis().to_json(), allow_nan=False))
    assert table["version"] == 1
    assert table["causes"][0]["worst_column"] == [2, -4.0]
    assert table["own_errors"][1]["level_db"] is None
    assert table["own_db"] == pytest.approx(25.5)
    assert (table["is_healthy"], table["is_enough"]) == (False, False)


def test_html_is_whole_and_escaped(tmp_path: Path) -> None:
    diagnosis().save(tmp_path / "d.html")
    reader = Reader()
    reader.feed((tmp_path / "d.html").read_text("utf-8"))
    assert reader.open == []
    texts = " ".join(reader.texts)
    assert "The output of <A> spans little." in texts
    assert "conv" in texts
    for name in ("d.txt", "d.json"):
        diagnosis().save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500
    with pytest.raises(FeatherweightError, match="names no form of report"):
        diagnosis().save(tmp_path / "d.pdf")


def test_every_cause_has_a_remedy_and_a_row_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text("utf-8")
    for name, (repairs, remedy) in REMEDIES.items():
        assert f"`{name}`" in text
        assert remedy
        for repair in repairs:
            assert f"`{repair}`" in text
