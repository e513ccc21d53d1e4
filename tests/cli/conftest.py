"""The folder that commands are called in."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.small_models import classifier, features

from featherweight import tflite
from featherweight.runtime import run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with `model.tflite`, `data.npz` (x, y) and `unlabelled.npy`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEATHERWEIGHT_DEBUG", raising=False)
    tflite.save(classifier(), "model.tflite")
    x = features()
    np.savez("data.npz", x=x, y=run(classifier(), x).argmax(axis=1))
    np.save("unlabelled.npy", x)
    return tmp_path
