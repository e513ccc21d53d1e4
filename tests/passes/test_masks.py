"""Masks of large negative numbers over whole rows leave the scores what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, layer, net, softmax
from tests.ptq.nets import operators, sqnr_db

from featherweight.graph import Model, Tensor
from featherweight.passes.legalization import prepare
from featherweight.passes.masks import masks_without_row_maxima
from featherweight.runtime import run
from featherweight.tasks.quantize import quantize

SCORES, ROWS = (1, 8, 8), (1, 8, 1)
LOW, NO_CONSTANTS = -1e4, dict[str, np.ndarray]()


def attention(masked: list[Layer], constants: dict[str, np.ndarray], inputs: dict[str, Any]) -> Model:
    """softmax(x zᵀ / 4, masked) v, where `masked` turns ``scores`` into ``masked``."""
    layers = [
        layer("BATCH_MATMUL", ("x", "z"), {"product": SCORES}),
        layer("MUL", ("product", "quarter"), {"scores": SCORES}),
        *masked,
        softmax("masked", "p", SCORES),
        layer("BATCH_MATMUL", ("p", "v"), {"y": (1, 8, 16)}),
    ]
    given = {"x": (1, 8, 16), "z": (1, 16, 8), "v": (1, 8, 16), **inputs}
    return net(given, {"quarter": np.float32(0.25), **constants}, layers, ["y"])


def pairs(count: int, seed: int) -> list[np.ndarray]:
    """Returns which pairs of positions are kept: no row, and no column, of what pads a sequence."""
    lengths = 3 + np.random.default_rng(seed).integers(0, 5, count)
    kept = np.arange(8) < lengths[:, None]
    return [(row[:, None] & row[None, :])[None] for row in kept]


def feeds(model: Model, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found: list[dict[str, np.ndarray]] = []
    for kept in pairs(count, seed):
        feed = {n: rng.normal(size=(1, 16, 8) if n == "z" else (1, 8, 16)).astype(np.float32) for n in "xzv"}
        feed |= {"keep": kept.astype(np.float32)} if "keep" in model.main.inputs else {}
        found.append(feed)
    return found


def computed(layers: list[Layer], constants: dict[str, np.ndarray]) -> Model:
    return attention(layers, constants, {"keep": SCORES})


KEPT = layer("GREATER", ("keep", "half"), {"c": Tensor("c", SCORES, "bool")})
ONE = {"one": np.float32(1), "low": np.float32(LOW), "high": np.float32(-LOW)}
CHOICE = {"half": np.float32(0.5), "none": np.float32(0), "low": np.float32(LOW)}
MASKS: dict[str, Model] = {
    "constant": attention(
        [add("scores", "m", "masked", SCORES)], {"m": np.where(pairs(1, 3)[0], 0, LOW).astype(np.float32)}, {}
    ),
    "constant, with biases": attention(
        [add("m", "scores", "masked", SCORES)],
        {"m": np.where(np.arange(8)[:, None] < 5, 0, LOW).astype(np.float32) - np.arange(8, dtype=np.float32) / 4},
        {},
    ),
    "(1 - keep) * low": computed(
        [
            layer("SUB", ("one", "keep"), {"drop": SCORES}),
            layer("MUL", ("drop", "low"), {"m": SCORES}),
            add("scores", "m", "masked", SCORES),
        ],
        ONE,
    ),
    "scores - (1 - keep) * high": computed(
        [
            layer("SUB", ("one", "keep"), {"drop": SCORES}),
            layer("MUL", ("high", "drop"), {"m": SCORES}),
            layer("SUB", ("scores", "m"), {"masked": SCORES}),
        ],
        ONE,
    ),
    "keep ? 0 : low": computed(
        [KEPT, layer("SELECT_V2", ("c", "none", "low"), {"m": SCORES}), add("scores", "m", "masked", SCORES)], CHOICE
    ),
    "drop ? low : 0, reshaped": computed(
        [
            layer("LESS", ("keep", "half"), {"c": Tensor("c", SCORES, "bool")}),
            layer("SELECT_V2", ("c", "low", "none"), {"m0": SCORES}),
            layer("RESHAPE", ("m0", "whole"), {"m": SCORES}),
            add("m", "scores", "sum", SCORES),
            layer("RESHAPE", ("sum", "whole"), {"masked": SCORES}),
        ],
        {**CHOICE, "whole": np.array(SCORES, np.int32)},
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_softmax_stays_what_it_was(name: str) -> None:
    model = MASKS[name]
    graph = masks_without_row_maxima(model.main, set(model.tensors))
    assert graph is not model.main
    assert masks_without_row_maxima(graph, set(graph.tensors)) is graph
    for feed in feeds(model, 4, 0):
        # Beside 10,000, float32 has steps of 0.001: that is the error of the masked rows as they were.
        np.testing.assert_allclose(run(prepare(model), feed), run(model, feed), rtol=0, atol=4e-3)


@pytest.mark.parametrize(("recipe", "least"), [("int8", 27.0), ("int16x8", 42.0)])
@pytest.mark.parametrize("name", MASKS)
def test_rows_that_are_masked_as_a_whole_keep_their_scores(name: str, recipe: str, least: float) -> None:
    model = prepare(MASKS[name])
    q = quantize(model, recipe, calibration=feeds(model, 16, 0), progress=False)
    unseen = feeds(model, 8, 1)
    outputs: list[Any] = [np.concatenate([np.asarray(run(m, feed)) for feed in unseen]) for m in (MASKS[name], q.model)]
    assert sqnr_db(*outputs) >= least


CAUSAL = np.where(np.tril(np.ones((8, 8), bool)), 0, LOW).astype(np.float32)
LEFT: dict[str, Model] = {
    "no row is masked as a whole": attention([add("scores", "m", "masked", SCORES)], {"m": CAUSAL}, {}),
    "beside it floats hold no scores": attention(
        [add("scores", "m", "masked", SCORES)], {"m": np.full((8, 8), -1e9, np.float32)}, {}
    ),
    "one row for all": attention(
        [layer("MUL", ("keep", "low"), {"m": (1, 1, 8)}), add("scores", "m", "masked", SCORES)],
        {"low": np.float32(LOW)},
        {"keep": (1, 1, 8)},
    ),
    "−∞ has no softmax": attention(
        [add("scores", "m", "masked", SCORES)], {"m": np.full((8, 8), -np.inf, np.float32)}, {}
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_masks_are_left_alone(name: str) -> None:
    model = LEFT[name]
    assert masks_without_row_maxima(model.main, set(model.tensors)) is model.main


def test_a_sum_that_others_read_is_left_alone() -> None:
    model = attention(
        [add("scores", "m", "masked", SCORES), layer("ABS", ("masked",), {"a": SCORES})],
        {"m": np.full((8, 8), LOW, np.float32)},
        {},
    )
    assert masks_without_row_maxima(model.main, set(model.tensors)) is model.main


def test_a_mask_of_several_softmaxes_is_written_once() -> None:
    first = MASKS["(1 - keep) * low"]
    more = [add("scores", "m", "masked again", SCORES), softmax("masked again", "q", SCORES)]
    graph = first.main
    both = net(
        {name: graph.tensors[name].shape for name in graph.inputs},
        {"quarter": np.float32(0.25), **ONE},
        [*((node, {name: graph.tensors[name] for name in node.outputs}) for node in graph.nodes), *more],
        ["y", "q"],
    )
    assert operators(prepare(both))["REDUCE_MIN"] == 1
