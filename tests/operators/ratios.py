"""The random models of `building`, with scales whose ratios lie anywhere that a planner can bring them.

A scale is a float32 number from the smallest normal one on; tensors of one case lie near each other or far apart, some
at the edges of what kernels take, some are zeros alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.operators.building import Case
from tests.operators.recurrent_cases import Layer

from featherweight import operators
from featherweight.graph import Tensor
from featherweight.graph.numerics import QuantParams, integer_range

# Exponents of the scales that ranges from 1e-36 to 1e32 need.
_LEAST, _MOST = -126.0, 100.0
_REAL = ("int8", "int16", "uint8")
# What an output's scale is to those of the first two inputs, as exponents: a sum, a product, a quotient, a square.
_UNITS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (2.0, 0.0), (-0.5, 0.0), (0.5, 0.0))


def at_any_scale(case: Case, random: np.random.Generator) -> Case:
    """Returns a case with other scales; tensors that had the same parameters have the same again."""
    record = operators.lookup(case.op)
    weights = {role.weight for role in record.weights}
    biases = {role.bias for role in record.weights}
    fixed = {tensor.name for tensor in case.outputs if tensor.dtype in record.fixed_output}
    spread, centre = random.choice([1.0, 6.0, 24.0, 80.0]), random.uniform(_LEAST, _MOST)
    chosen: dict[QuantParams, QuantParams] = {}

    def other(quant: QuantParams, exponent: float) -> QuantParams:
        if quant not in chosen:
            exponent = float(np.clip(exponent, _LEAST, _MOST))
            exponent = 0.0 if random.random() < 0.1 else round(exponent) if random.random() < 0.3 else exponent
            chosen[quant] = replace(quant, scale=(float(np.float32(2.0**exponent)),))
        return chosen[quant]

    tensors: list[Tensor] = []
    exponents: list[float] = []
    for position, tensor in enumerate(case.tensors):
        quant = tensor.quant
        if quant is None or not quant.scale or position in biases:
            tensors.append(tensor)
            continue
        if position in weights:
            factor = 2.0 ** (random.uniform(-20, 20) + random.normal(0, random.choice([0.0, 3.0]), len(quant.scale)))
            scales = np.clip(np.asarray(quant.scale) * factor, 2.0**_LEAST, 2.0**_MOST).astype(np.float32)
            quant = replace(quant, scale=tuple(scales.tolist()))
            exponents.append(float(np.log2(np.median(scales))))
        elif tensor.dtype in _REAL and len(quant.scale) == 1 and tensor.dtype + str(tensor.is_variable) != "int16True":
            quant = other(quant, centre + random.uniform(-spread, spread))
            exponents.append(float(np.log2(quant.scale[0])))
        tensors.append(replace(tensor, quant=quant))
    factors = _UNITS[random.integers(len(_UNITS))]
    expected = sum(f * e for f, e in zip(factors, exponents, strict=False)) + random.uniform(-40, 40)
    outputs = [
        tensor
        if tensor.quant is None or tensor.name in fixed
        else replace(tensor, quant=other(tensor.quant, expected if random.random() < 0.8 else centre))
        for tensor in case.outputs
    ]
    changed = replace(case, tensors=_with_biases(tensors, record), outputs=outputs, feeds=_hostile(case, random))
    if isinstance(changed, Layer) and isinstance(case, Layer):
        changed.intermediates = [
            replace(t, quant=chosen.get(t.quant, t.quant)) for t in changed.intermediates if t.quant
        ]
    return changed


def _with_biases(tensors: list[Tensor], record: operators.Op) -> list[Tensor]:
    """Returns the tensors with the scales of biases that belong to the others."""
    found = list(tensors)
    for role in record.weights:
        if role.bias is None or role.bias >= len(found) or found[role.bias].quant is None:
            continue
        x, weight, bias = (found[p].quant for p in (role.activation, role.weight, role.bias))
        if x is not None and weight is not None and bias is not None:
            with np.errstate(all="ignore"):
                scales = np.float32(x.scale[0]) * np.asarray(weight.scale, np.float32)
            found[role.bias] = replace(found[role.bias], quant=replace(bias, scale=tuple(scales.tolist())))
    return found


def _hostile(case: Case, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the feeds, some of them zero or at an end of their type."""
    feeds = dict(case.feeds)
    for tensor in _fed(case):
        array, kind = feeds[tensor.name], random.random()
        if kind < 0.1:
            zero_points = tensor.quant.zero_point if tensor.quant else ()
            feeds[tensor.name] = np.full_like(array, zero_points[0] if zero_points else 0)
        elif kind < 0.2:
            feeds[tensor.name] = random.choice(integer_range(tensor.dtype), array.shape).astype(array.dtype)
    return feeds


def extremes(case: Case, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns feeds that reach from one end of their types to the other, each with as much of it as it happens."""
    feeds = dict(case.feeds)
    for tensor in _fed(case):
        low, high = integer_range(tensor.dtype)
        share = random.choice([0.0, 0.5, 1.0])
        any_of = random.integers(low, high + 1, feeds[tensor.name].shape)
        ends = random.choice([low, high], feeds[tensor.name].shape)
        chosen = np.where(random.random(any_of.shape) < share, ends, any_of)
        feeds[tensor.name] = chosen.astype(feeds[tensor.name].dtype)
    return feeds


def _fed(case: Case) -> list[Tensor]:
    """Returns the tensors that integers which stand for numbers are fed to."""
    return [tensor for tensor in case.tensors if tensor.name in case.feeds and tensor.quant and tensor.dtype in _REAL]
