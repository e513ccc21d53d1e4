"""A quantized graph as a `keras.Model` whose weights and scales are variables: what it computes, not how it is trained.

It is a `GraphModel` of the float graph (the same weights, names, inputs and outputs) that walks the integer graph that
the rewriter made of it: its operators, its borders, its conversions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from featherweight.graph import Model, Node, Tensor, io_names
from featherweight.keras_internals import is_symbolic, own_variables
from featherweight.operators import lookup
from featherweight.training.clustered.tied import Tied, made_tied
from featherweight.training.graph.graph_model import GraphModel
from featherweight.training.graph.program import Program
from featherweight.training.graph.registry import Array, Function, ops
from featherweight.training.integer.channels import at_hand
from featherweight.training.integer.step import bias_limit, quantized_bias, quantized_weight, spread
from featherweight.training.integer.straight_through import joined
from featherweight.training.qat.blueprint import Blueprint, blueprint_from_config, clusters, weights_and_biases
from featherweight.training.qat.program import Parameters, integer_functions, left_by_delegate
from featherweight.training.qat.scales import Scales, made_scales


class IntegerModel(GraphModel):
    """The forward pass of a quantized graph, from real weights and the numbers that integers are scaled by.

    Both are variables: `Scales.parameters` and `current_values` read them back for the file.
    """

    def __init__(self, blueprint: Blueprint, **options: Any) -> None:
        # Integers are float32 numbers here: another compute type would round them.
        super().__init__(blueprint.exposed, **{**options, "dtype": "float32"})
        self.blueprint = blueprint
        self._scales = Opaque(made_scales(blueprint, self._variable))
        self._zero = Opaque(self._variable("zero", np.zeros((), np.float32), False))
        self._masks = Opaque(self._made_masks())
        self._tied = Opaque(self._made_tied())
        self._left = Opaque(left_by_delegate(self.integer.main, blueprint.profile))
        outputs = io_names(self.integer)[1]
        self._held = replace(self._held, program=self._integer_program(moves=False), outputs=outputs)

    def functions_of(self, model: Model) -> Mapping[str, Function]:
        """Returns nothing: the integer graph is what computes."""
        return {}

    @property
    def integer(self) -> Model:
        """The integer graph that is walked; its constants and parameters are those the model was made with."""
        return self.blueprint.integer

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
        self._make_program()
        for name in ("train", "test", "predict"):
            if getattr(self, f"{name}_function") is not None:
                getattr(self, f"make_{name}_function")(force=True)

    def _make_program(self) -> None:
        """Makes anew what computes, for other kernels."""
        self._held = replace(self._held, program=self._integer_program(moves=False))

    def predict(self, *args: Any, **options: Any) -> Any:
        """Predicts with tables and kernels of the scales of the moment."""
        self.refresh()
        return super().predict(*args, **options)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Evaluates with tables and kernels of the scales of the moment."""
        self.refresh()
        return super().evaluate(*args, **options)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the outputs; where Keras only asks for their shapes, as before the first step, zeros of these."""
        shaped = self._shaped(inputs) if is_symbolic() else None
        return super().call(inputs, training) if shaped is None else self.outputs_of(shaped)

    def _shaped(self, inputs: Any) -> dict[str, Array] | None:
        """Returns zeros in the shapes of the outputs, or None where they are not known without computing them."""
        tensors = [self.integer.main.tensors[name] for name in self._held.outputs.values()]
        rows, batch = {value.shape[0] for value in self._fed(inputs).values() if value.shape}, self.exposed.batch
        is_plain = all(tensor.is_float and -1 not in (tensor.shape_signature or ())[1:] for tensor in tensors)
        if keras.backend.backend() != "jax" or len(rows) != 1 or batch is not None or not is_plain:
            return None
        sizes = {self.integer.main.tensors[name].shape[0] for name in self.integer.main.inputs}
        if any(not tensor.shape or {tensor.shape[0]} != sizes for tensor in tensors):
            return None
        return {tensor.name: ops.zeros((*rows, *tensor.shape[1:])) for tensor in tensors}

    def computed(
        self, program: Program, inputs: Any, names: Sequence[str], variables: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Returns tensors as `GraphModel.computed` does."""
        if program.model is not self.integer:
            return super().computed(program, inputs, names, variables)
        with at_hand(self.scales.channels(ops.convert_to_tensor(self._zero.value))):
            return super().computed(program, inputs, names, variables)

    def integers(self) -> dict[str, np.ndarray]:
        """Returns the integers of weights and biases of the moment: constant of the integer graph → float32 array.

        Weights with a scale for every block are left out.
        """
        # (By NumPy, whose float32 is the same: eagerly, JAX compiles a program for every shape.)
        values, found = self._values(), dict[str, np.ndarray]()
        zero = np.float32(0)
        for node, tensor, role in weights_and_biases(self.integer):
            if tensor.quant is None or tensor.quant.block_size is not None:
                continue
            value = values[self.blueprint.sources[tensor.name]].reshape(tensor.shape)
            if role == "weight":
                scale = spread(self._scale(tensor), tensor)
                found[tensor.name] = quantized_weight(value, scale, tensor.dtype, zero)
            else:
                scale, limit = self._unit_and_limit(node, tensor)
                found[tensor.name] = quantized_bias(value, scale, limit, zero)
        return found

    def bias_limits(self) -> dict[str, np.ndarray]:
        """Returns bias of the integer graph → the largest magnitude that training lets its integers have, float32."""
        biases = [(node, tensor) for node, tensor, role in weights_and_biases(self.integer) if role == "bias"]
        return {tensor.name: self._unit_and_limit(node, tensor)[1] for node, tensor in biases}

    def _unit_and_limit(self, node: Node, bias: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scale of a node's bias of the moment, and the largest magnitude of its integers."""
        tensors, op, profile = self.integer.main.tensors, lookup(node.op), self.scales.profile
        x, weight = tensors[node.inputs[op.activation]], tensors[node.inputs[op.weight or 0]]
        unit, out = joined(self._scale(x), self._scale(weight)), tensors[node.outputs[0]]
        is_delegated = profile.is_delegate and out.dtype == "int8" and node.name not in self.left
        return unit, bias_limit(bias.dtype, None if is_delegated else unit / self._scale(out))

    def _scale(self, tensor: Tensor) -> np.ndarray:
        """Returns the scale of a tensor of the moment."""
        return self.scales.affine_now(tensor)[0]

    def _values(self) -> dict[str, np.ndarray]:
        """Returns the values of the float graph's constants that the integer graph's were made of, by name."""
        trained, found = self.current_values(), dict[str, np.ndarray]()
        for source in self.blueprint.sources.values():
            value, mask = trained.get(source, self.blueprint.exposed.real(source)), self._masks.value.get(source)
            found[source] = value if mask is None else np.where(ops.convert_to_numpy(mask), value, np.float32(0))
        return found

    def constants_of_program(self) -> dict[str, Array]:
        """Returns the real values of the integer graph's constants that were real numbers: trained ones, and others."""
        trained, found = self.trained_values(), dict[str, Array]()
        for name, source in self.blueprint.sources.items():
            value = trained.get(source)
            value = self.blueprint.exposed.real(source) if value is None else value
            mask = self._masks.value.get(source)
            found[name] = value if mask is None else ops.where(ops.convert_to_tensor(mask), value, 0.0)
        for name, tied in self._tied.value.items():
            tensor = self.integer.main.tensors[name]
            value = ops.reshape(found[name], tensor.shape)
            found[name] = ops.reshape(
                tied.held(value, spread(self.scales.affine(tensor)[0], tensor)), found[name].shape
            )
        return found

    def current_values(self) -> dict[str, np.ndarray]:
        """Returns what the float graph's trained constants have become, by name; clusters as they are tied."""
        found = super().current_values()
        values = self.constants_of_program() if self._tied.value else {}
        for name in self._tied.value:
            source = self.blueprint.sources[name]
            found[source] = np.asarray(ops.convert_to_numpy(values[name])).reshape(found[source].shape)
        return found

    def _integer_program(self, *, moves: bool) -> Program:
        parameters = Parameters(
            self.scales.affine,
            lambda: ops.convert_to_tensor(self._zero.value),
            self.scales.tables_of,
            self.scales.profile,
            self.blueprint.ranges.is_learned,
            self.blueprint.approximate,
            moves,
        )
        return Program(self.integer, integer_functions(self.integer, parameters, self.blueprint.chunks, self.left))

    def _made_masks(self) -> dict[str, keras.Variable]:
        """Makes a variable for each weight whose zeros stay: False where it is zero."""
        return {
            name: self._variable(f"mask_{number}", self.blueprint.exposed.real(name) != 0, False)
            for number, name in enumerate(self.blueprint.sparse)
        }

    def _made_tied(self) -> dict[str, Tied]:
        """Makes the clusters of each weight whose values stay few; where Keras loads them, the numbers come with it."""
        tensors, found = self.integer.main.tensors, dict[str, Tied]()
        for number, (name, count) in enumerate(self.blueprint.clustered.items()):
            members = clusters(self.blueprint.exposed, tensors[name], self.blueprint.sources[name])
            if members is None or int(members.max()) + 1 != count:  # of a saved model, whose weights come afterwards
                members = np.zeros(tensors[name].shape, np.int32)
            found[name] = made_tied(number, members, count, self._variable)
        return found

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save` stored; version 0.1 stored a scale and a ratio of each weight by turns."""
        count, stored = len(self.scales.stack.shapes), [np.asarray(store[str(at)]) for at in range(len(store.keys()))]
        if count and len(stored) == len(own_variables(self)) + 2 * (count - 1):
            joined = (np.concatenate([part.reshape(-1) for part in stored[at : 2 * count : 2]]) for at in (0, 1))
            stored = [*joined, *stored[2 * count :]]
        super().load_own_variables({str(at): value for at, value in enumerate(stored)})

    def made_of(self) -> dict[str, Any]:
        """Returns what the model is made of, as plain values."""
        return replace(self.blueprint, exposed=self.exposed).to_config()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> IntegerModel:
        """Returns a model without its weights, which Keras loads.

        Raises:
            RecipeError: if the package or the target is another one now.
            FormatError: if the graph, the plan or the target was changed in the file.
        """
        blueprint, options = blueprint_from_config(config)
        return cls(blueprint, **options)

    def _variable(self, name: str, value: np.ndarray, trainable: bool) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=np.shape(value),
            initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype=dtype),
            dtype=np.asarray(value).dtype.name,
            trainable=trainable,
            autocast=False,
        )


class Opaque:
    """Holds what Keras must not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value
