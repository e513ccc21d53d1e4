"""Whether a graph that was lowered at a fixed batch treats its rows alike, and so runs at any batch."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import ints, model_of

from featherweight.graph import Model
from featherweight.training.graph.batch import fixed_batch

X, PAIR = {"x": (3, 4)}, {"x": (3, 4), "z": (3, 4)}
ALIKE = {
    "sum of all": model_of("ADD_N", PAIR, {"y": (3, 4)}),
    "remainder": model_of("FLOOR_MOD", PAIR, {"y": (3, 4)}),
    "one constant": model_of("FLOOR_DIV", {"x": (3, 4), "z": np.ones(4, np.float32)}, {"y": (3, 4)}),
    "both": model_of("LOGICAL_AND", PAIR, {"y": (3, 4)}, dict.fromkeys("xzy", "bool")),
    "sign": model_of("SIGN", X, {"y": (3, 4)}),
    "largest of a row": model_of("ARG_MAX", {**X, "a": ints(1)}, {"y": (3,)}, {"y": "int64"}),
    "mean of a row": model_of("MEAN", {**X, "a": ints(1)}, {"y": (3, 1)}, keep_dims=True),
}
NOT_ALIKE = {
    "a row of its own each": model_of("ADD", {"x": (3, 4), "z": np.ones((3, 4), np.float32)}, {"y": (3, 4)}),
    "mean over rows": model_of("MEAN", {**X, "a": ints(0)}, {"y": (1, 4)}, keep_dims=True),
    "turned": model_of("REVERSE_V2", {**X, "a": ints(0)}, {"y": (3, 4)}),
    "images as pixels": model_of(
        "BATCH_TO_SPACE_ND", {"x": (4, 2, 2, 1), "b": ints(2, 2), "c": np.zeros((2, 2), np.int32)}, {"y": (1, 4, 4, 1)}
    ),
}


@pytest.mark.parametrize("model", ALIKE.values(), ids=ALIKE.keys())
def test_rows_are_treated_alike(model: Model) -> None:
    assert fixed_batch(model) is None


@pytest.mark.parametrize("model", NOT_ALIKE.values(), ids=NOT_ALIKE.keys())
def test_rows_are_mixed_or_told_apart(model: Model) -> None:
    assert fixed_batch(model) == model.main.tensors["x"].shape[0]
