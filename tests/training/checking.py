"""Quantized models in training, and how they are held against the files that they become."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests import models
from tests.compilation import optimizations

import featherweight as fw

RESOLVER = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}


def quantized(name: str, recipe: str = "int8", **options: Any) -> Any:
    samples = models.samples(name, 8, seed=1)
    return fw.quantize_aware(models.lowered(name), recipe, calibration=samples, progress=False, **options)


def as_dict(outputs: Any) -> dict[str, np.ndarray]:
    return outputs if isinstance(outputs, dict) else {"": outputs}


def assert_equal(found: Any, expected: Any) -> None:
    found, expected = as_dict(found), as_dict(expected)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def compiled(model: Any) -> Any:
    import keras

    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
    return model


def predictions(model: Any, inputs: Any) -> Any:
    """What a model predicts, compiled as users do: with all of XLA's optimizations."""
    with optimizations(are_on=True):
        return model.predict(inputs, verbose=0)


def fitted(model: Any, inputs: Any, epochs: int = 2) -> Any:
    targets = {name: array * 0 + 0.1 for name, array in as_dict(predictions(model, inputs)).items()}
    model.fit(inputs, targets.get("", targets), epochs=epochs, batch_size=4, verbose=0)
    return model


def trained(model: Any, inputs: Any, epochs: int = 2) -> Any:
    return fitted(compiled(model), inputs, epochs)


def runtime_outputs(model: fw.Quantized, inputs: Any, **options: Any) -> Any:
    """The outputs of LiteRT in the plan's arithmetic, or of the reference kernels for another's (TFLM, a chip)."""
    if model.plan.profile in RESOLVER:
        return fw.run(model.model, inputs, resolver=RESOLVER[model.plan.profile], threads=1, **options)
    return fw.run(model.model, inputs, runtime="reference", profile=model.plan.profile, **options)


def assert_every_tensor_is_litert_s(model: Any, finished: fw.Quantized, inputs: Any) -> None:
    """The model's tensors and LiteRT's are equal, in the plan's arithmetic."""
    from keras import ops

    expected = runtime_outputs(finished, inputs, tensors="all")
    found = model.tensors(inputs, list(expected))
    for name, array in expected.items():
        quant = finished.model.main.tensors[name].quant
        value = ops.convert_to_numpy(found[name])
        value = value + quant.zero_point[0] if quant is not None and quant.zero_point else value
        np.testing.assert_array_equal(value, array, err_msg=name)


def ranges_of(model: Any) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name, params in fw.finalize(model).plan.params.items():
        if params.dtype == "int8" and len(params.scale) == 1 and not model.graph.main.tensors[name].is_constant:
            low, high = (params.scale[0] * (end - params.zero_point[0]) for end in (-128, 127))
            found[name] = low, high
    return found
