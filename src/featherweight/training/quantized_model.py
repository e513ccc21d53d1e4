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
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from featherweight import tflite
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model, constant, io_names
from featherweight.ops import lookup
from featherweight.profiles import find
from featherweight.training.distillation import compared, distance, teacher_from_config
from featherweight.training.exact import joined
from featherweight.training.exactness import chunks_of
from featherweight.training.graph_model import GraphModel
from featherweight.training.integer_program import Parameters, integer_functions, is_quantized
from featherweight.training.integer_step import quantized_bias, quantized_weight, spread
from featherweight.training.program import Program
from featherweight.training.registry import Array, Function, ops
from featherweight.training.scales import RANGES, Scales, made_scales, weights_and_biases


@keras.saving.register_keras_serializable(package="featherweight")
class QuantizedModel(GraphModel):
    """The trainable form of a quantized graph; make one with `featherweight.quantize_aware`.

    Args:
        graph: the float graph.
        integer: what the rewriter made of it.
        sources: constant of the integer graph → constant of the float graph that it was made of.
        plan: the plan, as JSON.
        ranges: ``fixed`` keeps activation ranges as calibrated, and each weight scale at its ratio to the largest
            weight; ``learned`` trains both (Esser et al., 1902.08153).
        chunks: node → into how many parts its input channels are cut so that sums stay exact; computed if left out.
        teacher: a float model; its distance is a loss of every training step (see `distillation`).
        sparse: constants of the float graph whose zeros stay zeros; those weights that have any, if left out.
    """

    def __init__(
        self,
        graph: Model,
        integer: Model,
        sources: Mapping[str, str],
        plan: str,
        ranges: str = "fixed",
        chunks: Mapping[str, int] | None = None,
        teacher: GraphModel | None = None,
        sparse: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if ranges not in RANGES:
            raise RecipeError(f"ranges '{ranges}' of training are unknown (allowed: {listed(RANGES)}).")
        # Integers are float32 numbers here: another compute type would round them.
        super().__init__(graph, **{**options, "dtype": "float32"})
        self.plan, self.ranges = plan, ranges
        self._integer = _Opaque(integer)
        self._sources = _Opaque(dict(sources))
        self._chunks = _Opaque(dict(chunks_of(integer) if chunks is None else chunks))
        real = {name: self._float_constant(source) for name, source in sources.items()}
        profile = find(json.loads(plan)["profile"])
        self._scales = _Opaque(made_scales(integer, real, profile, self._variable, learned=ranges == "learned"))
        self._zero = _Opaque(self._variable("zero", np.zeros((), np.float32), False))
        self._masks = _Opaque(self._made_masks(sparse))
        parameters = Parameters(
            self.scales.affine,
            lambda: ops.convert_to_tensor(self._zero.value),
            self.scales.tables_of,
            profile,
            ranges == "learned",
        )
        functions = integer_functions(integer, parameters, self._chunks.value)
        program, outputs = Program(integer, functions), io_names(integer)[1]
        self._held = replace(self._held, program=program, outputs=outputs)
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the outputs; in training, weight scales first follow the weights."""
        if training and self.ranges == "fixed":
            self.scales.follow(self.constants_of_program())
        if not training or self.teacher is None:
            return super().call(inputs, training)
        names = {*self._held.outputs.values(), *(pair.student for pair in self._compared.value)}
        results = self.tensors(inputs, tuple(names))
        self.add_loss(self._distance(inputs, results))
        return self.outputs_of(results)

    def predict(self, *args: Any, **options: Any) -> Any:
        """Predicts with tables of the scales of the moment."""
        self.scales.refresh_tables()
        return super().predict(*args, **options)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Evaluates with tables of the scales of the moment."""
        self.scales.refresh_tables()
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
        return found

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
            "ranges": self.ranges,
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
