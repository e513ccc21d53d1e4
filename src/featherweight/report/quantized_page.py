"""The page about one quantized model: figures, where the error is, what stayed float, ranges and scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from featherweight.analysis.agreement import AGREEMENT
from featherweight.device_code.footprint import Footprint
from featherweight.memory.live import peak_bytes
from featherweight.operators.layers import shown_names
from featherweight.pages import (
    Bars,
    Card,
    Column,
    Distributions,
    Listing,
    Page,
    Section,
    Table,
)
from featherweight.pages.formats import amount, decibels, duration, percent
from featherweight.report.compared_page import LEVEL, error_sections, error_table, other_name
from featherweight.report.summary import NodeNote, Report
from featherweight.report.text import grouped, grouped_notes, times_text
from featherweight.report.weights import WeightRow, weight_rows
from featherweight.runtime.operator_times import OperatorTimes

_GOOD_DB, _LOW_DB = 20.0, 10.0
# Fewer zeros than this come about by rounding, not by pruning.
_SPARSE = 0.05


def page(report: Report) -> Page:
    """Returns the content of the page about a quantized model."""
    nodes = ", ".join(f"{count} {kind}" for kind, count in report.nodes.items())
    weights = weight_rows(report.after.model)
    made = f"recipe {report.recipe} for target {report.target}"
    return Page(
        f"{report.name}: {made}" if report.name else f"{made[0].upper()}{made[1:]}",
        f"Arithmetic {report.profile}, inputs and outputs {report.io}. Operators: {nodes or 'none'}.",
        tuple(_cards(report, weights)),
        tuple(_sections(report, weights)),
        report.environment,
    )


def _cards(report: Report, weights: Sequence[WeightRow]) -> Iterable[Card]:
    before, after = report.before, report.after
    if report.evaluations:
        yield _task_card(report)
    if report.outputs:
        worst = min(report.outputs, key=lambda each: each.lower_db)
        tone = "bad" if worst.is_noisy else "good" if worst.lower_db >= _GOOD_DB else ""
        which = "the worst of the outputs, " if len(report.outputs) > 1 else ""
        level = decibels(worst.sqnr_db)
        value = f"{level} dB" if level[-1].isdigit() else level
        yield Card("Output, signal to noise", value, "", f"{which}{worst.examples} examples", tone)
    size = percent(after.file_bytes, before.file_bytes)
    yield Card("File", amount(after.file_bytes), amount(before.file_bytes), f"{size} of it")
    packed = percent(after.compressed_bytes, before.compressed_bytes)
    yield Card(
        "Compressed", amount(after.compressed_bytes), amount(before.compressed_bytes), f"{packed} of it, deflated"
    )
    alive = [peak_bytes(size.model) for size in (before, after)]
    yield Card(
        "Activations", amount(alive[1]), amount(alive[0]), "alive at once at most: what an arena holds beside overhead"
    )
    yield from _footprint_cards(report.footprints)
    if len(report.latency) > 1:
        first, last = report.latency[0], report.latency[-1]
        said = f"{last.ratio:.2f} × the time, {last.threads} thread{'s' if last.threads > 1 else ''}, this machine"
        yield Card("Latency", duration(last.median_ms), duration(first.median_ms), said)
    total = sum(report.nodes.values())
    integer = report.nodes.get("integer", 0)
    kept = len(report.kept_float)
    yield Card(
        "Operators in integers",
        f"{integer} of {total}",
        detail=f"{kept} stay{'s' if kept == 1 else ''} float" if kept else "none stays float by a decision",
    )
    sparsity = _sparsity(weights)
    if sparsity >= _SPARSE:
        yield Card("Zeros among the weights", f"{100 * sparsity:.1f} %")
    count = len(report.violations)
    said = "operators or tensors that it does not run" if count else "all of it runs there"
    yield Card(f"Violations of {report.target}", str(count), detail=said, tone="bad" if count else "good")


def _task_card(report: Report) -> Card:
    """Returns the card of what the model scores, beside what it scored before, with the error of the difference."""
    *before, after = report.evaluations.values()
    change = report.difference
    label, examples = after.metric.capitalize(), f"{after.count:,} examples"
    if change is None:
        said = f"of {examples} have the float model's class" if after.metric == AGREEMENT else examples
        return Card(label, after.value_text, detail=said)
    is_worse = change.is_significant and after.higher_is_better is not (change.value > 0)
    error = f" ± {change.standard_error:.2g}" if math.isfinite(change.standard_error) else ""
    said = f"{change.value:+.2g}{error} on the same {examples}" if change.value else f"equal on {examples}"
    return Card(label, after.value_text, before[0].value_text, said, "bad" if is_worse else "good")


def _footprint_cards(found: Mapping[str, Footprint]) -> Iterable[Card]:
    """Yields what the device takes: of two models, the first is the one before."""
    if not found:
        return
    *before, after = found.values()
    is_arena = after.flash_bytes is None
    said = f"{after.tool}: the smallest that loads the file" if is_arena else after.tool
    was = amount(before[0].memory_bytes) if before else ""
    yield Card("Arena" if is_arena else "SRAM", amount(after.memory_bytes), was, said)
    if after.flash_bytes is not None:
        yield Card("Flash", amount(after.flash_bytes), detail="constants and commands, as compiled")
        where = f"{after.npu_operators} operators on the NPU, {after.cpu_operators} on the processor"
        yield Card("NPU cycles", f"{after.cycles:,}", detail=where, tone="" if not after.cpu_operators else "bad")


def _sparsity(weights: Sequence[WeightRow]) -> float:
    elements = sum(math.prod(row.shape) for row in weights)
    return sum(row.sparsity * math.prod(row.shape) for row in weights) / elements if elements else 0.0


def _sections(report: Report, weights: Sequence[WeightRow]) -> Iterable[Section]:
    yield from _outcome(report)
    yield from error_sections(report.errors, report.before.model)
    yield from _decisions(report)
    if report.histograms:
        yield Distributions(
            "Values and ranges",
            report.histograms,
            "How often values occurred (heights are square roots of the counts), and between the dashed lines the "
            "range that the integers hold; what lies outside is clipped. Most clipped first.",
        )
    if _sparsity(weights) >= _SPARSE:
        rows = tuple((row.shown, row.sparsity, f"{row.op}, {row.stored_bytes:,} bytes") for row in weights)
        yield Bars("Zeros per layer", rows, "The fraction of zeros among the weights of each layer, in network order.")
    if report.errors:
        yield error_table(report.errors, report.before.model)
    if report.times is not None:
        yield times_table(report.times)
    yield from _tensors(report)
    yield _sizes(report)


def _outcome(report: Report) -> Iterable[Section]:
    if report.outputs:
        columns = (
            Column("output", "name"),
            Column("examples", "number"),
            Column("dB", "level", LEVEL),
            Column("median", "level", "The median of the same for each example alone."),
            Column("worst column", "level"),
            Column("which", "number"),
            Column("of columns", "number"),
        )
        rows = tuple(
            (
                each.name,
                each.examples,
                each.sqnr_db,
                each.median_db,
                None if each.worst_column is None else each.columns_db[each.worst_column],
                each.worst_column,
                len(each.columns_db) or None,
            )
            for each in report.outputs
        )
        yield Table("Outputs against the float model's", columns, rows)
    if report.evaluations:
        columns = (
            Column("model"),
            Column("metric"),
            Column("value", "number"),
            Column("± error", "number"),
            Column("examples", "number"),
        )
        rows = [
            (name, e.metric, e.value, e.standard_error if math.isfinite(e.standard_error) else None, e.count)
            for name, e in report.evaluations.items()
        ]
        if (change := report.difference) is not None:
            metric, count = rows[-1][1], rows[-1][-1]
            error = change.standard_error if math.isfinite(change.standard_error) else None
            rows.append(("difference, by pairs", metric, change.value, error, count))
        yield Table("Task", columns, tuple(rows))


def _decisions(report: Report) -> Iterable[Section]:
    yield from _notes_table("Kept float", report.kept_float)
    yield from _notes_table("Left out", report.dropped)
    if report.notes:
        yield Listing("Notes", tuple(grouped_notes(report.notes)))
    if report.violations:
        columns = (Column("operator"), Column("name", "name"), Column("constraint"), Column("what"))
        rows = tuple((v.op, v.node, v.constraint, v.message) for v in report.violations)
        yield Table(f"Violations of target {report.target}", columns, rows)


def _notes_table(title: str, notes: Sequence[NodeNote]) -> Iterable[Section]:
    if notes:
        columns = (Column("count", "number"), Column("operator"), Column("names"), Column("reason"))
        yield Table(title, columns, tuple(grouped(notes)), "Grouped by reason.")


def _tensors(report: Report) -> Iterable[Section]:
    if not report.tensors:
        return
    names = shown_names(report.after.model.main)
    columns = (
        Column("name", "name", "After the user's layers, as far as names tell."),
        Column("written by"),
        Column("stored as"),
        Column("shape"),
        Column("scales", "number", "How many: one for the tensor, or one for each channel."),
        Column("scale", "number", "The largest, where there are several."),
        Column("zero point", "number"),
        Column("from", "number", "The smallest number that the integers hold."),
        Column("to", "number", "The largest."),
        Column("tensor", "name", "As the file calls it, where that is another name."),
    )
    rows = tuple(
        (
            (shown := names.get(t.name, t.name)),
            t.op or "constant",
            t.dtype,
            "×".join(map(str, t.shape)) or "scalar",
            t.scales,
            t.scale,
            t.zero_point,
            t.low,
            t.high,
            other_name(t.name, shown),
        )
        for t in sorted(report.tensors, key=lambda t: not t.op)
    )
    yield Table(
        "Ranges and scales", columns, rows, "Every tensor that holds integers: computed ones first, then constants."
    )


def times_table(times: OperatorTimes) -> Table:
    """Returns the time of each operator, the slowest first."""
    columns = (
        Column("layer", "name"),
        Column("operator"),
        Column("µs", "number", "In one run; empty where it is computed within another operator."),
        Column("of the run", "share"),
        Column("computed by"),
    )
    rows = tuple(
        (row.layer, row.op, None if row.time_us is None else round(row.time_us, 1), row.share, row.kernel)
        for row in times.worst_first
    )
    return Table("Time per operator, slowest first", columns, rows, f"{times_text(times)}.")


def _sizes(report: Report) -> Table:
    before, after = report.before, report.after
    pairs = [
        ("file", before.file_bytes, after.file_bytes),
        ("compressed (deflate)", before.compressed_bytes, after.compressed_bytes),
    ]
    pairs += [
        (f"{dtype} constants", before.constant_bytes.get(dtype, 0), after.constant_bytes.get(dtype, 0))
        for dtype in dict.fromkeys([*before.constant_bytes, *after.constant_bytes])
    ]
    columns = (Column("what"), Column("before", "bytes"), Column("after", "bytes"), Column("left", "share"))
    rows = tuple((name, old, new, new / old if old else None) for name, old, new in pairs)
    return Table("Sizes in bytes", columns, rows)
