"""Keras models in mixed precision: their weights are float32, and so is what becomes of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def in_float32(model: Any) -> Generator[tuple[str, ...]]:
    """Lets the layers of a Keras model that compute in 16 bits compute in float32 inside; it is as before afterwards.

    Layers whose weights are of 16 bits too, or that Keras has quantized, stay as they are. Yields a note, or none.
    """
    import keras

    policies = {
        layer: layer._dtype_policy
        for layer in dict.fromkeys(model._flatten_layers())
        if layer.variable_dtype == "float32" and layer.compute_dtype != "float32" and layer.quantization_mode is None
    }
    types = sorted({layer.compute_dtype for layer in policies})
    note = f"The Keras model '{model.name}' computes in {' and '.join(types)}, and its graph in float32."
    try:
        for layer in policies:
            layer._dtype_policy = keras.DTypePolicy("float32")
        yield (note,) if policies else ()
    finally:
        for layer, policy in policies.items():
            layer._dtype_policy = policy
