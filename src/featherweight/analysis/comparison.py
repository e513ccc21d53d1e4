"""Compares two versions of a model tensor by tensor on the same samples: where does the error come from?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.analysis.borders import (
    batch_size,
    dequantized,
    integer_feeds,
    matched_names,
    real_feeds,
    stored_numbers,
    takes_integers,
)
from featherweight.analysis.engines import Side, find_profiles, opened
from featherweight.analysis.inspection import arithmetic, op_name
from featherweight.analysis.tensor_errors import ErrorSums, cosine, error_sums, power_ratio_db
from featherweight.arguments import checked, count, flag, stream
from featherweight.errors import DataError, listed
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor, io_names, producers, replace_graph
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, dequantize, quantize
from featherweight.operators.profiles import Profile
from featherweight.passes.legalization import densified
from featherweight.runtime.litert import MOST_THREADS


@dataclass(frozen=True)
class TensorError:
    """The error of one tensor of the second model against the first, over all samples.

    With x the first model's value and e its error: `sqnr_db` is 10 log10(Σx²/Σe²), inf without error; `mse` is the
    mean of e², and is `rounding_mse + clipping_mse`: clipping is the part at values outside of the range that the
    tensor's integers can hold, rounding all the rest, error inherited from earlier tensors included.
    `own_sqnr_db` is the SQNR of just quantizing x with the tensor's parameters: where it is far above `sqnr_db`,
    the error came from upstream. It is None where the tensor has no integers behind it, where the first model has
    integers too, and for weights, where it would be `sqnr_db` itself.

    Attributes:
        kind: ``output`` (name is the public one), ``activation`` or ``weight``.
        op: the operator that computes the tensor in the first model; for weights the one that reads it.
        dtype: how the second model stores the tensor.
        clipped_fraction: fraction (0..1) of values outside of the integers' range.
        skipped: number of values that are not finite in the first model; they are left out.
        differing_fraction: fraction (0..1) of values with any error.
        largest_steps: `max_abs_error` in steps of the second model's integers; None where they have no single scale.
    """

    name: str
    kind: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    sqnr_db: float
    own_sqnr_db: float | None
    mse: float
    rounding_mse: float
    clipping_mse: float
    clipped_fraction: float
    cosine: float
    max_abs_error: float
    count: int
    skipped: int
    differing_fraction: float
    largest_steps: float | None


@dataclass(frozen=True, eq=False)
class _Pair:
    """One thing to compare: tensors of both models, and the parameters of the integers behind the second.

    `is_rounded` is true where the first model's values are not themselves integers on a grid.
    """

    name: str
    kind: str
    op: str
    tensor: str
    other_tensor: str
    dtype: str
    params: QuantParams | None
    is_rounded: bool = True


@checked(samples=stream, outputs_only=flag, limit=count(), threads=count(1, MOST_THREADS), progress=flag)
def compare(
    float_model: ModelLike,
    other: ModelLike,
    samples: Iterable[Any],
    *,
    profiles: Sequence[str | Profile] | None = None,
    outputs_only: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> list[TensorError]:
    """Returns the error of every tensor that both models have, and of their outputs, worst SQNR first.

    Both models run on the default runtime, with copies whose tensors are outputs; integers are compared by the
    real numbers they stand for, weights that are stored sparsely as dense ones. Memory does not grow with the number
    of samples. Tensors inside loop bodies can't be read out; the loops' results are compared.

    With `profiles`, both run on the reference kernels instead, each in its own arithmetic: give one quantized model
    twice to see what another chip's rounding does to it.

    Args:
        float_model: the model to hold the other against: what `load` takes.
        other: the model to judge: quantized, or changed in another way that keeps tensor names.
        samples: any iterable of samples; real numbers, also where a model takes integers.
        profiles: the arithmetics of the first and of the second model: names of `profiles.PROFILES`, or profiles of
            one's own. Floats are the same in all of them.
        outputs_only: compare the models' outputs and nothing else.
        limit: use at most so many examples.
        threads: threads of the runtime.
        progress: show a progress bar on terminals.

    Raises:
        DataError: if samples do not fit the first model, or the two models' inputs or outputs differ.
        FormatError: if a model can't be read, or weights are stored in a sparse form that is not understood.
        RecipeError: if there are not two profiles, one is unknown, or neither model computes with integers.
        UnsupportedOp: if a model can't run in its profile.
    """
    before, after = tflite.read(float_model), tflite.read(other)
    chosen = (None, None) if profiles is None else find_profiles(profiles, (before, after), threads)
    plain, other_plain = (replace_graph(model, 0, densified(model.main)) for model in (before, after))
    pairs, weights = _pairs(plain, other_plain)
    if outputs_only:
        pairs, weights = [pair for pair in pairs if pair.kind == "output"], []
    names = matched_names(before, after)
    rows = [row for pair in weights if (row := _weight_row(pair, plain.main, other_plain.main)) is not None]
    sums, own = [ErrorSums() for _ in pairs], [ErrorSums() for _ in pairs]
    fetched = tuple(dict.fromkeys(pair.tensor for pair in pairs))
    other_fetched = tuple(dict.fromkeys(pair.other_tensor for pair in pairs))
    size = batch_size(before, fetched, after)
    with (
        opened(before, fetched, chosen[0], threads) as first,
        opened(after, other_fetched, chosen[1], threads) as second,
    ):
        for feeds in real_feeds(samples, before, limit=limit, batch=size, label="Comparing", progress=progress):
            first.invoke(integer_feeds(feeds, before))
            second.invoke(integer_feeds({names[n]: values for n, values in feeds.items()}, after))
            for index, pair in enumerate(pairs):
                x, y = _values(pair, first, second)
                sums[index] += error_sums(x, y, pair.params)
                if pair.params is not None and pair.is_rounded:
                    own[index] += error_sums(x, _requantized(x, pair.params))
                del x, y  # views of the interpreters' memory must not outlive the round
    tensors = before.main.tensors
    rows += [_row(p, tensors[p.tensor].shape, s, o) for p, s, o in zip(pairs, sums, own, strict=True)]
    return sorted(rows, key=lambda row: (row.sqnr_db, row.cosine, row.name))


def _values(pair: _Pair, first: Side, second: Side) -> tuple[np.ndarray, np.ndarray]:
    """The real numbers of one tensor in both models."""
    tensor, other = first.model.main.tensors[pair.tensor], second.model.main.tensors[pair.other_tensor]
    x, y = dequantized(first.view(pair.tensor), tensor), dequantized(second.view(pair.other_tensor), other)
    if x.shape != y.shape:
        raise DataError(
            f"Tensor '{pair.name}' has the shape {list(x.shape)} in the float model, but {list(y.shape)} in the other: "
            "these are not two versions of one model."
        )
    return x, y


def _pairs(before: Model, after: Model) -> tuple[list[_Pair], list[_Pair]]:
    """Returns what is computed and in both models, outputs by their public names first, and the weights."""
    first, second = before.main, after.main
    outputs, other_outputs = io_names(before)[1], io_names(after)[1]
    if len(outputs) != len(other_outputs):
        raise DataError(
            f"The float model has {len(outputs)} outputs ({listed(outputs)}), the other {len(other_outputs)} "
            f"({listed(other_outputs)}): these are not two versions of one model."
        )
    by_name = set(outputs) == set(other_outputs)
    others = [other_outputs[name] for name in outputs] if by_name else list(other_outputs.values())
    written, other_written = producers(first), producers(second)
    readable = {*other_written, *second.inputs}

    def pair(name: str, kind: str, op: str, tensor: str, other: str) -> _Pair:
        source = _source(other_written, second, other)
        kept = source if kind == "weight" else second.tensors[other]
        is_rounded = _source(written, first, tensor).is_float
        return _Pair(name, kind, op, tensor, kept.name, source.dtype, _params(source), is_rounded)

    computed = [
        pair(name, "output", op_name(written[tensor]), tensor, other)
        for (name, tensor), other in zip(outputs.items(), others, strict=True)
        if tensor in written and other in readable
    ]
    for name, node in written.items():
        is_output = name in outputs.values()
        if not is_output and name in readable and _is_real(first.tensors[name]) and _is_real(second.tensors[name]):
            computed.append(pair(name, "activation", op_name(node), name, name))
    weights = [
        pair(name, "weight", op, name, name)
        for name, op in _read_weights(first)
        if name in second.tensors and _source(other_written, second, name).is_constant
    ]
    return computed, weights


def _is_real(tensor: Tensor) -> bool:
    """True for floats and quantized integers."""
    return tensor.is_float or takes_integers(tensor)


def _source(written: Mapping[str, Node], graph: Graph, name: str) -> Tensor:
    """The tensor itself, or, where a conversion wrote it, the tensor that was converted."""
    node = written.get(name)
    if node is not None and arithmetic(node, graph) == "conversion" and graph.tensors[name].is_float:
        return graph.tensors[node.inputs[0]]
    return graph.tensors[name]


def _params(tensor: Tensor) -> QuantParams | None:
    return tensor.quant if tensor.quant is not None and tensor.dtype in INTEGER_BITS else None


def _read_weights(graph: Graph) -> Iterable[tuple[str, str]]:
    """Yields every float constant that nodes read, once, with the first reader's operator."""
    seen: set[str] = set()
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in seen and graph.tensors[name].is_constant and graph.tensors[name].is_float:
                seen.add(name)
                yield name, op_name(node)


def _weight_row(pair: _Pair, first: Graph, second: Graph) -> TensorError | None:
    """The error of a stored weight; None where its form in the other model can't be compared."""
    tensor, other = first.tensors[pair.tensor], second.tensors[pair.other_tensor]
    if tensor.shape != other.shape:
        return None
    x = tensor.array
    if x is None or not other.is_constant:
        return None
    y = stored_numbers(other, second)
    tflite.release_pages(tensor.data)
    return _row(pair, tensor.shape, error_sums(x, y, pair.params), None)


def _requantized(x: np.ndarray, params: QuantParams) -> np.ndarray:
    x = np.nan_to_num(x, nan=0.0)
    return dequantize(quantize(x, params), params)


def _row(pair: _Pair, shape: tuple[int, ...], sums: ErrorSums, own: ErrorSums | None) -> TensorError:
    count = max(sums.count, 1)
    is_finite = np.isfinite(sums.noise)
    rounding = sums.noise - sums.clipping_noise if is_finite else sums.noise
    scales = pair.params.scale if pair.params is not None else ()
    return TensorError(
        name=pair.name,
        kind=pair.kind,
        op=pair.op,
        shape=shape,
        dtype=pair.dtype,
        sqnr_db=power_ratio_db(sums.signal, sums.noise),
        own_sqnr_db=None if own is None or own.count == 0 else power_ratio_db(own.signal, own.noise),
        mse=sums.noise / count,
        rounding_mse=max(rounding, 0.0) / count,
        clipping_mse=sums.clipping_noise / count,
        clipped_fraction=sums.clipped / count,
        cosine=cosine(sums),
        max_abs_error=sums.largest,
        count=sums.count,
        skipped=sums.skipped,
        differing_fraction=sums.differing / count,
        largest_steps=sums.largest / scales[0] if len(scales) == 1 else None,
    )
