"""Which tensors share a grid, and which keep their own in front of an operator that joins them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import Layer, dense, layer, net, reshape, weights
from tests.ptq.nets import operators, planned, sqnr_db

from featherweight.graph import Model
from featherweight.runtime import run
from featherweight.tasks.quantize_aware import quantize_aware

ROW = (1, 16)
CONSTANTS = {
    "w": weights(16, 16),
    "wide_w": weights(16, 16, seed=1, spread=30.0),
    "c": np.arange(16)[None] % 2 == 0,
    "shape": np.array([16], np.int32),
    "shape_3": np.array([1, 16, 3], np.int32),
}


def joined(joins: list[Layer], outputs: list[str]) -> Model:
    """Returns a narrow tensor `n` that a dense layer reads, and a wide one `v`; `joins` bring them together."""
    layers = [
        dense("x", "w", "", "n", ROW, "RELU"),
        dense("x", "wide_w", "", "v", ROW),
        dense("n", "w", "", "y", ROW),
        *joins,
    ]
    return net({"x": ROW}, CONSTANTS, layers, ["y", *outputs])


JOINS: dict[str, list[Layer]] = {
    "concatenation": [layer("CONCATENATION", ("v", "n"), {"j": (1, 32)}, axis=1)],
    "pack": [layer("PACK", ("n", "v"), {"j": (2, 1, 16)}, axis=0, values_count=2)],
    "maximum": [layer("MAXIMUM", ("n", "v"), {"j": ROW})],
    "minimum": [layer("MINIMUM", ("v", "n"), {"j": ROW})],
    "select": [layer("SELECT_V2", ("c", "n", "v"), {"j": ROW})],
    "behind a reshape": [
        reshape("n", "shape", "flat", (16,)),
        reshape("v", "shape", "flat_v", (16,)),
        layer("CONCATENATION", ("flat", "flat_v"), {"j": (32,)}, axis=0),
    ],
}


def outputs(model: Model, x: np.ndarray, **how: str) -> dict[str, np.ndarray]:
    found = run(model, x, **how)
    assert isinstance(found, dict)
    return found


def decibels(model: Model, quantized: Model) -> dict[str, float]:
    rng = np.random.default_rng(7)
    feeds = [rng.uniform(-2, 2, ROW).astype(np.float32) for _ in range(8)]
    found = [[outputs(m, feed) for m in (model, quantized)] for feed in feeds]

    def together(index: int, side: int) -> np.ndarray:
        return np.concatenate([list(each[side].values())[index].ravel() for each in found])

    return {name: sqnr_db(together(i, 0), together(i, 1)) for i, name in enumerate(model.main.outputs)}


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("name", JOINS)
def test_a_narrow_tensor_keeps_its_grid_beside_wide_ones(name: str, recipe: str) -> None:
    model = joined(JOINS[name], ["j"])
    decided, quantized = planned(model, recipe, integers=True)
    assert decided.params["n"].scale[0] * 16 < decided.params["j"].scale[0] == decided.params["v"].scale[0]
    assert list(decided.edges.values()) == [decided.params["j"]]
    found = decibels(model, quantized)
    assert found["y"] >= (30.0 if recipe == "int8" else 45.0), found
    x = np.random.default_rng(1).uniform(-2, 2, ROW).astype(np.float32)
    litert, reference = outputs(quantized, x), outputs(quantized, x, runtime="reference")
    assert all(np.array_equal(litert[key], reference[key]) for key in litert)


@pytest.mark.parametrize("name", JOINS)
def test_nothing_is_converted_for_a_tensor_that_nothing_else_reads(name: str) -> None:
    built = joined(JOINS[name], ["j"])
    graph = built.main
    alone = replace(graph, nodes=tuple(n for n in graph.nodes if n.name != "y"), outputs=("j",))
    decided, quantized = planned(Model((alone,)))
    assert decided.edges == {}
    assert operators(quantized)["QUANTIZE"] == 1  # the input's


def test_tensors_of_like_width_share_a_grid() -> None:
    model = joined([layer("CONCATENATION", ("y", "n"), {"j": (1, 32)}, axis=1)], ["j"])
    assert planned(model)[0].edges == {}


def test_a_tensor_shares_the_grid_of_the_narrower_one() -> None:
    concatenations = [
        layer("CONCATENATION", ("n", "y"), {"i": (1, 32)}, axis=1),
        layer("CONCATENATION", ("n", "v"), {"j": (1, 32)}, axis=1),
    ]
    decided, _ = planned(joined(concatenations, ["i", "j"]), integers=True)
    assert decided.params["n"] == decided.params["i"] == decided.params["y"] != decided.params["j"]


def test_a_coarse_part_does_not_widen_what_it_is_joined_with() -> None:
    model = net(
        {"x": ROW},
        {
            "w": weights(16, 16),
            # The first half of what this computes is narrow, the second wide.
            "u": np.concatenate([weights(8, 16), weights(8, 16, spread=30.0)]),
            "axis": np.array(1, np.int32),
        },
        [
            dense("x", "u", "", "v", ROW),
            layer("SPLIT", ("axis", "v"), {"first": (1, 8), "second": (1, 8)}, num_splits=2),
            dense("x", "w", "", "n", ROW),
            layer("CONCATENATION", ("first", "n"), {"j": (1, 24)}, axis=1),
            dense("n", "w", "", "y", ROW),
        ],
        ["j", "second", "y"],
    )
    decided, quantized = planned(model)
    assert decided.params["n"] == decided.params["j"]
    assert decided.params["j"].scale[0] * 8 < decided.params["first"].scale[0]
    assert decibels(model, quantized)["y"] >= 30.0


def test_training_computes_the_file_s_integers_where_a_grid_is_kept() -> None:
    import featherweight as fw

    model = joined(JOINS["concatenation"], ["j"])
    rng = np.random.default_rng(0)
    feeds = [rng.uniform(-2, 2, ROW).astype(np.float32) for _ in range(8)]
    trained = quantize_aware(model, "int8", calibration=feeds, strict=True, progress=False)
    finished = fw.finalize(trained)
    assert finished.plan.edges
    expected = outputs(finished.model, feeds[0])
    found = trained.predict(feeds[0], verbose=0)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


HEADS: dict[str, list[Layer]] = {
    "one": [layer("CONCATENATION", ("v", "n"), {"j": (1, 32)}, axis=1)],
    "one behind the other": [
        layer("CONCATENATION", ("n", "v"), {"i": (1, 32)}, axis=1),
        layer("CONCATENATION", ("v", "i"), {"k": (1, 48)}, axis=1),
        reshape("k", "shape_3", "j", (1, 16, 3)),
    ],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_part_that_an_output_s_grid_hides_is_named(name: str) -> None:
    built = joined(HEADS[name], ["j"])
    decided, _ = planned(built, integers=True)
    (note,) = [note for note in decided.notes if "unlike range" in note]
    assert note.startswith("output 'j' mixes parts of unlike range: ")
    assert "'n' (0 to " in note
    assert "'v'" not in note
    assert not [note for note in planned(built, "int16x8")[0].notes if "unlike range" in note]


@pytest.mark.parametrize("name", HEADS)
def test_parts_of_unlike_range_are_joined_in_float_at_a_float_output(name: str) -> None:
    built = joined(HEADS[name], ["j"])
    decided, _ = planned(built)
    assert set(decided.kept_float) == {node.name for node, _ in HEADS[name]}
    assert all("to one output: in float each keeps its steps" in reason for reason in decided.kept_float.values())
    assert decided.params["n"].scale[0] * 16 < decided.params["v"].scale[0]
    assert not [note for note in decided.notes if "unlike range" in note]
    assert not planned(built, io="int8")[0].kept_float


def test_an_output_that_is_chosen_beside_a_constant() -> None:
    layers = [dense("x", "w", "", "h", ROW), layer("SELECT_V2", ("c", "h", "zero"), {"y": ROW})]
    model = net({"x": ROW}, CONSTANTS | {"zero": np.float32(0)}, layers, ["y"])
    decided, _ = planned(model)
    assert decided.kept_float == {}
    assert decided.notes == ()
