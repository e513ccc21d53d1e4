"""Graph models on the TensorFlow and torch backends of Keras, each in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import models, single_ops
from tests.backends import on_backend
from tests.training.variants import VARIANTS

import featherweight as fw

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

BACKENDS = [("tensorflow", "tensorflow"), ("torch", "torch")]
NETS = [
    *((name, "plain") for name in models.BUILDERS),
    *((name, "unrolled") for name in models.RECURRENT),
    ("lstm", "fused"),
]
_HEAD = """
import json, sys
import keras, numpy as np
import featherweight as fw
from featherweight.training import float_graph
from tests import models, single_ops
from tests.training.variants import VARIANTS

def errors(found, expected):
    expected = expected if isinstance(expected, dict) else {"": expected}
    found = found if isinstance(found, dict) else {"": found}
    assert list(found) == list(expected), (list(found), list(expected))
    gaps = []
    for name, array in expected.items():
        value = keras.ops.convert_to_numpy(found[name])
        assert (value.shape, value.dtype) == (array.shape, array.dtype), (name, value.shape, value.dtype)
        gaps.append(float((np.abs(value.astype(np.float64) - array) / (1 + np.abs(array))).max()))
    return max(gaps)

folder, name = sys.argv[1:3]
"""
_NET = """
import pathlib
graph = fw.read(f"{folder}/{name}.tflite")
x = dict(np.load(f"{folder}/{name}.npz"))
model = fw.graph_model(graph)
result = {"float": errors(model.predict(x, verbose=0), fw.run(graph, x))}
goal = model.predict(x, verbose=0)
goal = {k: 0.9 * v[::-1] for k, v in goal.items()} if isinstance(goal, dict) else 0.9 * goal[::-1]
model.compile(keras.optimizers.SGD(1e-3), {k: "mse" for k in goal} if isinstance(goal, dict) else "mse")
losses = model.fit(x, goal, epochs=4, batch_size=len(next(iter(x.values()))), verbose=0).history["loss"]
result["losses"] = [losses[0], losses[-1]]
trained = model.predict(x, verbose=0)
result["file"] = errors(trained, fw.run(float_graph(model), x))
model.save(f"{folder}/{name}.keras")
result["loaded"] = errors(keras.saving.load_model(f"{folder}/{name}.keras").predict(x, verbose=0), trained)
low = fw.graph_model(graph, dtype="mixed_bfloat16").predict(x, verbose=0)
result["mixed"] = errors(low, fw.run(graph, x))
print("RESULT", json.dumps(result))
"""
_OPS = """
result = {}
for op, make in (single_ops.FACTORIES | VARIANTS).items():
    graph = make()
    x = single_ops.feeds(graph)
    result[op] = errors(fw.graph_model(graph)(x), fw.run(graph, x))
print("RESULT", json.dumps(result))
"""
_UNKNOWN_BATCH = """
import tensorflow as tf
graph = fw.read(f"{folder}/{name}.tflite")
x = dict(np.load(f"{folder}/{name}.npz"))
model = fw.graph_model(graph)
goal = np.zeros_like(model.predict(x, verbose=0))
data = tf.data.Dataset.from_tensor_slices((x, goal)).batch(3)
assert data.element_spec[1].shape[0] is None
model.compile("sgd", "mse", jit_compile=False)
losses = model.fit(data, epochs=2, verbose=0).history["loss"]
print("RESULT", json.dumps({"losses": losses}))
"""


def on(backend: str, script: str, folder: Path, name: str = "") -> dict[str, Any]:
    return json.loads(on_backend(backend, _HEAD + script, str(folder), name).split("RESULT", 1)[1])


def written(folder: Path, name: str, form: str) -> str:
    """Writes a net's file, its recurrent layers in a form, and its inputs; returns what they are called."""
    import numpy as np

    called = f"{name}_{form}"
    graph = models.lowered(name, fuse=True) if form == "fused" else models.lowered(name, form == "unrolled")
    fw.save(graph, folder / f"{called}.tflite")
    np.savez(folder / f"{called}.npz", **models.batch(name, 4))
    return called


@pytest.mark.parametrize(("backend", "module"), BACKENDS)
@pytest.mark.parametrize(("name", "form"), NETS)
def test_a_net_computes_trains_and_is_saved(backend: str, module: str, name: str, form: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    result = on(backend, _NET, tmp_path, written(tmp_path, name, form))
    assert result["float"] < 1e-5
    assert result["losses"][1] < result["losses"][0]
    assert result["file"] < 1e-5
    assert result["loaded"] == 0
    assert 1e-5 < result["mixed"] < 0.2


@pytest.mark.parametrize(("backend", "module"), BACKENDS)
def test_every_operator_computes_what_litert_computes(backend: str, module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    result = on(backend, _OPS, tmp_path)
    assert set(result) == {*single_ops.FACTORIES, *VARIANTS}
    assert {op: error for op, error in result.items() if error > 1e-5} == {}


@pytest.mark.parametrize("name", ["depthwise", "multi_input", "transformer", "upsampling", "lstm"])
def test_a_batch_of_unknown_size_is_trained(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    losses = on("tensorflow", _UNKNOWN_BATCH, tmp_path, written(tmp_path, name, "plain"))["losses"]
    assert losses[1] < losses[0]
