"""A small network with samples, and ways that run in processes of their own as the leaderboard's do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.leaderboard.record import Inputs, Net, Way
from benchmarks.leaderboard.running import Wish
from tests import building

from featherweight import tflite

EXAMPLES = 12


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """A dense net of four inputs and three classes, with samples, and labels in groups of three."""
    random = np.random.default_rng(0)
    layer = building.dense("x", "w", "b", "y", (1, 3))
    arrays = {"w": building.weights(3, 4), "b": building.weights(3)}
    model = building.net({"x": (1, 4)}, arrays, [layer], ["y"])
    tflite.save(model, tmp_path / "net.tflite")
    np.save(tmp_path / "fed.npy", random.normal(0, 1, (8, 1, 4)).astype(np.float32))
    x, y = random.normal(0, 1, (EXAMPLES, 4)).astype(np.float32), random.integers(0, 3, EXAMPLES)
    np.savez(tmp_path / "test.npz", x=x, y=y, group=np.repeat(np.arange(EXAMPLES // 3), 3))
    return Inputs(str(tmp_path / "net.tflite"), str(tmp_path / "fed.npy"), str(tmp_path / "test.npz"))


@pytest.fixture
def net(inputs: Inputs) -> Net:
    return Net("tiny", "Tiny net", "labels", lambda _: [inputs, inputs], draws=2, about="made up")


@pytest.fixture
def ways() -> dict[str, Way]:
    return {
        "float": Way("float", "float", "float32", "the float file", "unchanged", packages=("numpy",)),
        "own": Way("own", "featherweight", "int8", "defaults", "own", {"recipe": "int8"}, packages=("featherweight",)),
    }


@pytest.fixture
def wish(net: Net, ways: dict[str, Way], tmp_path: Path) -> Wish:
    return Wish({net.name: net}, ways, folder=tmp_path / "board", cell_seconds=60)
