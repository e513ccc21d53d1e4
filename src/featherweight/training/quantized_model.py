"""A quantized graph as a trainable `keras.Model`: its forward pass computes the integers of the deployed kernels.

It is a `GraphModel` of the float graph (the same weights, names, inputs and outputs) that walks the integer graph that
the rewriter made of it: its operators, its borders, its conversions. Training moves the weights and the numbers that
integers are scaled by; both are variables (`Scales.parameters` reads the latter back for the file).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np

from featherweight import tflite
from featherweight.graph import Model, constant, io_names
from featherweight.ops import lookup
from featherweight.profiles import find
from featherweight.target import Target
from featherweight.training.distillation import compared, distance, teacher_from_config
from featherweight.training.dropout import Noise, with_noise
from featherweight.training.exact import joined
from featherweight.training.exactness import chunks_of
from featherweight.training.graph_model import GraphModel
from featherweight.training.guarding import StopAtNonFinite, check_version
from featherweight.training.integer_program import Parameters, integer_functions, left_by_delegate
from featherweight.training.integer_step import is_quantized, quantized_bias, quantized_weight, spread
from featherweight.training.moving_ranges import float_source
from featherweight.training.options import Oscillations, RangeTraining
from featherweight.training.oscillation import Tracked, distance_to_centres, tracked
from featherweight.training.program import Program
from featherweight.training.registry import Array, Function, bound, ops
from featherweight.training.scales import Scales, made_scales, weights_and_biases
from featherweight.version import package_version


@keras.saving.register_keras_serializable(package="featherweight")
class QuantizedModel(GraphModel):
    """The trainable form of a quantized graph; make one with `featherweight.quantize_aware`.

    Args:
        graph: the float graph.
        integer: what the rewriter made of it.
        sources: constant of the integer graph → constant of the float graph that it was made of.
        plan: the plan, as JSON.
        ranges: how activation ranges move (`options.RangeTraining`, or what it is made of). Weight scales stay at their
            ratio to the largest weight, or are learned with them.
        chunks: node → into how many parts its input channels are cut so that sums stay exact; computed if left out.
        teacher: a float model; its distance is a loss of every training step (see `distillation`).
        sparse: constants of the float graph whose zeros stay zeros; those weights that have any, if left out.
        approximate: train by classic fake quantization, which is not what the file computes.
        oscillations: what to do about weights that jump to and fro (`options.Oscillations`, or its fields).
        noises: dropout and noise of training steps (`dropout.Noise`, or their fields).
        version: of this package, which decides the integers.

    Raises:
        RecipeError: if the model was saved by another version.
    """

    def __init__(
        self,
        graph: Model,
        integer: Model,
        sources: Mapping[str, str],
        plan: str,
        ranges: RangeTraining | str | Mapping[str, Any] = "fixed",
        chunks: Mapping[str, int] | None = None,
        teacher: GraphModel | None = None,
        sparse: Sequence[str] | None = None,
        approximate: bool = False,
        oscillations: Oscillations | str | Mapping[str, Any] | None = None,
        noises: Sequence[Noise | Mapping[str, Any]] = (),
        version: str | None = None,
        **options: Any,
    ) -> None:
        check_version(version)
        # Integers are float32 numbers here: another compute type would round them.
        super().__init__(graph, **{**options, "dtype": "float32"})
        self.plan, self.approximate = plan, approximate
        self.ranges, self.oscillations = RangeTraining.of(ranges), Oscillations.of(oscillations)
        self.target: Target | None = None
        self._integer = _Opaque(integer)
        self._sources = _Opaque(dict(sources))
        moves = self.ranges.observes
        self._chunks = _Opaque(dict(chunks_of(integer, zero_points_move=moves) if chunks is None else chunks))
        real = {name: self._float_constant(source) for name, source in sources.items()}
        profile = find(json.loads(plan)["profile"])
        self._scales = _Opaque(made_scales(integer, graph, real, profile, self._variable, self.ranges))
        self._zero = _Opaque(self._variable("zero", np.zeros((), np.float32), False))
        self._masks = _Opaque(self._made_masks(sparse))
        self._tracked = _Opaque(self._made_tracked())
        self._noises = _Opaque(tuple(part if isinstance(part, Noise) else Noise.from_json(part) for part in noises))
        self._left = _Opaque(left_by_delegate(integer.main, profile))
        self._held = replace(self._held, outputs=io_names(integer)[1])
        self._make_programs()
        self.teacher = teacher
        self._compared = _Opaque(() if teacher is None else compared(graph, integer, teacher.graph))

    def functions_of(self, model: Model) -> Mapping[str, Function]:
        """Returns nothing: the integer graph is what computes."""
        return {}

    @property
    def integer(self) -> Model:
        """The integer graph that is walked; its constants and parameters are those the model was made with."""
        return self._integer.value

    @property
    def chunks(self) -> Mapping[str, int]:
        """Node → parts that its input channels are cut into, where there is more than one."""
        return self._chunks.value

    @property
    def scales(self) -> Scales:
        """The variables that integers are scaled by."""
        return self._scales.value

    @property
    def left(self) -> frozenset[str]:
        """The names of nodes that XNNPACK does not take with the scales of the last `refresh`."""
        return self._left.value

    def refresh(self) -> None:
        """Computes from the scales of the moment what steps take as given: tables, and which kernels run each node."""
        self.scales.refresh_tables()
        current = self.scales.parameters() if self.scales.profile.is_delegate else {}
        left = left_by_delegate(self.integer.main, self.scales.profile, current)
        if left == self.left:
            return
        self._left.value = left
        self._make_programs()
        for name in ("train", "test", "predict"):
            if getattr(self, f"{name}_function") is not None:
                getattr(self, f"make_{name}_function")(force=True)

    @property
    def noises(self) -> tuple[Noise, ...]:
        """The dropout and noise of training steps."""
        return self._noises.value

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the outputs; in training, scales first move, and losses of the model's own are added."""
        if not training:
            return super().call(inputs, training)
        is_float = ops.convert_to_tensor(self.scales.step) < self.ranges.delay
        self._begin_step(inputs)
        names = tuple({*self._held.outputs.values(), *(pair.student for pair in self._compared.value)})
        results = self._results(inputs, names, is_float)
        if self.teacher is not None:
            self.add_loss(self._distance(inputs, results))
        if self.oscillations is not None and self.oscillations.remedy == "dampen":
            self.add_loss(self.oscillations.strength * self._distance_to_centres())
        return self.outputs_of(results)

    def _begin_step(self, inputs: Any) -> None:
        """Moves scales, and takes note of what the integer weights do."""
        step = ops.convert_to_tensor(self.scales.step)
        self.scales.follow(self.constants_of_program())
        self.scales.count(lambda names: self._in_float(inputs, names))
        if self._tracked.value and self.oscillations is not None:
            integers = self._weight_integers()
            for name, state in self._tracked.value.items():
                state.update(integers[name][1], step, self.oscillations)

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

        return ops.cond(is_float, in_float, in_integers) if self.ranges.delay else in_integers()

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
        """Trains as any Keras model does, and stops with an error where numbers are no longer finite.

        Raises:
            DataError: naming what holds NaN or infinity.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [
                StopAtNonFinite(),
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.refresh()),
                *([callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks or []),
            ]
        return super().fit(*args, callbacks=callbacks, **options)

    def predict(self, *args: Any, **options: Any) -> Any:
        """Predicts with tables and kernels of the scales of the moment."""
        self.refresh()
        return super().predict(*args, **options)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Evaluates with tables and kernels of the scales of the moment."""
        self.refresh()
        return super().evaluate(*args, **options)

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

    def integers(self) -> dict[str, np.ndarray]:
        """Returns the integers of weights and biases of the moment: constant of the integer graph → float32 array.

        Weights with a scale for every block are left out.
        """
        values, found = self.constants_of_program(), dict[str, np.ndarray]()
        affine, zero = self.scales.affine, ops.convert_to_tensor(self._zero.value)
        for node, tensor, role in weights_and_biases(self.integer):
            op, value = lookup(node.op), values[tensor.name]
            if tensor.quant is None or tensor.quant.block_size is not None:
                continue
            if role == "weight":
                integers = quantized_weight(value, spread(affine(tensor)[0], tensor), tensor.dtype, zero)
            else:
                tensors = self.integer.main.tensors
                x, weight = tensors[node.inputs[op.activation]], tensors[node.inputs[op.weight or 0]]
                integers = quantized_bias(value, joined(affine(x)[0], affine(weight)[0]), zero)
            found[tensor.name] = _numpy(integers)
        return found

    def constants_of_program(self) -> dict[str, Array]:
        """Returns the real values of the integer graph's constants that were real numbers: trained ones, and others."""
        trained, found = self.trained_values(), dict[str, Array]()
        for name, source in self._sources.value.items():
            value = trained.get(source)
            value = self._float_constant(source) if value is None else value
            mask = self._masks.value.get(source)
            found[name] = value if mask is None else ops.where(ops.convert_to_tensor(mask), value, 0.0)
            if name in self._tracked.value:
                tensor = self.integer.main.tensors[name]
                scale = spread(self.scales.affine(tensor)[0], tensor)
                found[name] = self._tracked.value[name].held(found[name], scale)
        return found

    def current_values(self) -> dict[str, np.ndarray]:
        """Returns what the float graph's trained constants have become, by name; frozen weights as they are held."""
        found = super().current_values()
        values = self.constants_of_program() if self._tracked.value else {}
        for name in self._tracked.value:
            source = self._sources.value[name]
            found[source] = _numpy(values[name]).reshape(found[source].shape)
        return found

    def _make_programs(self) -> None:
        """Makes what computes in predictions, in training, and in float."""
        program = self._integer_program(moves=False)
        self._held = replace(self._held, program=program)
        in_training = self._integer_program(moves=True) if self.scales.moves else program
        needs_float = self.ranges.observes or self.ranges.delay
        in_float = Program(self.graph, bound(self.graph)) if needs_float else None
        delayed = None if in_float is None else self._with_noise(in_float)
        self._programs = _Opaque(_Programs(self._with_noise(in_training), in_float, delayed))

    def _integer_program(self, *, moves: bool) -> Program:
        parameters = Parameters(
            self.scales.affine,
            lambda: ops.convert_to_tensor(self._zero.value),
            self.scales.tables_of,
            self.scales.profile,
            self.ranges.is_learned,
            self.approximate,
            moves,
        )
        return Program(self.integer, integer_functions(self.integer, parameters, self._chunks.value, self.left))

    def _with_noise(self, program: Program) -> Program:
        return with_noise(
            program,
            self.noises,
            lambda tensor: self.scales.affine(tensor)[0],
            lambda: ops.convert_to_tensor(self.scales.step),
        )

    def _made_tracked(self) -> dict[str, Tracked]:
        """Makes the state of the weights that may freeze, each with scales of its own."""
        if self.oscillations is None:
            return {}
        weights = {tensor.name: tensor for _, tensor, role in weights_and_biases(self.integer) if role == "weight"}
        shapes = {
            name: tensor.shape
            for name, tensor in weights.items()
            if self._sources.value[name] in self.variables_by_tensor and tensor.quant and not tensor.quant.block_size
        }
        return tracked(shapes, self._variable)

    def _made_masks(self, sparse: Sequence[str] | None) -> dict[str, keras.Variable]:
        """Makes a variable for each weight whose zeros stay: False where it is zero."""
        weights = {
            self._sources.value[tensor.name] for _, tensor, role in weights_and_biases(self.integer) if role == "weight"
        }
        masks = {name: self._float_constant(name) != 0 for name in sorted(weights & self.variables_by_tensor.keys())}
        chosen = [name for name, mask in masks.items() if not mask.all()] if sparse is None else list(sparse)
        return {name: self._variable(f"mask_{number}", masks[name], False) for number, name in enumerate(chosen)}

    def get_config(self) -> dict[str, Any]:
        """Returns both graphs (weights left out: Keras stores them), the plan, and Keras's own options."""
        written = tflite.write(_emptied(self.integer))
        return {
            **super().get_config(),
            "integer": base64.b64encode(zlib.compress(written)).decode("ascii"),
            "sources": self._sources.value,
            "plan": self.plan,
            "ranges": self.ranges.to_json(),
            "approximate": self.approximate,
            "oscillations": None if self.oscillations is None else asdict(self.oscillations),
            "noises": [asdict(noise) for noise in self.noises],
            "version": package_version(),
            "chunks": self._chunks.value,
            "sparse": list(self._masks.value),
            "teacher": None if self.teacher is None else self.teacher.get_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> QuantizedModel:
        """Returns a model without its weights, which Keras loads."""
        options = dict(config)
        for key in ("graph", "integer"):
            options[key] = tflite.read(zlib.decompress(base64.b64decode(options[key])))
        if options.get("teacher") is not None:
            options["teacher"] = teacher_from_config(options["teacher"])
        return cls(**options)

    def _float_constant(self, name: str) -> np.ndarray:
        array = self.graph.main.tensors[name].array
        assert array is not None
        return array

    def _variable(self, name: str, value: np.ndarray, trainable: bool) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=np.shape(value),
            initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype=dtype),
            dtype=np.asarray(value).dtype.name,
            trainable=trainable,
            autocast=False,
        )


@dataclass(frozen=True, eq=False)
class _Programs:
    """What computes in training, and the float graph: where it is observed, and as it trains during a delay."""

    in_training: Program
    in_float: Program | None
    delayed: Program | None


class _Opaque:
    """Holds what Keras must not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _emptied(model: Model) -> Model:
    """Returns the model with zeros for its quantized constants."""
    tensors = {
        name: replace(constant(name, np.zeros(tensor.shape, np.int8), tensor.dtype), quant=tensor.quant)
        if tensor.is_constant and tensor.quant is not None
        else tensor
        for name, tensor in model.main.tensors.items()
    }
    return replace(model, graphs=(replace(model.main, tensors=tensors), *model.graphs[1:]))


def _numpy(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value))
