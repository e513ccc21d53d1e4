"""Front ends of signals stay float from the input to the logarithm where integers lose what is quiet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, layer, net, unary, weights
from tests.ptq.nets import sqnr_db

import featherweight as fw
from featherweight.graph import Model, producers
from featherweight.ptq.front_ends import front_end
from featherweight.recipes.recipe import Recipe, Rule, Scheme

SIZE, BINS, BANDS = 64, 32, 16
LOUD = (1.0, 0.1, 0.01)
DENSE = {"keep_num_dims": True}


def spectral(*compressed: Layer, last: str = "l", **constants: Any) -> Model:
    """Dense layers for cosines and bands, the power between them as `p`, and a dense layer behind what compresses."""
    angles = np.outer(np.arange(1, BINS + 1), np.arange(SIZE)) * np.pi / SIZE
    bands = np.kron(np.eye(BANDS), np.ones((1, BINS // BANDS)))
    given = {
        "w": np.cos(angles).astype(np.float32),
        "v": bands.astype(np.float32),
        "u": weights(8, BANDS, seed=3),
        "none": np.zeros(BINS, np.float32),
        "empty": np.zeros(BANDS, np.float32),
        "eight": np.zeros(8, np.float32),
        "eps": np.float32(1e-3),
        **constants,
    }
    layers = [
        layer("FULLY_CONNECTED", ("x", "w", "none"), {"a": (1, BINS)}, **DENSE),
        layer("MUL", ("a", "a"), {"s": (1, BINS)}),
        layer("FULLY_CONNECTED", ("s", "v", "empty"), {"p": (1, BANDS)}, **DENSE),
        *compressed,
        layer("FULLY_CONNECTED", (last, "u", "eight"), {"y": (1, 8)}, **DENSE),
    ]
    return net({"x": (1, SIZE)}, given, layers, ("y",))


LOG = [add("p", "eps", "q", (1, BANDS)), unary("LOG", "q", "l", (1, BANDS))]
POWER = [add("p", "eps", "q", (1, BANDS)), layer("POW", ("q", "third"), {"l": (1, BANDS)})]
ROOT = [
    layer("REDUCE_MAX", ("p", "axis"), {"m": (1, 1)}, keep_dims=True),
    add("m", "eps", "n", (1, 1)),
    layer("DIV", ("p", "n"), {"q": (1, BANDS)}),
    unary("SQRT", "q", "l", (1, BANDS)),
]
MORE = {"third": np.float32(1 / 3), "axis": np.int32([1])}


def sounds(count: int = 24) -> list[np.ndarray]:
    """Returns mixtures of cosines of very unlike loudness."""
    random, time = np.random.default_rng(0), np.arange(SIZE)
    made = []
    for _ in range(count):
        tones = [loud * np.cos(random.uniform(0.1, 3) * time) for loud in LOUD]
        made.append(np.sum(tones, axis=0, dtype=np.float32)[np.newaxis])
    return made


@pytest.mark.parametrize("compressed", [LOG, POWER, ROOT], ids=["log", "power", "root of a share"])
def test_what_leads_to_the_compression_is_float(compressed: list[Layer]) -> None:
    model = spectral(*compressed, **MORE)
    quantized = fw.quantize(model, calibration=sounds(), progress=False)
    assert {"a", "s", "p", "q", "l"} <= set(quantized.plan.kept_float)
    assert "y" in quantized.plan.forms
    assert "it leads from an input to" in quantized.plan.kept_float["a"]
    real, found = (np.concatenate([fw.run(m, x) for x in sounds()]) for m in (model, quantized.model))
    assert sqnr_db(real, found) > 28
    whole = fw.quantize(model, calibration=sounds(), progress=False, integers=True)
    assert "a" in whole.plan.forms
    assert sqnr_db(real, np.concatenate([fw.run(whole.model, x) for x in sounds()])) < 20


def test_a_magnitude_of_real_and_imaginary_parts_leads_to_its_root() -> None:
    halves = [
        layer("RESHAPE", ("p", "pairs"), {"h": (1, BANDS // 2, 2)}),
        layer("SUM", ("h", "parts"), {"m": (1, BANDS // 2)}, keep_dims=False),
        unary("SQRT", "m", "l", (1, BANDS // 2)),
    ]
    shapes = {"pairs": np.int32([1, BANDS // 2, 2]), "parts": np.int32([2]), "u": weights(8, BANDS // 2, seed=3)}
    model = spectral(*halves, **shapes)
    made = producers(model.main)
    assert {node.name for node in front_end(made["l"], model.main, made)} == {"a", "s", "p", "h", "m", "l"}
    quantized = fw.quantize(model, calibration=sounds(), progress=False)
    assert {"a", "s", "p", "m", "l"} <= set(quantized.plan.kept_float)


def test_a_rule_that_names_an_operator_stands() -> None:
    named = Rule("s", activation=Scheme("int8"))
    recipe = Recipe("named", (named, Rule(weight=Scheme("int8"), activation=Scheme("int8"))))
    quantized = fw.quantize(spectral(*LOG), recipe, calibration=sounds(), progress=False)
    assert quantized.plan.forms["s"] == "int8"
    assert "a" in quantized.plan.kept_float


def test_a_logarithm_that_integers_follow_frees_nothing_before_it() -> None:
    loud = spectral(*LOG, eps=np.float32(300))
    quantized = fw.quantize(loud, calibration=sounds(), progress=False)
    assert not {"a", "s", "p"} & set(quantized.plan.kept_float)


@pytest.mark.parametrize(
    ("layers", "end"),
    [
        ([unary("SOFTMAX", "p", "q", (1, BANDS)), unary("LOG", "q", "l", (1, BANDS))], "l"),
        ([unary("RELU", "p", "q", (1, BANDS)), unary("LOG", "q", "l", (1, BANDS))], "l"),
        (
            [
                layer("MEAN", ("p", "axis"), {"m": (1, 1)}, keep_dims=True),
                unary("RSQRT", "m", "r", (1, 1)),
                layer("MUL", ("p", "r"), {"l": (1, BANDS)}),
            ],
            "r",
        ),
    ],
    ids=["softmax", "rectified", "normalization"],
)
def test_networks_and_normalizations_are_no_front_ends(layers: list[Layer], end: str) -> None:
    graph = spectral(*layers, **MORE).main
    made = producers(graph)
    assert front_end(made[end], graph, made) == []
