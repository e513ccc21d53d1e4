"""A lowered float graph as a trainable `keras.Model`, on every backend of Keras.

The forward pass is a walk over the graph (`Program.run`): tensors by name, one function for each node. **The seam**:
`GraphModel` asks `functions_of(model)` what each node computes, node name → function of a `Step`. The float functions
are the registry (`registry.bound`); arithmetic that computes otherwise is a subclass that returns other functions for
some nodes and inherits everything else: weights, names, inputs and outputs, saving.

Weights keep the file's layout. The graph of a model is `Exposed`: every weight is a constant of its own, and its table
says which variable trains it, of which layer, or why none does.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from featherweight.arguments import checked, layer_name, shown
from featherweight.errors import DataError, RecipeError, listed
from featherweight.graph import Model, ModelLike, Tensor
from featherweight.training.graph.batch import at_fixed_batch
from featherweight.training.graph.exposed import Exposed, expose, exposed_from_config
from featherweight.training.graph.outputs import NamedOutputs
from featherweight.training.graph.program import Program
from featherweight.training.graph.registry import Array, Function, bound, ops
from featherweight.training.graph.weights import Entry


@checked(name=layer_name)
def graph_model(model: ModelLike, *, name: str | None = None, dtype: Any = None) -> GraphModel:
    """Returns a float graph as a `keras.Model` that computes the same, to be trained on the backend of Keras.

    Args:
        model: a float model, as `load` takes it.
        name: of the Keras model.
        dtype: a Keras dtype policy, ``mixed_bfloat16`` for example; the global one if left out.

    Raises:
        UnsupportedOp: naming all nodes that can't be trained.

    >>> import featherweight as fw, numpy as np
    >>> double = fw.load(lambda x: np.float32([2, 3]) * x, samples=[np.ones((1, 2), np.float32)])
    >>> trained = graph_model(double)
    >>> trained.predict(np.ones((1, 2)), verbose=0).tolist()
    [[2.0, 3.0]]
    """
    try:
        policy = None if dtype is None else keras.dtype_policies.get(dtype)
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"graph_model: dtype is {shown(dtype)} (allowed: a dtype policy of Keras, such as 'mixed_bfloat16'). Leave "
            "it out for the global one."
        ) from error
    return GraphModel(expose(model), name=name, dtype=policy)


@dataclass(frozen=True, eq=False)
class _Held:
    """What Keras must not look into: variables that their layers own already."""

    exposed: Exposed
    program: Program
    variables: Mapping[str, keras.Variable]
    outputs: Mapping[str, str]


class _LayerWeights(keras.layers.Layer):
    """The weights of one source layer, and the layers inside it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parts: list[_LayerWeights] = []
        self.built = True


@keras.saving.register_keras_serializable(package="featherweight")
class GraphModel(NamedOutputs):
    """The trainable form of a graph; make one with `graph_model`.

    It takes inputs as a dict by public name, a list in the graph's order, or the one array; it returns the one output,
    or a dict by public name. Inputs are float32 or int32 as the graph's, outputs float32 in any dtype policy. Labels,
    losses, their weights and metrics are dicts by public name too, or lists in the order of the graph's outputs.
    """

    def __init__(self, exposed: Exposed, **options: Any) -> None:
        super().__init__(**{key: value for key, value in options.items() if value is not None})
        program = Program(exposed.model, self.functions_of(exposed.model))
        self.sources: list[_LayerWeights] = []
        self._held = _Held(exposed, program, self._made_variables(exposed), exposed.outputs)
        self.built = True

    def functions_of(self, model: Model) -> Mapping[str, Function]:
        """Returns what each node computes, by node name; called once, before there are variables."""
        return bound(model)

    @property
    def graph(self) -> Model:
        """The graph that is computed, with the weights it was made with (`writeback.float_graph` has the current)."""
        return self._held.exposed.model

    @property
    def layer_table(self) -> tuple[Entry, ...]:
        """One entry for every float constant at every node that reads it: what trains it, or why nothing does."""
        return self._held.exposed.table

    @property
    def variables_by_tensor(self) -> Mapping[str, keras.Variable]:
        """The trained constants: tensor name → variable, which may have axes of size 1 more or less."""
        return self._held.variables

    @property
    def output_names(self) -> list[str]:
        """The public names of the outputs, in the graph's order."""
        return list(self._held.outputs)

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: all variables exist from the start."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the outputs."""
        return self.outputs_of(self.tensors(inputs, tuple(self._held.outputs.values())))

    def outputs_of(self, results: Mapping[str, Array]) -> Any:
        """Returns the outputs as `call` does, from tensors by name."""
        tensors = self._held.program.model.main.tensors
        found = {name: _as_output(results[tensor], tensors[tensor]) for name, tensor in self._held.outputs.items()}
        return next(iter(found.values())) if len(found) == 1 else found

    def tensors(self, inputs: Any, names: Sequence[str]) -> dict[str, Array]:
        """Returns tensors of the main graph by name: values of the Keras backend, differentiable."""
        return self.computed(self._held.program, inputs, names, self.constants_of_program())

    def computed(
        self, program: Program, inputs: Any, names: Sequence[str], variables: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Returns tensors by name that a program with the graph's inputs computes from values of its constants."""
        exposed = self._held.exposed
        fed = {exposed.inputs[name]: value for name, value in self._fed(inputs).items()}

        def run(part: Mapping[str, Array]) -> dict[str, Array]:
            return program.run(part, variables, names, self.compute_dtype)

        return run(fed) if exposed.batch is None else at_fixed_batch(run, fed, exposed.batch)

    def constants_of_program(self) -> dict[str, Array]:
        """Returns the values of trained constants, by their names in the graph that is walked."""
        return self.trained_values()

    def trained_values(self) -> dict[str, Array]:
        """Returns the values of trained constants of `graph`, by name, in their own shapes and the compute type."""
        found: dict[str, Array] = {}
        for name, tensor in self.graph.tensors.items():
            if name in self._held.variables:
                value = ops.cast(self._held.variables[name], self.compute_dtype)
                found[name] = value if tuple(value.shape) == tensor.shape else ops.reshape(value, tensor.shape)
        return found

    def current_values(self) -> dict[str, np.ndarray]:
        """Returns what the graph's trained constants have become, by name."""
        return {
            name: np.asarray(ops.convert_to_numpy(variable), np.float32)
            for name, variable in self.variables_by_tensor.items()
        }

    def get_config(self) -> dict[str, Any]:
        """Returns what the model is made of (trained weights left out: Keras stores them) and Keras's own options."""
        return {**super().get_config(), **self.made_of()}

    def made_of(self) -> dict[str, Any]:
        """Returns what the model is made of, as plain values."""
        return self.exposed.to_config()

    @property
    def exposed(self) -> Exposed:
        """The graph that the model was made of, with its index; what is frozen is what is so at the moment."""
        exposed, variables = self._held.exposed, self._held.variables
        paths = {e.variable: variables[e.tensor] for e in exposed.table if e.variable is not None}
        return replace(exposed, frozen=tuple(path for path, variable in paths.items() if not variable.trainable))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> GraphModel:
        """Returns a model without its weights, which Keras loads."""
        exposed, options = exposed_from_config(config)
        return cls(exposed, **options)

    def _fed(self, inputs: Any) -> dict[str, Array]:
        """Returns public input name → value, in the graph's type.

        Raises:
            DataError: if the inputs are not those of the graph.
        """
        wanted = self._held.exposed.inputs
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            parts = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(parts) != len(wanted):
                raise DataError(
                    f"The model '{self.name}' takes {len(wanted)} inputs ({listed(wanted)}), not {len(parts)}."
                )
            given = dict(zip(wanted, parts, strict=True))
        if missing := [name for name in wanted if name not in given]:
            raise DataError(
                f"Input '{missing[0]}' of the model '{self.name}' is missing (given: {listed(given) or 'none'}; "
                f"needed: {listed(wanted)})."
            )
        found: dict[str, Array] = {}
        for name, tensor_name in wanted.items():
            tensor, value = self.graph.main.tensors[tensor_name], ops.convert_to_tensor(given[name])
            shape = tuple(value.shape)
            sizes = zip(tensor.shape[1:], shape[1:], strict=False)
            if len(shape) != len(tensor.shape) or any(size not in (None, wants) for wants, size in sizes):
                raise DataError(
                    f"Input '{name}' of the model '{self.name}' has the shape {list(shape)}; it must be "
                    f"{['any', *tensor.shape[1:]]}."
                )
            found[name] = ops.cast(value, self.compute_dtype if tensor.is_float else tensor.dtype)
        return found

    def _made_variables(self, exposed: Exposed) -> dict[str, keras.Variable]:
        """Makes the variables, each inside the layer that its path names."""
        tensors = exposed.model.tensors
        made: dict[str, keras.Variable] = {}
        groups: dict[str, _LayerWeights] = {}
        found: dict[str, keras.Variable] = {}
        for entry in exposed.table:
            if entry.variable is None:
                continue
            if entry.variable not in made:
                layer, _, role = entry.variable.rpartition("/")
                tensor, group = tensors[entry.tensor], self._group(layer, groups)
                with _scopes(self.name, *layer.split("/")[:-1]):
                    made[entry.variable] = group.add_weight(
                        name=role, shape=tensor.shape, initializer=_Stored(tensor.array), trainable=True
                    )
            found[entry.tensor] = made[entry.variable]
        for path in exposed.frozen:  # behind their making: where a layer keeps them, and their order, stay the same
            made[path].trainable = False
        return found

    def _group(self, path: str, groups: dict[str, _LayerWeights]) -> _LayerWeights:
        if path not in groups:
            parent, _, own = path.rpartition("/")
            siblings = self._group(parent, groups).parts if parent else self.sources
            groups[path] = _LayerWeights(name=own, dtype=self.dtype_policy)
            siblings.append(groups[path])
        return groups[path]


class _Stored(keras.initializers.Initializer):
    """An initializer that gives a constant of the graph."""

    def __init__(self, value: np.ndarray | None) -> None:
        self.value = value

    def __call__(self, shape: Any, dtype: Any = None) -> Array:
        return ops.convert_to_tensor(np.zeros(shape, np.float32) if self.value is None else self.value, dtype=dtype)


@contextmanager
def _scopes(*names: str) -> Generator[None]:
    """Enters name scopes one inside the other, which make the path of a variable."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(keras.name_scope(name))
        yield


def _as_output(value: Array, tensor: Tensor) -> Array:
    """Returns an output in the graph's type, whatever the model computes in; not 64 bits, which backends lack."""
    value = ops.convert_to_tensor(value)
    if keras.backend.is_float_dtype(value.dtype):
        return ops.cast(value, "float32")
    return ops.cast(value, "int32") if tensor.dtype == "int32" else value
