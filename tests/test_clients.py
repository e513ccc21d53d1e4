from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featherweight import tflite
from tests import clients, models

RUNNERS = (clients.litert_run, clients.tflm_run, clients.openvino_run)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clients") / "dense.tflite"
    tflite.save(models.lowered("dense"), path)
    return path


@pytest.mark.parametrize("run", RUNNERS)
def test_all_runtimes_agree_on_a_float_model(run: Callable[..., list[np.ndarray]], dense: Path) -> None:
    frame = models.samples("dense", 1)[0]["frame"]
    (expected,) = clients.litert_run(dense, frame, resolver="ref")
    (by_name,) = run(dense, {"frame": frame})
    np.testing.assert_allclose(by_name, expected, atol=1e-5)
    np.testing.assert_allclose(expected, np.array(models.build("dense")(frame)), atol=1e-5)


@pytest.mark.parametrize("run", RUNNERS)
def test_a_file_that_is_no_model(run: Callable[..., list[np.ndarray]], tmp_path: Path) -> None:
    path = tmp_path / "garbage.tflite"
    path.write_bytes(b"not a model at all" * 10)
    with pytest.raises(clients.ClientError, match=r"on .*garbage.tflite: (exit status \d+|killed by SIG\w+)\."):
        run(path, np.zeros((1, 64), np.float32))


def test_an_input_that_the_model_lacks(dense: Path) -> None:
    with pytest.raises(
        clients.ClientError, match=r"The model has no inputs \['picture'\]; its inputs are \[.*'frame'.*\]"
    ):
        clients.litert_run(dense, {"picture": np.zeros((1, 64), np.float32)})


def test_an_abort_is_an_error_with_its_signal() -> None:
    command = [sys.executable, "-c", "import os, sys; print('why', file=sys.stderr, flush=True); os.abort()"]
    with pytest.raises(clients.ClientError, match=r"it: killed by SIGABRT\.\nwhy"):
        clients._finished(command, "it")


def test_a_float_model_stays_on_the_cpu(dense: Path) -> None:
    result = clients.vela(dense)
    assert (result.npu_ops, result.npu_fraction) == (0, 0.0)
    assert result.cpu_ops > 0


def test_vela_is_found_beside_this_python() -> None:
    assert os.access(Path(sys.executable).with_name("vela"), os.X_OK)
