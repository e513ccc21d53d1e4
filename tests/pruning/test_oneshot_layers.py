"""Pruning without training, operator by operator, against least squares on what LiteRT computes for each weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests import models, single_ops
from tests.building import layer, net, weights

import featherweight as fw
from featherweight.graph import Model
from featherweight.graph.editor import with_constants
from featherweight.operators.families.recurrent import LSTM
from featherweight.pruning.criteria import as_rows, by_sparsegpt
from featherweight.pruning.moments import second_moments
from featherweight.pruning.prunable import GraphKernel, find_kernels
from featherweight.runtime.litert import Session
from featherweight.sparsity.patterns import parse
from featherweight.sparsity.weight_layouts import runtime_layout

DILATION = {"dilation_h_factor": 1, "dilation_w_factor": 1}


@dataclass(frozen=True)
class Case:
    """One layer with a bias of 0, or without one: its shapes, and how many groups of inputs it has."""

    op: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]
    groups: int
    attrs: dict[str, Any]

    def model(self) -> Model:
        constants, inputs = {"w": weights(*self.weight, seed=3)}, ("x", "w")
        if "CONV_2D" in self.op:
            constants["b"], inputs = np.zeros(self.out[-1], np.float32), ("x", "w", "b")
        if self.op == "TRANSPOSE_CONV":
            constants["size"], inputs = np.asarray(self.out, np.int32), ("size", "w", "x")
        made = layer(self.op, inputs, {"y": self.out}, **self.attrs)
        return net({"x": self.x}, constants, [made], ["y"])


def strides(height: int, width: int, **more: Any) -> dict[str, Any]:
    return {"padding": "SAME", "stride_h": height, "stride_w": width} | more


CASES = {
    "dense": Case("FULLY_CONNECTED", (1, 12), (6, 12), (1, 6), 1, {}),
    "conv": Case("CONV_2D", (1, 5, 6, 4), (4, 3, 2, 4), (1, 3, 6, 4), 1, strides(2, 1, **DILATION)),
    "grouped": Case("CONV_2D", (1, 5, 6, 4), (6, 2, 3, 2), (1, 5, 3, 6), 2, strides(1, 2, **DILATION)),
    "dilated groups": Case(
        "CONV_2D", (1, 6, 5, 6), (6, 2, 2, 2), (1, 4, 3, 6), 3,
        strides(1, 1, padding="VALID", dilation_h_factor=2, dilation_w_factor=2),
    ),
    "depthwise": Case("DEPTHWISE_CONV_2D", (1, 6, 5, 4), (1, 3, 3, 4), (1, 6, 5, 4), 4,
                      strides(1, 1, depth_multiplier=1, **DILATION)),
    "multiplied": Case("DEPTHWISE_CONV_2D", (1, 6, 5, 3), (1, 3, 2, 6), (1, 3, 3, 6), 3,
                       strides(2, 2, depth_multiplier=2, **DILATION)),
    "transposed": Case("TRANSPOSE_CONV", (1, 4, 3, 4), (3, 3, 3, 4), (1, 8, 6, 3), 1, strides(2, 2)),
    "transposed, odd": Case("TRANSPOSE_CONV", (1, 3, 4, 2), (2, 5, 4, 2), (1, 6, 12, 2), 1, strides(2, 3)),
    "transposed, valid": Case("TRANSPOSE_CONV", (1, 3, 4, 4), (2, 3, 2, 4), (1, 7, 5, 2), 1,
                              strides(2, 1, padding="VALID")),
    "transposed, gaps": Case("TRANSPOSE_CONV", (1, 3, 2, 4), (4, 2, 2, 4), (1, 8, 5, 4), 1,
                             strides(3, 3, padding="VALID")),
    "matmul": Case("BATCH_MATMUL", (1, 5, 8), (8, 4), (1, 5, 4), 1, {"adj_x": False, "adj_y": False}),
    "matmul, turned": Case("BATCH_MATMUL", (1, 8, 5), (4, 8), (1, 5, 4), 1, {"adj_x": True, "adj_y": True}),
    "matmuls": Case("BATCH_MATMUL", (1, 3, 4, 8), (3, 8, 2), (1, 3, 4, 2), 3,
                    {"adj_x": False, "adj_y": False}),
    "matmuls, spread": Case("BATCH_MATMUL", (2, 3, 4, 8), (2, 1, 8, 2), (2, 3, 4, 2), 2,
                            {"adj_x": False, "adj_y": False}),
}  # fmt: skip


def related(case: Case, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of different size that have to do with each other."""
    size = int(np.prod(case.x))
    fixed = np.random.default_rng(99)
    mixing = (
        fixed.normal(size=(size // 3 + 1, size)) * np.exp(fixed.normal(size=case.x[-1]))[np.arange(size) % case.x[-1]]
    )
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(count, len(mixing))) @ mixing + 0.1 * random.normal(size=(count, size))
    return [{"x": row.reshape(case.x).astype(np.float32)} for row in drawn]


def kernel_of(model: Model, name: str = "w") -> GraphKernel:
    return next(kernel for kernel in find_kernels(model) if kernel.name == name)


def products(model: Model, samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    """What LiteRT makes of each weight alone: (outputs of all samples, weights)."""
    array = model.main.tensors["w"].array
    assert array is not None
    columns = []
    for index in range(array.size):
        one = np.zeros(array.size, np.float32)
        one[index] = 1
        alone = with_constants(model, {"w": one.reshape(array.shape)})
        columns.append(np.concatenate([np.asarray(fw.run(alone, x), np.float64).ravel() for x in samples]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", CASES)
def test_moments_and_updates_are_those_of_least_squares(name: str) -> None:
    """For each row in turn, column by column: what later weights of the row do best once one of them is 0."""
    case, model = CASES[name], CASES[name].model()
    kernel, samples = kernel_of(model), related(case, 4, 0)
    layout, weight = kernel.kernel.layout, model.main.tensors["w"].array
    assert weight is not None
    moments = second_moments(model, kernel, samples)
    assert moments.shape == (case.groups, kernel.depth, kernel.depth)
    np.testing.assert_allclose(
        np.diagonal(moments, axis1=1, axis2=2), second_moments(model, kernel, samples, diagonal=True), rtol=1e-9
    )
    pruned = as_rows(by_sparsegpt(weight, moments, parse("unstructured"), layout, weight.size // 2), layout)
    assert int((pruned == 0).sum()) == weight.size // 2
    made = products(model, samples)
    places, rows = as_rows(np.arange(weight.size).reshape(weight.shape), layout), as_rows(weight, layout)
    for number, (row, place) in enumerate(zip(rows.astype(np.float64), places, strict=True)):
        alone, group = made[:, place], number * case.groups // len(rows)
        np.testing.assert_allclose(alone.T @ alone, moments[group], rtol=1e-4, atol=1e-4 * moments.max())
        # The damping is as if each weight had one more output of its own.
        damping = 0.01 * np.diag(moments[group]).mean()
        damped = np.concatenate([alone, np.sqrt(damping) * np.eye(len(row))])
        for column in range(len(row)):
            if pruned[number, column] == 0:
                change = np.linalg.lstsq(damped[:, column + 1 :], damped[:, column] * row[column])[0]
                row[column], row[column + 1 :] = 0, row[column + 1 :] + change
        np.testing.assert_allclose(pruned[number], row, rtol=2e-3, atol=2e-4)


def test_a_layer_of_several_blocks_of_columns_is_updated_across_them() -> None:
    """300 columns in blocks of 126, which 1x3 divides: as least squares without blocks."""
    random = np.random.default_rng(0)
    weight, x = weights(3, 300), random.normal(size=(900, 300)) @ random.normal(size=(300, 300))
    moments, pattern, layout = x.T @ x, parse("1x3"), runtime_layout((3, 300))
    pruned = by_sparsegpt(weight, moments[None], pattern, layout, 150)
    damped = moments + 0.01 * np.diag(moments).mean() * np.eye(300)
    for number, row in enumerate(weight.astype(np.float64)):
        for column in range(300):
            if pruned[number, column] == 0:
                later = slice(column + 1, None)
                change = np.linalg.solve(damped[later, later], damped[later, column]) * row[column]
                row[column], row[later] = 0, row[later] + change
        np.testing.assert_allclose(pruned[number], row, rtol=1e-3, atol=1e-4)
    assert int((pruned.reshape(3, 100, 3) == 0).all(axis=2).sum()) == 150


def test_taps_of_different_phases_do_not_meet() -> None:
    """3x3 taps, stride 2: four phases, of 4, 2, 2 and 1 taps."""
    model = CASES["transposed"].model()
    (moments,) = second_moments(model, kernel_of(model), related(CASES["transposed"], 2, 0))
    met = moments.reshape(9, 4, 9, 4).any(axis=(1, 3))
    phases = [(tap // 3 % 2, tap % 3 % 2) for tap in range(9)]
    np.testing.assert_array_equal(met, [[one == other for other in phases] for one in phases])


FITTING = [
    (name, pattern)
    for name, case in CASES.items()
    for pattern in ("unstructured", "2:4", "1x2")
    if parse(pattern).obstacle(kernel_of(case.model()).kernel.layout) is None
]


@pytest.mark.parametrize(("name", "pattern"), FITTING)
def test_outputs_that_were_not_seen_change_least_with_sparsegpt(name: str, pattern: str) -> None:
    case, model, made = CASES[name], CASES[name].model(), parse(pattern)
    layout = kernel_of(model).kernel.layout
    seen, unseen, errors = related(case, 64, 0), related(case, 64, 1), {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        result = fw.prune(model, 0.5, pattern=pattern, method=method, calibration=seen, keep=(), progress=False)
        (row,) = result.kernels
        assert (row.method, row.reason) == (method, "")
        assert row.zeros == round(0.5 * made.units(layout)) * layout.size // made.units(layout)
        array = result.model.main.tensors["w"].array
        assert int((array == 0).sum()) == row.zeros
        pairs = [(np.asarray(fw.run(model, x)), np.asarray(fw.run(result.model, x))) for x in unseen]
        errors[method] = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    assert errors["sparsegpt"] < min(errors["magnitude"], 1.06 * errors["wanda"])


def test_a_depthwise_convolution_that_a_rule_names() -> None:
    for method in ("wanda", "sparsegpt"):
        result = fw.prune(
            models.lowered("depthwise"), 0.5, method=method, calibration=models.samples("depthwise", 8),
            rules={"*depthwise*": 0.5}, progress=False,
        )  # fmt: skip
        named = [row for row in result.kernels if row.op == "DEPTHWISE_CONV_2D" and "depthwise" in row.name]
        assert named
        assert all((row.method, row.reason) == (method, "") for row in named)
        assert all(row.zeros == round(0.5 * row.elements) for row in named)


def test_fused_lstm_layers() -> None:
    """Recurrent kernels multiply the outputs of the steps before; every sample begins with an empty state."""
    model, random = single_ops.lstm(), np.random.default_rng(0)
    samples, fresh = (
        [{"x": random.normal(size=(1, 6, 8)).astype(np.float32)} for _ in range(count)] for count in (64, 32)
    )
    hidden = []
    with Session(model) as session:
        for x in samples:
            session.reset()
            hidden.append(session.run(x)["y"][0, :-1].astype(np.float64))
    for name, fed in (("kernel_f", [x["x"][0].astype(np.float64) for x in samples]), ("recurrent_f", hidden)):
        (moments,) = second_moments(model, kernel_of(model, name), samples)
        np.testing.assert_allclose(moments, sum(x.T @ x for x in fed), rtol=1e-5, atol=1e-5)
    errors = {}
    for method in ("magnitude", "sparsegpt"):
        result = fw.prune(model, 0.5, method=method, calibration=samples, keep=(), progress=False)
        assert {(row.op, row.method, row.zeros, row.reason) for row in result.kernels} == {(LSTM, method, 32, "")}
        errors[method] = sum(float(((fw.run(model, x) - fw.run(result.model, x)) ** 2).sum()) for x in fresh)
    assert errors["sparsegpt"] < errors["magnitude"]


def test_kernels_in_loops_fall_back_and_say_so() -> None:
    result = fw.prune(
        models.lowered("gru"), 0.5, method="sparsegpt", calibration=models.samples("gru", 4), progress=False
    )
    inside = [row for row in result.kernels if row.reason.startswith("its inputs can't be observed in a loop")]
    assert inside
    assert {row.method for row in inside} == {"magnitude"}
