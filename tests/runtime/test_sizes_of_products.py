"""A product whose second operand is read from integers is right at every batch, whatever batch ran before."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import layer, net

from featherweight.graph import Model, Tensor
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.runtime.litert import Session
from featherweight.runtime.resizing import keeps_its_sizes


def _free(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    quant = QuantParams("int8", (0.05,), (0,)) if dtype == "int8" else None
    return Tensor(name, shape, dtype, shape_signature=(-1, *shape[1:]), quant=quant)


def product(*, is_read: bool) -> Model:
    """A float product; its second operand has been in integers, or not."""
    a, b = _free("a", (1, 256, 4)), _free("b", (1, 4, 16))
    layers = [
        layer("QUANTIZE", ("b",), {"q": _free("q", b.shape, "int8")}),
        layer("DEQUANTIZE", ("q",), {"d": _free("d", b.shape)}),
    ]
    second = "d" if is_read else "b"
    y = layer("BATCH_MATMUL", ("a", second), {"y": _free("y", (1, 256, 16))}, adj_x=False, adj_y=False)
    return net({"a": a, "b": b}, {}, [*(layers if is_read else ()), y], ["y"])


@pytest.mark.parametrize("batches", [(1, 8, 1, 32), (64, 2, 64)])
def test_each_batch_is_right_whatever_ran_before(batches: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    with Session(product(is_read=True)) as session:
        for batch in batches:
            a = random.normal(size=(batch, 256, 4)).astype(np.float32)
            b = (random.integers(-40, 40, size=(batch, 4, 16)) * 0.05).astype(np.float32)
            assert session.run({"a": a, "b": b})["y"] == pytest.approx(a @ b, abs=1e-4)


def test_files_with_a_free_batch_are_right_in_an_interpreter_that_is_resized() -> None:
    b = _free("b", (1, 4, 16))
    layers = [
        layer("RELU", ("b",), {"r": _free("r", b.shape)}),
        layer("BATCH_MATMUL", ("a", "r"), {"y": _free("y", (1, 256, 16))}, adj_x=False, adj_y=False),
    ]
    model = net({"a": _free("a", (1, 256, 4)), "b": b}, {}, layers, ["y"])
    params = {name: QuantParams("int8", (0.05,), (0,)) for name in ("b", "r")}
    plan = Plan(
        "mine", "litert", "xnnpack", "float32", params=params, forms={"r": "int8"}, kept_float={"y": "as in attention"}
    )
    found = rewrite(model, plan)
    assert [node.op for node in found.main.nodes] == ["QUANTIZE", "RELU", "DEQUANTIZE", "RESHAPE", "BATCH_MATMUL"]
    assert not keeps_its_sizes(found)
    random = np.random.default_rng(0)
    with Session(found) as session:
        for batch in (1, 32, 2):
            first = random.normal(size=(batch, 256, 4)).astype(np.float32)
            second = (random.integers(-40, 40, size=(batch, 4, 16)) * 0.05).astype(np.float32)
            expected = first @ np.maximum(second, 0)
            assert session.run({"a": first, "b": second})["y"] == pytest.approx(expected, abs=1e-4)


def test_what_is_read_from_integers_alone_keeps_its_sizes() -> None:
    assert keeps_its_sizes(product(is_read=True))
    assert not keeps_its_sizes(product(is_read=False))
