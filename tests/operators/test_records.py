"""The records of the operators against the registries of what is done with them."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.single_ops import FACTORIES

import featherweight.training
from featherweight.channels import labeling, rules
from featherweight.graph import Node
from featherweight.operators import AxesRule, Op, lookup, registered
from featherweight.operators.profiles import PROFILES
from featherweight.operators.scale_groups import sharing
from featherweight.operators.zeros import absorbing, keeps_zero
from featherweight.runtime import run
from featherweight.tflite.names import OP_CODES
from featherweight.training.graph.registry import float_function
from featherweight.training.integer.step import integer_function

FILLED = (labeling, featherweight.training)  # importing them fills the tables
NAMES = tuple({*OP_CODES, *(op.name for op in registered())})
SOURCES = Path(featherweight.training.__file__).parents[1]
# Operators whose names may stand in more than four modules, and why.
NAMED_OFTEN = {
    "ADD": "what passes and lowering write graphs with, and kernels, of integers in a module of their own",
    "SUB": "as ADD",
    "MUL": "what passes and dropout write graphs with, and kernels",
    "TANH": "the name of a fused activation as well, which all code of LSTM layers checks",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "a layer with states: lowering, planning, kernels and training have code for it",
    "PAD": "what lowering writes graphs with; XNNPACK makes it a part of a convolution (three modules)",
    "RESHAPE": "what passes write graphs with; XNNPACK's channels first know it (two modules)",
    "CONV_2D": "what a pass merges branches into; XNNPACK's channels first know it (two modules); a training function",
    "DEPTHWISE_CONV_2D": "as CONV_2D",
    "AVERAGE_POOL_2D": "written as a mean for XNNPACK (three modules); a training kernel",
}


def test_no_operator_is_named_in_more_than_four_modules() -> None:
    modules = defaultdict[str, set[str]](set)
    for path in SOURCES.rglob("*.py"):
        for name in _named(ast.parse(path.read_text())) & set(NAMES):
            modules[name].add(str(path.relative_to(SOURCES)))
    often = {name: sorted(found) for name, found in modules.items() if len(found) > 4}
    assert often.keys() == NAMED_OFTEN.keys(), often
    assert len(NAMED_OFTEN) <= 10


def _named(tree: ast.Module) -> set[str]:
    """Returns the texts of a module that may be names: its own and those of constants that it imports."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("featherweight."):
            module = vars(importlib.import_module(str(node.module)))
            texts |= {value for name in node.names if isinstance(value := module.get(name.name), str)}
    return texts


def test_what_has_a_kernel_says_what_becomes_of_axes() -> None:
    assert [op.name for op in registered() if bool(op.kernels) != bool(op.axes)] == []


def test_every_word_has_a_channel_rule_and_an_operator() -> None:
    assert rules.RULES.keys() == set(get_args(AxesRule)) == {op.axes for op in registered()}


def test_what_is_trained_has_a_record_and_a_kernel() -> None:
    kernels = {op.name for op in registered() if op.kernels}
    assert {name for name in NAMES if float_function(name)} - kernels == set()
    for profile in PROFILES.values():
        assert {name for name in NAMES if integer_function(name, profile)} - kernels == set()


@pytest.mark.parametrize(
    ("op", "keeps", "absorbs"),
    [
        ("ADD", True, ()),
        ("MUL", True, (0, 1)),
        ("PRELU", True, (0,)),
        ("DIV", False, ()),
        ("POW", False, ()),
        ("LOGISTIC", False, ()),
        ("RSQRT", False, ()),
        ("RESIZE_BILINEAR", True, ()),
        ("L2_POOL_2D", True, ()),
        ("REDUCE_PROD", True, ()),
        ("ARG_MAX", False, ()),
        ("CONCATENATION", True, ()),
        ("SOFTMAX", False, ()),
    ],
)
def test_what_becomes_of_zeros_is_computed(op: str, keeps: bool, absorbs: tuple[int, ...]) -> None:
    assert (keeps_zero(op), absorbing(op)) == (keeps, absorbs)


def test_what_shares_parameters_is_said_by_the_record() -> None:
    assert sharing(Node("SPLIT", ("axis", "x"), ("y", "z"))) == ("y", "z", "x")
    assert sharing(Node("CONCATENATION", ("a", "", "b"), ("y",))) == ("y", "a", "b")
    assert sharing(Node("ADD", ("a", "b"), ("y",))) == ()


def test_traits_follow_from_the_axes() -> None:
    assert [lookup(op).elementwise for op in ("TANH", "FLOOR_MOD", "SOFTMAX", "NO_SUCH")] == [1, 2, 0, 0]
    assert [lookup(op).is_reduction for op in ("MEAN", "ARG_MAX", "CUMSUM")] == [True, True, False]


FED = [op for op in registered() if op.name in FACTORIES and (op.is_homogeneous or op.is_joint or op.is_product)]


@pytest.mark.parametrize("op", FED, ids=lambda op: op.name)
def test_what_commutes_with_factors_is_computed(op: Op) -> None:
    model = FACTORIES[op.name]()
    names = [name for name in model.main.inputs if model.main.tensors[name].is_float]
    random = np.random.default_rng(0)
    feed = {name: random.uniform(0.5, 3, model.main.tensors[name].shape).astype(np.float32) for name in names}
    feed[names[0]] -= np.float32(1.5)

    def given(*scaled: str) -> np.ndarray:
        found = run(model, {n: x * np.float32(4) if n in scaled else x for n, x in feed.items()}, runtime="reference")
        return found if isinstance(found, np.ndarray) else next(iter(found.values()))

    if op.is_homogeneous:
        np.testing.assert_allclose(given(names[0]), 4 * given(), rtol=1e-6)
    if op.is_joint:
        np.testing.assert_allclose(given(*names), 4 * given(), rtol=1e-6)
    for position, name in enumerate(names) if op.is_product else ():
        if position != op.divisor:
            np.testing.assert_allclose(given(name), 4 * given(), rtol=1e-6)


@pytest.mark.parametrize("op", [op for op in registered() if op.is_even], ids=lambda op: op.name)
def test_what_is_even_does_not_see_signs(op: Op) -> None:
    model = FACTORIES[op.name]()
    (name,) = model.main.inputs
    x = np.random.default_rng(0).normal(size=model.main.tensors[name].shape).astype(np.float32)
    np.testing.assert_allclose(run(model, {name: x}), run(model, {name: -x}), atol=1e-6)
