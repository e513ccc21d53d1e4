"""A quantized graph as a trainable `keras.Model`: its forward pass computes the integers of the deployed kernels.

What it computes is `IntegerModel`'s. Here is what training adds: scales that move, a delay, dropout, weights that are
frozen or dampened, a teacher, and the stop where numbers are no longer finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from featherweight.training.graph.program import Program
from featherweight.training.graph.registry import Array, bound, ops
from featherweight.training.integer.step import is_quantized, quantized_weight, spread
from featherweight.training.optimizers.scaled import has_units, in_units
from featherweight.training.qat.blueprint import Blueprint, weights_and_biases
from featherweight.training.qat.distillation import compared, distance, teacher_of
from featherweight.training.qat.dropout import with_noise
from featherweight.training.qat.finite_checks import StopAtNonFinite
from featherweight.training.qat.integer_model import IntegerModel, Opaque
from featherweight.training.qat.moving_ranges import float_source
from featherweight.training.qat.oscillation import Tracked, distance_to_centres, tracked
from featherweight.training.qat.rising_loss import WarnOfRisingLoss
from featherweight.training.qat.units import units_of


@keras.saving.register_keras_serializable(package="featherweight")
class QuantizedModel(IntegerModel):
    """The trainable form of a quantized graph; make one with `featherweight.quantize_aware`."""

    def __init__(self, blueprint: Blueprint, **options: Any) -> None:
        super().__init__(blueprint, **options)
        self._tracked = Opaque(self._made_tracked())
        self._programs = self._made_programs()
        teacher = blueprint.teacher
        self.teacher = None if teacher is None else teacher_of(teacher)
        self._compared = Opaque(() if teacher is None else compared(blueprint.exposed, blueprint.integer, teacher))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the outputs; in training, scales first move, and losses of the model's own are added."""
        if not training:
            return super().call(inputs, training)
        is_float = ops.convert_to_tensor(self.scales.step) < self.blueprint.ranges.delay
        self._begin_step(inputs)
        names = tuple({*self._held.outputs.values(), *(pair.student for pair in self._compared.value)})
        results = self._results(inputs, names, is_float)
        if self.teacher is not None:
            self.add_loss(self._distance(inputs, results))
        if self.blueprint.oscillations is not None and self.blueprint.oscillations.remedy == "dampen":
            self.add_loss(self.blueprint.oscillations.strength * self._distance_to_centres())
        return self.outputs_of(results)

    def compile(self, optimizer: Any = "rmsprop", *args: Any, scaled: bool = True, **options: Any) -> None:
        """Compiles as any Keras model; the optimizer trains each weight in units of its own (`units_of`).

        `model.optimizer` is then the given one inside a `ScaledOptimizer`; variables, what is saved of them and what is
        computed stay as they are.

        Args:
            optimizer: as in Keras.
            scaled: False trains the real numbers themselves, as any Keras model does.
            *args: of `keras.Model.compile`.
            **options: of it as well.
        """
        if scaled:
            optimizer = in_units(keras.optimizers.get(optimizer), lambda: units_of(self))
        super().compile(optimizer, *args, **options)

    def compile_from_config(self, config: Any) -> None:
        """Compiles with what was saved, in units if it was so."""
        given = keras.saving.deserialize_keras_object(config)
        self.compile(**given, scaled=has_units(given["optimizer"]))
        self.build_optimizer()

    def build_optimizer(self) -> None:
        """Makes the variables of the optimizer before the first step; it learns from here whose weights it trains."""
        self.optimizer.build(self.trainable_variables)

    def _begin_step(self, inputs: Any) -> None:
        """Moves scales, and takes note of what the integer weights do."""
        step = ops.convert_to_tensor(self.scales.step)
        self.scales.follow(self.constants_of_program())
        self.scales.count(lambda names: self._in_float(inputs, names))
        if self._tracked.value and self.blueprint.oscillations is not None:
            integers = self._weight_integers()
            for name, state in self._tracked.value.items():
                state.update(integers[name][1], step, self.blueprint.oscillations)

    def _results(self, inputs: Any, names: tuple[str, ...], is_float: Array) -> dict[str, Array]:
        """Returns tensors of the integer graph in training; while integers are delayed, as the float graph has them."""

        def in_integers() -> dict[str, Array]:
            return self.computed(self._programs.value.in_training, inputs, names, self.constants_of_program())

        def in_float() -> dict[str, Array]:
            graph, integer = self.graph.main, self.integer.main
            sources = {name: float_source(integer, graph, name) or name for name in names}
            needed, delayed = tuple(set(sources.values())), self._programs.value.delayed
            values, found = self.computed(delayed, inputs, needed, self.trained_values()), dict[str, Array]()
            for name, source in sources.items():
                tensor = integer.tensors[name]
                found[name] = values[source] / self.scales.affine(tensor)[0] if is_quantized(tensor) else values[source]
            return found

        return ops.cond(is_float, in_float, in_integers) if self.blueprint.ranges.delay else in_integers()

    def _in_float(self, inputs: Any, names: tuple[str, ...]) -> dict[str, Array]:
        """Returns tensors of the float graph by name."""
        program = self._programs.value.in_float
        assert program is not None
        return self.computed(program, inputs, names, self.trained_values())

    def _weight_integers(self) -> dict[str, tuple[Array, Array, Array]]:
        """Returns tracked weight of the integer graph → (value, integers, scale)."""
        values, found = self.constants_of_program(), dict[str, tuple[Array, Array, Array]]()
        zero = ops.convert_to_tensor(self._zero.value)
        for name in self._tracked.value:
            tensor = self.integer.main.tensors[name]
            scale = spread(self.scales.affine(tensor)[0], tensor)
            found[name] = values[name], quantized_weight(values[name], scale, tensor.dtype, zero), scale
        return found

    def _distance_to_centres(self) -> Array:
        parts = [distance_to_centres(*parts) for parts in self._weight_integers().values()]
        return sum(parts[1:], parts[0])

    def fit(self, *args: Any, callbacks: Any = None, **options: Any) -> Any:
        """Trains as any Keras model does, warns of a rising loss, and stops where numbers are no longer finite.

        Raises:
            DataError: naming what holds NaN or infinity.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [
                StopAtNonFinite(),
                WarnOfRisingLoss(),
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.refresh()),
                *([callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks or []),
            ]
        return super().fit(*args, callbacks=callbacks, **options)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Computes the loss; in evaluation, the distance to the teacher joins it as it does in training."""
        if training or self.teacher is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        distance = self._distance(x, self.tensors(x, tuple(pair.student for pair in self._compared.value)))
        if not self.compiled or self.loss is None:
            return distance
        return distance + super().compute_loss(x, y, y_pred, sample_weight, training)

    def _distance(self, inputs: Any, results: Mapping[str, Array]) -> Array:
        """Returns how far tensors are from the teacher's."""
        assert self.teacher is not None
        pairs, student = self._compared.value, dict[str, Array]()
        for pair in pairs:
            tensor = self.integer.main.tensors[pair.student]
            scale = self.scales.affine(tensor)[0] if is_quantized(tensor) else np.float32(1)
            student[pair.student] = results[pair.student] * scale
        return distance(pairs, student, self.teacher.tensors(inputs, tuple(pair.teacher for pair in pairs)))

    def constants_of_program(self) -> dict[str, Array]:
        """Returns the real values of the integer graph's constants that were real numbers, frozen ones as held."""
        found = super().constants_of_program()
        for name, state in self._tracked.value.items():
            tensor = self.integer.main.tensors[name]
            found[name] = state.held(found[name], spread(self.scales.affine(tensor)[0], tensor))
        return found

    def current_values(self) -> dict[str, np.ndarray]:
        """Returns what the float graph's trained constants have become, by name; frozen weights as they are held."""
        found = super().current_values()
        values = self.constants_of_program() if self._tracked.value else {}
        for name in self._tracked.value:
            source = self.blueprint.sources[name]
            found[source] = np.asarray(ops.convert_to_numpy(values[name])).reshape(found[source].shape)
        return found

    def _make_program(self) -> None:
        super()._make_program()
        self._programs = self._made_programs()

    def _made_programs(self) -> Opaque:
        in_training = self._integer_program(moves=True) if self.scales.moves else self._held.program
        needs_float = self.blueprint.ranges.observes or self.blueprint.ranges.delay
        in_float = Program(self.graph, bound(self.graph)) if needs_float else None
        delayed = None if in_float is None else self._with_noise(in_float)
        return Opaque(_Programs(self._with_noise(in_training), in_float, delayed))

    def _with_noise(self, program: Program) -> Program:
        return with_noise(
            program,
            self.blueprint.noises,
            lambda tensor: self.scales.affine(tensor)[0],
            lambda: ops.convert_to_tensor(self.scales.step),
        )

    def _made_tracked(self) -> dict[str, Tracked]:
        """Makes the state of the weights that may freeze, each with scales of its own."""
        if self.blueprint.oscillations is None:
            return {}
        weights = {tensor.name: tensor for _, tensor, role in weights_and_biases(self.integer) if role == "weight"}
        shapes = {
            name: tensor.shape
            for name, tensor in weights.items()
            if self.blueprint.sources[name] in self.variables_by_tensor and tensor.quant and not tensor.quant.block_size
        }
        return tracked(shapes, self._variable)


@dataclass(frozen=True, eq=False)
class _Programs:
    """What computes in training, and the float graph: where it is observed, and as it trains during a delay."""

    in_training: Program
    in_float: Program | None
    delayed: Program | None
