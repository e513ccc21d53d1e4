"""Says when an output is more noise than a user would expect, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.analysis.borders import batch_size, dequantized, integer_feeds, matched_names, real_feeds
from featherweight.analysis.comparison import TensorError, compare
from featherweight.analysis.engines import opened
from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.calibration.infinity import holding_infinity
from featherweight.errors import listed
from featherweight.graph import Graph, Model, Node, Tensor, io_names, producers
from featherweight.operators.relevance import LARGEST_ORDINARY

# Below this signal-to-noise ratio, the error is a third of the output; of 16-bit activations, a tenth is expected.
_LEAST_DB, _LEAST_DB_OF_16 = 10.0, 20.0
# A tensor whose own grid leaves less than this was cut on purpose: masked scores, whose depth makes no difference.
_CUT_DB = 6.0
# Of one column, fewer values than this may be small by chance.
_LEAST_ROWS = 8
# A few of many columns (features of an embedding) may be small; of the few of a detector's head, each counts.
_LEAST_SHARE = 0.02
_MOST_COLUMNS = 4096
_MOST_MASKED = 0.05
# Two steps of a column's own grid of 8 bits, in parts of its largest value.
_STILL = 2 / 255
# Examples that outputs are measured on: both models run once on each.
_EXAMPLES, _FEW_EXAMPLES = 16, 4
_MANY_MACS = 300_000_000


@dataclass(frozen=True)
class OutputError:
    """The error of one output of a quantized model, on some samples.

    Attributes:
        name: the output's public name.
        examples: on how many examples it was measured.
        sqnr_db: 10 log10(Σx²/Σe²) over all values, x of the float model, e the error; masked values are left out.
        median_db: the median of the same for each example alone: it is lower where few large examples hide the rest.
        columns_db: the same for each index along the last axis; empty where there is one column, or too many.
        noisy_columns: the columns that vary and are less than 10 dB above their error, as far as enough values of each
            were seen; none of probabilities, whose steps are made for their range.
        noisy_rows: the same along the axis before the last, in outputs of three dimensions where it is the shorter one:
            detectors written channels first.
        still_columns: the columns that are one value in integers on all samples, though their own range would have
            shown how they vary: small differences beside a large mean, whose ratio to the error is high.
        masked_fraction: fraction (0..1) of values that are masked, or infinite, in one of the models only.
    """

    name: str
    examples: int
    sqnr_db: float
    median_db: float
    columns_db: tuple[float, ...] = ()
    noisy_columns: tuple[int, ...] = ()
    noisy_rows: tuple[int, ...] = ()
    still_columns: tuple[int, ...] = ()
    masked_fraction: float = 0.0

    @property
    def worst_column(self) -> int | None:
        """The column of the lowest ratio, if there are columns."""
        return min(range(len(self.columns_db)), key=lambda i: self.columns_db[i]) if self.columns_db else None

    @property
    def lower_db(self) -> float:
        """The lower of the ratio over all examples and of that of most."""
        return min(self.sqnr_db, self.median_db)

    @property
    def is_noisy(self) -> bool:
        """True where a user must hear of it: of the output, of several columns, or of one of few."""
        is_hidden = len(self.noisy_columns) >= _LEAST_SHARE * len(self.columns_db) and bool(self.noisy_columns)
        is_still = len(self.still_columns) >= _LEAST_SHARE * len(self.columns_db) and bool(self.still_columns)
        is_lost = is_hidden or is_still or bool(self.noisy_rows) or self.masked_fraction > _MOST_MASKED
        return self.lower_db < _LEAST_DB or is_lost


class _Sums:
    """Sums over the values of one output, by column."""

    def __init__(self, model: Model, tensor: str) -> None:
        self.is_masked = tensor in holding_infinity(model.main)
        self.is_probability = _is_probability(tensor, model.main)
        self.signal: Any = 0.0
        self.noise: Any = 0.0
        self.low: Any = np.inf
        self.high: Any = -np.inf
        self.found: tuple[Any, Any] = (np.inf, -np.inf)
        self.rows = self.values = self.masked = 0
        self.examples: list[float] = []

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds the values of one run, x of the float model."""
        x, y = (np.atleast_1d(each).astype(np.float64) for each in (x, y))
        count = len(x) if x.ndim > 1 else 1
        x, y = (each.reshape(-1, each.shape[-1]) for each in (x, y))
        hidden = [self.hidden(each) for each in (x, y)]
        shown = ~(hidden[0] | hidden[1])
        self.masked += int(np.count_nonzero(hidden[0] ^ hidden[1]))
        self.values += x.size
        self.rows += len(x)
        x, y = np.where(shown, x, 0.0), np.where(shown, y, 0.0)
        signal, noise = np.square(x), np.square(x - y)
        self.signal, self.noise = self.signal + signal.sum(axis=0), self.noise + noise.sum(axis=0)
        pairs = zip(*(each.reshape(count, -1).sum(axis=1).tolist() for each in (signal, noise)), strict=True)
        self.examples += [power_ratio_db(*pair) for pair in pairs if pair[0] > 0]
        self.low = np.minimum(self.low, np.where(shown, x, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(shown, x, -np.inf).max(axis=0, initial=-np.inf))
        ends = np.where(shown, y, np.inf), np.where(shown, y, -np.inf)
        self.found = (
            np.minimum(self.found[0], ends[0].min(axis=0, initial=np.inf)),
            np.maximum(self.found[1], ends[1].max(axis=0, initial=-np.inf)),
        )

    def hidden(self, values: np.ndarray) -> np.ndarray:
        """True for values that say nothing but that they are masked."""
        return ~(np.abs(values) < (LARGEST_ORDINARY if self.is_masked else np.inf))

    def result(self, name: str, examples: int) -> OutputError:
        """Returns what they come to."""
        whole = power_ratio_db(float(np.sum(self.signal)), float(np.sum(self.noise)))
        pairs = list(zip(np.atleast_1d(self.signal).tolist(), np.atleast_1d(self.noise).tolist(), strict=True))
        columns = tuple(power_ratio_db(*pair) for pair in pairs) if 1 < len(pairs) <= _MOST_COLUMNS else ()
        varies = np.atleast_1d(self.high > self.low)
        is_sure = self.rows >= _LEAST_ROWS and not self.is_probability
        noisy = tuple(i for i, level in enumerate(columns) if is_sure and varies[i] and level < _LEAST_DB)
        farthest = np.maximum(np.abs(self.low), np.abs(self.high))
        is_still = np.atleast_1d((self.found[0] == self.found[1]) & (self.high - self.low > _STILL * farthest))
        still = tuple(i for i in range(len(columns)) if is_sure and is_still[i] and i not in noisy)
        median = float(np.median(self.examples)) if self.examples else whole
        hidden = self.masked / max(self.values, 1)
        return OutputError(name, examples, whole, median, columns, noisy, still_columns=still, masked_fraction=hidden)


def output_errors(
    before: Model, after: Model, samples: Iterable[Any], limit: int | None = None
) -> tuple[OutputError, ...]:
    """Returns the error of each real output that is computed, on up to 16 of these samples (4 of large models).

    Args:
        before: the float model.
        after: the quantized one.
        samples: as `compare` takes them.
        limit: use at most so many examples.

    Raises:
        DataError: if samples do not fit the model, or there are none.
    """
    most = most_examples(before)
    graph, other = before.main, after.main
    pairs = {
        name: (tensor, match)
        for (name, tensor), match in zip(io_names(before)[1].items(), _outputs(before, after), strict=True)
        if graph.tensors[tensor].is_float
        and not (graph.tensors[tensor].is_constant or other.tensors[match].is_constant)
    }
    sums = {name: _Sums(before, tensor) for name, (tensor, _) in pairs.items()}
    rows = {name: _Sums(before, tensor) for name, (tensor, _) in pairs.items() if _has_rows(graph.tensors[tensor])}
    names, examples = matched_names(before, after), 0
    first_tensors, second_tensors = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    size = batch_size(before, first_tensors, after)
    feeds = real_feeds(samples, before, limit=min(limit or most, most), batch=size, label="", progress=False)
    with opened(before, first_tensors, None, None) as first, opened(after, second_tensors, None, None) as second:
        for feed in feeds:
            first.invoke(integer_feeds(feed, before))
            second.invoke(integer_feeds({names[n]: values for n, values in feed.items()}, after))
            examples += len(next(iter(feed.values()), ()))
            for name, (tensor, match) in pairs.items():
                x = dequantized(first.view(tensor), graph.tensors[tensor])
                y = dequantized(second.view(match), other.tensors[match])
                sums[name].add(x, y)
                if name in rows:
                    rows[name].add(np.swapaxes(x, 1, 2), np.swapaxes(y, 1, 2))
                del x, y  # views of the interpreters' memory must not outlive the round
    found = {name: each.result(name, examples) for name, each in sums.items()}
    noisy = {name: each.result(name, examples) for name, each in rows.items()}
    noisy = {name: each.noisy_columns for name, each in noisy.items() if each.is_noisy}
    return tuple(replace(error, noisy_rows=noisy.get(name, ())) for name, error in found.items())


def most_examples(model: Model) -> int:
    """Returns how many examples the outputs of a model are measured on: 16, or 4 of a large one."""
    macs = sum(operators.lookup(node.op).macs(node, model.main) for node in model.main.nodes)
    return _EXAMPLES if macs < _MANY_MACS else _FEW_EXAMPLES


def _has_rows(tensor: Tensor) -> bool:
    return len(tensor.shape) == 3 and 1 < tensor.shape[1] < tensor.shape[2]


def _outputs(before: Model, after: Model) -> list[str]:
    """Returns the second model's output tensors in the order of the first's: by name, else by position."""
    names, others = io_names(before)[1], io_names(after)[1]
    return [others[name] for name in names] if set(names) == set(others) else list(others.values())


def _is_probability(tensor: str, graph: Graph) -> bool:
    """True for what a softmax or sigmoid computes, moved or not."""
    made = producers(graph)
    while tensor in made and operators.lookup(made[tensor].op).moves_data:
        tensor = made[tensor].inputs[0]
    return tensor in made and bool(operators.lookup(made[tensor].op).probability)


def notes_on_noise(
    before: Model,
    after: Model,
    samples: Iterable[Any],
    errors: Iterable[OutputError],
    recipe: str = "",
    cause: Callable[[], str] = str,
) -> list[str]:
    """Returns one note on the outputs that are within 10 dB of their error, or columns of which are, if there are any.

    Of activations of 16 bits, outputs within 20 dB.

    Args:
        before: the float model.
        after: the quantized one.
        samples: as `compare` takes them; only a noisy model runs on them again.
        errors: what `output_errors` returned.
        recipe: the name of the recipe, which is not worth trying again.
        cause: says what makes the error, and what repairs it; called where there is something to say. Where it has
            nothing to say (empty), the place where most is lost is named.
    """
    is_wide = any(tensor.dtype == "int16" and tensor.quant is not None for tensor in after.main.tensors.values())
    least = _LEAST_DB_OF_16 if is_wide else _LEAST_DB
    noisy = [error for error in errors if error.is_noisy or error.lower_db < least]
    if not noisy:
        return []
    others = " or ".join(f"'{name}'" for name in ("int16x8", "dynamic", "float16") if name != recipe)
    said = listed([_said(error, least) for error in noisy], 3)
    if found := cause():
        return [f"{said} on calibration samples. {found}, or try recipe {others}"]
    place, way = "", "or give columns of unlike range an output each"
    if any(error.lower_db < least for error in noisy):
        place = _place(before, compare(before, after, list(samples), limit=max(e.examples for e in noisy)))
        way = "or keep what is there float with a rule"
    return [f"{said} on calibration samples{place}. Try recipe {others}, {way}"]


def _said(error: OutputError, least: float) -> str:
    if error.lower_db < least:
        return f"output '{error.name}' is only {error.lower_db:.1f} dB above its error"
    if error.masked_fraction > _MOST_MASKED:
        return f"{error.masked_fraction:.1%} of output '{error.name}' are masked where they should not be, or not"
    if error.noisy_rows:
        rows = listed([str(i) for i in error.noisy_rows], 8)
        return f"rows {rows} of output '{error.name}' are less than {_LEAST_DB:.0f} dB above their error"
    if not error.noisy_columns:
        columns = listed([str(i) for i in error.still_columns], 8)
        return (
            f"columns {columns} (of {len(error.columns_db)}) of output '{error.name}' are one value each, and vary in "
            "the float model"
        )
    worst = min(error.noisy_columns, key=lambda i: error.columns_db[i])
    columns = listed([str(i) for i in error.noisy_columns], 8)
    return (
        f"columns {columns} (of {len(error.columns_db)}) of output '{error.name}' are less than {_LEAST_DB:.0f} dB "
        f"above their error (column {worst}: {error.columns_db[worst]:.1f} dB)"
    )


def _place(before: Model, rows: Iterable[TensorError]) -> str:
    """Names the operator that adds most noise, as a fraction of its output, to what its inputs have."""
    public = io_names(before)[1]
    ratios = {
        public.get(row.name, row.name) if row.kind == "output" else row.name: row.sqnr_db
        for row in rows
        if row.kind == "output" or (row.kind == "activation" and not _is_cut(row))
    }
    nodes = [node for node in before.main.nodes if node.name in ratios and not _is_small(node, before.main)]
    if not nodes:
        return ""
    worst = max(nodes, key=lambda node: _noise(ratios[node.name]) - _noise(_incoming(node, ratios)))
    before_db = _incoming(worst, ratios)
    before_said = "without error before" if math.isinf(before_db) else f"{before_db:.0f} dB before"
    found = f"{before_said}, {ratios[worst.name]:.0f} dB behind it"
    return f"; most is lost in {worst.op} '{worst.name}' ({found})"


def _is_cut(row: TensorError) -> bool:
    return row.own_sqnr_db is not None and row.own_sqnr_db < _CUT_DB


def _is_small(node: Node, graph: Graph) -> bool:
    """True for statistics of larger tensors, such as means near zero: their own ratio says little."""
    largest = max(tensor.elements for tensor in graph.tensors.values() if not tensor.is_constant)
    return operators.lookup(node.op).weight is None and 8 * graph.tensors[node.name].elements < largest


def _incoming(node: Node, ratios: Mapping[str, float]) -> float:
    return min((ratios[name] for name in node.inputs if name in ratios), default=math.inf)


def _noise(ratio_db: float) -> float:
    return 10 ** (-ratio_db / 10)
