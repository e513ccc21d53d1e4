"""Workers: the same results in the same order on any number of processes, and after the death of one."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from tests import models

from featherweight.calibration import calibrate
from featherweight.errors import FeatherweightError, RecipeError
from featherweight.runtime.litert import THREADS_VARIABLE, default_threads
from featherweight.runtime.workers import mapped


def _squared(x: int) -> int:
    return x * x


def _cubed(x: int) -> int:
    return x**3


def _dying_once(flag: Path, x: int) -> int:
    if x == 3 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def _dying(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_results_come_in_order_on_any_number_of_processes():
    expected = [x * x for x in range(7)]
    assert list(mapped(_squared, range(7))) == expected
    assert list(mapped(_squared, range(7), jobs=2)) == expected


def test_the_work_of_a_worker_that_dies_is_done_again(tmp_path):
    assert list(mapped(partial(_dying_once, tmp_path / "died"), range(6), jobs=2)) == [x * x for x in range(6)]
    assert (tmp_path / "died").exists()


def test_work_that_kills_every_worker_is_an_error():
    with pytest.raises(FeatherweightError, match="died 3 times at the same piece of work"):
        list(mapped(_dying, range(2), jobs=2))


def test_unknown_engines_and_missing_ones_are_named():
    with pytest.raises(RecipeError, match=r"engine 'spark' is unknown \(allowed: processes, ray\)"):
        list(mapped(_squared, range(2), jobs=2, engine="spark"))


def test_the_number_of_threads_can_be_said(monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert default_threads() == 3
    monkeypatch.setenv(THREADS_VARIABLE, "many")
    assert default_threads() >= 1


@pytest.mark.frameworks
def test_ray_gives_the_same_results_in_order(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        assert list(mapped(_cubed, range(11), jobs=2, engine="ray")) == [x**3 for x in range(11)]
        model, samples = models.lowered("convnet"), models.samples("convnet", 24)
        alone = calibrate(model, samples, progress=False)
        assert calibrate(model, samples, jobs=2, engine="ray", progress=False) == alone
    finally:
        ray.shutdown()
