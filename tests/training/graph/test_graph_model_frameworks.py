"""Graph models on the TensorFlow and torch backends of Keras, each in a process of its own that runs everything."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
# Runs jobs, each a function below and the name of a net, in a folder of files; prints what each found, or its error.
_SCRIPT = """
import json, sys, traceback
import keras, numpy as np
import featherweight as fw
from featherweight.training import float_graph
from tests import single_ops
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

def given(name):
    graph = fw.read(f"{folder}/{name}.tflite")
    return graph, dict(np.load(f"{folder}/{name}.npz")), fw.graph_model(graph)

def net(name):
    graph, x, model = given(name)
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
    return result

def operators(_):
    result = {}
    for op, make in (single_ops.FACTORIES | VARIANTS).items():
        graph = make()
        x = single_ops.feeds(graph)
        result[op] = errors(fw.graph_model(graph)(x), fw.run(graph, x))
    return result

def unknown_batch(name):
    import tensorflow as tf
    graph, x, model = given(name)
    goal = np.zeros_like(model.predict(x, verbose=0))
    data = tf.data.Dataset.from_tensor_slices((x, goal)).batch(3)
    assert data.element_spec[1].shape[0] is None
    model.compile("sgd", "mse", jit_compile=False)
    return model.fit(data, epochs=2, verbose=0).history["loss"]

folder, jobs = sys.argv[1], json.loads(sys.argv[2])
results = {}
for kind, name in jobs:
    keras.backend.clear_session()
    try:
        results[f"{kind} {name}"] = globals()[kind](name)
    except Exception:
        results[f"{kind} {name}"] = traceback.format_exc()
print("RESULT", json.dumps(results))
"""
OF_UNKNOWN_BATCH = ("depthwise", "multi_input", "transformer", "upsampling", "lstm")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Any]:
    """Returns what a job found on a backend; each backend runs all jobs in one process, whose start is what is slow."""
    folder = tmp_path_factory.mktemp("nets")
    names = {(name, form): written(folder, name, form) for name, form in NETS}

    @functools.cache
    def results(backend: str) -> dict[str, Any]:
        jobs = [("operators", ""), *(("net", name) for name in names.values())]
        if backend == "tensorflow":
            jobs += [("unknown_batch", names[name, "plain"]) for name in OF_UNKNOWN_BATCH]
        return json.loads(on_backend(backend, _SCRIPT, str(folder), json.dumps(jobs)).split("RESULT", 1)[1])

    def of(backend: str, kind: str, name: str) -> Any:
        result = results(backend)[f"{kind} {name}"]
        assert not isinstance(result, str), result
        return result

    return of


def called(name: str, form: str) -> str:
    return f"{name}_{form}"


def written(folder: Path, name: str, form: str) -> str:
    """Writes a net's file, its recurrent layers in a form, and its inputs; returns what they are called."""
    graph = models.lowered(name, form == "unrolled", form == "fused")
    fw.save(graph, folder / f"{called(name, form)}.tflite")
    np.savez(folder / f"{called(name, form)}.npz", **models.batch(name, 4))
    return called(name, form)


@pytest.mark.parametrize(("backend", "module"), BACKENDS)
@pytest.mark.parametrize(("name", "form"), NETS)
def test_a_net_computes_trains_and_is_saved(backend: str, module: str, name: str, form: str, found: Any) -> None:
    pytest.importorskip(module)
    result = found(backend, "net", called(name, form))
    assert result["float"] < 1e-5
    assert result["losses"][1] < result["losses"][0]
    assert result["file"] < 1e-5
    assert result["loaded"] == 0
    assert 1e-5 < result["mixed"] < 0.2


@pytest.mark.parametrize(("backend", "module"), BACKENDS)
def test_every_operator_computes_what_litert_computes(backend: str, module: str, found: Any) -> None:
    pytest.importorskip(module)
    result = found(backend, "operators", "")
    assert set(result) == {*single_ops.FACTORIES, *VARIANTS}
    assert {op: error for op, error in result.items() if error > 1e-5} == {}


@pytest.mark.parametrize("name", OF_UNKNOWN_BATCH)
def test_a_batch_of_unknown_size_is_trained(name: str, found: Any) -> None:
    pytest.importorskip("tensorflow")
    losses = found("tensorflow", "unknown_batch", called(name, "plain"))
    assert losses[1] < losses[0]
