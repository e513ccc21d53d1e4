"""Nodes that XNNPACK leaves to LiteRT's own kernels because of their scales, before, in and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.checking import assert_equal, assert_every_tensor_is_litert_s, runtime_outputs

import featherweight as fw
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.training.qat.program import left_by_delegate

SHAPE = (6, 6, 8)


def sum_of_unlike() -> Model:
    """Returns ``concatenation(x + z, w, relu(z))``: the range is w's, twice that of x, so that halves abound.

    As the sum is not all that reads z, the planner leaves it as fine as it is.
    """
    shapes = dict.fromkeys("xzwyr", SHAPE) | {"out": (6, 6, 24)}
    tensors = {
        name: Tensor(name, (1, *shape), "float32", shape_signature=(-1, *shape)) for name, shape in shapes.items()
    }
    nodes = (
        Node("ADD", ("x", "z"), ("y",), {"fused_activation_function": "NONE"}),
        Node("RELU", ("z",), ("r",)),
        Node(
            "CONCATENATION",
            ("y", "w", "r"),
            ("out",),
            {"axis": 3, "fused_activation_function": "NONE"},
        ),
    )
    return Model((Graph("main", ("x", "z", "w"), ("out",), nodes, tensors),))


def feeds(count: int, ratio: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs whose ranges are 1 : ratio : 2."""
    random = np.random.default_rng(seed)
    found = {}
    for name, largest in (("x", 1.0), ("z", ratio), ("w", 2.0)):
        found[name] = random.uniform(-largest, largest, (count, *SHAPE)).astype(np.float32)
        found[name][:, 0, 0, :2] = (-largest, largest)
    return found


def quantized(ratio: float, **options: Any) -> Any:
    return fw.quantize_aware(sum_of_unlike(), calibration=[feeds(4, ratio)], strict=True, progress=False, **options)


@pytest.mark.parametrize(("ratio", "is_left"), [(2.0**-8, False), (2.0**-12, True)])
def test_what_is_left_by_its_planned_scales_computes_as_litert_does(ratio: float, is_left: bool) -> None:
    model, inputs = quantized(ratio), feeds(8, ratio, seed=1)
    finished = fw.finalize(model)
    assert model.left == ({"y"} if is_left else set())
    assert_every_tensor_is_litert_s(model, finished, inputs)
    assert not any("XNNPACK" in note for note in finished.plan.notes)
    # The two arithmetics differ on these values: XNNPACK rounds halves up, LiteRT's own kernel away from zero.
    left_or_not = model.predict(inputs, verbose=0)
    model._left.value = frozenset({"y"}) - model.left
    model._make_program()
    assert (np.asarray(model(inputs)) != left_or_not).any()


def move(model: Any, name: str, factor: float) -> None:
    """Multiplies the learned scale of an activation."""
    factors = np.array(model.scales.factors)
    factors[model.scales.groups[name]] *= factor
    model.scales.factors.assign(factors)


@pytest.mark.parametrize(("ratio", "factor", "runs"), [(2.0**-8, 1 / 16, "LiteRT's own"), (2.0**-12, 16, "XNNPACK's")])
def test_scales_that_move_across_a_limit_change_the_kernel_and_are_noted(
    ratio: float, factor: float, runs: str, tmp_path: Path
) -> None:
    import keras

    model, inputs = quantized(ratio, train_ranges="learned"), feeds(8, ratio, seed=1)
    before = model.predict(inputs, verbose=0)
    z = next(node.inputs[1] for node in model.integer.main.nodes if node.op == "ADD")
    planned = model.left
    move(model, z, factor)
    after = model.predict(inputs, verbose=0)
    assert model.left != planned
    assert (before != after).any()
    finished = fw.finalize(model)
    assert_equal(after, runtime_outputs(finished, inputs))
    assert_every_tensor_is_litert_s(model, finished, inputs)
    assert any(f"limits of XNNPACK: 'y' now run on {runs} kernels" in note for note in finished.plan.notes)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(loaded.predict(inputs, verbose=0), after)


def test_training_goes_on_when_a_limit_is_crossed_between_epochs() -> None:
    import keras

    model, inputs = quantized(2.0**-8, train_ranges="learned"), feeds(8, 2.0**-8, seed=1)
    z = next(node.inputs[1] for node in model.integer.main.nodes if node.op == "ADD")
    cross = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch or move(model, z, 1 / 16))
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    goal = model.predict(inputs, verbose=0) + 0.1
    model.fit(inputs, goal, epochs=3, batch_size=4, verbose=0, callbacks=[cross], validation_data=(inputs, goal))
    assert model.left == {"y"}
    assert left_by_delegate(model.integer.main, model.scales.profile) == set()
    assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))
