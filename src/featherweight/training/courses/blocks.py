"""Trains the weights of a few operators so that their outputs are those of the float ones, on the integers of the file.

Block-wise reconstruction (BRECQ: Li et al., 2102.05426, section 3.2; QDrop: Wei et al., 2203.05740, section 3): no
labels, and no gradient through the rest of the network. Scales stay; a weight moves in units of its own step and a bias
in units of its output's, so that one learning rate serves channels whose weights differ by any factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from featherweight.errors import UnsupportedOp, listed
from featherweight.graph import Model
from featherweight.operators import lookup
from featherweight.targets.target import Target
from featherweight.training.graph.exposed import Exposed
from featherweight.training.graph.registry import ops
from featherweight.training.qat.blueprint import Blueprint, draw_blueprint, weights_and_biases
from featherweight.training.qat.program import without_kernel
from featherweight.training.qat.provenance import Origin
from featherweight.training.qat.quantized_model import QuantizedModel
from featherweight.training.qat.settings import RangeTraining

# Of a weight's step, how far Adam moves it at the first training step; it falls to 0 as a cosine.
_RATE = 0.005
_BATCH = 16
# How many values of the integer model's input are replaced by the float model's (QDrop).
_FLOAT_INPUTS = 0.5
# Of an output's step.
_BIAS_UNIT = 0.25


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a block is to learn: rows of all its inputs and outputs.

    Attributes:
        exact: input → values of the float model.
        rounded: input → values of the integer model.
        wanted: output → values of the float model.
    """

    exact: Mapping[str, np.ndarray]
    rounded: Mapping[str, np.ndarray]
    wanted: Mapping[str, np.ndarray]


def train_block(
    exposed: Exposed, integer: Model, plan: str, target: Target, lesson: Lesson, steps: int
) -> dict[str, np.ndarray]:
    """Returns what the weights (on the grid of their scales) and biases of a part of a model have become, by name.

    Args:
        exposed: some operators of the float model, with weights to start from.
        integer: the same in integers, with float inputs and outputs.
        plan: of these, as JSON.
        target: says in which arithmetic.
        lesson: rows to learn from.
        steps: how many batches of 16 rows.

    Raises:
        UnsupportedOp: if an operator has no training kernel.
    """
    model = _model(exposed, integer, plan, target)
    units = _units(model)
    for variable in model.trainable_variables:
        variable.trainable = id(variable) in units
    rate = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    scale = {name: 1 / max(float(values.var()), 1e-30) for name, values in lesson.wanted.items()}
    model.compile(
        optimizer=_AdamOfUnits(units, learning_rate=rate, epsilon=1e-12),
        loss="mse",
        loss_weights=_plain(scale),
        scaled=False,
    )
    random = np.random.default_rng(0)
    rows = len(next(iter(lesson.wanted.values())))
    for _ in range(steps):
        chosen = random.choice(rows, min(_BATCH, rows), replace=False)
        fed = {name: _mixed(lesson.exact[name][chosen], lesson.rounded[name][chosen], random) for name in lesson.exact}
        model.train_on_batch(_plain(fed), _plain({name: values[chosen] for name, values in lesson.wanted.items()}))
    return _values(model.blueprint, model)


def _model(exposed: Exposed, integer: Model, plan: str, target: Target) -> QuantizedModel:
    blueprint = draw_blueprint(
        exposed,
        integer,
        plan,
        Origin(target),
        ranges=RangeTraining("learned"),  # of which nothing is trained: scales stay as they are
        keep_zeros=False,
        keep_clusters=False,
        approximate=False,
        oscillations=None,
        noises=(),
        teacher=None,
    )
    if missing := without_kernel(integer, blueprint.profile, approximate=False):
        raise UnsupportedOp(f"without a training kernel: {listed(missing.values(), 3)}")
    return QuantizedModel(blueprint)


def _plain(values: Mapping[str, Any]) -> Any:
    """Returns the one value, or all by name."""
    return next(iter(values.values())) if len(values) == 1 else dict(values)


def _mixed(exact: np.ndarray, rounded: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.where(random.random(exact.shape) < _FLOAT_INPUTS, exact, rounded).astype(exact.dtype)


def _units(model: QuantizedModel) -> dict[int, np.ndarray]:
    """Returns variable (by identity) → how far a unit of it is, in its shape or broadcast to it."""
    integer, found = model.integer.main, dict[int, np.ndarray]()
    for node, tensor, role in weights_and_biases(model.integer):
        source = model.blueprint.sources.get(tensor.name, "")
        variable = model.variables_by_tensor.get(source)
        if variable is None or tensor.quant is None or tensor.quant.block_size is not None:
            continue
        if role == "weight":
            scales = np.asarray(tensor.quant.scale, np.float32)
            axis = tensor.quant.axis
            shape = [-1 if d == axis else 1 for d in range(len(tensor.shape))] if scales.size > 1 else []
            unit = np.broadcast_to(scales.reshape(shape), tensor.shape)
        else:
            output = integer.tensors[node.outputs[0]].quant
            step = output.scale[0] * _BIAS_UNIT if output is not None and lookup(node.op).bias is not None else 0.0
            unit = np.full(tensor.shape, step, np.float32)
        found[id(variable)] = np.ascontiguousarray(unit, np.float32).reshape(tuple(variable.shape))
    return found


class _AdamOfUnits(keras.optimizers.Adam):
    """Adam, whose steps are counted in units of each variable's elements."""

    def __init__(self, units: Mapping[int, np.ndarray], **options: Any) -> None:
        super().__init__(**options)
        self._units = units

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        unit = self._units[id(variable)]
        super().update_step(gradient, variable, ops.multiply(learning_rate, unit))


def _values(blueprint: Blueprint, model: QuantizedModel) -> dict[str, np.ndarray]:
    """Returns constant of the float graph → what has become of it, weights as their integers stand for them."""
    current, integers = model.current_values(), model.integers()
    found: dict[str, np.ndarray] = {}
    for _, tensor, role in weights_and_biases(model.integer):
        source = blueprint.sources[tensor.name]
        if source not in current or tensor.name not in integers or tensor.quant is None:
            continue
        scales = np.asarray(tensor.quant.scale, np.float32)
        shape = [-1 if d == tensor.quant.axis else 1 for d in range(len(tensor.shape))] if scales.size > 1 else []
        real = integers[tensor.name].astype(np.float32) * scales.reshape(shape)
        found[source] = (real if role == "weight" else current[source]).reshape(current[source].shape)
    return found
