"""What the lowering tests share: models with lively weights, and the comparison with their source."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.graph import Model
from featherweight.lower import Lowered, lower_with_notes
from featherweight.runtime import run


def stirred(model: Any, seed: int = 0) -> Any:
    """Gives every weight a random value, variances and scales positive ones, so that no defect hides in zeros."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in variable.dtype:
            positive = any(word in variable.path for word in ("variance", "gamma", "norm"))
            values = rng.uniform(0.5, 1.5, variable.shape) if positive else rng.normal(0, 0.4, variable.shape)
            variable.assign(values.astype("float32"))
    return model


def sequential(shape: tuple[int | None, ...], *layers: Any, dtype: str | None = None) -> Any:
    import keras

    return stirred(keras.Sequential([keras.Input(shape, dtype=dtype), *layers]))


def ops(model: Model, graph: int = 0) -> list[str]:
    return [node.op for node in model.graphs[graph].nodes]


def all_ops(model: Model) -> set[str]:
    return {node.op for graph in model.graphs for node in graph.nodes}


def outputs_of(model: Any, inputs: Any) -> list[np.ndarray]:
    import jax
    import keras

    compiled = jax.jit(lambda x: model(x, training=False))
    return [np.asarray(value) for value in keras.tree.flatten(compiled(inputs))]


def assert_equal_to_source(lowered: Lowered, model: Any, inputs: Any, tolerance: float = 1e-5) -> None:
    """Runs both at the inputs' batch and at its first sample."""
    import keras

    expected = outputs_of(model, inputs)
    single = keras.tree.map_structure(lambda x: x[:1], inputs)
    named = keras.tree.flatten(inputs)
    for arrays, rows in ((named, slice(None)), (keras.tree.flatten(single), slice(0, 1))):
        got = run(lowered.model, tuple(arrays))
        got = list(got.values()) if isinstance(got, dict) else [got]
        assert len(got) == len(expected)
        for e, g in zip(expected, got, strict=True):
            np.testing.assert_allclose(g, e[rows], rtol=0, atol=tolerance * max(1.0, float(np.abs(e).max())))


def lowered_and_compared(model: Any, shape: tuple[int, ...], *, high: int | None = None, **options: Any) -> Lowered:
    """Lowers and compares at batch 3 and 1, on random numbers (integers below `high` where it is given)."""
    rng = np.random.default_rng(5)
    lowered = lower_with_notes(model, **options)
    x = rng.integers(0, high, (3, *shape)).astype("int32") if high else rng.normal(size=(3, *shape)).astype("float32")
    assert_equal_to_source(lowered, model, x)
    return lowered
