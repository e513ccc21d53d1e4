"""Integer models of one operator, and target files, that the tests of targets are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.graph import Model, Tensor, constant
from featherweight.graph.numerics import QuantParams

NAMES = (
    "esp32-p4",
    "esp32-s3",
    "ethos-u55",
    "ethos-u65",
    "ethos-u85",
    "int8-per-tensor",
    "litert",
    "litert-arm",
    "power-of-two",
    "tflm",
)
VALID = 'name = "mine"\ndescription = "x"\nprofile = "tflite_ref"\n'
HALF = QuantParams("int8", (0.5,), (0,))


def quantized(model: Model, dtypes: dict[str, Any] | None = None, **params: QuantParams | None) -> Model:
    """Returns the model with its float tensors as int8 at scale 1/2, or with the given parameters by tensor."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.main.tensors.items():
        quant = params.get(name, HALF)
        if not tensor.is_float or quant is None:
            tensors[name] = tensor
        elif tensor.is_constant:
            values = np.ones(tensor.shape, np.int8)
            tensors[name] = constant(name, values, quant.dtype, quant)
        else:
            tensors[name] = replace(tensor, dtype=quant.dtype, quant=quant)
    return replace(model, graphs=(replace(model.main, tensors=tensors),))


def edited(model: Model, name: str, **changes: Any) -> Model:
    """Returns the model with another tensor of that name."""
    tensors = dict(model.main.tensors)
    tensors[name] = replace(tensors[name], **changes)
    return replace(model, graphs=(replace(model.main, tensors=tensors),))


def own(tmp_path: Path, text: str) -> Path:
    """Writes a target of one's own and returns its path."""
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    return path
