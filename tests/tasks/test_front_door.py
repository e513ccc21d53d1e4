"""What users call, called wrongly: whatever an argument is, the call works or its error says what is wrong."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.analysis.small_models import classifier, features

import featherweight as fw

HUGE = 10**30
# Records that the package makes: their makers are not held to anything.
RECORDS = {
    "Arena", "Boxes", "Deployed", "Miss", "Mismatch", "NpuFigures", "ProofSheet", "RuntimeRow",
    "Cause", "ChannelGroup", "ChannelMoments", "Clustered", "ClusteredKernel",
    "Constraint", "Curve", "CurvePoint", "Dataset", "Diagnosis",
    "Difference", "Encoded", "EncodedTensor", "Equalized", "JudgedOutput", "OwnErrorRow",
    "EqualizedTensor", "Evaluation", "FileSize", "Footprint", "Found", "Graph", "GraphModel", "Histogram", "Inspection",
    "Distribution", "Latency",
    "Magnitudes", "Model", "Node", "NodeNote", "OutputError", "OperatorRow", "OperatorTime",
    "OperatorTimes", "Plan", "PortRow", "Profile", "Pruned",
    "PrunedKernel",
    "QuantParams", "Quantized", "QuantizedModel", "QuantizedTensor", "RateTrial", "Removed", "Report", "Schedule",
    "Score", "Scores", "SeveralTargets", "Signature", "Step", "Optimized",
    "Stats", "Stored", "StoredTensor", "Target", "Tensor", "TensorError", "TensorRow", "TensorStats", "Tried",
    "TriedRate", "Unfolded", "UnfoldedWeight", "Violation",
}  # fmt: skip


TAKES_FUNCTIONS = {("plan", "obstacle")}


def exhausted() -> Iterator[Any]:
    used = iter([features(1)])
    list(used)
    return used


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are no models."""
    path = tmp_path_factory.mktemp("door")
    (path / "empty.tflite").write_bytes(b"")
    for suffix in ("tflite", "keras", "h5", "toml", "json", "npz", "onnx", "pt"):
        (path / f"wrong.{suffix}").write_text("no such thing: 5")
    return path


def wrong_values(folder: Path) -> dict[str, Callable[[], Any]]:
    """What stands where something else should, by name, each made anew."""
    values: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "True": lambda: True,
        "0": lambda: 0,
        "-1": lambda: -1,
        "huge": lambda: HUGE,
        "1.5": lambda: 1.5,
        "nan": lambda: math.nan,
        "infinite": lambda: math.inf,
        "no text": lambda: "",
        "a text": lambda: "nonsense",
        "a zero byte": lambda: "a\0b",
        "a missing file": lambda: folder / "missing.tflite",
        "a folder": lambda: folder,
        "an empty file": lambda: str(folder / "empty.tflite"),
        "bytes": lambda: b"bytes that are no model",
        "an empty list": list,
        "a list": lambda: [None],
        "a nested list": lambda: [[1, 2], [3]],
        "a tuple": lambda: (1, "two", 3.0),
        "an empty dict": dict,
        "a dict": lambda: {"nonsense": 1},
        "a dict of numbers": lambda: {1: None},
        "a set": lambda: {1, 2},
        "an object": object,
        "a class": lambda: int,
        "a function": lambda: len,
        "a generator function": lambda: exhausted,
        "an exhausted iterator": exhausted,
        "an empty array": lambda: np.zeros((0, 8), np.float32),
        "a wrong shape": lambda: np.zeros((2, 7), np.float32),
        "texts": lambda: np.array(["a", "b"]),
        "objects": lambda: np.array([None, {}], object),
        "nans": lambda: np.full((2, 8), np.nan, np.float32),
        "a scalar": lambda: np.float32(3),
        "a layer": lambda: keras.layers.Dense(1),
        "an optimizer": lambda: keras.optimizers.SGD(),
        "a module": lambda: math,
        "the package": lambda: fw,
        "Ellipsis": lambda: ...,
    }
    for file in ("tflite", "keras", "h5", "toml", "json", "npz", "onnx", "pt"):
        values[f"a wrong .{file}"] = lambda file=file: folder / f"wrong.{file}"
    return values


def live() -> Any:
    """A Keras model of the classifier's shapes."""
    keras.utils.set_random_seed(0)
    given = keras.Input((8,), name="features")
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(16, activation="relu")(given))
    return keras.Model(given, keras.layers.Dense(6, name="scores")(hidden))


@pytest.fixture(scope="module")
def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Callable[[], Any]]]]:
    """Every public function with arguments that work, each made anew."""
    model, x = classifier(), features(8)
    y = np.arange(8) % 6
    stats = fw.calibrate(model, x)
    plan, recorded = fw.plan(model, stats), folder / "stats.json"
    stats.save(recorded)
    scores = folder / "scores.json"
    micro = fw.quantize(model, calibration=x, target="tflm").model
    fw.sensitivity(model, calibration=x).save(scores)
    evaluation = fw.evaluate(model, (x, y))
    aware, source = fw.quantize_aware(live(), calibration=x), live()
    graph = fw.graph_model(source)
    distilled = fw.quantize_aware(live(), calibration=x, teacher=True)
    distilled.compile("adam")
    given: dict[str, dict[str, Any]] = {
        "Oscillations": {},
        "Recorder": {"model": model, "threads": 1},
        "RangeTraining": {},
        "Recipe": {"name": "mine", "rules": (fw.Rule(),)},
        "Rule": {},
        "Scheme": {"dtype": "int8"},
        "SparseOptimizer": {"optimizer": "adam", "schedule": 0.5},
        "ClusterOptimizer": {"optimizer": "adam"},
        "SparsityLog": {},
        "KurtosisRegularizer": {"strength": 0.1},
        "add_kurtosis": {"model": live, "strength": 0.1},
        "benchmark": {"models": [model], "runs": 1, "warmup": 0},
        "calibrate": {"model": model, "samples": x},
        "operator_times": {"model": model, "runs": 1},
        "check": {"model": model, "target": "litert"},
        "cluster": {"source": model, "clusters": 4, "keep": ()},
        "compare": {"float_model": model, "other": model, "samples": x},
        "diagnose": {"float_model": model, "samples": x},
        "deploy": {"model": micro, "folder": folder / "deployed", "tests": 1},
        "drift": {"before": stats, "after": stats},
        "equalize": {"source": model},
        "evaluate": {"model": model, "data": (x, y)},
        "finalize": {"model": aware},
        "graph_model": {"model": model},
        "inspect": {"source": model},
        "kurtosis_regularizer": {"strength": 0.1},
        "load": {"source": model},
        "load_scores": {"path": scores},
        "load_stats": {"path": recorded},
        "optimize": {"source": model, "data": (x, y), "calibration": x, "min_sqnr_db": 5.0},
        "paired_difference": {"after": evaluation, "before": evaluation},
        "plan": {"model": model, "stats": stats},
        "prune": {"source": model, "sparsity": 0.5, "keep": ()},
        "prove": {"model": micro, "vectors": 1, "runtimes": ["builtin"]},
        "quantize": {"source": model, "calibration": x},
        "quantize_aware": {"source": model, "calibration": x},
        "read": {"source": fw.write(model)},
        "reestimate_batch_norm": {"model": live, "batches": [x]},
        "remove_channels": {"source": model, "sparsity": 0.5, "multiple": 4},
        "rewrite": {"model": model, "plan": plan},
        "run": {"model": model, "inputs": x},
        "save": {"model": model, "path": folder / "made.tflite"},
        "search": {"source": model, "data": (x, y), "calibration": x, "min_sqnr_db": 20.0},
        "sensitivity": {"source": model, "data": (x, y), "calibration": x},
        "sparsity_curve": {"source": model, "data": (x, y), "sparsities": (0.5,)},
        "store_encoded": {"model": micro},
        "store_sparse": {"model": model},
        "try_learning_rates": {"model": distilled, "samples": x, "rates": (1e-3,), "steps": 1},
        "unfold": {"trained": graph, "keras_model": source},
        "write": {"model": model},
        "schedules.constant": {"sparsity": 0.5},
        "schedules.cosine": {"initial": 0.0, "final": 0.5},
        "schedules.linear": {"initial": 0.0, "final": 0.5},
        "schedules.polynomial_decay": {"initial": 0.0, "final": 0.5},
        "schedules.join": {},
    }
    found: dict[str, tuple[Callable[..., Any], dict[str, Callable[[], Any]]]] = {}
    for name, arguments in given.items():
        made = {n: (v if v is live else (lambda v=v: v)) for n, v in arguments.items()}
        found[name] = (_public(name), made)
    return found


def _public(name: str) -> Any:
    found: Any = fw
    for part in name.split("."):
        found = getattr(found, part)
    return found


def names() -> list[str]:
    functions = [n for n in fw.__all__ if callable(getattr(fw, n)) and n not in RECORDS and n != "ModelLike"]
    errors = [n for n in functions if isinstance(getattr(fw, n), type) and issubclass(getattr(fw, n), Exception)]
    return sorted({*functions} - {*errors}) + [f"schedules.{name}" for name in fw.schedules.names()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrong path makes is made here."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", names())
def test_no_argument_raises_what_only_its_author_understands(name: str, calls: Any, folder: Path) -> None:
    function, arguments = calls[name]
    raw: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter in inspect.signature(function).parameters.values():
            for title, made in wrong_values(folder).items():
                given = {key: value() for key, value in arguments.items()}
                if made() is parameter.default:
                    continue
                extra: tuple[Any, ...] = ()
                if (name, parameter.name) in TAKES_FUNCTIONS and callable(made()):
                    continue  # what a function of the caller raises is the caller's
                if parameter.kind is parameter.VAR_POSITIONAL:
                    extra = (made(),)
                else:
                    given[parameter.name] = made()
                try:
                    function(*extra, **given)
                except fw.FeatherweightError as error:
                    message = str(error)
                    if len(message) < 20 or "object at 0x" in message:
                        raw.append(f"{parameter.name} = {title}: says only: {message}")
                except Exception as error:
                    raw.append(f"{parameter.name} = {title}: {type(error).__name__}: {str(error)[:150]}")
    assert not raw, "\n".join([f"{len(raw)} of {name}", *raw])
