"""Keras models in mixed precision: their weights are float32, and so is what becomes of them."""

from __future__ import annotations

from typing import Any

from featherweight import keras_internals


def in_float32(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns a built Keras model with its layers that compute in 16 bits computing in float32, and a note or none.

    It is a copy with the same variables, or the model itself where there are no such layers. Layers whose weights are
    of 16 bits too, or that Keras has quantized, stay as they are.
    """
    found = {
        layer
        for layer in keras_internals.layers_of(model)
        if layer.variable_dtype == "float32" and layer.compute_dtype != "float32" and layer.quantization_mode is None
    }
    if not found:
        return model, ()

    def change(twin: Any, layer: Any) -> None:
        if layer in found:
            keras_internals.set_dtype_policy(twin, "float32")

    types = " and ".join(sorted({layer.compute_dtype for layer in found}))
    note = f"The Keras model '{model.name}' computes in {types}, and its graph in float32."
    return keras_internals.twin(model, change), (note,)
