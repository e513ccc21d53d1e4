"""What is lowered, whatever the framework: a function over named arrays that can be traced and called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import LoweringError


@dataclass(frozen=True)
class Input:
    """One input: its public name, its shape (None for a free size) and its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def has_free_batch(self) -> bool:
        """Whether the first size, by convention the batch, is free."""
        return bool(self.shape) and self.shape[0] is None

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape with its free batch set.

        Raises:
            LoweringError: if another size is free.
        """
        shape = (batch, *self.shape[1:]) if self.has_free_batch else self.shape
        if any(size is None for size in shape):
            raise LoweringError(
                f"Input '{self.name}' has the free sizes {list(self.shape)}; only the batch, the first, may be free. "
                f"Say the others: input_shapes={{'{self.name}': {_example(self.shape)}}}."
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
    """

    call: Callable[..., Sequence[Any]]
    inputs: tuple[Input, ...]
    outputs: Sequence[str] = ()
    title: str = "model"
    scope: str = ""


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
        LoweringError: if a name is unknown, or the number of shapes differs.
    """
    if shapes is None:
        return tuple(inputs)
    if isinstance(shapes, Mapping):
        unknown = [name for name in shapes if name not in {i.name for i in inputs}]
        if unknown:
            known = ", ".join(i.name for i in inputs)
            raise LoweringError(f"input_shapes names '{unknown[0]}', but the inputs are: {known}.")
        return tuple(Input(i.name, tuple(shapes.get(i.name, i.shape)), i.dtype) for i in inputs)
    listed = shape_list(shapes)
    if len(listed) != len(inputs):
        raise LoweringError(f"input_shapes has {len(listed)} shapes; the model has {len(inputs)} inputs.")
    return tuple(Input(i.name, shape, i.dtype) for i, shape in zip(inputs, listed, strict=True))


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
                f"A sample has no array for input '{missing[0]}'; it names: {', '.join(map(str, sample))}."
            )
        arrays = [sample[i.name] for i in inputs]
    else:
        arrays = list(sample) if isinstance(sample, (tuple, list)) and len(inputs) > 1 else [sample]
        if isinstance(sample, (tuple, list)) and len(inputs) == 1 and len(sample) == 1:
            arrays = list(sample)
    if len(arrays) != len(inputs):
        raise LoweringError(f"A sample has {len(arrays)} arrays; the model has {len(inputs)} inputs.")
    return [np.asarray(array) for array in arrays]


def _example(shape: Sequence[int | None]) -> str:
    return str(tuple(shape[:1]) + tuple(64 if size is None else size for size in shape[1:]))
