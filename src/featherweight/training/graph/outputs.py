"""What a user gives for each output of a model (labels, losses, weights, metrics), by the outputs' public names.

A graph model returns several outputs as a dict, which Keras would walk in alphabetical order; what is given as a list
is meant in the model's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from featherweight.errors import DataError, listed


class NamedOutputs(keras.Model):
    """A model with outputs by name: what is given for each of them may be a dict, or a list in the outputs' order."""

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, in order."""
        raise NotImplementedError

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """Compiles as any Keras model; what is a list with something for each output goes by the graph's order.

        Raises:
            DataError: if there are losses for other outputs than the graph's.
        """
        by_name = {
            what: by_output(given, self.output_names, what)
            for what, given in (
                ("loss", loss),
                ("loss_weights", loss_weights),
                ("metrics", metrics),
                ("weighted_metrics", weighted_metrics),
            )
        }
        super().compile(optimizer=optimizer, **by_name, **options)

    def compile_from_config(self, config: Any) -> None:
        """Compiles with what was saved (Keras leaves that to a model which compiles in its own way)."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Computes the loss of labels that are a dict by output, a list in the graph's order, or those of the one."""
        y, sample_weight = self._by_output(y, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the metrics, with labels as in `compute_loss`."""
        y, sample_weight = self._by_output(y, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _by_output(self, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        names, losses = self.output_names, self.loss if self.compiled else None
        return labels_by_output(y, names, losses), weights_by_output(sample_weight, names)

    def predict(self, *args: Any, **options: Any) -> Any:
        """Predicts as any Keras model; several outputs come as a dict in their order."""
        return self._in_order(super().predict(*args, **options))

    def predict_on_batch(self, x: Any) -> Any:
        """Predicts one batch, as `predict`."""
        return self._in_order(super().predict_on_batch(x))

    def _in_order(self, outputs: Any) -> Any:
        # (JAX gives back dicts in alphabetical order.)
        return {name: outputs[name] for name in self.output_names} if isinstance(outputs, dict) else outputs


def by_output(given: Any, names: Sequence[str], what: str) -> Any:
    """Returns what was given for several outputs as a dict by name; one value for all of them as it is.

    Args:
        given: a dict by name, a list in the outputs' order (None: nothing for that one), one value, or the structure
            that the outputs have in the model which the graph was lowered from.
        names: of the outputs, in order.
        what: it is, for the error.

    Raises:
        DataError: for a structure that is not that of the outputs.
    """
    if len(names) < 2 or not _is_structure(given):
        return given
    found = _of_dict(given, names) if isinstance(given, Mapping) else _of_list(given, names)
    if found is None:
        raise _wrong(given, names, what)
    return {name: found[name] for name in names if name in found}


def labels_by_output(given: Any, names: Sequence[str], losses: Any) -> Any:
    """Returns labels by output, None for those without; a list may leave out the labels of outputs without a loss.

    Args:
        given: as in `by_output`.
        names: of the outputs, in order.
        losses: what the model was compiled with, as `by_output` returned it.

    Raises:
        DataError: for a structure that is not that of the outputs, or an output with a loss and no label.
    """
    if given is None:
        return None
    if len(names) == 1:
        parts = keras.tree.flatten(given) if _is_structure(given) else ()
        return parts[0] if len(parts) == 1 else given
    wanted = [name for name in names if losses.get(name) is not None] if isinstance(losses, Mapping) else list(names)
    parts = [given] if not _is_structure(given) else given
    if not isinstance(parts, Mapping) and len(parts) == len(wanted) < len(names):
        found: Any = dict(zip(wanted, parts, strict=True))
    else:
        found = by_output(parts, names, "y")
    if missing := [name for name in wanted if found.get(name) is None and losses is not None]:
        raise DataError(
            f"There are no labels for the output {missing[0]!r}, which has a loss (labels for: {listed(found)}). Give "
            "labels for it, or compile with losses for the other outputs only."
        )
    return {name: found.get(name) for name in names}


def weights_by_output(given: Any, names: Sequence[str]) -> Any:
    """Returns the weights of samples by output, None for those without; one array is for all outputs.

    Raises:
        DataError: for a structure that is not that of the outputs.
    """
    if len(names) == 1:
        return labels_by_output(given, names, None)
    found = by_output(given, names, "sample_weight")
    return {name: found.get(name) for name in names} if isinstance(found, Mapping) else found


def _is_structure(given: Any) -> bool:
    return isinstance(given, (Mapping, list, tuple))


def _of_list(given: Sequence[Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Returns the parts of a list: one for each output, however they are nested."""
    for parts in (given, keras.tree.flatten(given)):
        if len(parts) == len(names):
            return dict(zip(names, parts, strict=True))
    return None


def _of_dict(given: Mapping[Any, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Returns the parts of a dict whose keys are names, or begin them: ``{"a": [x, y]}`` for ``a_0`` and ``a_1``."""
    found: dict[str, Any] = {}
    waiting = [(str(key), part) for key, part in given.items()]
    while waiting:
        path, part = waiting.pop()
        if path in names:
            found[path] = part
        elif _is_structure(part):
            items = part.items() if isinstance(part, Mapping) else enumerate(part)
            waiting += [(f"{path}_{key}", value) for key, value in items]
        else:
            return None
    return found


def _wrong(given: Any, names: Sequence[str], what: str) -> DataError:
    found = f"a dict with {listed(map(repr, given))}" if isinstance(given, Mapping) else f"a list of {len(given)}"
    return DataError(
        f"The model has {len(names)} outputs ({listed(map(repr, names))}), but {what} is {found}. Give a list with one "
        "for each in that order, or a dict by name."
    )
