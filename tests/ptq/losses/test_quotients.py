"""Numerators and denominators that are products of activations: linear attention."""

from __future__ import annotations

import numpy as np
from tests.building import layer, net, weights
from tests.ptq.nets import sqnr_db

from featherweight.runtime import run
from featherweight.tasks.quantize import quantize

TOKENS, WIDTH = 16, 8


def test_what_is_multiplied_for_a_small_divisor_is_not_rounded() -> None:
    """A query of small values has a small divisor: the quotient depends on its direction alone, which steps hide."""
    rows, wide = (1, TOKENS, WIDTH), (1, TOKENS, WIDTH + 1)
    layers = [
        layer("CONCATENATION", ("v", "one"), {"c": wide}, axis=2),
        layer("RELU", ("q",), {"qr": rows}),
        layer("BATCH_MATMUL", ("k", "c"), {"kv": (1, WIDTH, WIDTH + 1)}, adj_x=True),
        layer("BATCH_MATMUL", ("qr", "kv"), {"n": wide}),
        layer("SLICE", ("n", "b", "z"), {"above": rows}),
        layer("SLICE", ("n", "b1", "z1"), {"below": (1, TOKENS, 1)}),
        layer("DIV", ("above", "below"), {"d": rows}),
        layer("FULLY_CONNECTED", ("d", "w", ""), {"y": rows}, keep_num_dims=True),
    ]
    constants = {
        "w": weights(WIDTH, WIDTH),
        "one": np.ones((1, TOKENS, 1), np.float32),
        "b": np.zeros(3, np.int32),
        "z": np.array([1, TOKENS, WIDTH], np.int32),
        "b1": np.array([0, 0, WIDTH], np.int32),
        "z1": np.array([1, TOKENS, 1], np.int32),
    }
    model = net({"q": rows, "k": rows, "v": rows}, constants, layers, ["y"])
    random = np.random.default_rng(0)

    def sample() -> tuple[np.ndarray, ...]:
        size = np.geomspace(1e-3, 1, TOKENS, dtype=np.float32)[None, :, None]
        q, k = (np.abs(random.normal(0, 1, rows)).astype(np.float32) for _ in range(2))
        return q * size, k, random.normal(0, 1, rows).astype(np.float32)

    samples = [sample() for _ in range(12)]
    q = quantize(model, "int8", calibration=samples, progress=False, verify=False)
    kept = q.plan.kept_float
    assert {"qr", "n", "below"} <= set(kept), kept
    # What only moves data between float operators is float, a part of a tensor, too.
    assert kept["above"] == "SLICE: it only moves data, between float operators"
    wanted, found = (np.stack([run(form, each) for each in samples]) for form in (model, q.model))
    assert sqnr_db(wanted, found) > 25
