"""Filling the leaderboard: each cell once, failures with their reasons, and nothing lost when it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.leaderboard import nets, roster, running
from benchmarks.leaderboard.cells import Cell
from benchmarks.leaderboard.record import Inputs, Net, Way
from benchmarks.leaderboard.running import Task, Wish, fill


@pytest.fixture
def begun() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def make(begun: list[tuple[str, str, int]]) -> Callable[[Task, Wish], Cell]:
    def measured(task: Task, wish: Wish) -> Cell:
        begun.append(task.place)
        net, way, draw = task.place
        return {"net": net, "way": way, "draw": draw, "key": task.key, "status": "failed", "reason": "made up"}

    return measured


def test_a_cell_is_filled_once_and_first_draws_come_first(wish: Wish, make: Callable, begun: list) -> None:
    assert fill(wish, make) == []
    assert begun == [("tiny", way, draw) for draw in (0, 1) for way in ("float", "own")]
    fill(wish, make)
    assert len(begun) == 4
    fill(replace(wish, retry=True), make)
    assert len(begun) == 8


def test_it_goes_on_where_it_was_stopped(wish: Wish, make: Callable, begun: list) -> None:
    def stopped(task: Task, wish: Wish) -> Cell:
        if len(begun) == 2:
            raise KeyboardInterrupt
        return make(task, wish)

    with pytest.raises(KeyboardInterrupt):
        fill(wish, stopped)
    fill(wish, make)
    assert len(begun) == len(set(begun)) == 4


def test_other_samples_make_other_cells_unless_old_ones_are_kept(
    wish: Wish, make: Callable, begun: list, inputs: Inputs
) -> None:
    fill(wish, make)
    np.save(inputs.samples, np.zeros((8, 1, 4), np.float32))
    fill(replace(wish, keep=True), make)
    assert len(begun) == 4
    fill(wish, make)
    assert len(begun) == 8


def test_no_cell_is_begun_after_the_time(wish: Wish, make: Callable, begun: list) -> None:
    left = fill(replace(wish, seconds=-1.0), make)
    assert begun == []
    assert left == [f"tiny {way} {draw}: not begun, the time was over" for draw in (0, 1) for way in ("float", "own")]


def test_a_network_that_is_not_at_hand_is_named(wish: Wish, net: Net, make: Callable, begun: list) -> None:
    def prepare(_: Path | None) -> list[Inputs]:
        raise nets.NotAtHand("no folder was given")

    gone = replace(net, name="gone", prepare=prepare)
    assert fill(replace(wish, nets={"gone": gone, **wish.nets}), make) == ["gone: no folder was given"]
    assert len(begun) == 4


def test_files_are_made_and_judged_in_processes_of_their_own(wish: Wish) -> None:
    one_draw = replace(wish, nets={"tiny": replace(wish.nets["tiny"], prepare=lambda m: _first(wish, m))})
    assert fill(one_draw) == []
    floats, own = (wish.store.read(("tiny", way, 0)) for way in ("float", "own"))
    assert floats is not None
    assert own is not None
    assert floats["sqnr_db"] == [None]
    assert floats["agrees"] == 1
    assert floats["groups"] == [[0, 3], [1, 3], [2, 3], [3, 3]]
    assert own["status"] == "measured"
    assert 10 < own["sqnr_db"][0] < 70
    assert own["exact"] == {"what": "integers", "differing": 0, "of": 36, "largest": 0}
    assert own["bytes"] > 0
    kept = sorted(path.name for path in (wish.folder / "files").iterdir())
    assert len(kept) == 3  # two files, and the float outputs


def _first(wish: Wish, models: Path | None) -> list[Inputs]:
    return wish.nets["tiny"].prepare(models)[:1]


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"maker": "no_such_maker"}, "failed", "making it: ModuleNotFoundError: No module named"),
        ({"arguments": {"recipe": "int9"}}, "failed", "making it: RecipeError"),
        ({"environment": "nowhere"}, "absent", "its environment is not there: run `make setup-nowhere`"),
        ({"packages": ("no-such-package",)}, "absent", "not installed in its environment: no-such-package"),
        ({"needs": "keras"}, "none", "it takes Keras models, and this network is a .tflite file"),
        ({"needs": "keras", "trains": True}, "none", "it trains, and there are no images"),
    ],
)
def test_a_way_that_fails_is_a_cell_with_its_reason(
    wish: Wish, ways: dict[str, Way], change: dict, status: str, reason: str
) -> None:
    way = replace(ways["own"], **change)
    (task, _) = running.all_tasks(replace(wish, ways={way.name: way}), [])
    cell = running.measured(task, wish)
    assert cell["status"] == status
    assert cell["reason"].startswith(reason)


def test_what_takes_too_long_is_ended_and_says_so(wish: Wish) -> None:
    task = next(task for task in running.all_tasks(wish, []) if task.way.name == "own")
    cell = running.measured(task, replace(wish, cell_seconds=0.0))
    assert (cell["status"], cell["reason"]) == ("failed", "making it took more than 0 s")


def test_what_is_no_fault_of_the_tool_is_tried_again(wish: Wish, monkeypatch) -> None:
    monkeypatch.setattr(running.environments, "variables", lambda _: {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"})
    task = next(task for task in running.all_tasks(wish, []) if task.way.name == "own")
    assert running.measured(task, wish)["status"] == "absent"


def test_an_absent_tool_is_tried_again_when_it_is_there(wish: Wish, ways: dict[str, Way], make: Callable) -> None:
    away = replace(ways["own"], environment="nowhere")
    fill(replace(wish, ways={"own": away}))
    begun: list[str] = []
    fill(replace(wish, ways={"own": away}), lambda task, w: make(task, w) | {"x": begun.append(task.way.name)})
    assert begun == ["own", "own"]


def test_a_reason_that_pip_left_is_the_cells_reason(
    wish: Wish, ways: dict[str, Way], tmp_path: Path, monkeypatch
) -> None:
    from benchmarks.leaderboard import environments

    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / ".venv-peer.failed").write_text("ERROR: No matching distribution found for peer==9\n")
    found = environments.why_missing(replace(ways["own"], environment="peer"))
    assert found == "could not be installed: ERROR: No matching distribution found for peer==9"


def test_the_roster_names_makers_and_settings_that_are_there() -> None:
    folder = Path(running.__file__).parent / "makers"
    assert all((folder / f"{way.maker}.py").is_file() for way in roster.WAYS.values())
    settings = [(way.peer, way.form, way.settings) for way in roster.WAYS.values()]
    assert len(set(settings)) == len(settings)
    assert next(iter(roster.WAYS)) == "float"  # the reference comes first
