"""Workers: the same results in the same order on any number of processes, and after the death of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.errors import FeatherweightError, RecipeError
from featherweight.runtime.litert import THREADS_VARIABLE, default_threads
from featherweight.runtime.workers import mapped


def _squared(x: int) -> int:
    return x * x


def _dying_once(flag: Path, x: int) -> int:
    if x == 3 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def _dying(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


class _Remembering:
    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.asked = numbers, 0

    def __call__(self, x: int) -> tuple[int, int, float, bool]:
        self.asked += 1
        return os.getpid(), self.asked, float(self.numbers[x]), self.numbers.flags.writeable


def test_results_come_in_order_on_any_number_of_processes():
    expected = [x * x for x in range(7)]
    assert list(mapped(_squared, range(7))) == expected
    assert list(mapped(_squared, range(7), jobs=2)) == expected


def test_a_worker_is_given_the_function_once_and_its_arrays_as_pages_of_a_file():
    found = list(mapped(_Remembering(np.arange(8) / 2), range(8), jobs=2))
    assert [value for _, _, value, _ in found] == [x / 2 for x in range(8)]
    for worker in {worker for worker, *_ in found}:
        asked = [count for other, count, _, _ in found if other == worker]
        assert asked == list(range(1, len(asked) + 1))
    assert not any(is_writeable for *_, is_writeable in found)


def test_functions_of_a_script_and_without_arrays_can_be_handed_over():
    assert list(mapped(lambda x: x + 1, range(3), jobs=2)) == [1, 2, 3]


def test_workers_that_are_asked_nothing_are_not_started(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert list(mapped(_squared, [], jobs=2)) == []


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


_ON_RAY = """
import os
import signal
import sys
from pathlib import Path

import numpy as np
import ray

import featherweight as fw
from featherweight.runtime.workers import mapped

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
assert list(mapped(lambda x: x**3, range(11), jobs=2, engine="ray")) == [x**3 for x in range(11)]
samples = list(np.load(sys.argv[2]))
alone = fw.calibrate(sys.argv[1], samples, progress=False)
assert fw.calibrate(sys.argv[1], samples, jobs=2, engine="ray", progress=False) == alone
died = Path(sys.argv[2] + ".died")


def dying_once(x):
    if x == 3 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


assert list(mapped(dying_once, range(6), jobs=2, engine="ray")) == [x * x for x in range(6)]
assert died.exists()
try:
    list(mapped(abs, range(2), jobs=3, engine="ray"))
except fw.RecipeError as error:
    assert "jobs is 3, but the Ray cluster has 2 processors" in str(error)
else:
    raise AssertionError("3 jobs on 2 processors")
ray.shutdown()
"""


@pytest.mark.frameworks
def test_ray_gives_the_same_results_in_order(tmp_path):
    # In a process of its own: Ray forks, which JAX, loaded for other tests, warns of.
    pytest.importorskip("ray")
    fw.save(models.lowered("convnet"), tmp_path / "model.tflite")
    np.save(tmp_path / "samples.npy", np.stack([sample["image"] for sample in models.samples("convnet", 24)]))
    done = subprocess.run(
        [sys.executable, "-c", _ON_RAY, tmp_path / "model.tflite", tmp_path / "samples.npy"],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
