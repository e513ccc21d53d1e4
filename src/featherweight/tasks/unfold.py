"""Trained weights of a graph model, written back into the Keras model that the graph was lowered from.

What belongs to what is not guessed from names: the Keras model is lowered again, and a weight counts as mapped where
its values are those of the graph (`featherweight.training.keras_models.variable_search`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.arguments import checked, shown
from featherweight.errors import RecipeError, UnsupportedOp, listed
from featherweight.graph import Model, io_names
from featherweight.lower.keras import is_keras_model
from featherweight.lower.precision import in_float32
from featherweight.runtime import run
from featherweight.tasks.load import load

if TYPE_CHECKING:
    from featherweight.training.graph.graph_model import GraphModel
    from featherweight.training.keras_models.variable_search import UnfoldedWeight

# Both compute in float32, in another order.
_AGREES = 1e-3
_TRIED = 4

_log = logging.getLogger("featherweight")


@dataclass(frozen=True)
class Unfolded:
    """What became of each trained constant, and how far the Keras model is from the trained float graph.

    `difference` is the largest difference of outputs on random inputs, relative to the largest output; None where
    constants are left that could not be written back, so that there is nothing to expect.
    """

    rows: tuple[UnfoldedWeight, ...]
    difference: float | None

    def __repr__(self) -> str:
        left = len(self.unmapped)
        difference = "" if self.difference is None else f", outputs differ by {self.difference:.2g} of the largest"
        return f"Unfolded: {len(self.rows) - left} of {len(self.rows)} constants were written back{difference}"

    @property
    def unmapped(self) -> tuple[UnfoldedWeight, ...]:
        """The constants that could not be written back."""
        return tuple(row for row in self.rows if row.reason)


@checked()
def unfold(trained: GraphModel, keras_model: Any) -> Unfolded:
    """Writes trained weights into the Keras model that the graph was lowered from; batch norms keep their statistics.

    Args:
        trained: what `graph_model` or `quantize_aware` returned, trained.
        keras_model: its source, or one built in the same way; its weights are overwritten where the mapping is exact.

    Raises:
        RecipeError: if the graph does not come from this Keras model.
        UnsupportedOp: if all weights were written and the Keras model still computes something else; it is then as
            it was before.
    """
    from featherweight.training.graph.graph_model import GraphModel
    from featherweight.training.graph.writeback import float_graph
    from featherweight.training.keras_models.variable_search import Unfolding, numpy_of

    if not isinstance(trained, GraphModel):
        raise RecipeError(
            f"unfold: trained is {shown(trained)} (allowed: what graph_model or quantize_aware returned). Train that."
        )
    if not is_keras_model(keras_model) or isinstance(keras_model, GraphModel):
        raise RecipeError(
            f"unfold: keras_model is {shown(keras_model)} (allowed: the live Keras model that the graph was lowered "
            "from). Load it with keras.saving.load_model."
        )
    source, target = _lowered_alike(trained.graph, keras_model), float_graph(trained)
    before = [numpy_of(variable) for variable in keras_model.variables]
    found = list(Unfolding(trained.layer_table, source, target, keras_model).rows())
    rows = tuple(found)
    missing = [row for row in rows if row.reason]
    if missing:
        _log.warning(
            "%d of %d trained constants could not be written back: %s.",
            len(missing),
            len(rows),
            listed((f"'{row.tensor}' ({row.reason})" for row in missing), 5),
        )
        return Unfolded(rows, None)
    difference = _difference(target, in_float32(keras_model)[0])
    if not difference <= _AGREES:
        for variable, value in zip(keras_model.variables, before, strict=True):
            variable.assign(value)
        raise UnsupportedOp(
            f"The Keras model '{keras_model.name}' with the trained weights differs from the trained graph by "
            f"{difference:.2g} of its largest output; its weights were left as they were. Please report it."
        )
    return Unfolded(rows, difference)


def _lowered_alike(graph: Model, keras_model: Any) -> Model:
    """Returns the Keras model's float graph in the form of this one."""
    from featherweight.training.graph.exposed import expose

    for unroll in (False, True):
        found = expose(load(keras_model, unroll=unroll)).model
        if all(_form(a.tensors) == _form(b.tensors) for a, b in zip(found.graphs, graph.graphs, strict=False)):
            return found
    raise RecipeError(
        f"The trained model was not made of the Keras model '{keras_model.name}': their graphs differ. Pass the model "
        "that quantize_aware or graph_model was called with."
    )


def _form(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _difference(target: Model, keras_model: Any) -> float:
    """Returns the largest difference between outputs on random inputs, relative to the largest output."""
    random = np.random.default_rng(0)
    inputs, worst = dict[str, np.ndarray](), 0.0
    for name, tensor_name in io_names(target)[0].items():
        tensor = target.main.tensors[tensor_name]
        draw = (
            random.normal(0, 1, (_TRIED, *tensor.shape[1:]))
            if tensor.is_float
            else np.ones((_TRIED, *tensor.shape[1:]))
        )
        inputs[name] = draw.astype(tensor.dtype)
    wanted = run(target, inputs)
    fed = [inputs[name] for name in inputs]
    found = keras_model.predict(inputs if len(fed) > 1 else fed[0], verbose=0)
    pairs = [(wanted, found)] if not isinstance(wanted, dict) else [(wanted[name], found[name]) for name in wanted]
    for one, other in pairs:
        worst = max(worst, float(np.abs(one - np.asarray(other)).max() / max(float(np.abs(one).max()), 1e-6)))
    return worst
