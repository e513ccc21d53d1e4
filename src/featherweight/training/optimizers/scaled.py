"""An optimizer that trains each weight in units of its own: a change of variables, not of what is computed.

Where w = unit × v, the wrapped optimizer sees v and the gradient of v, which is that of w times the unit. Units are
powers of two, so that both ways are exact: a weight that the optimizer leaves alone keeps its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from featherweight import keras_internals
from featherweight.training.devices import assign, outside_of_graphs
from featherweight.training.graph.registry import ops
from featherweight.training.optimizers.wrapping import WrappingOptimizer, path_of

# Variable (by identity) → its units, of a shape that broadcasts to it.
Units = Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Scaled:
    """What Keras must not look into, variable by variable.

    Attributes:
        trained: the model's variables.
        seen: what the wrapped optimizer sees of each: another variable, or itself where it has no units.
        units: of each that has some, else None.
    """

    trained: tuple[Any, ...]
    seen: tuple[Any, ...]
    units: tuple[Any, ...]


@keras.saving.register_keras_serializable("featherweight")
class ScaledOptimizer(WrappingOptimizer):
    """Trains with any Keras optimizer, whose learning rate, clipping, decay and averages then count in units.

    Args:
        optimizer: the Keras optimizer that trains.
        measure: returns the units of variables; it is asked once, when the optimizer is built. None: all are 1, until
            stored ones are loaded.
    """

    def __init__(self, optimizer: Any, measure: Callable[[], Units] | None = None, name: str = "scaled") -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer: Any = optimizer
        self.measure = measure

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the units, and what the wrapped optimizer sees in place of the variables."""
        if self.built:
            return
        super().build(variables)
        measured = self.measure() if self.measure is not None else {}
        units = tuple(self._made_units(variable, measured.get(id(variable))) for variable in variables)
        kept = keras_internals.own_trainable_variables(self.inner_optimizer) if self.inner_optimizer.built else []
        if [tuple(variable.shape) for variable in kept] == [tuple(variable.shape) for variable in variables]:
            seen = tuple(kept)  # the model is compiled with it a second time
        else:
            seen = tuple(v if unit is None else _standing_in(v) for v, unit in zip(variables, units, strict=True))
        self._scaled = _Scaled(tuple(variables), seen, units)
        self.inner_optimizer.build(list(seen))

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates the weights as the wrapped optimizer updates them in their units."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                with outside_of_graphs(), keras.name_scope(self.name, caller=self):
                    self.build(trainable_variables)
        elif not self.built:
            self.inner_optimizer.apply(grads)  # says what is missing
        places = self._places(trainable_variables)
        scaled, gradients = list[tuple[Any, Any, Any]](), list[Any]()
        for place, gradient in zip(places, grads, strict=True):
            unit = self._scaled.units[place]
            if unit is not None:
                unit = ops.convert_to_tensor(unit)
                scaled.append((self._scaled.trained[place], self._scaled.seen[place], unit))
                gradient = None if gradient is None else gradient * unit
            gradients.append(gradient)
        assign([(seen, ops.convert_to_tensor(variable) / unit) for variable, seen, unit in scaled])
        self.inner_optimizer.apply(gradients, [self._scaled.seen[place] for place in places])
        assign([(variable, ops.convert_to_tensor(seen) * unit) for variable, seen, unit in scaled])

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the wrapped optimizer put in its averages."""
        if not self.built or not self.inner_optimizer.use_ema:
            return
        self.inner_optimizer.finalize_variable_values(list(self._scaled.seen))
        for variable, seen, unit in zip(self._scaled.trained, self._scaled.seen, self._scaled.units, strict=True):
            if unit is not None:
                variable.assign(ops.convert_to_tensor(seen) * ops.convert_to_tensor(unit))

    def _places(self, variables: Sequence[Any] | None) -> list[int]:
        """Returns where variables stand among those that the optimizer was built with."""
        if variables is None:
            return list(range(len(self._scaled.trained)))
        self._check_variables_are_known(variables)
        return [self._get_variable_index(variable) for variable in variables]

    def _made_units(self, variable: Any, units: np.ndarray | None) -> Any:
        """Makes the variable that holds units, rounded to powers of two, or returns None where there are none."""
        if units is None:
            return None
        rounded = np.exp2(np.round(np.log2(units))).astype(np.float32)
        initializer: Any = lambda shape, dtype: ops.convert_to_tensor(rounded, dtype=dtype)  # noqa: E731
        return self.add_variable(rounded.shape, initializer, name=f"{path_of(variable).replace('/', '_')}_units")

    def get_config(self) -> dict[str, Any]:
        """Returns what makes the same optimizer again; its units are stored with its variables."""
        return {"name": self.name, "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ScaledOptimizer:
        """Makes the optimizer that `get_config` describes."""
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(inner, name=config["name"])

    def save_own_variables(self, store: Any) -> None:
        """Stores the units; the wrapped optimizer is stored by itself."""
        for position, unit in enumerate(self._scaled.units if self.built else ()):
            if unit is not None:
                store[f"units_{position}"] = ops.convert_to_numpy(unit)

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` has stored."""
        for position, unit in enumerate(self._scaled.units):
            if unit is not None:
                unit.assign(store[f"units_{position}"])


def in_units(optimizer: Any, measure: Callable[[], Units]) -> Any:
    """Returns an optimizer that trains in units, put around the innermost of optimizers that wrap each other."""
    if isinstance(optimizer, ScaledOptimizer):
        optimizer.measure = optimizer.measure or measure
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is None:
        return ScaledOptimizer(optimizer, measure)
    optimizer.inner_optimizer = in_units(inner, measure)
    return optimizer


def has_units(optimizer: Any) -> bool:
    """True for an optimizer that trains in units, or wraps one that does."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return isinstance(optimizer, ScaledOptimizer) or (inner is not None and has_units(inner))


def _standing_in(variable: Any) -> Any:
    """Returns a variable like another, whose value is written before it is read."""
    return keras.Variable(
        np.zeros(variable.shape, np.float32),
        name=str(variable.name),
        layout=keras_internals.sharding_of(variable),
    )
