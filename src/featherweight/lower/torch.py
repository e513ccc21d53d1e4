"""Lowers PyTorch modules through `litert-torch`; inputs stay as the module has them (images: channels first)."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight import keras_internals
from featherweight.errors import LoweringError
from featherweight.graph import Model, Signature
from featherweight.lower import names, torch_converter
from featherweight.lower.checking import Check, Lowered, batch_of, checked, unfused
from featherweight.lower.converter import SIGNATURE
from featherweight.lower.source import Input, as_row, first_samples, unique_names


def lower_module(module: Any, samples: Sequence[Any] | None, *, fuse: bool = False) -> Lowered:
    """Lowers a `torch.nn.Module` in evaluation mode, verified against it; the module stays as it is.

    Args:
        module: takes tensors, as positional arguments.
        samples: examples of its inputs, an array or a tuple each; the first dimension is the batch, and is freed
            where the module allows it.
        fuse: note that recurrent layers are not fused, if there are any.

    Raises:
        LoweringError: if there is no sample, if litert-torch is not installed or fails, or if the result differs.
    """
    import torch

    if not samples:
        raise LoweringError(
            f"The module {type(module).__name__} does not say the shapes of its inputs. "
            "Pass an example of them, with a batch dimension: samples=[x], or samples=[(x, y)]."
        )
    title = f"torch module {type(module).__name__}"
    module, notes = _in_float32(module, title)
    sample, given = samples[0], _taken(module, [_arrays(s) for s in samples])
    arrays = given[0]
    named = _argument_names(module, sample, len(arrays))
    inputs = tuple(
        Input(n, (None, *a.shape[1:]) if a.ndim else (), _narrow(a.dtype)) for n, a in zip(named, arrays, strict=True)
    )
    lowered = _lower(module, inputs, first_samples(given, inputs), title)
    lowered = replace(lowered, notes=(*notes, *lowered.notes))
    is_recurrent = any(isinstance(part, torch.nn.RNNBase) for part in module.modules())
    return unfused(lowered, "litert-torch") if fuse and is_recurrent else lowered


def _in_float32(module: Any, title: str) -> tuple[Any, tuple[str, ...]]:
    """Returns a copy of a module whose weights are of 16 bits with the same in float32, and a note; or the module."""
    import torch

    values = (*module.parameters(), *module.buffers())
    half = sorted({str(v.dtype) for v in values if v.dtype in (torch.float16, torch.bfloat16)})
    if not half:
        return module, ()
    return copy.deepcopy(module).float(), (f"The {title} holds {' and '.join(half)}, and its graph float32.",)


def lower_keras(model: Any, *, unroll: bool, fuse: bool, samples: Sequence[Any] | None, input_shapes: Any) -> Lowered:
    """Lowers a Keras model that lives on the torch backend, as a module.

    Raises:
        LoweringError: as `lower_module`, or if loops are to be unrolled.
    """
    import torch

    from featherweight.lower import keras as keras_models

    if unroll:
        raise LoweringError("The torch converter can't unroll. Set unroll=True on the recurrent layers themselves.")
    live = keras_models.read_live(model, samples, input_shapes)

    class Module(torch.nn.Module):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return tuple(live.trace(*tensors))

    given = first_samples(samples, live.inputs)
    lowered = _lower(Module(), live.inputs, given, live.title, outputs=live.outputs)
    is_recurrent = any(hasattr(layer, "unroll") for layer in keras_internals.layers_of(model))
    return unfused(lowered, "litert-torch") if fuse and is_recurrent else lowered


def _lower(
    module: Any, inputs: Sequence[Input], given: Sequence[Sequence[np.ndarray]], title: str, outputs: Sequence[str] = ()
) -> Lowered:
    import torch

    with _evaluating(module):

        def run(arrays: Sequence[np.ndarray], _: int) -> list[np.ndarray]:
            with torch.no_grad():
                return [np.asarray(value.cpu()) for value in _flat(module(*_tensors(arrays)))]

        def exact(arrays: Sequence[np.ndarray], _: int) -> list[np.ndarray]:
            double = copy.deepcopy(module).double()
            with torch.no_grad():
                values = [t.double() if t.is_floating_point() else t for t in _tensors(arrays)]
                return [np.asarray(value.cpu()) for value in _flat(double(*values))]

        example = batch_of(given, inputs, 1) or [np.zeros(item.at(1), item.dtype) for item in inputs]
        produced = _called(module, example, title)
        public = unique_names(outputs or _output_names(produced))
        check = Check(title, inputs, public, run, samples=given, exact=exact)
        sizes = (2,)  # What is folded at a batch of 1 can't be freed, and converting is what takes the time.
        return checked(
            check, lambda size: _converted(module, inputs, public, _resized(example, inputs, size), title), sizes
        )


def _taken(module: Any, samples: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Returns samples as a module takes them: without an axis of one before their batch, if it takes them so only.

    Rows of an array of samples may be examples, or batches; of a module, calling it says which.
    """
    rows = [[as_row(array, max(array.ndim - 1, 0)) for array in arrays] for arrays in samples]
    return samples if _takes(module, samples[0]) or not _takes(module, rows[0]) else rows


def _takes(module: Any, arrays: Sequence[np.ndarray]) -> bool:
    with contextlib.suppress(LoweringError), _evaluating(module):
        _called(module, arrays, "module")
        return True
    return False


def _called(module: Any, arrays: Sequence[np.ndarray], title: str) -> Any:
    import torch

    try:
        with torch.no_grad():
            return module(*_tensors(arrays))
    except Exception as error:  # Whatever the module's own code raises.
        shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
        raise LoweringError(
            f"The {title} can't be called on {shapes}: {type(error).__name__}: {' '.join(str(error).split())[:300]}. "
            "Pass samples that it takes, each with its batch dimension."
        ) from error


def _converted(
    module: Any, inputs: Sequence[Input], outputs: Sequence[str], arrays: Sequence[np.ndarray], title: str
) -> Model:
    from featherweight.tflite import read

    data = torch_converter.convert(module, _tensors(arrays), title)
    model = read(data)
    signature = Signature(
        SIGNATURE,
        tuple(zip((item.name for item in inputs), model.main.inputs, strict=True)),
        tuple(zip(outputs, model.main.outputs, strict=True)),
    )
    model = replace(model, signatures=(signature,), metadata={})
    return names.renamed(model, layers=torch_converter.weighted_layers(module))


@contextlib.contextmanager
def _evaluating(module: Any) -> Generator[None]:
    """Puts a module and its parts into evaluation mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Arrays as tensors; 32-bit integers become the 64-bit ones that torch indexes with."""
    import torch

    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return [t.long() if t.dtype == torch.int32 else t for t in tensors]


def _resized(arrays: Sequence[np.ndarray], inputs: Sequence[Input], size: int) -> list[np.ndarray]:
    return [
        np.concatenate([array[:1]] * size) if item.has_free_batch else array
        for array, item in zip(arrays, inputs, strict=True)
    ]


def _arrays(sample: Any) -> list[np.ndarray]:
    parts = list(sample.values()) if isinstance(sample, Mapping) else sample
    parts = parts if isinstance(parts, (tuple, list)) else [parts]
    arrays = [_array(part) for part in parts]
    return [array.astype(_narrow(array.dtype), copy=False) for array in arrays]


def _array(part: Any) -> np.ndarray:
    if not hasattr(part, "detach"):
        return np.asarray(part)
    part = part.detach().cpu()
    return np.asarray(part.float() if part.is_floating_point() else part)


def _narrow(dtype: np.dtype[Any]) -> str:
    """The dtype on the device: the converter has no 64-bit inputs, and kernels no floats of 16 bits."""
    return {"int64": "int32", **dict.fromkeys(("float64", "float16", "bfloat16"), "float32")}.get(
        dtype.name, dtype.name
    )


def _argument_names(module: Any, sample: Any, count: int) -> tuple[str, ...]:
    if isinstance(sample, Mapping):
        return tuple(str(key) for key in sample)
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    if len(parameters) >= count:
        return tuple(p.name for p in parameters[:count])
    return tuple(f"input_{i}" for i in range(count))


def _flat(outputs: Any) -> list[Any]:
    from torch.utils import _pytree

    return list(_pytree.tree_flatten(outputs)[0])


def _output_names(outputs: Any) -> list[str]:
    if isinstance(outputs, Mapping):
        return [str(key) for key in outputs]
    count = len(_flat(outputs))
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
