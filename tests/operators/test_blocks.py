"""Dense layers whose int4 weights have a scale for every block, against LiteRT, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.operators.building import random_of
from tests.operators.oracle import Oracle
from tests.operators.weights_cases import reals

from featherweight.errors import UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.runtime import run_reference
from featherweight.tflite import write


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    answers = Oracle()
    yield answers
    answers.close()


def blocked(x: np.ndarray, weight: np.ndarray, scales: np.ndarray, bias: np.ndarray | None, fused: str) -> Model:
    size = weight.shape[1] // scales.shape[1]
    tensors = [
        Tensor("x", x.shape, "float32"),
        constant("w", weight, "int4", QuantParams("int4", (), (), 0, size, "s")),
        constant("s", scales),
        Tensor("y", (x.shape[0], weight.shape[0]), "float32"),
    ]
    inputs = ("x", "w") if bias is None else ("x", "w", "b")
    if bias is not None:
        tensors.append(constant("b", bias))
    node = Node("FULLY_CONNECTED", inputs, ("y",), {"fused_activation_function": fused}, 12)
    return Model((Graph("main", ("x",), ("y",), (node,), {t.name: t for t in tensors}),))


@settings(max_examples=30, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.data())
def test_every_bit_is_litert_s(oracle: Oracle, data: st.DataObject) -> None:
    random, size, count = random_of(data.draw), data.draw(st.sampled_from((32, 64, 128))), data.draw(st.integers(1, 5))
    units, fused = data.draw(st.sampled_from((1, 4, 10, 33))), data.draw(st.sampled_from(("NONE", "RELU")))
    x = reals(data.draw, (data.draw(st.sampled_from((1, 2, 5, 40))), size * count))
    weight = random.integers(-8, 8, (units, size * count)).astype(np.int8)
    scales = (2.0 ** random.uniform(-9, -4, (units, count))).astype(np.float16)
    bias = random.normal(0, 3, units).astype(np.float32) if data.draw(st.booleans()) else None
    model = blocked(x, weight, scales, bias, fused)
    for profile in ("xnnpack", "tflite_opt"):
        if profile == "tflite_opt" and (units < 4 or fused != "NONE"):
            with pytest.raises(UnsupportedOp, match="which only XNNPACK always computes rightly, are not supported"):
                run_reference(model, x, profile)
            continue
        expected = oracle(write(model), [{"x": x}], profile)
        np.testing.assert_array_equal(run_reference(model, x, profile)["y"], expected[0][0], err_msg=profile)


@pytest.mark.parametrize("profile", ["xnnpack", "tflite_opt", "tflite_ref"])
@pytest.mark.parametrize("size", [32, 64])
def test_rows_of_a_table_in_blocks_are_litert_s(oracle: Oracle, profile: str, size: int) -> None:
    random, ids = np.random.default_rng(size), np.array([4, 0, 9, 4], np.int32)
    tensors = [
        Tensor("x", ids.shape, "int32"),
        constant(
            "w", random.integers(-8, 8, (10, 128)).astype(np.int8), "int4", QuantParams("int4", (), (), 0, size, "s")
        ),
        constant("s", (2.0 ** random.uniform(-9, -4, (10, 128 // size))).astype(np.float16)),
        Tensor("y", (4, 128), "float32"),
    ]
    node = Node("EMBEDDING_LOOKUP", ("x", "w"), ("y",), {}, 4)
    model = Model((Graph("main", ("x",), ("y",), (node,), {t.name: t for t in tensors}),))
    expected = oracle(write(model), [{"x": ids}], profile)
    np.testing.assert_array_equal(run_reference(model, ids, profile)["y"], expected[0][0])


def test_blocks_that_no_kernel_runs_are_refused() -> None:
    x, scales = np.ones((1, 64), np.float32), np.ones((4, 2), np.float16)
    with pytest.raises(UnsupportedOp, match="weights in blocks, which only XNNPACK always computes rightly"):
        run_reference(blocked(x, np.ones((4, 64), np.int8), scales, None, "NONE"), x, "tflite_ref")
    narrow = blocked(x[:, :32], np.ones((4, 32), np.int8), scales, None, "NONE")
    with pytest.raises(UnsupportedOp, match=r"blocks of 16 in rows of 32 weights are not supported \(multiples of 32"):
        run_reference(narrow, x[:, :32])
