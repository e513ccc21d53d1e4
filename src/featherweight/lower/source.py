"""What is lowered, whatever the framework: a function over named arrays that can be traced and called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featherweight.errors import LoweringError


class FreeSizesError(LoweringError):
    """Raised where an input leaves sizes besides its batch free, and nothing says them."""


@dataclass(frozen=True)
class Input:
    """One input: its public name, its shape (None for a free size), its dtype, and what a user should know of it."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    note: str = ""

    @property
    def has_free_batch(self) -> bool:
        """Whether the first size, by convention the batch, is free."""
        return bool(self.shape) and self.shape[0] is None

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape with its free batch set.

        Raises:
            FreeSizesError: if another size is free.
        """
        shape = (batch, *self.shape[1:]) if self.has_free_batch else self.shape
        if any(size is None for size in shape):
            raise FreeSizesError(
                f"Input '{self.name}' has the free sizes {list(self.shape)}; only the batch, the first, may be free. "
                f"Say the others: pass samples that have them, or input_shapes={{'{self.name}': "
                f"{_example(self.shape)}}} (--input-shape {self.name}=1,64 … in a shell)."
            )
        return tuple(int(size) for size in shape if size is not None)


@dataclass(frozen=True)
class Source:
    """A function to lower: flat arrays in, in the order of `inputs`; flat arrays out, in the order of `outputs`.

    Attributes:
        call: the function, traceable by JAX.
        outputs: public output names; may be a list that `call` fills. Empty: ``output_0``, ``output_1`` …
        title: what messages call it.
        scope: the name scope around all of it, which tensor names are to leave out.
        with_state: once `call` was traced, returns the source whose last inputs and outputs are the state that it keeps
            between calls, with its initial values by name; None where it keeps none.
    """

    call: Callable[..., Sequence[Any]]
    inputs: tuple[Input, ...]
    outputs: Sequence[str] = ()
    title: str = "model"
    scope: str = ""
    with_state: Callable[[], Stateful | None] = lambda: None


Stateful = tuple[Source, Mapping[str, np.ndarray], tuple[str, ...]]
"""A source that takes and gives its state, the state's initial values by name, and notes."""


def first_samples(samples: Iterable[Any] | None, inputs: Sequence[Input], count: int = 3) -> list[list[np.ndarray]]:
    """Returns up to `count` samples, each as one array per input (in order), without the batch dimension set.

    A sample is an array, a tuple in the order of the inputs, or a dict by input name; it may have a batch dimension.

    Raises:
        LoweringError: if a sample does not name every input, or has another number of arrays.
    """
    found: list[list[np.ndarray]] = []
    for sample in samples or ():
        found.append(_arrays(sample, inputs))
        if len(found) == count:
            break
    return found


def with_input_shapes(inputs: Sequence[Input], shapes: Any) -> tuple[Input, ...]:
    """Replaces the shapes of inputs: by a dict by name, a list in order, or one shape for a single input.

    Raises:
        LoweringError: if a name is unknown, the number of shapes differs, or one does not fit what the model says.
    """
    if shapes is None:
        return tuple(inputs)
    if isinstance(shapes, Mapping):
        unknown = [name for name in shapes if name not in {i.name for i in inputs}]
        if unknown:
            known = ", ".join(i.name for i in inputs)
            raise LoweringError(f"input_shapes names '{unknown[0]}', but the inputs are: {known}. Name one of these.")
        return tuple(_reshaped(i, tuple(shapes.get(i.name, i.shape))) for i in inputs)
    listed = shape_list(shapes)
    if len(listed) != len(inputs):
        raise LoweringError(
            f"input_shapes has {len(listed)} shapes; the model has {len(inputs)} inputs. Give one for each."
        )
    return tuple(_reshaped(i, shape) for i, shape in zip(inputs, listed, strict=True))


def _reshaped(item: Input, shape: tuple[int | None, ...]) -> Input:
    fits = len(shape) == len(item.shape) and all(
        known is None or size in {known, None} for size, known in zip(shape, item.shape, strict=True)
    )
    if not fits:
        raise LoweringError(
            f"input_shapes gives '{item.name}' the shape {list(shape)}, which does not fit the model's "
            f"{list(item.shape)} (None: free). Give every size, the batch included."
        )
    return replace(item, shape=tuple(k if size is None else size for size, k in zip(shape, item.shape, strict=True)))


def sized(inputs: Sequence[Input], samples: Sequence[Any] | None) -> tuple[Input, ...]:
    """Takes the sizes that inputs leave free, all but the batch, from the first sample; a note of the input says so."""
    if not samples or all(None not in item.shape[1:] for item in inputs):
        return tuple(inputs)
    found: list[Input] = []
    for item, array in zip(inputs, _arrays(samples[0], inputs), strict=True):
        sizes = array.shape[1:] if array.ndim == len(item.shape) else array.shape
        if None not in item.shape[1:] or len(sizes) != len(item.shape) - 1:
            found.append(item)
            continue
        shape = (item.shape[0], *(s if k is None else k for s, k in zip(sizes, item.shape[1:], strict=True)))
        said = (
            f"Input '{item.name}' leaves sizes free, {list(item.shape)}: {list(shape)} is taken, as in the first sample"
        )
        found.append(replace(item, shape=shape, note=f"{said} (input_shapes sets others)."))
    return tuple(found)


# What stands for a type that kernels for floats and ids lack.
_NARROWER = {"int64": "int32", "uint64": "uint32", "float64": "float32"}
_WIDER = {"float16": "float32", "bfloat16": "float32"}


def narrowed(inputs: Sequence[Input], *, half: bool) -> tuple[Input, ...]:
    """Gives inputs of 64 bits 32, with a note, and with `half` floats of 16 bits too."""
    found: list[Input] = []
    for item in inputs:
        dtype = {**_NARROWER, **(_WIDER if half else {})}.get(item.dtype, item.dtype)
        said = "" if dtype == item.dtype else f"Input '{item.name}' is {item.dtype} in the model, {dtype} in its graph."
        found.append(replace(item, dtype=dtype, note=" ".join(filter(None, (item.note, said)))))
    return tuple(found)


def shape_list(shapes: Any) -> list[tuple[int | None, ...]]:
    """Reads one shape, or a list of shapes, into a list of shapes."""
    if all(size is None or isinstance(size, (int, np.integer)) for size in shapes):
        return [tuple(shapes)]
    return [tuple(shape) for shape in shapes]


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers names that occur more than once.

    >>> unique_names(["a", "b", "a"])
    ('a', 'b', 'a_1')
    """
    taken: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.append(candidate)
    return tuple(taken)


def _arrays(sample: Any, inputs: Sequence[Input]) -> list[np.ndarray]:
    if isinstance(sample, Mapping):
        missing = [i.name for i in inputs if i.name not in sample]
        if missing:
            raise LoweringError(
                f"A sample has no array for input '{missing[0]}'; it names: {', '.join(map(str, sample))}. Add it."
            )
        arrays = [sample[i.name] for i in inputs]
    else:
        arrays = list(sample) if isinstance(sample, (tuple, list)) and len(inputs) > 1 else [sample]
        if isinstance(sample, (tuple, list)) and len(inputs) == 1 and len(sample) == 1:
            arrays = list(sample)
    if len(arrays) != len(inputs):
        raise LoweringError(
            f"A sample has {len(arrays)} arrays; the model has {len(inputs)} inputs. Give one for each."
        )
    return [as_row(np.asarray(array), len(item.shape)) for array, item in zip(arrays, inputs, strict=True)]


def as_row(sample: Any, rank: int) -> Any:
    """Returns a sample, cut out of an array of samples as ``array[i : i + 1]``, as an input of this rank takes it.

    Where the rows of the array have a batch dimension of their own, that is ``array[i]``.
    """
    return sample[0] if getattr(sample, "ndim", 0) == rank + 1 and len(sample) == 1 else sample


def _example(shape: Sequence[int | None]) -> str:
    return str(tuple(shape[:1]) + tuple(64 if size is None else size for size in shape[1:]))
