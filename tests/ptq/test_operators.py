"""Every operator in every form that the target `litert` lists: quantized alone, run on LiteRT, compared with float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.ptq.litert_worker import run_all
from tests.ptq.nets import sqnr_db
from tests.single_ops import FACTORIES, feeds

from featherweight import operators
from featherweight.calibration import calibrate
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.targets import target as targets
from featherweight.targets.target import check, form_of
from featherweight.tflite import write

LITERT = targets.load("litert")
CASES = [(op, form) for op, forms in LITERT.forms.items() if op in FACTORIES for form in forms]
RESOLVERS = ("auto", "no_delegate")
# The least SQNR in dB over the outputs: with n bits at full range it is about 6 n, less what the kernel's own
# rounding and tables add. int16 kernels of non-linear functions interpolate tables, hence no more than 30.
LEAST_DB = {"int8": 25, "int16": 30, "int4": 10}
# Comparisons and positions of extremes: the share of outputs that must be the same.
LEAST_EQUAL = {"int8": 0.95, "int16": 0.99}


def scheme(form: str) -> Recipe:
    """Returns a recipe that asks for a form."""
    activation, _, weight = form.partition("*")
    dtype = None if activation == "float32" else Scheme(activation)
    return Recipe(form, (Rule(weight=Scheme(weight or "int8"), activation=dtype),))


def key(op: str, form: str) -> str:
    return f"{op}-{form}".replace("*", "x")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What LiteRT computes for all cases: (case or operator, resolver) → outputs or an error."""
    jobs: dict[str, Any] = {}
    for op in FACTORIES.keys() & LITERT.forms.keys():
        forms = LITERT.forms[op]
        model = FACTORIES[op]()
        inputs = [feeds(model, seed)[name] for seed in (0,) for name in model.main.inputs]
        jobs[op] = (write(model), inputs, ("auto",))
        for form in forms:
            jobs[key(op, form)] = (write(quantized(op, form)), inputs, RESOLVERS)
    return run_all(jobs, tmp_path_factory.mktemp("operators"))


def quantized(op: str, form: str) -> Any:
    """Quantizes the model of one operator with a recipe for one form."""
    model, recipe = FACTORIES[op](), scheme(form)
    stats = None
    if recipe.needs_ranges:
        stats = calibrate(model, [feeds(model, seed) for seed in range(4)], progress=False)
    decided = plan(model, stats, recipe, LITERT, integers=True)
    assert list(decided.forms.values()) == [form], (decided.forms, decided.kept_float)
    return rewrite(model, decided)


@pytest.mark.parametrize(("op", "form"), CASES)
def test_the_file_says_what_was_planned(op: str, form: str) -> None:
    model = quantized(op, form)
    (node,) = (n for n in model.main.nodes if n.op == op)
    assert form_of(node, model.main) == form
    assert node.version >= operators.lookup(op).versions.get(form, 1)
    assert check(model, LITERT) == ()


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize(("op", "form"), CASES)
def test_litert_runs_it_and_agrees_with_float(op: str, form: str, resolver: str, results: dict[Any, Any]) -> None:
    expected, found = results[op, "auto"], results[key(op, form), resolver]
    assert not isinstance(expected, str), expected
    assert not isinstance(found, str), found
    kind = form.split("*")[-1] if form.startswith("float32") or "int4" in form else form.split("*")[0]
    for reference, output in zip(expected, found, strict=True):
        assert output.dtype == reference.dtype
        assert output.shape == reference.shape
        if reference.dtype.kind == "f":
            assert sqnr_db(reference, output) >= LEAST_DB[kind]
        else:
            assert (reference == output).mean() >= LEAST_EQUAL[kind]


def test_a_process_that_ends_is_reported_and_the_rest_is_run(tmp_path: Any) -> None:
    # LiteRT's reference kernel aborts on an int8 SOFTMAX whose sum of exponentials reaches 512.
    from tests.building import net, softmax

    from featherweight.calibration import Stats, TensorStats

    model = net({"x": (1, 600)}, {}, [softmax("x", "y", (1, 600))], ["y"])
    stats = Stats(1, {"x": TensorStats(1, -1.0, 1.0), "y": TensorStats(1, 0.0, 1.0)})
    content = write(rewrite(model, plan(model, stats, "int8", integers=True)))
    ones = [np.ones((1, 600), np.float32)]
    jobs = {"a": (content, ones, ("reference",)), "b": (content, ones, ("auto",)), "c": (b"no model", ones, ("auto",))}
    found = run_all(jobs, tmp_path)
    assert str(found["a", "reference"]).startswith("the process ended with -6")
    assert isinstance(found["b", "auto"], list)
    assert str(found["c", "auto"]).startswith("ValueError:")
