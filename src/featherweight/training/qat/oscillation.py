"""Integer weights that jump to and fro in training: frozen, or drawn to the centres of their bins.

Source: Nagel et al., 2203.11086, section 4. The state of ``freeze`` takes 17 bytes for each weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import keras
import numpy as np

from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops
from featherweight.training.qat.settings import Oscillations

# The averages need so many steps before they say anything.
_LEAST_STEPS = 3


@dataclass(frozen=True, eq=False)
class Tracked:
    """What is remembered of one weight's integers, each in its shape.

    Attributes:
        integers: of the last step.
        direction: of the last change: -1, 0 (none yet) or 1.
        frequency: of changes of direction, averaged.
        average: of the integers.
        frozen: whether they stand still, at the average.
    """

    integers: keras.Variable
    direction: keras.Variable
    frequency: keras.Variable
    average: keras.Variable
    frozen: keras.Variable

    def held(self, value: Array, scale: Array) -> Array:
        """Returns the weight with its frozen integers times the scale, which get no gradient."""
        frozen = ops.stop_gradient(ops.convert_to_tensor(self.average) * scale)
        return ops.where(ops.convert_to_tensor(self.frozen), frozen, value)

    def update(self, integers: Array, step: Array, options: Oscillations) -> None:
        """Takes in the integers of a training step."""
        integers = ops.stop_gradient(integers)
        is_first = step < 1
        change = ops.where(
            is_first, ops.zeros_like(integers), ops.sign(integers - ops.convert_to_tensor(self.integers))
        )
        before = ops.convert_to_tensor(self.direction)
        is_flip = ops.cast((change * before) < 0, "float32")
        share = options.momentum
        frequency = (1 - share) * ops.convert_to_tensor(self.frequency) + share * is_flip
        was_frozen = ops.convert_to_tensor(self.frozen)
        old = ops.convert_to_tensor(self.average)
        average = ops.where(is_first, integers, (1 - share) * old + share * integers)
        is_frozen = ops.logical_and(frequency > threshold(options, step), step >= _LEAST_STEPS)
        newly = ops.logical_and(is_frozen, ops.logical_not(was_frozen))
        average = ops.where(newly, ops.round(average), average)
        self.average.assign(ops.where(was_frozen, old, average))
        self.frozen.assign(ops.logical_or(was_frozen, is_frozen))
        self.frequency.assign(frequency)
        self.direction.assign(ops.where(change == 0, before, change))
        self.integers.assign(integers)


def threshold(options: Oscillations, step: Array) -> Array:
    """Returns the frequency from which on weights are frozen: from the first to the last threshold, as a cosine."""
    first, last = options.threshold
    done = ops.minimum(ops.cast(step, "float32") / float(options.steps), 1.0)
    return last + (first - last) * (1 + ops.cos(np.float32(np.pi) * done)) / 2


def tracked(shapes: Mapping[str, tuple[int, ...]], make: Callable[..., keras.Variable]) -> dict[str, Tracked]:
    """Makes the state of weights, by name; `make` makes a variable from (name, value, trainable)."""
    found: dict[str, Tracked] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        found[name] = Tracked(
            *(
                make(f"oscillation_{number}_{part}", np.zeros(shape, bool if part == "frozen" else np.float32), False)
                for part in (field.name for field in fields(Tracked))
            )
        )
    return found


def distance_to_centres(value: Array, integers: Array, scale: Array) -> Array:
    """Returns the sum of squared distances of a weight from what its integers stand for (section 4.1), in steps."""
    inverse = ops.stop_gradient(1 / scale)
    return ops.sum(ops.square(value * inverse - ops.stop_gradient(integers)))
