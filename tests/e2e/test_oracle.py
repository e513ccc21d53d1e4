"""TensorFlow's converter as an oracle: given its ranges, our integers are its integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.equality_jobs import compare_integers
from tests import models
from tests.backends import on_backend

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

# Converts a saved model on the TensorFlow backend, to float and to int8 with float inputs and outputs.
_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.peers import tensorflow_convert
saved, samples, folder = sys.argv[1:]
for is_int8, name in ((False, "float"), (True, "int8")):
    content = tensorflow_convert(saved, np.load(samples), is_int8=is_int8)
    Path(folder, f"{name}.tflite").write_bytes(content)
"""


@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense"])
def test_integers_are_those_of_the_tensorflow_converter(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    models.build(name).save(tmp_path / "model.keras")
    (inputs,) = models.batch(name, 16, seed=4).values()
    np.save(tmp_path / "samples.npy", inputs[:, np.newaxis])
    on_backend("tensorflow", _SCRIPT, *(str(tmp_path / f) for f in ("model.keras", "samples.npy", ".")))
    counts = compare_integers(str(tmp_path / "float.tflite"), str(tmp_path / "int8.tflite"))
    assert counts["ignored"] == 0
    assert counts["weights"]["of"] > 1000
    for kind in ("weights", "biases", "scales"):
        assert counts[kind]["differing"] == 0, counts
