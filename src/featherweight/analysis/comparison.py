"""Compares two versions of a model tensor by tensor on the same samples: where does the error come from?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.analysis.alone import with_operators_alone
from featherweight.analysis.borders import (
    batch_size,
    dequantized,
    integer_feeds,
    matched_names,
    real_feeds,
    stored_numbers,
    takes_integers,
)
from featherweight.analysis.channel_errors import ChannelSums
from featherweight.analysis.engines import Side, find_profiles, opened
from featherweight.analysis.inspection import arithmetic, op_name
from featherweight.analysis.places import Pair
from featherweight.analysis.tensor_errors import error_sums
from featherweight.analysis.tensor_rows import Compared, TensorError, TensorSums, tensor_row
from featherweight.arguments import checked, count, flag, stream
from featherweight.errors import DataError, FeatherweightError, listed
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor, io_names, producers, replace_graph
from featherweight.graph.numerics import INTEGER_BITS, QuantParams
from featherweight.lower.names import by_present_names
from featherweight.operators.layers import layer_names
from featherweight.operators.profiles import Profile
from featherweight.operators.relevance import EVERYTHING, Interval
from featherweight.passes.legalization import densified
from featherweight.runtime.litert import MOST_THREADS, Session


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
    return compared(
        float_model,
        other,
        samples,
        {},
        profiles=profiles,
        outputs_only=outputs_only,
        limit=limit,
        threads=threads,
        progress=progress,
    )


def compared(
    float_model: ModelLike,
    other: ModelLike,
    samples: Iterable[Any],
    intervals: Mapping[str, Interval],
    *,
    profiles: Sequence[str | Profile] | None = None,
    outputs_only: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> list[TensorError]:
    """Returns what `compare` does, where values of a tensor count as far as its interval reaches (`ptq.relevance`).

    Beyond, its ends stand for them: how deep a mask lies below the scores that a softmax reads is no error.
    """
    before, after = tflite.read(float_model), tflite.read(other)
    after = by_present_names(after, before)
    chosen = (None, None) if profiles is None else find_profiles(profiles, (before, after), threads)
    plain, other_plain = (replace_graph(model, 0, densified(model.main)) for model in (before, after))
    pairs, weights = _pairs(plain, other_plain)
    if outputs_only:
        pairs, weights = [pair for pair in pairs if pair.kind == "output"], []
    names = matched_names(before, after)
    rows = [
        row for pair in weights if (row := _weight_row(pair, plain.main, other_plain.main, intervals.get(pair.tensor)))
    ]
    results = [TensorSums(pair) for pair in pairs]
    fetched = tuple(dict.fromkeys(pair.tensor for pair in pairs))
    other_fetched = tuple(dict.fromkeys(pair.other_tensor for pair in pairs))
    size = batch_size(before, fetched, after)
    with (
        opened(before, fetched, chosen[0], threads) as first,
        opened(after, other_fetched, chosen[1], threads) as second,
        _operators_alone(Pair(before, after), None if outputs_only or profiles else fetched, threads) as alone,
    ):
        for feeds in real_feeds(samples, before, limit=limit, batch=size, label="Comparing", progress=progress):
            fed = integer_feeds(feeds, before)
            first.invoke(fed)
            second.invoke(integer_feeds({names[n]: values for n, values in feeds.items()}, after))
            by_itself = alone(fed)
            for pair, result in zip(pairs, results, strict=True):
                x, y = _values(pair, first, second)
                x, y = (_within(each, intervals.get(pair.tensor)) for each in (x, y))
                z = by_itself.get(pair.tensor)
                result.add(x, y, None if z is None else _within(z, intervals.get(pair.tensor)))
                del x, y, z  # views of the interpreters' memory must not outlive the round
            del by_itself
    rows += [result.row(before.main.tensors[result.pair.tensor].shape) for result in results]
    return sorted(rows, key=lambda row: (row.sqnr_db, row.cosine, row.name))


@contextmanager
def _operators_alone(
    pair: Pair, tensors: Sequence[str] | None, threads: int | None
) -> Generator[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]]:
    """Returns a context whose value maps feeds to tensor → what its operator gives when it alone rounds."""
    keeps = any(tensor.dtype == "resource" for tensor in pair.before.tensors.values())  # LiteRT may end the process
    is_told = tensors is not None and bool(pair.places) and not keeps
    model, names = with_operators_alone(pair) if is_told else (pair.before, {})
    names = {tensor: name for tensor, name in names.items() if tensor in (tensors or ())}
    try:
        session = Session(model, threads=threads, outputs=list(dict.fromkeys(names.values()))) if names else None
    except FeatherweightError:  # what LiteRT can't run so is not told apart
        session = None

    def run(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if session is None:
            return {}
        session.invoke(fed)
        return {tensor: session.view(name) for tensor, name in names.items()}

    try:
        yield run
    finally:
        if session is not None:
            session.close()


def _values(pair: Compared, first: Side, second: Side) -> tuple[np.ndarray, np.ndarray]:
    """The real numbers of one tensor in both models."""
    tensor, other = first.model.main.tensors[pair.tensor], second.model.main.tensors[pair.other_tensor]
    x, y = dequantized(first.view(pair.tensor), tensor), dequantized(second.view(pair.other_tensor), other)
    if x.shape != y.shape:
        raise DataError(
            f"Tensor '{pair.name}' has the shape {list(x.shape)} in the float model, but {list(y.shape)} in the other: "
            "these are not two versions of one model. Give two that are."
        )
    return x, y


def _pairs(before: Model, after: Model) -> tuple[list[Compared], list[Compared]]:
    """Returns what is computed and in both models, outputs by their public names first, and the weights."""
    first, second = before.main, after.main
    outputs, other_outputs = io_names(before)[1], io_names(after)[1]
    if len(outputs) != len(other_outputs):
        raise DataError(
            f"The float model has {len(outputs)} outputs ({listed(outputs)}), the other {len(other_outputs)} "
            f"({listed(other_outputs)}): these are not two versions of one model. Give two that are."
        )
    by_name = set(outputs) == set(other_outputs)
    others = [other_outputs[name] for name in outputs] if by_name else list(other_outputs.values())
    written, other_written = producers(first), producers(second)
    readable = {*other_written, *second.inputs}

    layers = layer_names(first)

    def pair(name: str, kind: str, op: str, tensor: str, other: str, reader: str = "") -> Compared:
        source = _source(other_written, second, other)
        kept = source if kind == "weight" else second.tensors[other]
        is_rounded = _source(written, first, tensor).is_float
        layer = layers.get(written[tensor].name, "") if tensor in written else layers.get(reader, "")
        return Compared(name, kind, op, tensor, kept.name, source.dtype, _params(source), layer, is_rounded)

    computed = [
        pair(name, "output", op_name(written[tensor]), tensor, other)
        for (name, tensor), other in zip(outputs.items(), others, strict=True)
        if tensor in written and other in readable
    ]
    for name, node in written.items():
        is_output = name in outputs.values()
        if not is_output and name in readable and _is_one(first.tensors[name], second.tensors[name]):
            computed.append(pair(name, "activation", op_name(node), name, name))
    weights = [
        pair(name, "weight", op_name(node), name, name, node.name)
        for name, node in _read_weights(first)
        if name in second.tensors
        and _source(other_written, second, name).is_constant
        and first.tensors[name].shape == second.tensors[name].shape
    ]
    return computed, weights


def _is_one(tensor: Tensor, other: Tensor) -> bool:
    """True for real numbers of one shape but for the batch: recurrent layers in other forms have names in common."""
    is_like = len(tensor.shape) == len(other.shape) and tensor.shape[1:] == other.shape[1:]
    return is_like and _is_real(tensor) and _is_real(other)


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


def _read_weights(graph: Graph) -> Iterable[tuple[str, Node]]:
    """Yields every float constant that nodes read, once, with the first reader."""
    seen: set[str] = set()
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in seen and graph.tensors[name].is_constant and graph.tensors[name].is_float:
                seen.add(name)
                yield name, node


def _within(values: np.ndarray, interval: Interval | None) -> np.ndarray:
    """Returns values with those beyond an interval at its ends; all of them where there is none, or it holds none."""
    if interval is None or interval == EVERYTHING or interval[0] > interval[1]:
        return values
    return np.clip(values, *interval)


def _weight_row(pair: Compared, first: Graph, second: Graph, interval: Interval | None) -> TensorError | None:
    """The error of a stored weight; None where its form in the other model can't be compared."""
    tensor, other = first.tensors[pair.tensor], second.tensors[pair.other_tensor]
    if tensor.shape != other.shape:
        return None
    x = tensor.array
    if x is None or not other.is_constant:
        return None
    x, y = (_within(each, interval) for each in (x, stored_numbers(other, second)))
    tflite.release_pages(tensor.data)
    channels = ChannelSums(-1 if pair.params is None or not pair.params.is_per_channel else pair.params.axis or 0)
    channels.add(x, y)
    return tensor_row(pair, tensor.shape, error_sums(x, y, pair.params), None, channels)
