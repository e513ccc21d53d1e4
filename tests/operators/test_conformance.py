from __future__ import annotations

import numpy as np
import pytest
from tests.operators import checking, conformance
from tests.operators.building import Case
from tests.operators.conformance import Row, measure, note, page
from tests.operators.oracle import RESOLVERS


def test_the_same_models_are_compared_on_every_run() -> None:
    rows = [measure(("RELU", "int8"), elements=4000, seconds=600) for _ in range(2)]
    assert rows[0] == rows[1]
    assert min(rows[0].elements.values()) >= 4000
    assert set(rows[0].mismatches.values()) == {0}
    assert "| RELU | int8 |" in page(rows, 4000)


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checking.run_reference

    def off_by_one(*args: object) -> dict[str, np.ndarray]:
        return {name: array + (np.arange(array.size) == 3).reshape(array.shape) for name, array in right(*args).items()}

    monkeypatch.setattr(checking, "run_reference", off_by_one)
    row = measure(("DEQUANTIZE", "int16"), elements=1000, seconds=600)
    assert min(row.mismatches.values()) > 0
    assert row.first.startswith("xnnpack: 1 of ")
    assert f"not explained: {row.first}" in page([row], 1000)
    monkeypatch.setitem(conformance.REASONS, row.kind, "rounded otherwise (some.cc)")
    assert note(row, 1000) == "rounded otherwise (some.cc)"


def test_what_litert_lacks_is_marked() -> None:
    row = measure(("ELU", "int8"), elements=500, seconds=600)
    assert row.lacking == {"tflite_ref"}
    assert "LiteRT has no kernel: tflite_ref" in note(row, 500)
    assert "| – |" in page([row], 500)


def test_a_row_that_is_too_short_says_so() -> None:
    row = Row(("ADD", "int8"), elements=dict.fromkeys(RESOLVERS, 10))
    assert note(row, 20) == "fewer elements: the time was up"
    row.models = conformance.MOST_MODELS
    assert note(row, 20) == ""


def test_floats_are_compared_up_to_a_tolerance() -> None:
    theirs = np.float32([1.0, 0.0, np.nan, np.inf])
    near, far = theirs + np.spacing(np.float32(1)) * 3, theirs + np.spacing(np.float32(1)) * 30
    found = checking.differences(checking.Finding(), near, theirs, 16, "xnnpack")
    assert (found.mismatches, found.worst, found.elements) == (0, 3, 4)
    assert checking.differences(checking.Finding(), far, theirs, 16, "xnnpack").mismatches == 2
    assert checking.differences(checking.Finding(), near, theirs, 0, "xnnpack").mismatches == 2
    flipped = checking.differences(checking.Finding(), np.float32([1, 0, 0, -np.inf]), theirs, 16, "xnnpack")
    assert flipped.mismatches == 2
    assert flipped.broken == "xnnpack: 2 of 4 differ, first at (2,): 0.0 instead of nan"
    shorter = checking.differences(checking.Finding(), theirs[:2], theirs, 16, "xnnpack")
    assert (shorter.mismatches, shorter.broken) == (4, "xnnpack: float32[2] instead of float32[4]")


def test_further_feeds_keep_what_is_no_operand() -> None:
    case = Case("GATHER").fed("x", np.arange(20, dtype=np.int8), None).fed("places", np.arange(5), None)
    feeds = checking.further_feeds(case, 3, np.random.default_rng(0))
    assert len(feeds) == 3
    assert feeds[0] is case.feeds
    for feed in feeds[1:]:
        assert sorted(feed["x"]) == list(range(20))
        assert list(feed["x"]) != list(range(20))
        assert list(feed["places"]) == list(range(5))
    assert len(checking.further_feeds(Case("RANGE").fed("first", np.zeros(1), None), 3, np.random.default_rng(0))) == 1
