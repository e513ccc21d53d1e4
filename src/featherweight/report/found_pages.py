"""The pages about choices: what each part costs, what a search found, the steps of a flow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from featherweight.choosing.scores import IMPOSSIBLE, Score, Scores
from featherweight.choosing.searching import Found, Tried
from featherweight.errors import listed
from featherweight.pages import Card, Column, Page, Point, Scatter, Section, Table
from featherweight.pages.formats import amount, percent, shortened
from featherweight.report.choices import StepLike, plus_minus
from featherweight.report.summary import environment

_LEVEL = "Signal to noise at the outputs, the mean over examples."
_DROP = (Column("drop", "fraction", "How much worse the metric is."), Column("± error", "fraction"))


def scores_page(scores: Scores, name: str) -> Page:
    """Returns the content of the page about what each part of a model costs."""
    known = [row for row in scores.rows if row.noise < IMPOSSIBLE]
    points = tuple(Point(row.part, row.saved_bytes / 1000, _level(row), 0.0, row.form) for row in known)
    note = "A part far to the right saves much, and one far up costs little."
    picture = (Scatter("Savings and cost", "saved, kB", "signal to noise, dB", points, has_front=False, note=note),)
    cards = [Card("Parts", str(len({row.part for row in scores.rows})))]
    if known:
        costly, saving = min(known, key=_level), max(known, key=lambda row: row.saved_bytes)
        cards.append(Card("Costs most", f"{_level(costly):.1f} dB", "", f"{shortened(costly.part)} in {costly.form}"))
        cards.append(Card("Saves most", amount(saving.saved_bytes), "", f"{shortened(saving.part)} in {saving.form}"))
    sections = (*(picture if known else ()), scores_table(scores))
    return Page(f"What each part of {name} costs", _measured(scores), tuple(cards), sections, environment())


def _level(row: Score) -> float:
    return -10 * math.log10(max(row.noise, 1e-12))


def _measured(scores: Scores) -> str:
    metric = f", in {scores.metric}" if scores.metric else ""
    return f"Each part alone, in each form, at the outputs{metric}; measured on {scores.examples} examples."


def scores_table(scores: Scores) -> Table:
    """Returns what each part costs, the worst first."""
    columns = (
        Column("part", "name"),
        Column("form"),
        Column("dB", "level", _LEVEL),
        Column("saved bytes", "bytes"),
        *_DROP,
        Column("drop but for it", "fraction", "How much of the drop goes when this part alone stays float."),
        Column("stays float"),
    )
    rows = tuple(
        (
            row.part,
            row.form,
            None if row.noise >= IMPOSSIBLE else _level(row),
            row.saved_bytes,
            row.drop,
            row.drop_error,
            row.without,
            row.kept_float,
        )
        for row in sorted(scores.rows, key=lambda each: (-(each.drop or 0.0), -each.noise))
    )
    return Table("What each part costs, worst first", columns, rows)


def search_page(found: Found, name: str) -> Page:
    """Returns the content of the page about a search: the best file, the front, and what each part costs."""
    sections = (
        _picture(found.tried, found.best),
        _files("Files on the front", found.front),
        scores_table(found.scores),
    )
    said = "It keeps the budget." if found.best.fits else f"It misses the budget: {listed(found.best.misses)}."
    cards = tuple(_cards(found.best, found.scores.float_bytes))
    return Page(
        f"Search over {name}",
        f"{len(found.tried)} files were made and measured. {said}",
        cards,
        sections,
        environment(),
    )


def steps_page(steps: Sequence[StepLike], chosen: str, name: str) -> Page:
    """Returns the content of the page about a flow of steps."""
    made = {step.name: step.measured for step in steps if step.measured is not None}
    best = made[chosen]
    columns = (Column("step"), *_FILE_COLUMNS, Column("what then"))
    rows = tuple(
        (step.name, *(_file_cells(step.measured) if step.measured else (None,) * len(_FILE_COLUMNS)), step.reason)
        for step in steps
    )
    said = "keeps the budget" if best.fits else "misses the budget by least"
    sections: tuple[Section, ...] = (_picture(list(made.values()), best, list(made)), Table("Steps", columns, rows))
    return Page(f"Flow over {name}", f"Step '{chosen}' {said}.", tuple(_cards(best)), sections, environment())


_FILE_COLUMNS = (
    Column("bytes", "bytes"),
    Column("deflated", "bytes"),
    Column("flash", "bytes", "As Vela counts it."),
    Column("predicted dB", "level"),
    Column("dB", "level", _LEVEL),
    *_DROP,
    Column("latency", "number", "As a fraction of the float model's."),
)


def _file_cells(row: Tried) -> tuple[str | float | None, ...]:
    sizes = (row.file_bytes, row.compressed_bytes, None if row.npu is None else row.npu.flash_bytes)
    return (*sizes, row.predicted_db, row.sqnr_db, row.drop, row.drop_error, row.latency)


def _files(title: str, rows: Sequence[Tried]) -> Table:
    forms = [", ".join(f"{count} {form}" for form, count in Counter(row.choice.values()).most_common()) for row in rows]
    cells = tuple((*_file_cells(row), said) for row, said in zip(rows, forms, strict=True))
    return Table(title, (*_FILE_COLUMNS, Column("forms")), cells, "Files that no other beats in both size and loss.")


def _picture(tried: Sequence[Tried], best: Tried, names: Sequence[str] | None = None) -> Scatter:
    drops = {row.drop for row in tried}
    has_drop = None not in drops and len(drops) > 1  # where nothing is lost, levels tell files apart
    points = tuple(
        Point(
            names[index] if names else "chosen" if row is best else "",
            row.file_bytes / 1000,
            row.drop if has_drop and row.drop is not None else row.sqnr_db,
            (row.drop_error or 0.0) if has_drop else 0.0,
            "keeps the budget" if row.fits else "misses it",
            row is best,
        )
        for index, row in enumerate(tried)
    )
    what = "drop" if has_drop else "signal to noise, dB"
    return Scatter("Loss and size", "file, kB", what, points, "less" if has_drop else "more")


def _cards(best: Tried, float_bytes: int = 0) -> Iterable[Card]:
    said = f"{percent(best.file_bytes, float_bytes)} of it" if float_bytes else ""
    yield Card("File", amount(best.file_bytes), amount(float_bytes) if float_bytes else "", said)
    yield Card("Compressed", amount(best.compressed_bytes))
    yield Card("Outputs, signal to noise", f"{best.sqnr_db:.1f} dB")
    if best.drop is not None:
        side = "below" if best.drop >= 0 else "above"
        said = f"{plus_minus(best.drop_error)}, {side} the float model's metric"
        yield Card("Drop" if best.drop >= 0 else "Gain", f"{abs(best.drop):.4f}", detail=said)
    if best.latency is not None:
        yield Card("Latency", f"{best.latency:.2f} ×", detail="of the float model's, this machine")
    if best.npu is not None:
        yield Card("Flash, as Vela estimates", amount(best.npu.flash_bytes))
        yield Card("SRAM, as Vela estimates", amount(best.npu.sram_bytes))
    yield Card(
        "Budget",
        "kept" if best.fits else "missed",
        detail=listed(best.misses) if best.misses else "",
        tone="good" if best.fits else "bad",
    )
