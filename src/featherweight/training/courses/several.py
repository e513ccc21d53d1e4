"""One set of weights that is trained in several arithmetics: each step in that of another target, by turns.

Each target has a model of its own, with its own integer graph and scales; weights and the state of the optimizer go
from one to the next. What is exact stays exact: at any time each model predicts what its target's file computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from featherweight.errors import DataError, RecipeError, listed
from featherweight.training.courses.loop import gathered
from featherweight.training.graph.registry import ops
from featherweight.training.optimizers.scaled import in_units
from featherweight.training.qat.quantized_model import QuantizedModel
from featherweight.training.qat.units import units_of


class SeveralTargets:
    """Models in training of one float graph, by target, that have one set of weights.

    Make one with `featherweight.quantize_aware` and `targets=`; `featherweight.finalize` makes a file for each target.

    Attributes:
        models: target → its model. What is trained of one by itself does not reach the others before `fit` begins.
    """

    def __init__(self, models: Mapping[str, QuantizedModel]) -> None:
        self.models = dict(models)
        _check(self.models)
        self._last = next(iter(self.models))

    def __repr__(self) -> str:
        return f"SeveralTargets({listed(self.models)})"

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """Compiles each model as `QuantizedModel.compile` does, all with the units of the first."""
        first = next(iter(self.models.values()))
        config = keras.optimizers.serialize(keras.optimizers.get(optimizer))
        for model in self.models.values():
            own: Any = keras.optimizers.deserialize(config)
            if options.get("scaled", True):
                own = in_units(own, lambda model=model: _units_like(first, model))
            model.compile(own, loss, **options)
            model.optimizer.build(model.trainable_variables)

    def fit(
        self,
        samples: Iterable[Any],
        labels: Any = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        seed: int = 0,
    ) -> dict[str, list[float]]:
        """Trains by turns, and returns target → the mean loss of its steps in each epoch.

        Args:
            samples: inputs, as `quantize_aware` takes them.
            labels: of them; None where there is a teacher.
            epochs: passes over the samples; each begins with the target behind the one that the last ended with.
            batch_size: samples in a step; those that fill no batch are left out of an epoch.
            seed: decides the order of the samples.

        Raises:
            DataError: if samples and labels do not fit, or a loss is not finite.
        """
        if not all(model.compiled for model in self.models.values()):
            raise RecipeError("SeveralTargets: compile it before fit.")
        first = self.models[self._last]
        labels = None if labels is None else np.asarray(labels)
        inputs = gathered(samples, first.graph, labels)
        count, names = len(next(iter(inputs.values()))), list(self.models)
        losses: dict[str, list[float]] = {name: [] for name in names}
        turn = names.index(self._last)
        for epoch in range(epochs):
            order = np.random.default_rng((seed, epoch)).permutation(count)
            sums = {name: list[float]() for name in names}
            for model in self.models.values():
                model.refresh()
            for step in range(max(count // batch_size, 1)):
                rows = np.sort(order[step * batch_size : (step + 1) * batch_size])
                turn = (turn + 1) % len(names)
                self._hand_over(names[turn])
                model = self.models[names[turn]]
                model.reset_metrics()
                fed = {name: array[rows] for name, array in inputs.items()}
                found: Any = model.train_on_batch(fed, None if labels is None else labels[rows], return_dict=True)
                loss = float(found["loss"])
                if not np.isfinite(loss):
                    raise DataError(f"The loss for '{names[turn]}' is {loss} in epoch {epoch + 1}. Lower the rate.")
                sums[names[turn]].append(loss)
            for name, found in sums.items():
                losses[name].append(float(np.mean(found)) if found else float("nan"))
        self._share()
        return losses

    def evaluate(self, samples: Iterable[Any], labels: Any = None, batch_size: int = 32) -> dict[str, dict[str, float]]:
        """Returns target → what `keras.Model.evaluate` says of its model: the table of losses and metrics by chip."""
        inputs = gathered(samples, self.models[self._last].graph, labels)
        found: dict[str, dict[str, float]] = {}
        for name, model in self.models.items():
            scores: Any = model.evaluate(inputs, labels, batch_size, verbose=0, return_dict=True)  # pyright: ignore[reportArgumentType]
            found[name] = {key: float(value) for key, value in scores.items()}
        return found

    def _hand_over(self, name: str) -> None:
        """Gives weights and the optimizer's state to the model that is trained next."""
        source, target = self.models[self._last], self.models[name]
        if source is not target:
            _copy(
                [*source.trainable_variables, *source.optimizer.variables],
                [*target.trainable_variables, *target.optimizer.variables],
            )
        self._last = name

    def _share(self) -> None:
        """Gives the weights to all models, and moves the scales that follow them."""
        source = self.models[self._last]
        for model in self.models.values():
            if model is not source:
                _copy(source.trainable_variables, model.trainable_variables)
            model.scales.follow(model.constants_of_program())


def _copy(source: Any, target: Any) -> None:
    for one, other in zip(source, target, strict=True):
        other.assign(ops.copy(ops.convert_to_tensor(one)))  # JAX's steps consume the buffers of what they train


def _units_like(first: QuantizedModel, model: QuantizedModel) -> dict[int, np.ndarray]:
    units = units_of(first)
    pairs = zip(first.trainable_variables, model.trainable_variables, strict=True)
    return {id(other): units[id(one)] for one, other in pairs if id(one) in units}


def _check(models: Mapping[str, QuantizedModel]) -> None:
    """Raises where models have not one set of weights.

    Raises:
        RecipeError: saying why.
    """
    first = next(iter(models.values()))
    if first.blueprint.ranges.is_learned:
        raise RecipeError(
            "quantize_aware: with several targets ranges can't be learned: each chip has scales of its own, which no "
            "other's steps train. Leave train_ranges out, or train for one target."
        )
    known = _weights(first)
    for name, model in models.items():
        if _weights(model) != known:
            raise RecipeError(
                f"quantize_aware: the graph for target '{name}' is another one than for '{next(iter(models))}' (its "
                "operators are written out in another way), so that they can't have one set of weights. Leave it out."
            )


def _weights(model: QuantizedModel) -> list[tuple[str, tuple[int, ...]]]:
    return [(v.path.partition("/")[2], tuple(v.shape)) for v in model.trainable_variables]
