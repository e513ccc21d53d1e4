"""The search for the Keras variables that hold the constants of a lowered graph, batch norms folded in and all.

A lowered graph holds the weights of Keras in other layouts, and batch norms folded into the kernel before them:
``kernel * f`` and ``beta + (bias - mean) * f`` with ``f = gamma / sqrt(variance + epsilon)``. The inverse keeps gamma,
mean and variance, divides the kernel by f, and puts the rest into beta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight import keras_internals
from featherweight.graph import Model
from featherweight.training.graph.weights import Entry

# Folding is done in float32 once; what differs by more is another weight.
_SAME = 1e-4


@dataclass(frozen=True)
class UnfoldedWeight:
    """One trained constant of the graph: the Keras variables that hold it now, or why none do."""

    tensor: str
    layer: str
    variables: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class _Layout:
    """How a Keras weight is stored in the graph: to that shape, and back."""

    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


_LAYOUTS = (
    _Layout(lambda w: w, lambda v, shape: v.reshape(shape)),
    # (…, out) → (out, …): dense layers, convolutions.
    _Layout(
        lambda w: w.reshape(-1, w.shape[-1]).T,
        lambda v, shape: v.reshape(shape[-1], -1).T.reshape(shape),
    ),
    # (in, …) → (…, in): projections to attention heads.
    _Layout(lambda w: w.reshape(w.shape[0], -1).T, lambda v, shape: v.reshape(-1, shape[0]).T.reshape(shape)),
    # (h, w, out, in) → (out, h, w, in): transposed convolutions.
    _Layout(
        lambda w: np.moveaxis(w, -2, 0),
        lambda v, shape: np.moveaxis(v.reshape(shape[-2], *shape[:-2], shape[-1]), 0, -2),
    ),
)


@dataclass(frozen=True, eq=False)
class _Norm:
    """A batch norm that follows a kernel: its factor, and its variables by name."""

    layer: Any
    factor: np.ndarray

    def value(self, name: str) -> np.ndarray | float:
        """Returns one of its variables, 0 where it has none of that name."""
        variable = getattr(self.layer, name, None)
        return 0.0 if variable is None else numpy_of(variable)


class Unfolding:
    """The search for the Keras variables of each constant; what is found is written at once.

    Args:
        table: what is trained.
        source: the graph that the Keras model is lowered to.
        target: the same graph with trained weights.
        keras_model: the model to write into.
    """

    def __init__(self, table: Sequence[Entry], source: Model, target: Model, keras_model: Any) -> None:
        self.table = [entry for entry in table if entry.variable is not None]
        self.before, self.after = _constants(source), _constants(target)
        self.biases = {e.node: e.tensor for e in self.table if (e.variable or "").rpartition("/")[2].startswith("bias")}
        self.layers = list(_flat(keras_model))
        self.claimed: set[int] = set()
        self.rows_claimed: set[tuple[int, int]] = set()
        self.done: dict[str, UnfoldedWeight] = {}

    def rows(self) -> Iterator[UnfoldedWeight]:
        """Yields one row for each constant, in the order of the table; a bias goes with its kernel."""
        kernels = {e.node: e.tensor for e in self.table if e.tensor != self.biases.get(e.node)}
        for entry in self.table:
            if entry.tensor not in self.done and entry.tensor != self.biases.get(entry.node):
                self._kernel(entry.node, entry.tensor, entry.layer)
        for entry in self.table:
            if entry.tensor not in self.done and not self._is_copy_done(entry.tensor, entry.variable):
                missing = kernels.get(entry.node, "") if entry.tensor == self.biases.get(entry.node) else ""
                if missing in self.done and (reason := self.done[missing].reason):
                    self.done[entry.tensor] = UnfoldedWeight(entry.tensor, entry.layer, reason=reason)
                else:
                    self._alone(entry.tensor, entry.layer)
        yield from {entry.tensor: self.done[entry.tensor] for entry in self.table}.values()

    def _is_copy_done(self, tensor: str, variable: str | None) -> bool:
        """True where another constant is the same weight, written out once more, and was written back."""
        for entry in self.table:
            row = self.done.get(entry.tensor)
            if entry.variable == variable and row is not None and row.reason is None:
                self.done[tensor] = UnfoldedWeight(tensor, row.layer, row.variables)
                return True
        return False

    def _kernel(self, node: str, tensor: str, layer: str) -> None:
        """Looks for a layer with this kernel and, if the node has one, this bias."""
        bias = self.biases.get(node)
        for owner in sorted(self.layers, key=lambda owner: owner.name not in layer.split("/")):
            for variable in _own_variables(owner):
                if id(variable) in self.claimed:
                    continue
                for norm in (None, *_norms_after(owner)):
                    if layout := self._layout(variable, tensor, norm):
                        self._write(owner, variable, layout, norm, (tensor, bias, layer))
                        return

    def _layout(self, variable: Any, tensor: str, norm: _Norm | None) -> _Layout | None:
        wanted, value = self.before[tensor], numpy_of(variable)
        if value.size != wanted.size or (value.ndim < 2 and norm is not None):
            return None
        if norm is not None:
            factor = _spread_factor(norm.factor, value.shape)
            if factor is None:
                return None
            value = value * factor
        for layout in _LAYOUTS[: 1 if value.ndim < 2 else 3 if value.ndim < 3 else 4]:
            if _is_same(layout.there(value).reshape(wanted.shape), wanted):
                return layout
        return None

    def _write(
        self, owner: Any, variable: Any, layout: _Layout, norm: _Norm | None, what: tuple[str, str | None, str]
    ) -> None:
        tensor, bias, layer = what
        old, kernel = numpy_of(variable), layout.back(self.after[tensor], tuple(variable.shape))
        if norm is not None:
            spread = _spread_factor(norm.factor, old.shape)
            assert spread is not None
            factor = np.broadcast_to(spread, old.shape)
            if (kernel[factor == 0] != 0).any():
                for name in (tensor, bias) if bias else (tensor,):
                    self.done[name] = UnfoldedWeight(name, layer, reason=f"'{norm.layer.name}' has channels of gamma 0")
                return
            kernel = np.where(factor == 0, old, kernel / np.where(factor == 0, 1, factor))
        self.claimed.add(id(variable))
        self.done[tensor] = UnfoldedWeight(tensor, layer, (variable.path,))
        if bias is not None and bias not in self.done and (row := self._bias(owner, norm, bias, layer)):
            self.done[bias] = row
        variable.assign(kernel)

    def _bias(self, owner: Any, norm: _Norm | None, tensor: str, layer: str) -> UnfoldedWeight | None:
        """Writes a bias into the layer's own, or into its batch norm; returns None where it is something else."""
        own, old, new = getattr(owner, "bias", None), self.before[tensor], self.after[tensor].reshape(-1)
        value = 0.0 if own is None else numpy_of(own).reshape(-1)
        if norm is None:
            if np.size(value) not in (1, old.size) or not _is_same(np.broadcast_to(value, old.size), old.reshape(-1)):
                return None
            if own is not None:
                self.claimed.add(id(own))
                own.assign(new.reshape(tuple(own.shape)))
            elif new.any():
                return UnfoldedWeight(tensor, layer, reason=f"the layer '{owner.name}' has no bias")
            return UnfoldedWeight(tensor, layer, () if own is None else (own.path,))
        rest = (value - norm.value("moving_mean")) * norm.factor
        if not _is_same(np.broadcast_to(rest + norm.value("beta"), old.shape), old):
            return UnfoldedWeight(tensor, layer, reason=f"it is not what '{norm.layer.name}' leaves")
        if getattr(norm.layer, "beta", None) is None:
            return UnfoldedWeight(tensor, layer, reason=f"'{norm.layer.name}' has no beta")
        norm.layer.beta.assign(new - rest)
        self.claimed.add(id(norm.layer.beta))
        return UnfoldedWeight(tensor, layer, (norm.layer.beta.path,))

    def _alone(self, tensor: str, layer: str) -> None:
        """Looks for a variable that is this constant as it is: what `_kernel` leaves are biases of other forms."""
        for owner in sorted(self.layers, key=lambda owner: owner.name not in layer.split("/")):
            for variable in _own_variables(owner):
                if id(variable) not in self.claimed and (layout := self._layout(variable, tensor, None)):
                    self._write(owner, variable, layout, None, (tensor, None, layer))
                    return
                if self._is_row_written(variable, tensor, layer):
                    return
        self.done[tensor] = UnfoldedWeight(tensor, layer, reason="no variable of the Keras model has its values")

    def _is_row_written(self, variable: Any, tensor: str, layer: str) -> bool:
        """Writes a constant that is one of two rows, which a GRU's biases are."""
        wanted, value = self.before[tensor].reshape(-1), numpy_of(variable)
        if variable.name != "bias" or value.shape != (2, wanted.size):
            return False
        for number in range(2):
            if (id(variable), number) not in self.rows_claimed and _is_same(value[number], wanted):
                self.rows_claimed.add((id(variable), number))
                self.done[tensor] = UnfoldedWeight(tensor, layer, (variable.path,))
                variable.assign(np.where(np.arange(2)[:, None] == number, self.after[tensor].reshape(-1), value))
                return True
        return False


def _constants(model: Model) -> dict[str, np.ndarray]:
    return {
        name: tensor.array for name, tensor in model.tensors.items() if tensor.is_float and tensor.array is not None
    }


def _flat(model: Any) -> Iterator[Any]:
    """Yields the innermost layers, each once; cells and sublayers included."""
    for layer in keras_internals.layers_of(model, with_self=False):
        if _own_variables(layer):
            yield layer


def _own_variables(layer: Any) -> list[Any]:
    own = keras_internals.own_variables(layer)
    return [variable for variable in own if np.dtype(str(variable.dtype)).kind == "f"]


def _norms_after(layer: Any) -> list[_Norm]:
    """Returns the batch norms that read a layer's output; none if anything else reads it too."""
    readers = keras_internals.readers_of(layer)
    found = [reader for reader in readers if type(reader).__name__ == "BatchNormalization"]
    if len(found) != len(readers):
        return []
    return [_Norm(norm, _factor(norm)) for norm in found]


def _factor(norm: Any) -> np.ndarray:
    gamma = 1.0 if norm.gamma is None else numpy_of(norm.gamma).astype(np.float64)
    return gamma / np.sqrt(numpy_of(norm.moving_variance).astype(np.float64) + norm.epsilon)


def _spread_factor(factor: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """Returns the factor of each element of a kernel in the layout of Keras; None if they do not fit."""
    if shape[-2] * shape[-1] == factor.size and len(shape) > 2 and shape[-1] != factor.size:  # depthwise
        return factor.reshape(tuple(shape[-2:]))
    if shape[-1] == factor.size:
        return factor
    return factor[:, None] if shape[-2] == factor.size else None  # transposed convolution


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max(initial=0) <= _SAME * max(np.abs(other).max(initial=0), 1e-6))


def numpy_of(variable: Any) -> np.ndarray:
    """Returns a Keras variable's value."""
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
