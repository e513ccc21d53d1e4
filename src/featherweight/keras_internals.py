"""What this package needs of Keras and Keras keeps to itself: a release that changes it breaks this module only.

Every name of Keras that begins with an underscore, everything of ``keras.src``, and every habit of Keras that it does
not promise stands here, with what the public interface lacks; each has a test in ``tests/test_keras_internals.py``.
Keras is imported when it is needed.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# ---------------------------------------------------------------------------------------------- layers and variables


def layers_of(model: Any, *, with_self: bool = True) -> list[Any]:
    """Returns a model and every layer inside it, sublayers and cells included, each once.

    (`Layer._flatten_layers`: the public `layers` of a model are the outermost only.)
    """
    return list(dict.fromkeys(model._flatten_layers(include_self=with_self)))


def own_trainable_variables(layer: Any) -> list[Any]:
    """Returns the trainable variables of a layer without those of the layers inside it.

    (`Layer._trainable_variables`: the public `trainable_variables` has them all.)
    """
    return list(layer._trainable_variables)


def own_variables(layer: Any) -> list[Any]:
    """Returns the variables of a layer, trainable ones first, without those of the layers inside it.

    (`Layer._non_trainable_variables`, as above.)
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def readers_of(layer: Any) -> list[Any]:
    """Returns the operations that read a layer's outputs in functional models, each once.

    (`Operation._outbound_nodes`: there is no public way from an operation to its readers.)
    """
    return list({id(node.operation): node.operation for node in getattr(layer, "_outbound_nodes", ())}.values())


def structure_of_inputs(model: Any) -> Any:
    """Returns the inputs of a model as it takes them, a dict for example; None for one that does not say.

    (`Functional._inputs_struct`: the public `inputs` is a flat list.)
    """
    structure = getattr(model, "_inputs_struct", None)
    return getattr(model, "inputs", None) if structure is None else structure


def structure_of_outputs(model: Any) -> Any:
    """Returns the outputs of a functional or sequential model as it returns them; None for another model.

    (`Functional._outputs_struct`, and `Sequential._functional`, the model that a sequential one is inside.)
    """
    return getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)


def names_of_outputs(model: Any) -> list[str] | None:
    """Returns the names of a functional or sequential model's outputs in order; None for another model."""
    return getattr(getattr(model, "_functional", None) or model, "output_names", None)


def recording_scope() -> Any:
    """Returns a `keras.StatelessScope` with a list `assigned` of the variables that code inside of it assigns to.

    (`StatelessScope.add_update`, which every assignment calls: the states of recurrent layers are in no public list.)
    """
    import keras

    class Recording(keras.StatelessScope):
        """Drops assignments, as any stateless scope does, but knows which there were."""

        def __init__(self) -> None:
            super().__init__()
            self.assigned: list[Any] = []

        def add_update(self, update: tuple[Any, Any]) -> None:
            """Takes (variable, value)."""
            if all(variable is not update[0] for variable in self.assigned):
                self.assigned.append(update[0])
            super().add_update(update)

    return Recording()


def is_symbolic() -> bool:
    """True while Keras asks what shapes a layer returns, and values do not matter.

    (`in_symbolic_scope`: a layer that is called sees tensors of the backend then, too.)
    """
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return in_symbolic_scope()


def sharding_of(variable: Any) -> Any:
    """Returns how a variable is laid out over devices, for another one of its shape; None where it is not.

    (`Variable._layout`. `Optimizer.add_variable_from_reference` takes it over too, but not another dtype.)
    """
    return getattr(variable, "_layout", None)


def set_initial_value(variable: Any, value: Any) -> None:
    """Gives a variable made in a `keras.StatelessScope` the value that it is made with when the scope ends.

    (`Variable._initializer`: values assigned in a scope are dropped, and what it makes is initialized behind it.)
    """
    variable._initializer = lambda *_, **__: value


def set_dtype_policy(layer: Any, name: str) -> None:
    """Lets a layer, and nothing that it shares a policy with or holds, compute in another type.

    (`Layer._dtype_policy`: the public `dtype_policy` also changes a policy map that layers share.)
    """
    import keras

    vars(layer)["_dtype_policy"] = keras.DTypePolicy(name)


def set_input_dtypes(model: Any, dtypes: Mapping[str, str]) -> None:
    """Lets a model take other types where its inputs are of the types named.

    (`KerasTensor._dtype`: a functional model casts what it is given to the types of its symbolic inputs.)
    """
    import keras

    for tensor in keras.tree.flatten(structure_of_inputs(model)):
        if isinstance(tensor, keras.KerasTensor) and tensor.dtype in dtypes:
            vars(tensor)["_dtype"] = dtypes[tensor.dtype]


def calling_model(variables: Sequence[Any]) -> Any:
    """Returns the model that calls, in its `fit`, `train_on_batch` or while it is loaded; None without one.

    (An optimizer is built by a method of the model that it trains, and is given variables only: the model is `self`
    of the nearest calling function of which that is a model with all of these variables.)
    """
    import keras

    wanted, frame = {id(variable) for variable in variables}, inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.Model) and wanted <= {id(variable) for variable in caller.variables}:
            return caller
        frame = frame.f_back
    return None


# -------------------------------------------------------------------------------------------------------------- twins


def twin(value: Any, change: Callable[[Any, Any], None]) -> Any:
    """Returns a copy of a model, or of a function that calls models: its layers are new, its variables the same.

    What is set on a layer of the copy does not show on the original. (Clones of Keras's have other variables, and
    need a configuration, which models of a user's own class may not have.)

    Args:
        value: a built model; or a function, which may hold layers in its closure, arguments, object or globals.
        change: gets each new layer with the one that it stands for, when the copy is whole.
    """
    twins = _Twins(value)
    copy = twins.of(value)
    twins.finish(change)
    return copy


class _Twins:
    """The copies made so far, by id of the original."""

    def __init__(self, value: Any) -> None:
        import keras
        from keras.src.ops.node import Node
        from keras.src.ops.symbolic_arguments import SymbolicArguments
        from keras.src.utils.tracking import Tracker

        # What layers are linked by is copied with them; anything else is shared, variables above all.
        self.kinds = (keras.Operation, keras.KerasTensor, Node, SymbolicArguments, Tracker)
        if isinstance(value, types.MethodType):
            self.kinds = (*self.kinds, type(value.__self__))
        elif isinstance(vars(type(value)).get("__call__"), types.FunctionType):  # an object that is called
            self.kinds = (*self.kinds, type(value))
        self.made: dict[int, Any] = {}
        self.unfilled: list[tuple[Any, Any]] = []
        self.follows = True

    def of(self, value: Any) -> Any:
        """Returns what stands for a value in the copy; objects are filled by `finish`."""
        if id(value) in self.made:
            return self.made[id(value)]
        self.made[id(value)] = value  # what refers to itself on the way
        if isinstance(value, self.kinds):
            self.made[id(value)] = object.__new__(type(value))
            self.unfilled.append((value, self.made[id(value)]))
        elif isinstance(value, types.FunctionType):
            self.made[id(value)] = self._function(value)
        elif isinstance(value, types.MethodType) and self.of(value.__self__) is not value.__self__:
            return types.MethodType(value.__func__, self.of(value.__self__))
        elif isinstance(value, functools.partial):
            parts = self.of(value.func), self.of(value.args), self.of(value.keywords)
            return functools.partial(parts[0], *parts[1], **parts[2])
        elif isinstance(value, (list, tuple, set, dict)):
            self.made[id(value)] = self._container(value)
        return self.made[id(value)]

    def finish(self, change: Callable[[Any, Any], None]) -> None:
        """Fills the copies, and changes the layers among them."""
        import keras

        # The functions of layers are those of Keras and others, which are known by identity.
        self.follows, filled = False, list[tuple[Any, Any]]()
        while self.unfilled:
            original, copy = self.unfilled.pop()
            filled.append((original, copy))
            for name, part in vars(original).items():
                vars(copy)[name] = self.of(part)
                if isinstance(part, list) and vars(copy)[name] is part:  # a list that the original may yet add to
                    vars(copy)[name] = self.made[id(part)] = list(part)
        for original, copy in filled:
            if isinstance(copy, keras.Model):  # what is compiled is the original
                copy.train_function = copy.test_function = copy.predict_function = None
            if isinstance(copy, keras.Layer):
                change(copy, original)

    def _container(self, value: Any) -> Any:
        """Returns a container with what stands for its parts; the same one if they stand for themselves."""
        if isinstance(value, Mapping):
            pairs = [(self.of(key), self.of(part)) for key, part in value.items()]
            same = all(one is key and other is value[key] for (one, other), key in zip(pairs, value, strict=True))
            return value if same else dict(pairs)
        parts = [self.of(part) for part in value]
        if all(one is other for one, other in zip(parts, value, strict=True)):
            return value
        if isinstance(value, tuple):
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return set(parts) if isinstance(value, set) else parts

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        """Returns a function with what stands for its closure, its defaults and the globals that are followed."""
        cells, known = value.__closure__ or (), value.__globals__
        made = tuple(types.CellType() for _ in cells)
        named = {name: known[name] for name in value.__code__.co_names if self._is_followed(known.get(name), known)}
        self.made[id(value)] = copy = types.FunctionType(
            value.__code__, {**known} if named else known, value.__name__, None, made
        )
        found = [(cell, new, cell.cell_contents) for cell, new in zip(cells, made, strict=True) if _is_full(cell)]
        parts = [(content, self.of(content)) for _, _, content in found]
        parts += [(part, self.of(part)) for part in (value.__defaults__, value.__kwdefaults__, *named.values())]
        if all(new is old or new is copy for old, new in parts):
            return value
        for _, new, content in found:
            new.cell_contents = self.of(content)
        for name, part in named.items():
            copy.__globals__[name] = self.of(part)
        copy.__defaults__, copy.__kwdefaults__ = self.of(value.__defaults__), self.of(value.__kwdefaults__)
        copy.__dict__.update(value.__dict__)
        return copy

    def _is_followed(self, value: Any, known: Mapping[str, Any]) -> bool:
        """True for a global that is a layer, or a function of the same module, which may call one."""
        if isinstance(value, types.FunctionType):
            return self.follows and value.__globals__ is known
        return isinstance(value, self.kinds)


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
