"""Float models over inputs of any size, zeros and next to nothing: their integers run, and are what kernels promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.building import CONV, Layer, layer, net, unary, weights
from tests.operators.oracle import RESOLVERS, Oracle
from tests.ptq.nets import ranges, sqnr_db

from featherweight import operators
from featherweight.errors import RecipeError
from featherweight.graph import Model, Tensor
from featherweight.ptq.planning import plan
from featherweight.runtime import run, run_reference
from featherweight.targets.target import check
from featherweight.tasks.quantize import quantize
from featherweight.tflite import write

SHAPE = (1, 4, 6, 8)
# (size of x, size of the other operand): equal, zero, apart, next to nothing, huge.
SIZES = [(1, 1), (1, 0), (0, 1), (0, 0), (1, 1e-6), (300, 1e-4), (1e-30, 1), (1e-30, 0), (1e-38, 1), (1e15, 1e-15)]
NONE = {"fused_activation_function": "NONE"}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    running = Oracle()
    yield running
    running.close()


def chosen() -> list[Layer]:
    """The larger of two where they compare; comparisons give booleans."""
    return [layer("LESS", ("x", "z"), {"c": SHAPE}), layer("SELECT_V2", ("c", "z", "x"), {"y": SHAPE})]


LAYERS: dict[str, list[Layer]] = {
    **{op: [layer(op, ("x", "z"), {"y": SHAPE}, **NONE)] for op in ("ADD", "SUB", "MUL")},
    "ADD RELU6": [layer("ADD", ("x", "z"), {"y": SHAPE}, fused_activation_function="RELU6")],
    "MUL RELU6": [layer("MUL", ("x", "z"), {"y": SHAPE}, fused_activation_function="RELU6")],
    "SUB LOGISTIC": [layer("SUB", ("x", "z"), {"h": SHAPE}, **NONE), unary("LOGISTIC", "h", "y", SHAPE)],
    **{op: [layer(op, ("x", "z"), {"y": SHAPE})] for op in ("MAXIMUM", "SQUARED_DIFFERENCE")},
    "LESS": chosen(),
    "CONCATENATION": [layer("CONCATENATION", ("x", "z"), {"y": (1, 4, 6, 16)}, axis=3, **NONE)],
    "BATCH_MATMUL": [layer("BATCH_MATMUL", ("x", "z"), {"y": (1, 4, 6, 6)}, adj_x=False, adj_y=True)],
    "PRELU": [layer("PRELU", ("x", "a"), {"y": SHAPE})],
    "FULLY_CONNECTED": [layer("FULLY_CONNECTED", ("x", "w", "b"), {"y": SHAPE}, keep_num_dims=True, **NONE)],
    "CONV_2D": [layer("CONV_2D", ("x", "k", "b"), {"y": SHAPE}, **CONV, **NONE)],
}


def model_of(layers: list[Layer], size: float) -> Model:
    """Returns the model of a case; constants are of the size of the other operand."""
    rng = np.random.default_rng(0)
    constants = {
        "a": weights(1, 1, 8) * np.float32(size),
        "w": weights(8, 8) * np.float32(size),
        "k": weights(8, 3, 3, 8) * np.float32(size),
        "b": rng.normal(0, 1, 8).astype(np.float32),
    }
    read = {name for node, _ in layers for name in node.inputs}
    inputs: dict[str, tuple[int, ...]] = {name: SHAPE for name in ("x", "z") if name in read}
    model = net(inputs, {n: a for n, a in constants.items() if n in read}, layers, ["y"])
    if "c" in read:
        model.main.tensors["c"] = Tensor("c", SHAPE, "bool")  # pyright: ignore[reportIndexIssue]
    return model


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("name", LAYERS)
def test_hostile_ranges_run_and_are_what_kernels_promise(name: str, recipe: str, oracle: Oracle) -> None:
    rng = np.random.default_rng(1)
    for sizes in SIZES:
        model = model_of(LAYERS[name], sizes[1])
        feeds: list[dict[str, Any]] = [
            {
                n: (rng.uniform(-1, 1, SHAPE) * size).astype(np.float32)
                for n, size in zip("xz", sizes, strict=True)
                if n in model.main.inputs
            }
            for _ in range(3)
        ]
        try:
            q = quantize(model, recipe, calibration=feeds, progress=False)
        except RecipeError as error:  # its one operator stays float
            if "changes nothing of this model" not in str(error):
                raise
            continue
        assert check(q.model, "litert") == (), sizes
        content = write(q.model)
        is_float = not any(t.dtype in ("int8", "int16") for t in q.model.main.tensors.values() if t.quant)
        for profile in RESOLVERS:
            found = oracle(content, feeds, profile)
            assert not isinstance(found, str), (sizes, profile, found)
            if profile == "xnnpack" and not is_float:
                for arrays, (their,) in zip(feeds, found, strict=True):
                    (our,) = run_reference(q.model, arrays, profile).values()
                    np.testing.assert_allclose(our, their, rtol=1e-6, atol=0, err_msg=f"{sizes} {profile}")
        right = np.concatenate([np.asarray(run(model, arrays)) for arrays in feeds])
        got = np.concatenate([found[0] for found in oracle(content, feeds, "xnnpack") if not isinstance(found, str)])
        said = any("dB above its error" in note or "count as zero" in note for note in q.plan.notes)
        unit = np.abs(right).max()
        assert said or not unit or sqnr_db(right / unit, got / unit) >= 10.0, (sizes, q.plan.notes)


def test_scales_that_would_leave_float32_are_refused() -> None:
    model = model_of(LAYERS["SQUARED_DIFFERENCE"], 1.0)
    decided = plan(model, ranges(x=(-1e30, 1e30), z=(-1e30, 1e30), y=(0.0, 1e30)), "int8")
    assert "its output's scale is too fine for its inputs'" in decided.kept_float["y"]


def quotient(sizes: np.ndarray) -> tuple[Model, list[dict[str, np.ndarray]]]:
    """Probabilities, of which a mask leaves some, over their sum, and samples whose sums are of these sizes."""
    row = (*SHAPE[:3], 1)
    layers = [
        layer("SOFTMAX", ("x",), {"p": SHAPE}, beta=1.0),
        layer("MUL", ("p", "z"), {"m": SHAPE}, **NONE),
        layer("SUM", ("m", "axis"), {"s": row}, keep_dims=True),
        layer("DIV", ("m", "s"), {"y": SHAPE}, **NONE),
    ]
    model = net({"x": SHAPE, "z": SHAPE}, {"axis": np.array([3], np.int32)}, layers, ["y"])
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.float32)
    mask[..., :4] = 1
    scores = rng.normal(0, 1, (len(sizes), *SHAPE)).astype(np.float32)
    scores[..., 4:] += np.log(1 / sizes - 1).astype(np.float32)[:, None, None, None, None]
    return model, [{"x": part, "z": mask} for part in scores]


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
def test_what_computes_divisors_near_zero_is_float(recipe: str) -> None:
    model, feeds = quotient(np.array([1e-6, 1e-3, 0.5]))
    with pytest.raises(RecipeError, match=r"some values that DIV 'y' divides by \(3 operators\)"):
        quantize(model, recipe, calibration=feeds, progress=False)
    model, feeds = quotient(np.array([0.4, 0.5, 0.6]))
    q = quantize(model, recipe, calibration=feeds, progress=False)
    assert not {"m", "p"} & q.plan.kept_float.keys()


@pytest.mark.parametrize(("size", "stays"), [(1e-3, True), (0.1, True), (4.0, False), (120.0, False)])
def test_comparisons_of_less_than_their_kernels_steps_stay_float(size: float, stays: bool) -> None:
    model = model_of(chosen(), 1.0)
    rng = np.random.default_rng(2)
    feeds = [{n: (rng.uniform(-1, 1, SHAPE) * size).astype(np.float32) for n in "xz"} for _ in range(3)]
    q = quantize(model, "int8", calibration=feeds, progress=False)
    assert ("c" in q.plan.kept_float) == stays, q.plan.kept_float
    assert not stays or "it compares in steps of 1/256" in q.plan.kept_float["c"]
    right, got = (np.concatenate([np.asarray(run(m, f)) for f in feeds]) for m in (model, q.model))
    assert sqnr_db(right, got) >= 25.0


def test_divisors_are_named_in_their_records() -> None:
    assert {op.name for op in operators.registered() if op.divisor is not None} == {"DIV", "FLOOR_DIV", "FLOOR_MOD"}
