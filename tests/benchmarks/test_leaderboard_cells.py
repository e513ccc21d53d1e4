"""Cells: whole or not there, and found again only by what they were made from."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest
from benchmarks.leaderboard import cells, judging
from benchmarks.leaderboard.cells import Cell, Store, key_of, publish, published


def test_examples_in_docstrings_hold() -> None:
    for module in (cells, judging):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted > 0


def cell(net: str = "a", way: str = "b", draw: int = 0, **more: object) -> Cell:
    return {"net": net, "way": way, "draw": draw, "key": "k", "status": "measured", **more}


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    store.write(cell(reason="größer ≤ 1"))
    assert store.read(("a", "b", 0)) == cell(reason="größer ≤ 1")
    assert [path.name for path in store.folder.iterdir()] == ["a.b.0.json"]


@pytest.mark.parametrize(
    "content", ["", "{", '{"net": "a"}', "[]", "null", '{"net":"a","way":"b","draw":1,"key":"k","st']
)
def test_what_is_no_whole_cell_counts_as_missing(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    store.path(("a", "b", 0)).write_text(content)
    assert store.read(("a", "b", 0)) is None
    assert store.all() == []
    store.write(cell())
    assert store.read(("a", "b", 0)) == cell()


def test_a_file_of_another_place_is_not_taken_for_the_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(("a", "b", 0)).write_text(json.dumps(cell(draw=1)))
    assert store.read(("a", "b", 0)) is None


def test_what_a_killed_process_left_behind_is_no_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(cell())
    (tmp_path / "a.b.0.json.123.partial").write_text('{"net": "a", "wa')
    assert store.all() == [cell()]


def test_keys_differ_where_anything_does() -> None:
    base = {"files": {"model": "1"}, "versions": {"tool": "1.0"}}
    assert key_of(**base) == key_of(**dict(reversed(base.items())))
    assert key_of(**base) != key_of(**{**base, "versions": {"tool": "1.1"}})


def test_published_cells_come_back_in_order_and_those_at_hand_win(tmp_path: Path) -> None:
    file = tmp_path / "board.json"
    assert published(file) == []
    publish(file, [cell("b"), cell("a", draw=1), cell("a")])
    assert [(one["net"], one["draw"]) for one in published(file)] == [("a", 0), ("a", 1), ("b", 0)]
    store = Store(tmp_path / "cells")
    store.write(cell("a", key="new"))
    store.take(published(file))
    assert [one["key"] for one in store.all()] == ["new", "k", "k"]
