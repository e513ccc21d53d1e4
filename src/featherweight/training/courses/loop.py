"""A training run from end to end that a kill does not undo: batches in a fixed order, a checkpoint after every epoch.

Everything that decides a step is in the checkpoint or in the settings (weights, optimizer and its count of steps, the
order of samples by seed and epoch), so that a run that goes on after a kill ends as one that was never killed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from featherweight.errors import DataError, FeatherweightError, RecipeError, listed
from featherweight.graph import Model, io_names, producers
from featherweight.operators import lookup
from featherweight.runtime.samples import feeds
from featherweight.tflite import write_atomically
from featherweight.training.qat.quantized_model import QuantizedModel

_SETTINGS = "training.json"
_PARTIAL = "partial.keras"
# One twentieth of the steps: long enough for Adam's averages, too short to cost much.
_WARM_UP = 20
_CROSS_ENTROPIES: Mapping[str, Any] = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}


@dataclass(frozen=True)
class Course:
    """How a model is trained.

    Attributes:
        epochs: passes over the samples.
        batch: samples in a step; those that fill no batch are left out of an epoch, other ones in each.
        learning_rate: of Adam, at its peak: it rises over the first 1/20 of the steps, and falls to 0 as a cosine does.
        seed: decides the order of the samples.
    """

    epochs: int = 10
    batch: int = 32
    learning_rate: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """A folder with the state after the last complete epoch, and the settings that led to it."""

    folder: Path
    settings: Mapping[str, Any]

    def latest(self) -> tuple[QuantizedModel | None, int]:
        """Returns (model, epochs that it was trained), or (None, 0) where there is none yet.

        Raises:
            FeatherweightError: if the folder belongs to something else, or to a training with other settings.
        """
        known = self._known_settings()
        changed = [name for name in self.settings if name in known and known[name] != self.settings[name]]
        if changed:
            found = listed(f"{name} was {known[name]} and is {self.settings[name]}" for name in changed)
            raise FeatherweightError(
                f"'{self.folder}' holds the checkpoint of another training: {found}. Run the earlier command to go "
                "on with it, delete the folder, or choose another with --checkpoint."
            )
        saved = self._saved()
        if not saved:
            return None, 0
        done, path = max(saved.items())
        try:
            model = keras.saving.load_model(path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FeatherweightError(
                f"Checkpoint '{path}' can't be read: {' '.join(str(error).split())[:200]}. Delete the folder to start "
                "anew."
            ) from error
        assert isinstance(model, QuantizedModel)
        return model, done

    def begin(self, model: keras.Model) -> None:
        """Makes the folder, with the settings and the untrained model.

        Raises:
            FeatherweightError: if it can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FeatherweightError(
                f"The folder '{self.folder}' can't be made: {error.strerror or error}. Choose another (--checkpoint)."
            ) from error
        write_atomically(self.folder / _SETTINGS, [json.dumps(dict(self.settings), indent=2).encode()])
        self.save(model, 0)

    def save(self, model: keras.Model, done: int) -> None:
        """Writes the state after so many epochs; earlier ones are deleted when it is complete."""
        partial = self.folder / _PARTIAL
        try:
            model.save(partial)
            os.replace(partial, self.folder / f"epoch-{done:05d}.keras")
        except OSError as error:
            raise FeatherweightError(
                f"The checkpoint can't be written into '{self.folder}': {error.strerror or error}. That of the epoch "
                "before is kept; make room and run the same command again."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        for number, path in self._saved().items():
            if number < done:
                path.unlink()

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder)

    def _saved(self) -> dict[int, Path]:
        return {int(path.stem.removeprefix("epoch-")): path for path in self.folder.glob("epoch-*.keras")}

    def _known_settings(self) -> dict[str, Any]:
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return {}
        try:
            return dict(json.loads((self.folder / _SETTINGS).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FeatherweightError(
                f"'{self.folder}' is no folder of training checkpoints. Choose another with --checkpoint."
            ) from error


def gathered(samples: Iterable[Any], model: Model, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Returns all samples as one array for each input, by public name.

    Raises:
        DataError: if a sample does not fit the model, or there are more or fewer labels than samples.
    """
    parts = [feed.arrays for feed in feeds(samples, model)]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(next(iter(arrays.values())))
    if labels is not None and len(labels) != count:
        raise DataError(f"There are {len(labels)} labels for {count} samples; there must be one for each.")
    return arrays


def loss_for(model: Model, labels: np.ndarray, name: str | None = None) -> keras.losses.Loss:
    """Returns the loss of a float graph with one output.

    Without a name: cross entropy for whole numbers, the mean squared error for others. Cross entropies take the output
    for probabilities where a softmax or sigmoid makes it, else for logits.

    Raises:
        DataError: if the labels do not fit the output.
        RecipeError: if Keras knows no such loss.
    """
    outputs = io_names(model)[1]
    if len(outputs) != 1:
        raise DataError(
            f"The model has {len(outputs)} outputs ({listed(outputs)}), and DATA labels for one. Train it by "
            "distillation, which needs none."
        )
    tensor = model.main.tensors[next(iter(outputs.values()))]
    maker = producers(model.main).get(tensor.name)
    kind = "" if maker is None else lookup(maker.op).probability
    is_whole = labels.dtype.kind in "iub"
    if name is None:
        classes = "binary_crossentropy" if kind == "sigmoid" else "sparse_categorical_crossentropy"
        name = classes if is_whole else "mean_squared_error"
    if name in _CROSS_ENTROPIES:
        _check_labels(labels, tensor.shape, name)
        return _CROSS_ENTROPIES[name](from_logits=not kind)
    try:
        found: Any = keras.losses.get(name)
    except ValueError:
        raise RecipeError(
            f"Keras knows no loss '{name}'. Examples: mean_squared_error, {listed(_CROSS_ENTROPIES)}."
        ) from None
    _check_labels(labels, tensor.shape, name)
    return found


def compile_for(model: keras.Model, course: Course, count: int, loss: keras.losses.Loss | None) -> None:
    """Compiles a model with Adam and the schedule of a course over so many samples; no loss for distillation."""
    total = course.epochs * _steps(course, count)
    warm_up = max(total // _WARM_UP, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(total - warm_up, 1), warmup_target=course.learning_rate, warmup_steps=warm_up
    )
    optimizer: Any = keras.optimizers.Adam
    model.compile(optimizer=optimizer(schedule), loss=loss)


def train(
    model: keras.Model,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    course: Course,
    checkpoints: Checkpoints,
    done: int = 0,
) -> None:
    """Trains a compiled model from epoch `done` to the last, with Keras's progress bar and a checkpoint for each.

    Raises:
        DataError: if the loss is no longer a number.
    """
    count = len(next(iter(inputs.values())))
    if done >= course.epochs:
        return
    try:
        model.fit(
            _batches(inputs, labels, course, count, done),
            steps_per_epoch=_steps(course, count),
            initial_epoch=done,
            epochs=course.epochs,
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,  # pyright: ignore[reportArgumentType]
            callbacks=[_Saving(checkpoints)],
        )
    except DataError as error:
        raise DataError(
            f"{error} '{checkpoints.folder}' holds the state of the epoch before, delete it to start anew."
        ) from error


def _steps(course: Course, count: int) -> int:
    return max(count // course.batch, 1)


def _batches(
    inputs: Mapping[str, np.ndarray], labels: np.ndarray | None, course: Course, count: int, epoch: int
) -> Iterator[tuple[Any, ...]]:
    """Yields batches without end, every epoch in an order of its own."""
    while True:
        order = np.random.default_rng((course.seed, epoch)).permutation(count)
        for step in range(_steps(course, count)):
            rows = np.sort(order[step * course.batch : (step + 1) * course.batch])
            x = {name: array[rows] for name, array in inputs.items()}
            yield (x,) if labels is None else (x, labels[rows])
        epoch += 1


class _Saving(keras.callbacks.Callback):
    """Saves after every epoch."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keras calls it with the epoch's number from 0 on."""
        assert self.model is not None
        self.checkpoints.save(self.model, epoch + 1)


def _check_labels(labels: np.ndarray, shape: tuple[int, ...], loss: str) -> None:
    if loss == "sparse_categorical_crossentropy":
        fits = labels.shape[1:] in (shape[1:-1], (*shape[1:-1], 1)) and labels.dtype.kind in "iub"
        if not fits or labels.min() < 0 or labels.max() >= shape[-1]:
            raise DataError(
                f"The labels ({labels.dtype}, shape {list(labels.shape)}, {labels.min()} to {labels.max()}) are no "
                f"numbers of the output's {shape[-1]} classes (0 to {shape[-1] - 1}, one for each sample). Choose "
                "another loss, or leave the labels out to distil."
            )
    elif labels.shape[1:] not in (shape[1:], shape[1:-1] if shape[-1] == 1 else shape[1:]):
        raise DataError(
            f"The labels have the shape {list(labels.shape[1:])} for each sample, but the output {list(shape[1:])}: "
            f"'{loss}' compares them element by element. Give labels of the output's shape."
        )
