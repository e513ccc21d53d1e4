"""Residual streams whose steps add up in the rows that are normalized: a class token beside larger patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.building import Layer, add, layer, net, unary, weights
from tests.ptq.nets import sqnr_db

from featherweight.graph import Model
from featherweight.runtime import run
from featherweight.tasks.quantize import quantize

SHAPE, ROW, BLOCKS = (1, 64, 32), (1, 64, 1), 8


def blocks(small: float) -> tuple[Model, list[np.ndarray]]:
    """Returns blocks that add dense layers of normalized rows to a stream, the first row so much smaller; samples."""
    constants = {"axis": np.array([2], np.int32), "eps": np.float32(1e-6)}
    constants |= {f"w{i}": weights(32, 32, seed=i) * np.float32(0.02) for i in range(BLOCKS)}
    constants |= {"b": np.zeros(3, np.int32), "z": np.array([1, 1, 32], np.int32), "head": weights(8, 32)}
    layers: list[Layer] = []
    stream = "x"
    for i in range(BLOCKS):
        layers += [
            *normalized(stream, str(i)),
            layer("FULLY_CONNECTED", (f"n{i}", f"w{i}", ""), {f"f{i}": SHAPE}, keep_num_dims=True),
            add(stream, f"f{i}", f"s{i}", SHAPE),
        ]
        stream = f"s{i}"
    layers += [
        *normalized(stream, "_last"),
        layer("SLICE", ("n_last", "b", "z"), {"t": (1, 1, 32)}),
        layer("FULLY_CONNECTED", ("t", "head", ""), {"y": (1, 1, 8)}, keep_num_dims=True),
    ]
    random = np.random.default_rng(0)
    samples = random.normal(size=(12, *SHAPE)).astype(np.float32)
    samples[:, :, 0] *= small
    return net({"x": SHAPE}, constants, layers, ["y"]), list(samples)


def normalized(x: str, name: str) -> list[Layer]:
    return [
        layer("MEAN", (x, "axis"), {f"m{name}": ROW}, keep_dims=True),
        layer("SUB", (x, f"m{name}"), {f"d{name}": SHAPE}),
        layer("MUL", (f"d{name}", f"d{name}"), {f"q{name}": SHAPE}),
        layer("MEAN", (f"q{name}", "axis"), {f"v{name}": ROW}, keep_dims=True),
        add(f"v{name}", "eps", f"e{name}", ROW),
        unary("RSQRT", f"e{name}", f"r{name}", ROW),
        layer("MUL", (f"d{name}", f"r{name}"), {f"n{name}": SHAPE}),
    ]


def test_a_stream_whose_smallest_row_drowns_in_its_steps_stays_float() -> None:
    model, samples = blocks(0.1)
    q = quantize(model, "int8", calibration=samples, progress=False, verify=False)
    assert {f"s{i}" for i in range(BLOCKS)} <= set(q.plan.kept_float)
    assert "tensors that add up in the smallest rows that RSQRT" in q.plan.kept_float["s3"]
    assert all(f"f{i}" in q.plan.forms for i in range(BLOCKS))
    whole = quantize(model, "int8", calibration=samples, progress=False, verify=False, integers=True)
    levels = []
    for form in (q.model, whole.model):
        pairs = [(_output(model, sample), _output(form, sample)) for sample in samples]
        levels.append(sqnr_db(np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])))
    assert levels[0] > levels[1] + 6


def _output(model: Model, sample: Any) -> np.ndarray:
    found = run(model, sample)
    return next(iter(found.values())) if isinstance(found, dict) else found


def test_a_stream_of_rows_of_one_size_stays_in_integers() -> None:
    model, samples = blocks(1.0)
    q = quantize(model, "int8", calibration=samples, progress=False, verify=False)
    assert not [name for name in q.plan.kept_float if name.startswith("s")]


@pytest.mark.parametrize(("tokens", "kept"), [(32, False), (300, True)])
def test_attention_over_more_tokens_than_steps_stays_float(tokens: int, kept: bool) -> None:
    """Equal probabilities of 1/300 are .85 steps of 1/256, and all of them become one step."""
    rows, scores = (1, tokens, 16), (1, 4, tokens)
    layers = [
        layer("BATCH_MATMUL", ("x", "z"), {"a": scores}, adj_y=True),
        layer("MUL", ("a", "c"), {"k": scores}),
        layer("SOFTMAX", ("k",), {"p": scores}, beta=1.0),
        layer("BATCH_MATMUL", ("p", "z"), {"y": (1, 4, 16)}),
    ]
    model = net({"x": (1, 4, 16), "z": rows}, {"c": np.float32(0.05)}, layers, ["y"])
    random = np.random.default_rng(0)
    samples = [tuple(random.normal(1, 1, s).astype(np.float32) for s in ((1, 4, 16), rows)) for _ in range(8)]
    q = quantize(model, "int8", calibration=samples, progress=False, verify=False)
    assert ("p" in q.plan.kept_float) is kept
    if kept:
        assert "steps of 1/256 leave" in q.plan.kept_float["p"]
        assert sqnr_db(_output(model, samples[0]), _output(q.model, samples[0])) > 25
