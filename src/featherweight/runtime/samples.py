"""What users feed to models: checks every sample, and turns it into arrays that the model takes.

A sample is an array, a tuple (or list) of arrays in the order of the model's inputs, or a dict by input name;
its arrays may come from NumPy, JAX, torch or TensorFlow. An array of the model's own rank is a batch, one of
a rank less is a single example. All complaints about user data are raised here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import DataError, listed
from featherweight.graph import Model, Tensor, io_names
from featherweight.graph.numerics import storage_dtype
from featherweight.operators.entries import entries
from featherweight.runtime.batches import Feed, cut, has_free_batch, regrouped, rows_of, unit_of

__all__ = [
    "Feed",
    "as_feeds",
    "by_signature",
    "checked_arrays",
    "feeds",
    "has_free_batch",
    "input_tensors",
    "known_length",
]

_FLOATS = {"float16", "bfloat16", "float32", "float64"}


def as_feeds(
    samples: Iterable[Any], model: Model, limit: int | None = None, batch: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields what to feed to the model, run by run: public input name → array with a batch dimension.

    A model of fixed batch gets exactly its batch in each run: larger samples are split, smaller ones joined.
    Where the batch is free, samples go as they come, or regrouped to `batch` examples. At most `limit`
    examples are used.

    Raises:
        DataError: if a sample does not fit the model or holds NaN or infinity, or if there are none.
    """
    for feed in feeds(samples, model, limit=limit, batch=batch):
        yield feed.arrays


def feeds(
    samples: Iterable[Any],
    model: Model,
    *,
    limit: int | None = None,
    batch: int | None = None,
    finite: bool = True,
) -> Iterator[Feed]:
    """Yields `Feed`s as `as_feeds` does; without `finite`, NaN and infinity may pass.

    Raises:
        DataError: as `as_feeds`.
    """
    for name, value in (("limit", limit), ("batch", batch)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; it must be at least 1 (or left out).")
    inputs = input_tensors(model)
    unit = unit_of(inputs, batch)
    checked = _checked(_iterable(samples), inputs, finite=finite)
    left = limit
    for feed in checked if unit is None else regrouped(checked, unit, inputs, left):
        if left is not None and feed.rows > left and unit is None:
            feed = cut(feed, left, inputs)
        yield feed
        if left is not None:
            left -= feed.rows
            if left <= 0:
                return


def by_signature(samples: Any, model: Model) -> dict[int, Any]:
    """Returns graph → samples, which are one collection for the first graph, or one for each signature by its name.

    Raises:
        DataError: if a signature is named that the model has not.
    """
    keys = [signature.key for signature in model.signatures if signature.graph in entries(model)]
    inputs = input_tensors(model)
    named = {str(key) for key in samples} if isinstance(samples, Mapping) else set[str]()
    several = len(set(entries(model))) > 1
    if not named or (named <= inputs.keys() and not (several and named <= set(keys))):
        return {0: samples}
    if unknown := sorted(named - set(keys)):
        if not several:
            return {0: samples}  # one sample, whose names are wrong
        raise DataError(
            f"samples name '{unknown[0]}', which is no signature of the model (allowed: {listed(keys)}). Give each "
            "signature its own samples: {'name': samples, …}."
        )
    found: dict[int, Any] = {}
    for signature in model.signatures:
        if signature.key in samples:
            given = samples[signature.key]
            found[signature.graph] = [*found[signature.graph], *given] if signature.graph in found else given
    return found


def input_tensors(model: Model) -> dict[str, Tensor]:
    """Returns public input name → tensor of the main graph."""
    return {name: model.main.tensors[tensor] for name, tensor in io_names(model)[0].items()}


def known_length(samples: object) -> int | None:
    """Returns how many samples there are, or None where that can't be known without consuming them."""
    try:
        return len(samples)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def checked_arrays(
    sample: Any, inputs: Mapping[str, Tensor], number: int | None = None, *, finite: bool = True
) -> dict[str, np.ndarray]:
    """Returns one sample as public input name → array with a batch dimension, in the input's dtype.

    `number` is the sample's, for messages.

    Raises:
        DataError: if the sample does not fit the inputs, or (with `finite`) holds NaN or infinity.
    """
    parts = _parts(sample, inputs, number)
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in inputs.items():
        where = f"{_sample(number)}input '{name}'"
        array = _with_batch(_cast(_array(parts[name], where), tensor, where), tensor, where)
        if finite and tensor.dtype in _FLOATS and not np.isfinite(array).all():
            place = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
            found = "NaN" if np.isnan(array[place]) else "infinity"
            raise DataError(
                f"{where}: it holds {found} (first at {[int(i) for i in place]}); samples must be finite "
                "numbers. Remove or repair this sample."
            )
        arrays[name] = array
    return arrays


def _sample(number: int | None) -> str:
    return "" if number is None else f"sample {number}, "


def _iterable(samples: Any) -> Iterator[Any]:
    """Yields the samples; raises if there are none, or if it is no collection of samples."""
    if isinstance(samples, (str, bytes, Path)):
        raise DataError(f"samples are {type(samples).__name__} {samples!r:.60}; load the data first and pass arrays.")
    try:
        iterator = iter([samples] if isinstance(samples, Mapping) else samples)
    except TypeError:
        raise DataError(
            f"samples are a {type(samples).__name__}, which can't be iterated over. Pass a list, an array or "
            "a generator of samples."
        ) from None
    none_yet = True
    for sample in iterator:
        none_yet = False
        yield sample
    if none_yet and iterator is samples:
        raise DataError(
            "the iterator gave no samples: it is empty, or something consumed it before. Pass a fresh one, or a list."
        )
    if none_yet:
        raise DataError("there are no samples: the collection is empty. At least one is needed.")


def _checked(samples: Iterator[Any], inputs: Mapping[str, Tensor], *, finite: bool) -> Iterator[Feed]:
    for number, sample in enumerate(samples):
        arrays = checked_arrays(sample, inputs, number, finite=finite)
        rows = rows_of(arrays, inputs, f"sample {number}: ")
        yield Feed(arrays, rows, number, number)


def _parts(sample: Any, inputs: Mapping[str, Tensor], number: int | None) -> dict[str, Any]:
    """Returns public input name → what the sample holds for it."""
    what = "the given inputs" if number is None else f"sample {number}"
    wanted = f"the model takes {len(inputs)} ({listed(inputs)})"
    if isinstance(sample, Mapping):
        aliases = {tensor.name: name for name, tensor in inputs.items()}
        named: dict[str, Any] = {}
        for key, value in sample.items():
            named[str(key) if key in inputs else aliases.get(str(key), str(key))] = value
        wrong = [key for key in named if key not in inputs] or [name for name in inputs if name not in named]
        if wrong:
            verdict = "is not an input of the model" if wrong[0] in named else "is missing"
            raise DataError(f"{what}: '{wrong[0]}' {verdict}; its inputs are {listed(inputs)}.")
        return named
    if isinstance(sample, tuple) or (isinstance(sample, list) and any(hasattr(part, "shape") for part in sample)):
        if len(sample) != len(inputs):
            hint = " Leave labels out: `(x for x, y in data)`." if len(sample) > len(inputs) else ""
            raise DataError(f"{what} holds {len(sample)} arrays, but {wanted}.{hint}")
        return dict(zip(inputs, sample, strict=True))
    if len(inputs) != 1:
        raise DataError(f"{what} is one {type(sample).__name__}, but {wanted}. Give a tuple, or a dict by input name.")
    return {next(iter(inputs)): sample}


def _array(value: Any, where: str) -> np.ndarray:
    """Returns what a framework's tensor, a list or a number holds as a NumPy array."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{where}: a {type(value).__name__} can't be read as an array ({error}).") from error


def _with_batch(array: np.ndarray, tensor: Tensor, where: str) -> np.ndarray:
    """Returns the array with a batch dimension; its shape fits the tensor's but for the size of the batch."""
    wanted = tensor.shape if tensor.shape_signature is None else tensor.shape_signature
    result = array
    if array.ndim == len(wanted) - 1:
        result = array[np.newaxis]
    shown = str(["any" if size == -1 else size for size in wanted]).replace("'any'", "any")
    single = str(["any" if size == -1 else size for size in wanted[1:]]).replace("'any'", "any")
    ways = f"the model takes {shown}" + (f", or {single} for one example" if wanted else "")
    if result.ndim != len(wanted):
        raise DataError(f"{where}: its shape {list(array.shape)} has rank {array.ndim}; {ways}.")
    if any(size not in (-1, found) for size, found in zip(wanted[1:], result.shape[1:], strict=True)):
        raise DataError(f"{where}: its shape is {list(array.shape)}; {ways}.")
    if result.ndim and result.shape[0] == 0 and wanted[0] != 0:
        raise DataError(f"{where}: its shape {list(array.shape)} holds no example; {ways}.")
    return result


def _cast(array: np.ndarray, tensor: Tensor, where: str) -> np.ndarray:
    """Returns the array in the tensor's dtype; raises where that would change what the numbers mean."""
    found, wanted = array.dtype.name, tensor.dtype
    if wanted == "string" or array.dtype.kind not in "biufV" or (array.dtype.kind == "V" and found not in _FLOATS):
        raise DataError(f"{where}: its dtype is {found}; the model takes {wanted}.")
    if wanted in _FLOATS:
        if array.dtype.kind == "b":
            raise DataError(f"{where}: its dtype is bool; the model takes {wanted}. Convert it to numbers first.")
        with np.errstate(over="ignore"):  # what overflows is reported as infinity
            return array.astype(storage_dtype(wanted), copy=False)
    if wanted == "bool":
        if found != "bool":
            raise DataError(f"{where}: its dtype is {found}; the model takes bool.")
        return array
    if array.dtype.kind not in "iu":
        hint = " Quantize it first: numerics.quantize(x, params)." if tensor.quant is not None else ""
        raise DataError(f"{where}: its dtype is {found}; the model takes {wanted}.{hint}")
    result = array.astype(storage_dtype(wanted), copy=False)
    if found != wanted and not np.array_equal(result.astype(array.dtype), array):
        raise DataError(
            f"{where}: its values from {array.min()} to {array.max()} don't fit {wanted}, the model's dtype."
        )
    return result
