"""A short trial of learning rates, on samples that are held out; the model is then as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from featherweight.arguments import checked, count, number, several, shown, stream
from featherweight.errors import DataError, FeatherweightError, RecipeError
from featherweight.training.courses.loop import Course, gathered
from featherweight.training.qat.quantized_model import QuantizedModel

# Of the samples, what judges.
_HELD_OUT = 4
# A rate that ends so far above the start has left the optimum: higher ones leave it sooner.
_LEFT, _LEAST = 3.0, 1e-12


@dataclass(frozen=True)
class TriedRate:
    """One learning rate, and the loss on held-out samples after a few steps at it."""

    rate: float
    loss: float


@dataclass(frozen=True)
class RateTrial:
    """What a trial of learning rates found.

    Attributes:
        before: the loss on held-out samples without training.
        rows: the rates that were tried, rising; those above one that left the optimum are not tried.
        steps: how many steps each was trained.
        held_out: how many samples judged.
    """

    before: float
    rows: tuple[TriedRate, ...]
    steps: int
    held_out: int

    @property
    def best(self) -> float | None:
        """The rate with the lowest loss, or None where none of them lowered it."""
        row = min(self.rows, key=lambda row: row.loss)
        return row.rate if row.loss < self.before else None

    def __str__(self) -> str:
        tried = "\n".join(f"{row.rate:9.1e}  {row.loss:.4g}" for row in self.rows)
        best = "no rate lowers the loss" if self.best is None else f"best: {self.best:g}"
        return (
            f"loss of {self.held_out} held-out samples, {self.before:.4g} before, after {self.steps} steps\n"
            f"{tried}\n{best}"
        )


@checked(
    samples=stream,
    rates=several(number(0, open_at="low"), at_least=1),
    steps=count(1, 10_000),
    batch_size=count(1, 1 << 20),
    seed=count(0, 2**32 - 1),
)
def try_learning_rates(
    model: QuantizedModel,
    samples: Iterable[Any],
    labels: Any = None,
    *,
    rates: Sequence[float] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    steps: int = 10,
    batch_size: int = 32,
    seed: int = 0,
) -> RateTrial:
    """Trains a few steps at each of some learning rates, and says which lowers the loss of held-out samples most.

    A quarter of the samples judges, the others train. The model and its optimizer are then as they were, bit for bit.

    Args:
        model: what `quantize_aware` returned, compiled with an optimizer whose learning rate is a number.
        samples: inputs, at least 4; at best some hundreds.
        labels: of them, as `fit` takes them; None where the model has a teacher.
        rates: to try, from the lowest up; those above one that leaves the optimum are not tried.
        steps: of each.
        batch_size: of a step.
        seed: decides which samples judge, and the order of the others.

    Raises:
        RecipeError: if the model is not compiled, or its learning rate follows a schedule.
        DataError: if there are too few samples, or they do not fit.
    """
    optimizer, previous = _optimizer(model)
    arrays = gathered(samples, model.graph)
    given = None if labels is None else _labels(labels)
    size = len(next(iter(arrays.values())))
    sizes = {size, *(len(part) for part in keras.tree.flatten(given) if part is not None)}
    held = size // _HELD_OUT
    if held < 1 or len(sizes) > 1:
        raise DataError(
            f"try_learning_rates: {size} sample(s)"
            + (f" and {max(sizes - {size})} labels; give one for each." if len(sizes) > 1 else " are too few; give at ")
            + ("" if len(sizes) > 1 else f"least {_HELD_OUT}.")
        )
    order = np.random.default_rng(seed).permutation(size)
    judging, training = np.sort(order[:held]), order[held:]
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    kept = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    def restore() -> None:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value.copy())  # JAX may take over the memory of an array
        model.refresh()

    def loss() -> float:
        found: Any = model.evaluate(
            _rows(arrays, judging), _rows(given, judging), batch_size=batch_size, verbose=0, return_dict=True
        )
        return float(found["loss"])

    before, rows = _first(loss), list[TriedRate]()
    try:
        for rate in sorted(set(rates)):
            restore()
            optimizer.learning_rate = rate
            random = np.random.default_rng(seed)
            for _ in range(steps):
                chosen = np.sort(random.choice(training, min(batch_size, len(training)), replace=False))
                model.train_on_batch(_rows(arrays, chosen), _rows(given, chosen))
            after = loss()
            rows.append(TriedRate(rate, after if math.isfinite(after) else math.inf))
            if not after < _LEFT * max(before, _LEAST):
                break
    finally:
        restore()
        optimizer.learning_rate = previous
        model.reset_metrics()
    return RateTrial(before, tuple(rows), steps, held)


def tried_for(
    model: QuantizedModel, inputs: Mapping[str, np.ndarray], labels: Any, course: Course, loss: Any
) -> RateTrial:
    """Returns the trial of a model that is not compiled yet, for a course of training; see `try_learning_rates`."""
    optimizer: Any = keras.optimizers.Adam
    model.compile(optimizer(course.learning_rate), loss=loss)
    return try_learning_rates(model, [inputs], labels, batch_size=course.batch, seed=course.seed)


def _first(loss: Callable[[], float]) -> float:
    """Returns the loss without training.

    Raises:
        DataError: if samples and labels do not fit the model.
    """
    try:
        return loss()
    except FeatherweightError:
        raise
    except Exception as error:  # of Keras's backends
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"try_learning_rates: the loss of these samples and labels can't be computed: {said}"
        ) from error


def _optimizer(model: Any) -> tuple[Any, float]:
    """Returns the optimizer of a model, and its learning rate."""
    has_loss = isinstance(model, QuantizedModel) and model.compiled and (model.loss or model.teacher is not None)
    if not has_loss or model.optimizer is None:
        raise RecipeError(
            f"try_learning_rates: model is {shown(model)} (allowed: what quantize_aware returned, compiled with an "
            "optimizer and, unless it has a teacher, a loss). Compile it."
        )
    optimizer: Any = model.optimizer
    rate = float(np.asarray(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    try:
        optimizer.learning_rate = rate
    except TypeError as error:
        raise RecipeError(
            "try_learning_rates: the optimizer's learning rate follows a schedule. Compile with a number for the "
            "trial, and again with a schedule, whose peak is what the trial finds."
        ) from error
    return optimizer, rate


def _labels(given: Any) -> Any:
    """Returns labels as arrays of numbers.

    Raises:
        DataError: if they are none.
    """
    try:
        arrays = keras.tree.map_structure(np.asarray, given) if isinstance(given, (dict, list)) else np.asarray(given)
        parts = keras.tree.flatten(arrays)
        if parts and all(part.dtype.kind in "biuf" and part.ndim and np.isfinite(part).all() for part in parts):
            return arrays
    except (ValueError, TypeError) as error:
        raise DataError(f"try_learning_rates: labels are {shown(given)}: {error}. Give arrays.") from error
    raise DataError(f"try_learning_rates: labels are {shown(given)} (allowed: arrays of finite numbers).")


def _rows(arrays: Any, rows: np.ndarray) -> Any:
    return None if arrays is None else keras.tree.map_structure(lambda array: array[rows], arrays)
