from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.operators.oracle import RESOLVERS, Oracle
from tests.operators.ratio_conformance import KINDS, Kind, Ratios, measure_ratios, ratio_lines

from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import QuantParams
from featherweight.runtime import run_reference
from featherweight.tflite import write


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    running = Oracle()
    yield running
    running.close()


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_at_all_ratios_of_scales_litert_gives_these_integers_or_they_are_refused(kind: Kind, oracle: Oracle) -> None:
    row = measure_ratios(kind, 8, oracle)
    assert not row.first, row.first
    assert row.models


def test_what_is_refused_can_not_be_computed(oracle: Oracle) -> None:
    row = measure_ratios(("HARD_SWISH", "int8"), 60, oracle)
    (reason,) = (reason for reason in row.reasons if "times its output's" in reason)
    assert "allowed: less than …" in reason
    count, shown = row.reasons[reason]
    assert count >= shown >= 10
    assert f"| {reason} | {count:,} | {shown:,} |" in ratio_lines([row])


def test_the_page_counts_what_is_wrong() -> None:
    row = Ratios(("ADD", "int8"), models=3)
    row.equal["xnnpack"], row.mismatches["xnnpack"], row.ended["xnnpack"] = 5, 2, 1
    lines = ratio_lines([row])
    assert "- 8 runs compared, of which 2 differ and 1 end; 0 refused, of which 0 shown." in lines
    assert "| ADD | int8 | 3 | 3 / 7 | 0 / 0 | 0 / 0 | 0 | 0 |" in lines


def test_a_kernel_that_ends_the_process_is_an_answer_like_others(oracle: Oracle) -> None:
    row = measure_ratios(("SQUARED_DIFFERENCE", "int8"), 12, oracle)
    assert row.shown["xnnpack"] > 0
    assert row.equal["xnnpack"] > 0


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 3), ("int8", -128), ("int16", 0)])
@pytest.mark.parametrize("profile", RESOLVERS)
def test_what_is_no_number_or_beyond_int32_becomes_litert_s_integers(
    dtype: str, zero_point: int, profile: str, oracle: Oracle
) -> None:
    x = np.resize(np.float32([1, np.nan, np.inf, -np.inf, 3e9, -3e9, 1e30, -2]), (1, 37))
    y = Tensor("y", x.shape, dtype, quant=QuantParams(dtype, (0.5,), (zero_point,)))
    node = Node("QUANTIZE", ("x",), ("y",), version=1 if dtype == "int8" else 2)
    model = Model((Graph("main", ("x",), ("y",), (node,), {"x": Tensor("x", x.shape, "float32"), "y": y}),))
    found = oracle(write(model), [{"x": x}], profile)
    assert not isinstance(found, str)
    np.testing.assert_array_equal(run_reference(model, {"x": x}, profile)["y"], found[0][0])
