"""Says when an output is more noise than a user would expect, and where that begins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from featherweight import operators
from featherweight.analysis.comparison import TensorError, compare
from featherweight.graph import Graph, Model, Node, io_names

# Below this signal-to-noise ratio, the error is a third of the output; of 16-bit activations, a tenth is expected.
_LEAST_DB, _LEAST_DB_OF_16 = 10.0, 20.0
# A tensor whose own grid leaves less than this was cut on purpose: masked scores, whose depth makes no difference.
_CUT_DB = 6.0


def notes_on_noise(
    before: Model, after: Model, samples: Iterable[Any], limit: int | None = None, recipe: str = ""
) -> list[str]:
    """Returns a note for each output whose error is within 10 dB of it on these samples, with the worst place.

    Of activations of 16 bits, within 20 dB.

    Args:
        before: the float model.
        after: the quantized one.
        samples: as `compare` takes them.
        limit: use at most so many examples.
        recipe: the name of the recipe, which is not worth trying again.

    Raises:
        DataError: if samples do not fit the model.
    """
    samples = list(samples)
    rows = compare(before, after, samples, outputs_only=True, limit=limit)
    is_wide = any(tensor.dtype == "int16" and tensor.quant is not None for tensor in after.main.tensors.values())
    least = _LEAST_DB_OF_16 if is_wide else _LEAST_DB
    noisy = [row for row in rows if row.sqnr_db < least and row.count > row.skipped]
    if not noisy:
        return []
    others = " or ".join(f"'{name}'" for name in ("int16x8", "dynamic", "float16") if name != recipe)
    place = _place(before, compare(before, after, samples, limit=limit))
    return [
        f"output '{row.name}' is only {row.sqnr_db:.1f} dB above its error on calibration samples{place}. Try recipe "
        f"{others}, or keep what is there float with a rule"
        for row in noisy
    ]


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
    found = f"{_incoming(worst, ratios):.0f} dB before, {ratios[worst.name]:.0f} dB behind it"
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
