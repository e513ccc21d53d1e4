"""Scores and searches as tables for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from featherweight.choosing.budget import Tried
from featherweight.choosing.scores import IMPOSSIBLE, Scores
from featherweight.choosing.searching import Found
from featherweight.errors import listed
from featherweight.report.text import shortened

SCORE_HEADERS = ("part", "form", "SQNR dB", "saved bytes", "drop", "drop but for it", "stays float")
STEP_HEADERS = ("step", "bytes", "deflated", "SQNR dB", "drop", "latency", "what then")
FRONT_HEADERS = ("bytes", "flash", "predicted dB", "SQNR dB", "drop", "latency", "forms")


def score_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Returns rows under `SCORE_HEADERS`, what costs most first."""
    rows: list[tuple[str, ...]] = []
    for row in sorted(scores.rows, key=lambda each: (-(each.drop or 0.0), -each.noise)):
        sign = "≈ " if row.is_estimate else ""
        level = "-" if row.noise >= IMPOSSIBLE else f"{sign}{-10 * math.log10(max(row.noise, 1e-12)):.1f}"
        drops = (_with_error(row.drop, row.drop_error), _with_error(row.without, row.without_error))
        rows.append((shortened(row.part), row.form, level, f"{sign}{row.saved_bytes:,}", *drops, row.kept_float))
    return rows


def front_rows(found: Found) -> list[tuple[str, ...]]:
    """Returns the front of a search as rows under `FRONT_HEADERS`, smallest first."""
    return [
        (
            f"{row.file_bytes:,}",
            "-" if row.npu is None else f"{row.npu.flash_bytes:,}",
            f"{row.predicted_db:.1f}",
            f"{row.sqnr_db:.1f}",
            _with_error(row.drop, row.drop_error),
            "-" if row.latency is None else f"{row.latency:.2f}",
            ", ".join(f"{count} {form}" for form, count in Counter(row.choice.values()).most_common()),
        )
        for row in found.front
    ]


class StepLike(Protocol):
    """A step of `tasks.optimize`."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def measured(self) -> Tried | None:
        """What was measured of its file."""
        ...

    @property
    def reason(self) -> str:
        """Why the flow went on."""
        ...


def step_rows(steps: Sequence[StepLike]) -> list[tuple[str, ...]]:
    """Returns the steps of a flow as rows under `STEP_HEADERS`."""
    rows: list[tuple[str, ...]] = []
    for step in steps:
        row = step.measured
        if row is None:
            rows.append((step.name, "-", "-", "-", "-", "-", step.reason))
            continue
        sizes = f"{row.file_bytes:,}", f"{row.compressed_bytes:,}", f"{row.sqnr_db:.1f}"
        latency = "-" if row.latency is None else f"{row.latency:.2f}"
        rows.append((step.name, *sizes, _with_error(row.drop, row.drop_error), latency, step.reason))
    return rows


def summary(found: Found) -> str:
    """Returns the best file of a search in a sentence."""
    best: Tried = found.best
    share = 100 * best.file_bytes / found.scores.float_bytes
    said = f"{best.file_bytes:,} bytes, {share:.0f} % of the float file's; {best.sqnr_db:.1f} dB at the outputs"
    said += f"; drop {_with_error(best.drop, best.drop_error)}" if best.drop is not None else ""
    if found.violations:
        said += f"; {len(found.violations)} operators break the target's rules, as `featherweight check` says"
    return said + (f". It misses the budget: {listed(best.misses)}." if best.misses else ".")


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.4f} {plus_minus(error)}"


def plus_minus(error: float | None) -> str:
    """Returns a standard error as it stands behind its value; a question mark where it is not known.

    >>> plus_minus(0.0123), plus_minus(float("nan"))
    ('± 0.0123', '± ?')
    """
    return "± ?" if error is None or not math.isfinite(error) else f"± {error:.4f}"
