"""Models of every kind, old words, words of other tools, and what is public."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.analysis.small_models import classifier, features

import featherweight as fw
from featherweight.errors import DataError, FormatError, LoweringError, RecipeError

X = features(16)
Y = np.arange(16) % 6


@functools.cache
def live() -> Any:
    keras.utils.set_random_seed(0)
    given = keras.Input((8,), name="features")
    return keras.Model(given, keras.layers.Dense(6, name="scores")(given))


def weights() -> np.ndarray:
    return np.linspace(-1, 1, 48, dtype=np.float32).reshape(8, 6)


def jax_function(x: Any) -> Any:
    return x @ weights()


KINDS: dict[str, Callable[[Path], Any]] = {
    "Model": lambda _: classifier(),
    "bytes": lambda _: fw.write(classifier()),
    "path": lambda folder: folder / "model.tflite",
    "text": lambda folder: str(folder / "model.tflite"),
    "keras file": lambda folder: folder / "model.keras",
    "Keras": lambda _: live(),
    "JAX": lambda _: jax_function,
    "Quantized": lambda _: fw.quantize(classifier(), calibration=X),
    "Pruned": lambda _: fw.prune(classifier(), 0.5),
    "Removed": lambda _: fw.remove_channels(classifier(), 0.5, multiple=4),
    "Stored": lambda _: fw.store_sparse(classifier()),
    "Equalized": lambda _: fw.equalize(classifier()),
    "GraphModel": lambda _: fw.graph_model(live()),
    "QuantizedModel": lambda _: fw.quantize_aware(live(), calibration=X),
}
FED: dict[str, Callable[[Any], Any]] = {
    "run": lambda m: fw.run(m, X),
    "evaluate": lambda m: fw.evaluate(m, (iter(X[:, None]), Y)),
    "calibrate": lambda m: fw.calibrate(m, iter(X[:, None])),
    "compare": lambda m: fw.compare(m, m, list(X[:, None])),
}
ALONE: dict[str, Callable[[Any], Any]] = {
    "inspect": fw.inspect,
    "check": lambda m: fw.check(m, "litert"),
    "benchmark": lambda m: fw.benchmark(m, runs=1, warmup=0),
    "write": fw.write,
    "store_sparse": fw.store_sparse,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    fw.save(classifier(), path / "model.tflite")
    live().save(path / "model.keras")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_function_takes_every_kind_of_model(kind: str, folder: Path) -> None:
    model = KINDS[kind](folder)
    for name, call in {**FED, **ALONE}.items():
        if kind == "JAX" and name in ALONE:
            with pytest.raises(LoweringError, match=rf"^{name}: .*Load it first: fw.load\(source, samples="):
                call(model)
        elif kind.startswith("Quantized") and name == "calibrate":
            with pytest.raises(fw.FormatError, match="already quantized"):
                call(model)
        else:
            assert call(model) is not None, name


def test_a_stream_that_lowers_a_model_is_still_whole() -> None:
    def stream() -> Any:
        return iter([x[None] for x in X])

    assert fw.evaluate(jax_function, (stream(), Y)).count == 16
    assert fw.calibrate(jax_function, stream()).samples == 16
    rows = fw.compare(jax_function, jax_function, stream())
    assert [row.count for row in rows if row.kind == "output"] == [16 * 6]


def test_the_rows_of_an_array_lower_a_model_as_batches_of_one() -> None:
    assert fw.evaluate(jax_function, (X, Y)).count == 16
    assert fw.calibrate(jax_function, X).samples == 16


def test_what_training_made_is_what_runs() -> None:
    model = fw.quantize_aware(live(), calibration=X)
    assert np.array_equal(fw.run(model, X), fw.run(fw.finalize(model), X))
    graph = fw.graph_model(live())
    assert np.allclose(fw.run(graph, X), live().predict(X, verbose=0), atol=1e-5)


@pytest.mark.frameworks
def test_torch_modules() -> None:
    import torch

    module = torch.nn.Linear(8, 6).eval()
    wanted = module(torch.from_numpy(X)).detach().numpy()
    assert np.allclose(fw.run(module, X), wanted, atol=1e-5)
    assert fw.evaluate(module, (X, Y)).count == 16
    assert fw.calibrate(module, X).samples == 16
    assert np.isinf(fw.compare(module, module, X)[0].sqnr_db)
    with pytest.raises(LoweringError, match=r"inspect: source is a Linear.*Load it first: fw\.load\(source, samples="):
        fw.inspect(module)


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("old", "call"),
    [
        ("samples", lambda: fw.quantize(classifier(), calibration=X, samples=4)),
        ("samples", lambda: fw.quantize_aware(classifier(), calibration=X, samples=4)),
        ("samples", lambda: fw.prune(classifier(), 0.5, samples=4)),
        ("dense", lambda: fw.prune(classifier(), 0.5, dense=())),
        ("fraction", lambda: fw.remove_channels(classifier(), fraction=0.5, multiple=4)),
        ("criterion", lambda: fw.remove_channels(classifier(), 0.5, criterion="magnitude", multiple=4)),
        ("criterion", lambda: fw.SparseOptimizer("adam", 0.5, criterion="movement")),
        ("dense", lambda: fw.SparseOptimizer("adam", 0.5, dense=())),
        ("range_method", lambda: fw.Scheme("int8", range_method="mse")),
        ("symmetric", lambda: fw.Scheme("int8", symmetric=True)),
        ("narrow_range", lambda: fw.Scheme("int8", narrow_range=True)),
    ],
)
def test_old_words_are_understood_for_a_version(old: str, call: Callable[[], Any]) -> None:
    with pytest.warns(DeprecationWarning, match=rf"'{old}' .* goes with the next version") as found:
        call()
    assert found[0].filename == __file__


def test_an_old_word_does_what_the_new_one_does() -> None:
    with pytest.warns(DeprecationWarning, match="'samples' is called 'limit'"):
        old = fw.quantize(classifier(), calibration=X, samples=4)
    assert old.plan == fw.quantize(classifier(), calibration=X, limit=4).plan
    with pytest.raises(RecipeError, match="prune: both 'limit' and its old name 'samples' are given"):
        fw.prune(classifier(), 0.5, samples=4, limit=4)


def test_a_configuration_with_old_words_is_restored() -> None:
    config = fw.SparseOptimizer("adam", 0.5, method="movement", keep=("first",)).get_config()
    old = {{"method": "criterion", "keep": "dense"}.get(name, name): value for name, value in config.items()}
    restored = fw.SparseOptimizer.from_config(old)
    assert restored.get_config() == config


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fw.quantize(classifier(), representative_dataset=X), r"Did you mean calibration=\?"),
        (lambda: fw.quantize(classifier(), data=X), r"Did you mean calibration=\?"),
        (lambda: fw.quantize(classifier(), calibration_data_reader=X), r"Did you mean calibration=\?"),
        (lambda: fw.quantize(classifier(), calibration=X, num_samples=3), r"Did you mean limit=\?"),
        (lambda: fw.quantize(classifier(), optimizations=["DEFAULT"]), r"Did you mean recipe=\?"),
        (lambda: fw.quantize(classifier(), inference_input_type="int8"), r"Did you mean io=\?"),
        (lambda: fw.quantize(classifier(), calibration=lambda: iter(X)), "Call it, and pass what it returns"),
        (lambda: fw.quantize(classifier(), calibration="train.npz"), "Load the data first, and pass its arrays"),
        (lambda: fw.quantize(classifier(), X), r"The recipe is an ndarray .*Choose one of dynamic, float16"),
        (lambda: fw.quantize(classifier(), "int8", X), "Name the arguments"),
        (
            lambda: fw.quantize(classifier(), calibration=X, io="uint4"),
            r"io is 'uint4' \(allowed: float32, int8, u",
        ),
        (lambda: fw.quantize(classifier(), calibration=X, limit=X), r"limit is an ndarray .* Data go to calibration="),
        (lambda: fw.quantize(calibration=X), "missing a required argument: 'source'"),
        (lambda: fw.prune(classifier(), amount=0.5), r"Did you mean sparsity=\?"),
        (lambda: fw.prune(classifier(), 50), r"a sparsity is a fraction of zeros in \[0, 1\), not 50"),
        (lambda: fw.schedules.polynomial_decay(initial_sparsity=0.0), r"Did you mean initial=\?"),
        (lambda: fw.schedules.polynomial_decay(0, 0.5, begin_step=0), r"Did you mean begin=\?"),
        (lambda: fw.SparseOptimizer(live(), 0.5), r"compiled with it: model\.compile\(fw\.SparseOptimizer"),
        (lambda: fw.SparseOptimizer("adam", pruning_schedule=0.5), r"Did you mean schedule=\?"),
        (lambda: fw.finalize(live()), "for a float model, call quantize"),
        (lambda: fw.evaluate(classifier(), X, Y), r"the pair \(samples, labels\)"),
        (lambda: fw.run(classifier()), "missing a required argument: 'inputs'"),
        (lambda: fw.run(classifier(), None), "inputs is None"),
        (lambda: fw.benchmark(classifier(), num_runs=3), r"Did you mean runs=\?"),
        (lambda: fw.load("model.onnx"), "Pass the torch module or Keras model that it was exported from"),
        (lambda: fw.load("weights.pth"), "Build the torch module, load the weights into it"),
        (lambda: fw.load(keras.Model), "Call the class"),
        (lambda: fw.read(classifier), r"live models and \.keras files are for `load`"),
        (lambda: fw.Rule(weight="int8"), r"Such as fw\.Scheme\('int8'\)"),
        (lambda: fw.Recipe("mine", ({"weight": "int8"},)), r"Such as fw\.Rule"),
        (lambda: fw.Scheme("int8", bits=8), r"Scheme has no argument 'bits' \(it has: dtype, per_channel"),
    ],
)
def test_habits_from_elsewhere_lead_to_the_right_call(
    call: Callable[[], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "weights.pth"):
        Path(name).write_bytes(b"something else")
    with pytest.raises((RecipeError, DataError, FormatError), match=message):
        call()


def test_a_reader_of_onnx_runtime_is_told_its_way() -> None:
    class Reader:
        def get_next(self) -> Any:
            return None

    with pytest.raises(DataError, match=r"Pass iter\(calibration\.get_next, None\)"):
        fw.quantize(classifier(), calibration=Reader())  # type: ignore[arg-type]


def test_a_plan_decides_what_it_decides() -> None:
    plan = fw.quantize(classifier(), calibration=X).plan
    with pytest.raises(RecipeError, match="io can't be chosen beside plan=, which decides it"):
        fw.quantize(classifier(), plan=plan, io="int8")
    assert fw.quantize(classifier(), plan=plan, io="float32").plan.io == "float32"


def test_an_attribute_that_is_not_there_names_those_near_it() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'quantise'\. Near it: quantize"):
        _ = fw.quantise  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ public


def _types_in(hint: Any) -> set[type]:
    found = {hint} if isinstance(hint, type) and hint.__module__.startswith("featherweight") else set[type]()
    return found.union(*(_types_in(part) for part in typing.get_args(hint)))


def test_every_type_that_is_returned_is_public() -> None:
    public = {getattr(fw, name) for name in fw.__all__}
    waiting, seen = set[type](), set[type]()
    for function in filter(inspect.isfunction, public):
        globals_of = {**inspect.unwrap(function).__globals__, **{name: getattr(fw, name) for name in fw.__all__}}
        hint = inspect.unwrap(function).__annotations__.get("return")
        waiting |= _types_in(eval(hint, globals_of) if isinstance(hint, str) else hint)
    assert len(waiting) > 15
    while waiting:
        one = waiting.pop()
        seen.add(one)
        if dataclasses.is_dataclass(one):
            import sys

            names = {**vars(sys.modules[one.__module__]), **{name: getattr(fw, name) for name in fw.__all__}}
            for field in dataclasses.fields(one):
                waiting |= _types_in(eval(field.type, names) if isinstance(field.type, str) else field.type) - seen
    assert sorted(one.__name__ for one in seen - public) == []


def test_a_repr_fits_on_ten_lines() -> None:
    model = classifier()
    stats = fw.calibrate(model, X)
    for value in (
        model, model.main, *model.main.tensors.values(), stats, fw.plan(model, stats), fw.inspect(model),
        fw.quantize(model, calibration=X), fw.quantize(model, calibration=X).report, fw.prune(model, 0.5),
        fw.remove_channels(model, 0.5, multiple=4), fw.store_sparse(model), fw.equalize(model),
    ):  # fmt: skip
        assert len(repr(value).splitlines()) <= 10
        assert max(map(len, repr(value).splitlines())) < 250
    assert "2 FULLY_CONNECTED" in repr(model)
    assert "features: float32[any, 8]" in repr(model)
    assert "recipe 'int8' for target 'litert'" in repr(fw.quantize(model, calibration=X))


def test_there_is_one_default_of_progress() -> None:
    functions = [function for name in fw.__all__ if inspect.isfunction(function := getattr(fw, name))]
    defaults = {f.__name__: p.default for f in functions if (p := inspect.signature(f).parameters.get("progress"))}
    assert len(defaults) > 7
    assert set(defaults.values()) == {True}
