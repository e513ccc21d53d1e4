"""One set of weights that is trained in several arithmetics: each step in that of another target, by turns.

Each target has a model of its own, with its own integer graph and scales; weights and the state of the optimizer go
from one to the next. What is exact stays exact: at any time each model predicts what its target's file computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from featherweight.arguments import count
from featherweight.errors import DataError, RecipeError, listed
from featherweight.training.courses.loop import gathered
from featherweight.training.courses.shared_weights import check_alike, copy_values, flat, pair, split, units_like
from featherweight.training.optimizers.arguments import as_optimizer
from featherweight.training.optimizers.scaled import in_units
from featherweight.training.qat.quantized_model import QuantizedModel


@keras.saving.register_keras_serializable("featherweight")
class SeveralTargets(keras.Model):
    """Models in training of one float graph, by target, that have one set of weights.

    Make one with `featherweight.quantize_aware` and `targets=`; `featherweight.finalize` makes a file for each target.
    It is compiled, fitted, saved and loaded as any Keras model.

    Attributes:
        models: target → its model. What is trained of one by itself does not reach the others before `fit` begins.
    """

    def __init__(self, models: Mapping[str, QuantizedModel], last: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_alike(models)
        self.models = dict(models)
        self._last = next(iter(models)) if last is None else last
        self.built = True

    def __repr__(self) -> str:
        return f"SeveralTargets({listed(self.models)})"

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Returns target → what its model computes."""
        return {name: model(inputs, training=training) for name, model in self.models.items()}

    @property
    def optimizer(self) -> Any:
        """The optimizer whose state the next step goes on from."""
        return getattr(self.models[self._last], "optimizer", None)

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        """Called by Keras with nothing to set: each model has its own."""

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """Compiles each model as `QuantizedModel.compile` does, all with the units of the first.

        Raises:
            RecipeError: if `optimizer` is none.
        """
        first = next(iter(self.models.values()))
        config = keras.optimizers.serialize(as_optimizer(optimizer, "SeveralTargets"))
        for model in self.models.values():
            own: Any = keras.optimizers.deserialize(config)
            if options.get("scaled", True):
                own = in_units(own, lambda model=model: units_like(first, model))
            model.compile(own, loss, **options)
            model.build_optimizer()

    def fit(
        self,
        x: Iterable[Any],
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        sample_weight: Any = None,
        class_weight: Any = None,
        initial_epoch: int = 0,
        seed: int = 0,
    ) -> Any:
        """Trains by turns, and returns Keras's `History`.

        Its ``loss`` is the mean over the targets' steps, ``litert_loss`` that of one target; so for metrics, and for
        validation with ``val_`` in front. In an epoch of fewer steps than targets, some targets have none.

        Args:
            x: inputs, as `quantize_aware` takes them.
            y: labels of them; None where there is a teacher.
            batch_size: samples in a step; those that fill no batch are left out of an epoch.
            epochs: passes over the samples; each begins with the target behind the one that the last ended with.
            verbose: as in Keras.
            callbacks: of Keras, which see these models as one.
            initial_epoch: where to go on.
            validation_data: inputs, or (inputs, labels), that every target is evaluated on after each epoch.
            validation_split: where that is not given, the part of the samples, the last, that is held out: 0 to 1.
            shuffle: False takes the samples in their order.
            sample_weight: of each sample's loss.
            class_weight: class → weight of the loss of its samples.
            seed: decides the order of the samples.

        Raises:
            RecipeError: if it is not compiled, or a number is no number.
            DataError: if samples and labels do not fit, or a loss is not finite.
        """
        self._check_compiled("fit")
        batch_size, epochs = count(1)(batch_size, "fit: batch_size"), count(0)(epochs, "fit: epochs")
        inputs, labels = self._gathered(x, y)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        if weights is not None and len(weights) != len(next(iter(inputs.values()))):
            raise DataError(
                f"fit: there are {len(weights)} weights for {len(next(iter(inputs.values())))} samples; there must be "
                "one for each."
            )
        held_out = pair(validation_data)
        if held_out is None and validation_split:
            held_out, inputs, labels, weights = split(validation_split, inputs, labels, weights)
        rows = len(next(iter(inputs.values())))
        steps = max(rows // batch_size, 1)
        told = callbacks
        if not isinstance(told, keras.callbacks.CallbackList):
            settings = {"epochs": epochs, "steps": steps, "verbose": 1 if verbose == "auto" else int(verbose)}
            is_shown = settings["verbose"] != 0
            told = keras.callbacks.CallbackList(
                callbacks, add_history=True, add_progbar=is_shown, model=self, **settings
            )
        self.stop_training = False
        told.on_train_begin()
        logs: dict[str, float] = {}
        try:
            for epoch in range(initial_epoch, epochs):
                told.on_epoch_begin(epoch)
                order = np.random.default_rng((seed, epoch)).permutation(rows) if shuffle else np.arange(rows)
                batches = [np.sort(order[step * batch_size :][:batch_size]) for step in range(steps)]
                logs = self._epoch(inputs, labels, weights, class_weight, batches, told, epoch)
                if held_out is not None:
                    self._share()
                    scores = self._scores(*self._gathered(*held_out), batch_size)
                    logs |= {f"val_{key}": value for key, value in flat(scores).items()}
                told.on_epoch_end(epoch, logs)
                if self.stop_training:
                    break
        except KeyboardInterrupt:
            self._share()
            raise
        self._share()
        told.on_train_end(logs)
        return self.history

    def _epoch(
        self, inputs: Any, labels: Any, weights: Any, class_weight: Any, batches: Sequence[Any], told: Any, epoch: int
    ) -> dict[str, float]:
        """Trains one epoch, and returns its means."""
        found: dict[str, dict[str, float]] = {}
        for model in self.models.values():
            model.refresh()
            model.reset_metrics()
        for step, rows in enumerate(batches):
            told.on_train_batch_begin(step)
            fed = {key: array[rows] for key, array in inputs.items()}
            truth, weight = (None if part is None else part[rows] for part in (labels, weights))
            scores = self._step(fed, truth, weight, class_weight)
            found[self._last] = scores
            if not np.isfinite(scores["loss"]):
                raise DataError(
                    f"The loss for '{self._last}' is {scores['loss']} in epoch {epoch + 1}. Lower the rate."
                )
            told.on_train_batch_end(step, flat(found))
            if self.stop_training:
                break
        return flat(found)

    def _step(self, fed: Any, labels: Any, weights: Any, class_weight: Any) -> dict[str, float]:
        """Takes one step in the next target's arithmetic, and returns its scores."""
        names = list(self.models)
        name = names[(names.index(self._last) + 1) % len(names)]
        self._hand_over(name)
        scores: Any = self.models[name].train_on_batch(
            fed, labels, weights, class_weight=class_weight, return_dict=True
        )
        return {key: float(value) for key, value in scores.items()}

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = True
    ) -> dict[str, float]:
        """Takes one step of a loop of one's own in the next target's arithmetic; returns its scores, by target too.

        Raises:
            RecipeError: if it is not compiled.
        """
        self._check_compiled("train_on_batch")
        scores = self._step(*self._gathered(x, y), sample_weight, class_weight)
        self._share()
        return flat({self._last: scores})

    def evaluate(
        self, x: Iterable[Any], y: Any = None, batch_size: int = 32, verbose: Any = 0, *, return_dict: bool = True
    ) -> dict[str, dict[str, float]]:
        """Returns target → what `keras.Model.evaluate` says of its model: the table of losses and metrics by chip.

        It is a dict whatever `return_dict` says, for a list would not tell the targets apart.
        """
        self._check_compiled("evaluate")
        return self._scores(*self._gathered(x, y), batch_size, verbose)

    def predict(self, x: Iterable[Any], batch_size: int = 32, verbose: Any = 0) -> dict[str, Any]:
        """Returns target → what its model predicts, which is what its file computes."""
        inputs, _ = self._gathered(x, None, trains=False)
        return {name: model.predict(inputs, batch_size, verbose) for name, model in self.models.items()}

    def get_config(self) -> dict[str, Any]:
        """Returns what makes the same models again; weights are left out, for Keras stores them."""
        models = {name: keras.saving.serialize_keras_object(model) for name, model in self.models.items()}
        return {"name": self.name, "models": models, "last": self._last}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SeveralTargets:
        """Makes the models that `get_config` describes."""
        restored: Any = keras.saving.deserialize_keras_object
        models = {name: restored(model, custom_objects=custom_objects) for name, model in config["models"].items()}
        return cls(models, config["last"], name=config["name"])

    def get_compile_config(self) -> dict[str, Any]:
        """Returns nothing: each model says how it was compiled."""
        return {}

    def compile_from_config(self, config: Any) -> None:
        """Does nothing: each model is compiled by what it said."""

    def _gathered(self, x: Any, y: Any, *, trains: bool = True) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        labels, first = None if y is None else np.asarray(y), next(iter(self.models.values()))
        if trains and labels is None and first.loss:
            raise DataError("SeveralTargets: it is compiled with a loss, which needs labels. Pass them as y.")
        return gathered(x, self.models[self._last].graph, labels), labels

    def _scores(self, inputs: Any, labels: Any, batch_size: int, verbose: Any = 0) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for name, model in self.models.items():
            scores: Any = model.evaluate(inputs, labels, batch_size, verbose=verbose, return_dict=True)
            found[name] = {key: float(value) for key, value in scores.items()}
        return found

    def _check_compiled(self, what: str) -> None:
        for model in self.models.values():
            if not model.compiled or (not model.loss and model.teacher is None):
                raise RecipeError(
                    f"SeveralTargets: compile it before {what}, with a loss unless there is a teacher: "
                    "several.compile('adam', 'sparse_categorical_crossentropy')."
                )

    def _hand_over(self, name: str) -> None:
        """Gives weights and the optimizer's state to the model that is trained next."""
        source, target = self.models[self._last], self.models[name]
        if source is not target:
            copy_values(
                [*source.trainable_variables, *source.optimizer.variables],
                [*target.trainable_variables, *target.optimizer.variables],
            )
        self._last = name

    def _share(self) -> None:
        """Gives the weights to all models, and moves the scales that follow them."""
        source = self.models[self._last]
        for model in self.models.values():
            if model is not source:
                copy_values(source.trainable_variables, model.trainable_variables)
            model.scales.follow(model.constants_of_program())
