"""A diagnosis: where a quantized model's error is made, in the user's words, best repair first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.analysis.tensor_errors import power_ratio_db
from featherweight.diagnosis.cause import Cause
from featherweight.diagnosis.levels import ENOUGH_COLUMN_DB
from featherweight.report.summary import check_suffix, environment, to_plain
from featherweight.tflite import write_atomically

# Own errors that add up to so much less than the error do not explain it, dB.
_FAR_DB = 6.0
# Columns that are so much worse, in units of their spread, than all values together are worth a word, dB.
_FAR_COLUMN_DB = 3.0
JSON_VERSION = 1
"""The number in a diagnosis's JSON: it grows when a field changes its meaning or goes."""


@dataclass(frozen=True)
class JudgedOutput:
    """The error of one output.

    Attributes:
        sqnr_db: 10 log10(Σx²/Σe²) over all values.
        level_db: the same in units of each column's own spread, where there are 2 to 64 columns and no probabilities.
        worst_column: (index, level in dB) of the column that is lost most, where columns count.
    """

    name: str
    sqnr_db: float
    level_db: float
    worst_column: tuple[int, float] | None


@dataclass(frozen=True)
class OwnErrorRow:
    """One operator's own error at the output that loses most by it, from exact inputs.

    Attributes:
        layer: the user's name of it.
        level_db: the output's level if this operator alone were quantized; inf where it was not carried to the output.
        weights_db, activations_db: the same for its weights and its activations apart; None where it has none.
        local_db: the ratio of its own outputs to its error there.
        is_carried: False where only `local_db` was measured.
    """

    layer: str
    op: str
    name: str
    level_db: float
    weights_db: float | None
    activations_db: float | None
    local_db: float
    is_carried: bool


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with a quantized model, and what to do about it.

    Attributes:
        what: which models were compared.
        examples: how many samples everything was measured on.
        level_db: the level of the worst output (see `JudgedOutput.level_db`).
        sqnr_db: its plain ratio of signal to noise.
        is_enough: no output needs repair.
        simulated_db: the level of a model that rounds where the quantized one does and is exact else; None where that
            could not be run. Far above `level_db`, kernels lose more than rounding does.
        causes: those that make a tenth of the error or more, worst first; none in a healthy model.
        own_errors: all operators, worst first.
        notes: what could not be measured, and why.
    """

    what: str
    examples: int
    outputs: tuple[JudgedOutput, ...]
    level_db: float
    sqnr_db: float
    is_enough: bool
    simulated_db: float | None
    causes: tuple[Cause, ...]
    own_errors: tuple[OwnErrorRow, ...]
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=environment)

    @property
    def is_healthy(self) -> bool:
        """True where every output is far enough above its error (`diagnosis.levels`), and no cause was found."""
        return self.is_enough and not self.causes

    @property
    def own_db(self) -> float:
        """What own errors add up to at the output, as if they were independent: about `level_db` where all is seen."""
        return power_ratio_db(1.0, sum(10 ** (-row.level_db / 10) for row in self.own_errors if row.is_carried))

    @property
    def verdict(self) -> str:
        """What is to be said first, in one sentence."""
        worst = min(self.outputs, key=lambda each: each.level_db, default=None)
        if worst is None or self.level_db == math.inf:
            return "Healthy: no output has an error."
        level = f"output '{worst.name}' is {worst.sqnr_db:.1f} dB above its error"
        if self.is_healthy:
            return f"Healthy: {level}, which is enough, and no cause alone takes it below that."
        weakest = worst.worst_column
        if weakest is not None and (worst.sqnr_db - worst.level_db > _FAR_COLUMN_DB or weakest[1] < ENOUGH_COLUMN_DB):
            level += f", its column {weakest[0]} only {weakest[1]:.1f} dB"
        if not self.causes and self.own_db > self.level_db + _FAR_DB:
            return f"Not found: {level}, but what could be looked at makes far less; see the notes."
        if not self.causes:
            return f"No single cause: {level}; many small errors add up to it."
        return f"{level[0].upper()}{level[1:]}; first cause: {self.causes[0].name}."

    def __repr__(self) -> str:
        return f"Diagnosis of {self.what}: {self.verdict}\n  print() shows all of it"

    def __str__(self) -> str:
        from featherweight.report.diagnosis_rendering import text

        return text(self)

    def to_json(self) -> dict[str, Any]:
        """Returns the diagnosis as plain lists, dicts, strings, numbers and None (also for infinite numbers)."""
        said = {"version": JSON_VERSION, "is_healthy": self.is_healthy, "verdict": self.verdict}
        return {**said, **to_plain(self), "own_db": to_plain(self.own_db)}

    def text(self, path: str | Path) -> None:
        """Writes it as plain text."""
        write_atomically(path, [f"{self}\n".encode("utf-8", "replace")])

    def json(self, path: str | Path) -> None:
        """Writes it as JSON."""
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, [f"{content}\n".encode("utf-8", "replace")])

    def html(self, path: str | Path) -> None:
        """Writes it as one HTML file that needs nothing else."""
        from featherweight.report.diagnosis_rendering import page

        write_atomically(path, [page(self).html().encode("utf-8", "replace")])

    def save(self, path: str | Path) -> None:
        """Writes it in the form that the path's suffix says: .json, .txt or .html.

        Raises:
            FeatherweightError: for another suffix, or if the file can't be written; one that was there stays.
        """
        {".json": self.json, ".txt": self.text, ".html": self.html}[check_suffix(path)](path)
