"""Times of operators: which operator an event of the profiler is about, and what is said where there is no profiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import models
from tests.building import layer, net, weights

from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model
from featherweight.runtime import operator_times as timing
from featherweight.runtime import profiler
from featherweight.runtime.operator_times import ALONE, PROFILER, operator_times

DELEGATE, OWN = profiler.DELEGATED[1], profiler.OPERATOR


def chain() -> Graph:
    """Four operators in a row, of which the third is not the delegate's."""
    layers = [
        layer("PAD", ("x", "p"), {"a": (4, 4)}),
        layer("FULLY_CONNECTED", ("a", "w"), {"b": (4, 4)}),
        layer("TANH", ("b",), {"c": (4, 4)}),
        layer("FULLY_CONNECTED", ("c", "w"), {"y": (4, 4)}),
    ]
    return net({"x": (4, 4)}, {"w": weights(4, 4), "p": weights(2, 2)}, layers, ["y"]).main


TAGS = {"a": ["Pad"], "b": ["Dense"], "c": ["Tanh"], "y": ["Dense"]}


@pytest.mark.parametrize(
    ("events", "owners"),
    [
        ([("Pad", DELEGATE, 1, 0, 0), ("Dense", DELEGATE, 1, 1, 1)], ["a", "b"]),
        (
            [("Dense", DELEGATE, 1, 0, 0), ("TANH", OWN, 1, 2, 5), ("Dense", DELEGATE, 1, 0, 9)],
            ["b", "c", "y"],
        ),  # fused
        ([("Convert", DELEGATE, 1, 0, 0), ("Dense", DELEGATE, 1, 1, 1)], [None, "b"]),  # nobody's
        ([("WHILE", OWN, 100, 2, 5), ("Dense", DELEGATE, 1, 0, 50)], ["c", None]),  # within a graph that it calls
    ],
)
def test_events_are_told_apart_by_what_operators_become_alone(events: list[Any], owners: list[str | None]) -> None:
    assert timing._owners(chain(), events, TAGS) == owners


def test_parts_of_a_delegate_are_in_the_order_of_computing() -> None:
    layers = [
        layer("TANH", ("x",), {"own": (4,)}),
        layer("NEG", ("own",), {"late": (4,)}),
        layer("NEG", ("x",), {"early": (4,)}),
        layer("ADD", ("early", "late"), {"y": (4,)}),
    ]
    graph = net({"x": (4,)}, {}, layers, ["y"]).main
    assert timing._delegated(graph, {0}) == [1, 2, 3]
    assert timing._delegated(graph, {1}) == [0, 2, 3]


def test_every_operator_has_a_row_in_the_order_of_the_file() -> None:
    model = models.lowered("convnet")
    found = operator_times(model, runs=3)
    assert [row.name for row in found.rows] == [node.name for node in model.main.nodes]
    assert found.method in (PROFILER, ALONE)
    assert found.runs == 3
    assert found.threads == 1
    known = [row for row in found.rows if row.time_us is not None]
    assert known
    np.testing.assert_allclose(sum(row.time_us or 0 for row in known) + found.rest_us, found.whole_us)
    assert [row.time_us for row in found.worst_first[: len(known)]] == sorted((r.time_us for r in known), reverse=True)
    assert {row.layer for row in found.rows} >= {"stem", "block_1_add", "probabilities"}


@pytest.mark.parametrize(("runs", "left_out"), [(1, 0), (2, 1), (3, 1), (10, 1), (11, 2), (50, 5)])
def test_a_run_that_the_machine_held_up_is_left_out_of_few_ones_too(runs: int, left_out: int) -> None:
    elapsed = np.full((runs, 1), 5.0)
    elapsed[runs - left_out :] = 5000.0
    assert timing._without_the_slowest(elapsed).tolist() == [5.0]


def test_without_a_profiler_each_operator_runs_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = tmp_path / "died.py"
    died.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(profiler, "__file__", str(died))
    found = operator_times(models.lowered("multi_input"), runs=2)
    assert found.method == ALONE
    assert all((row.time_us or 0) > 0 for row in found.rows)
    assert {row.kernel for row in found.rows} == {""}


def test_loops_have_no_time_alone_and_are_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiler, "__file__", str(tmp_path / "not there.py"))
    found = operator_times(models.lowered("lstm"), runs=2)
    assert {row.op for row in found.rows if row.time_us is None} >= {"WHILE"}


def test_an_operator_that_does_not_run_alone_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiler, "__file__", str(tmp_path / "not there.py"))
    session = timing.Session

    def refusing(model: Model, **options: Any) -> Any:
        if [node.op for node in model.main.nodes] == ["CONV_2D"]:
            raise FeatherweightError("no")
        return session(model, **options)

    monkeypatch.setattr(timing, "Session", refusing)
    found = operator_times(models.lowered("convnet"), runs=2)
    assert {row.op for row in found.rows if row.kernel == "not measured: it does not run alone"} == {"CONV_2D"}
    assert {row.kernel for row in found.rows if row.op != "CONV_2D"} == {""}
    assert all(row.time_us is None for row in found.rows if row.op == "CONV_2D")
