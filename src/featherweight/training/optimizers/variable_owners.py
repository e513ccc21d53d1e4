"""The kernels among an optimizer's variables: which layer owns each, how the runtime reads it, which stay dense.

An optimizer is given variables, not a model. The layers that own them are those of the model that `fit` or the loading
of a file builds it for, or that the user names; what no layer owns is judged by its name and rank alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras

from featherweight import keras_internals
from featherweight.errors import RecipeError
from featherweight.operators import lookup
from featherweight.pruning.prunable import Kernel, stored_layout
from featherweight.sparsity.weight_layouts import (
    Layout,
    conv_layout,
    dense_layout,
    depthwise_layout,
    embedding_layout,
    transposed_conv_layout,
)
from featherweight.training.graph.graph_model import GraphModel
from featherweight.training.optimizers.wrapping import path_of

# What a variable of a custom layer is called if it is no kernel.
_NO_KERNELS = ("bias", "gamma", "beta", "alpha", "scale", "offset", "moving_mean", "moving_variance")
# What a matrix of Keras's layers is called if it is a kernel.
_MATRICES = ("kernel", "recurrent_kernel", "embeddings")


def references(model: Any) -> tuple[weakref.ref[Any], ...] | None:
    """Returns weak references to a model or several; None for None."""
    models = (model,) if isinstance(model, keras.Layer) else model
    return None if models is None else tuple(weakref.ref(one) for one in models)


def find_layers(
    variables: Sequence[Any], named: Iterable[weakref.ref[Any]] | None, wrapper: str, *, is_unstructured: bool
) -> list[Any]:
    """Returns the layers that may own variables, models among them.

    Args:
        variables: what is trained.
        named: the models that the user names; None for the one that calls.
        wrapper: the class of the optimizer that asks, for messages.
        is_unstructured: whether weights go one by one. Matrices can then do without a model: their names say enough.

    Raises:
        RecipeError: if the model is not known, and whether or how a variable is pruned depends on it.
    """
    if named is None:
        caller = keras_internals.calling_model(variables)
        models = [] if caller is None else [caller]
        unknown = (v for v in variables if caller is None and not _is_known_by_name(v, is_unstructured))
        if (variable := next(unknown, None)) is not None:
            raise RecipeError(
                f"{wrapper}: what becomes of '{path_of(variable)}' depends on its layer, and outside of fit it is "
                f"given variables only. Name the model: {wrapper}(…, model=model), or model=() if there is none."
            )
    else:
        models = [model for model in (reference() for reference in named) if model is not None]
    return list(dict.fromkeys(layer for model in models for layer in keras_internals.layers_of(model)))


def _is_known_by_name(variable: Any, is_unstructured: bool) -> bool:
    name, rank = str(variable.name), len(variable.shape)
    if rank < 2 or any(part in name for part in _NO_KERNELS):
        return True
    return rank == 2 and name in _MATRICES and is_unstructured


def find_kernels(variables: Sequence[Any], layers: Sequence[Any]) -> list[Kernel]:
    """Returns the kernels among variables, in their order, with the role of each."""
    owners, stored = _owners(variables, layers), _graph_kernels(layers)
    graph_variables = {id(v) for model in layers if isinstance(model, GraphModel) for v in model.trainable_variables}
    kernels: list[Kernel] = []
    for index, variable in enumerate(variables):
        if id(variable) in graph_variables:
            described = stored.get(id(variable))
        else:
            described = _describe(variable, owners.get(id(variable)))
        if described is not None:
            kernels.append(Kernel(index, path_of(variable), *described))
    return _with_roles(kernels)


def _owners(variables: Sequence[Any], layers: Iterable[Any]) -> dict[int, Any]:
    """Maps the id of each variable to its layer; of several, to the one that the variable's path begins with."""
    wanted = {id(variable): variable for variable in variables}
    owners: dict[int, Any] = {}
    for layer in layers:
        for variable in keras_internals.own_trainable_variables(layer):
            key = id(variable)
            if key in wanted and (key not in owners or path_of(variable) == f"{layer.path}/{variable.name}"):
                owners[key] = layer
    return owners


def _graph_kernels(layers: Iterable[Any]) -> dict[int, tuple[str, Layout]]:
    """Maps the ids of the kernels of graph models, which are stored as the runtime reads them, to kind and layout."""
    found: dict[int, tuple[str, Layout]] = {}
    for model in layers:
        if not isinstance(model, GraphModel):
            continue
        for entry in model.layer_table:
            role = (entry.variable or "").rpartition("/")[2]
            variable = model.variables_by_tensor.get(entry.tensor)
            if variable is not None and len(variable.shape) > 1 and ("kernel" in role or "embeddings" in role):
                op = lookup(entry.op)
                found[id(variable)] = op.weight_kind or "dense", stored_layout(op, tuple(variable.shape))
    return found


def _describe(variable: Any, owner: Any) -> tuple[str, Layout] | None:
    """Returns the kind and the layout of a kernel, None for what is none."""
    name, shape = str(variable.name), tuple(variable.shape)
    if len(shape) < 2:
        return None
    for kinds, names, describe in _BUILT_IN:
        if isinstance(owner, kinds) and name in names:
            return describe(owner, name, shape)
    is_of_keras = type(owner).__module__.startswith("keras.") and name not in _RECURRENT
    if is_of_keras or any(part in name for part in _NO_KERNELS):
        return None
    if owner is None and name == "recurrent_kernel" and len(shape) == 2:
        return "recurrent", dense_layout(shape)
    if "embedding" in name and len(shape) == 2:
        return "embedding", embedding_layout(shape)
    if "depthwise" in name and len(shape) > 2:
        return "depthwise", depthwise_layout(shape)
    return ("dense", dense_layout(shape)) if len(shape) == 2 else ("conv", conv_layout(shape))


def _einsum(owner: Any, _name: str, shape: tuple[int, ...]) -> tuple[str, Layout]:
    """Labels of the kernel that the result has are outputs; the others are summed over."""
    left, result = owner.equation.replace(" ", "").split("->")
    labels = left.split(",")[1]
    outputs = [i for i, label in enumerate(labels) if label in result]
    inputs = [i for i, label in enumerate(labels) if label not in result]
    return "dense", Layout(shape, (*outputs, *inputs), len(outputs), len(inputs))


def _recurrent(gates: int) -> Callable[[Any, str, tuple[int, ...]], tuple[str, Layout]]:
    return lambda _owner, _name, shape: ("recurrent", dense_layout(shape, gates))


def _separable(_owner: Any, name: str, shape: tuple[int, ...]) -> tuple[str, Layout]:
    return ("depthwise", depthwise_layout(shape)) if name == "depthwise_kernel" else ("conv", conv_layout(shape))


_K = keras.layers
_RECURRENT = ("kernel", "recurrent_kernel")
# The first row that a layer is an instance of decides: DepthwiseConv2D and Conv2DTranspose before Conv2D.
_BUILT_IN: tuple[tuple[Any, tuple[str, ...], Callable[[Any, str, tuple[int, ...]], tuple[str, Layout]]], ...] = (
    (_K.Embedding, ("embeddings",), lambda _, __, shape: ("embedding", embedding_layout(shape))),
    (
        (_K.DepthwiseConv1D, _K.DepthwiseConv2D),
        ("kernel",),
        lambda _, __, shape: ("depthwise", depthwise_layout(shape)),
    ),
    ((_K.SeparableConv1D, _K.SeparableConv2D), ("depthwise_kernel", "pointwise_kernel"), _separable),
    (
        (_K.Conv1DTranspose, _K.Conv2DTranspose, _K.Conv3DTranspose),
        ("kernel",),
        lambda _, __, shape: ("transposed", transposed_conv_layout(shape)),
    ),
    ((_K.Conv1D, _K.Conv2D, _K.Conv3D), ("kernel",), lambda _, __, shape: ("conv", conv_layout(shape))),
    (_K.EinsumDense, ("kernel",), _einsum),
    (_K.Dense, ("kernel",), lambda _, __, shape: ("dense", dense_layout(shape))),
    (_K.LSTMCell, _RECURRENT, _recurrent(4)),
    (_K.GRUCell, _RECURRENT, _recurrent(3)),
    (_K.SimpleRNNCell, _RECURRENT, _recurrent(1)),
)


def _with_roles(kernels: list[Kernel]) -> list[Kernel]:
    first = next((kernel for kernel in kernels if kernel.kind == "conv"), None)
    last = kernels[-1] if kernels and kernels[-1].kind in ("dense", "conv") else None
    roles = {"depthwise": [kernel.index for kernel in kernels if kernel.kind == "depthwise"]}
    roles |= {"first": [first.index] if first else [], "last": [last.index] if last else []}
    return [
        replace(kernel, role=next((role for role, members in roles.items() if kernel.index in members), ""))
        for kernel in kernels
    ]
