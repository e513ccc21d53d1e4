"""Columns of unlike range: each gets a scale of its own, and the outputs stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.building import CONV, Layer, add, ints, layer, net, unary, weights

import featherweight as fw
from featherweight.graph import Model
from featherweight.repair.outputs import evened_outputs

GRID, ROWS = (1, 6, 6, 6), (1, 36, 6)
UNLIKE = np.float32([100, 100, 30, 30, 0.5, 0.1])
MEANS = np.float32([300, 50, 0, 0, 0, 20])
SAMPLES = np.random.default_rng(0).normal(size=(24, 1, 6, 6, 3)).astype(np.float32)


def head(*layers: Layer, outputs: tuple[str, ...] = ("y",), **constants: Any) -> Model:
    """A convolution `h` with columns of unlike range and mean, and layers behind it."""
    w = weights(6, 1, 1, 3, seed=1) * UNLIKE.reshape(6, 1, 1, 1)
    given = {"w": w, "b": MEANS, "rows": ints(*ROWS), **constants}
    return net({"x": (1, 6, 6, 3)}, given, [layer("CONV_2D", ("x", "w", "b"), {"h": GRID}, **CONV), *layers], outputs)


def rows(x: str = "h", y: str = "y") -> Layer:
    return layer("RESHAPE", (x, "rows"), {y: ROWS})


def columns_db(model: Model, other: Model) -> np.ndarray:
    """Returns the ratio of each column's variance to its error, in dB."""
    pairs = [(fw.run(model, x), fw.run(other, x)) for x in SAMPLES]
    real, found = (np.concatenate([pair[i].reshape(-1, pair[i].shape[-1]) for pair in pairs]) for i in (0, 1))
    return 10 * np.log10(real.var(axis=0) / np.square(real - found).mean(axis=0))


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": x} for x in SAMPLES]


def test_every_column_keeps_its_steps() -> None:
    model = head(rows())
    plain = fw.quantize(model, calibration=list(SAMPLES), progress=False)
    split = fw.quantize(model, calibration=list(SAMPLES), progress=False, improve="split-outputs")
    assert columns_db(model, plain.model).min() < 0
    assert columns_db(model, split.model).min() > 30
    assert any(note.startswith("split-outputs: the columns of 'y' have a scale each") for note in split.plan.notes)
    assert [(t.name, t.shape) for n in split.model.main.outputs for t in [split.model.main.tensors[n]]] == [("y", ROWS)]
    assert split.plan.forms["h"] == "int8*int8"


def test_the_float_model_computes_the_same() -> None:
    model = head(rows())
    even, (row,) = evened_outputs(model, feeds())
    assert row.reason == ""
    # What is wide stays and gives the range; what would be lost in its steps gets finer ones.
    is_lost = row.factors != 1
    assert is_lost.any()
    assert not is_lost.all()
    assert (row.factors[is_lost] < 0.5).all()
    assert [node.op for node in even.main.nodes] == ["CONV_2D", "RESHAPE", "MUL", "ADD"]
    x = np.random.default_rng(1).normal(0, 5, (1, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(fw.run(even, x), fw.run(model, x), rtol=1e-5, atol=1e-4)
    again, (row,) = evened_outputs(even, feeds())
    assert again is even
    assert row.reason


def test_heads_that_are_joined_share_the_columns() -> None:
    model = head(
        layer("CONV_2D", ("x", "w2", "b"), {"g": GRID}, **CONV),
        rows("h", "r"),
        rows("g", "s"),
        layer("CONCATENATION", ("r", "s"), {"y": (1, 72, 6)}, axis=1),
        w2=weights(6, 1, 1, 3, seed=2) * UNLIKE.reshape(6, 1, 1, 1),
    )
    split = fw.quantize(model, calibration=list(SAMPLES), progress=False, improve="split-outputs")
    assert columns_db(model, split.model).min() > 30


def test_columns_that_can_t_be_scaled_stay_and_others_join_their_range() -> None:
    """Boxes beside probabilities on one axis: the boxes' columns come to the probabilities' range."""
    model = head(
        unary("LOGISTIC", "h", "p", GRID),
        layer("CONV_2D", ("x", "w2", "b"), {"g": GRID}, **CONV),
        layer("CONCATENATION", ("p", "g"), {"y": (1, 6, 6, 12)}, axis=3),
        w2=weights(6, 1, 1, 3, seed=2) * 100,
    )
    even, (row,) = evened_outputs(model, feeds())
    np.testing.assert_array_equal(row.factors[:6], 1)
    assert (row.factors[6:] > 50).all()
    x = SAMPLES[0]
    np.testing.assert_allclose(fw.run(even, x), fw.run(model, x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (head(unary("TANH", "h", "y", GRID)), "none of its columns is lost in the steps"),
        (head(add("h", "far", "s", GRID), unary("LOGISTIC", "h", "q", GRID), rows("s"), outputs=("y", "q"), far=MEANS),
         "does not commute with factors|is read by other operators"),
        (head(rows(), unary("TANH", "y", "z", ROWS), outputs=("y", "z")), "'y' is read by other operators, too"),
        (head(layer("SUM", ("h", "axis"), {"y": (1, 6, 6)}, keep_dims=False), axis=ints(3)), "is lost in|commute"),
        (head(layer("SUM", ("h", "axis"), {"y": (1,)}, keep_dims=False), axis=ints(1, 2, 3)), "it has no columns"),
        (head(rows(), outputs=("h", "y")), "is an output, too"),
    ],
    ids=["like", "shared", "read", "sum", "one number", "both"],
)  # fmt: skip
def test_what_is_left_alone_says_why(model: Model, reason: str) -> None:
    import re

    same, found = evened_outputs(model, feeds())
    assert same is model
    assert any(re.search(reason, row.reason) for row in found)
    assert all(row.reason for row in found)


def test_integer_outputs_can_t_be_put_right() -> None:
    quantized = fw.quantize(head(rows()), calibration=list(SAMPLES), io="int8", improve="split-outputs", progress=False)
    assert any("split-outputs" in note and "not kept" in note and "io float32" in note for note in quantized.plan.notes)


def test_parts_that_are_joined_in_float_keep_their_scales() -> None:
    joined = layer("CONCATENATION", ("p", "g"), {"y": (1, 6, 6, 12)}, axis=3)
    second = layer("CONV_2D", ("x", "w2", "b"), {"g": GRID}, **CONV)
    model = head(unary("LOGISTIC", "h", "p", GRID), second, joined, w2=weights(6, 1, 1, 3, seed=2) * 100)
    split = fw.quantize(model, calibration=list(SAMPLES), improve="split-outputs", progress=False)
    assert set(split.plan.kept_float) == {"y"}
    assert any("from parts that have scales of their own" in note for note in split.plan.notes)


def test_names_with_wildcards_stay_float_by_their_own_rule() -> None:
    model = head(layer("RESHAPE", ("h", "rows"), {"a[0]*;b?": ROWS}), outputs=("a[0]*;b?",))
    split = fw.quantize(model, calibration=list(SAMPLES), progress=False, improve="split-outputs")
    assert columns_db(model, split.model).min() > 30


def test_an_infinite_output_is_named() -> None:
    model = head(layer("DIV", ("h", "zero"), {"y": GRID}), zero=np.float32(0))
    with pytest.raises(fw.DataError, match="output 'y' holds NaN or infinity on a sample"):
        evened_outputs(model, feeds())


def test_classes_that_no_sample_is_of_keep_the_range_of_the_others() -> None:
    """Scores of many classes, one row a run: what samples show of most classes is small, and says nothing."""
    random = np.random.default_rng(0)
    model = head(layer("MEAN", ("h", "axes"), {"y": (1, 6)}, keep_dims=False), axes=ints(1, 2))
    classes = np.where(np.arange(6) == 0, 8.0, 0.5) * random.normal(0, 1, (40, 6))
    deviation, low, high = classes.std(axis=0), classes.min(axis=0), classes.max(axis=0)
    from featherweight.repair.factors.commuting import freedom
    from featherweight.repair.outputs import _chosen

    row = _chosen(freedom(model.main, {"y": frozenset({"y"})}), "y", frozenset({"y"}), low, high, deviation)
    np.testing.assert_array_equal(row.factors, 1)
    assert row.reason
