"""The records of the operators against the registries of what is done with them."""

from __future__ import annotations

from typing import get_args

import pytest

import featherweight.training
from featherweight.channels import labeling, rules
from featherweight.graph import Node
from featherweight.operators import AxesRule, lookup, registered
from featherweight.operators.profiles import PROFILES
from featherweight.operators.scale_groups import sharing
from featherweight.operators.zeros import absorbing, keeps_zero
from featherweight.tflite.names import OP_CODES
from featherweight.training.graph.registry import float_function
from featherweight.training.integer.step import integer_function

FILLED = (labeling, featherweight.training)  # importing them fills the tables
NAMES = tuple({*OP_CODES, *(op.name for op in registered())})


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
