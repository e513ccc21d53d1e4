"""Every operator against LiteRT, integer for integer, in the profiles of its three sets of kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from tests.kernels import cases, movers
from tests.kernels.building import CASES
from tests.kernels.oracle import RESOLVERS, Oracle

from featherweight import ops
from featherweight.errors import UnsupportedOp
from featherweight.runtime import run_reference
from featherweight.tflite import write

# What has no kernel: in LiteRT, or here yet (GELU, SQUARED_DIFFERENCE).
NO_INT16 = {
    "HARD_SWISH",
    "RELU_N1_TO_1",
    "RELU_0_TO_1",
    "SPACE_TO_DEPTH",
    "DEPTH_TO_SPACE",
    "ARG_MAX",
    "ARG_MIN",
    "ELU",
    "GELU",
    "PRELU",
    "SQUARED_DIFFERENCE",
}
# What LiteRT's reference kernels lack.
NOT_IN_REFERENCE = {"ELU", "DEPTH_TO_SPACE", "TILE"}
FAMILIES = (cases, movers)  # importing them fills CASES
PAIRS = [(name, "int8") for name in CASES] + [(name, "int16") for name in CASES if name not in NO_INT16]


# Sums whose scales LiteRT's int16 kernel aborts on, and scales at which its optimized functions are gemmlowp's.
MAY_REFUSE = {("ADD", "int16"), ("SUB", "int16"), ("TANH", "int16"), ("LOGISTIC", "int16")}


@contextlib.contextmanager
def refused(name: str, dtype: str) -> Iterator[None]:
    """Skips an example that the reference kernels refuse with good reason."""
    try:
        yield
    except UnsupportedOp:
        if (name, dtype) not in MAY_REFUSE:
            raise
        reject()


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    answers = Oracle()
    yield answers
    answers.close()


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_every_integer_is_litert_s(name: str, dtype: str, oracle: Oracle) -> None:
    # No shrinking: the first counterexample says enough, and the oracle is slow where it ends.
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = CASES[name](data.draw, dtype)
        with refused(name, dtype):
            model = case.model(f"{dtype}*int8" if ops.lookup(case.op).weight is not None else dtype)
        content = write(model)
        for profile in RESOLVERS:
            expected = oracle(content, case.feeds, profile)
            if profile == "tflite_ref" and name in NOT_IN_REFERENCE:
                assert "Didn't find op" in str(expected)
                continue
            assert not isinstance(expected, str), (profile, expected)
            with refused(name, dtype):
                found = run_reference(model, case.feeds, profile)
            for ours, theirs in zip(found.values(), expected, strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs, err_msg=profile)

    check()


def test_every_operator_with_an_integer_kernel_is_tested() -> None:
    tested = {name.split()[0] for name in CASES}
    kernels = {op.name for op in ops.registered() if {"int8", "*"} & op.kernels.keys()}
    assert kernels - tested == {"PADV2", "SHAPE"}
