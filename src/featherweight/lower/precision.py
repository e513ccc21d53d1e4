"""Keras models that compute in 16 bits: what becomes of them is float32."""

from __future__ import annotations

from typing import Any

from featherweight import keras_internals

_HALF = ("float16", "bfloat16")


def in_float32(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns a built Keras model with its layers that compute in 16 bits computing in float32, and a note or none.

    It is a copy with the same variables, which are read as float32 where they are of 16 bits, or the model itself where
    there are no such layers. Layers that Keras has quantized stay as they are.
    """
    found = {
        layer
        for layer in keras_internals.layers_of(model)
        if layer.compute_dtype in _HALF and layer.quantization_mode is None
    }
    if not found:
        return model, ()

    def change(twin: Any, layer: Any) -> None:
        if layer in found:
            keras_internals.set_dtype_policy(twin, "float32")

    types = " and ".join(sorted({layer.compute_dtype for layer in found}))
    note = f"The Keras model '{model.name}' computes in {types}, and its graph in float32."
    twin = keras_internals.twin(model, change)
    keras_internals.set_input_dtypes(twin, dict.fromkeys(_HALF, "float32"))
    return twin, (note,)
