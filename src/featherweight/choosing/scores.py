"""Scores: what each part of a model costs in each form, measured once and kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featherweight.arguments import checked
from featherweight.arguments import path as path_of
from featherweight.errors import RecipeError, listed
from featherweight.tflite import write_atomically

FORMAT = 2
# The noise of a form that a part can't take, and an error that is not known.
IMPOSSIBLE = 1e12
# What scores depend on that can be read; the rest is told by fingerprints.
_SAID = ("forms", "bytes", "version")


@dataclass(frozen=True)
class Score:
    """What one part costs in one form.

    Attributes:
        noise: the power of the error at the outputs as a fraction of theirs, mean over examples, when this part alone
            is quantized; `sqnr_db` is that of the mean.
        noise_error: standard error of that mean.
        saved_bytes: by how much the file is smaller than with this part float, when all others are in the first form
            that they can take: between floats, conversions would outweigh what a small part saves. Of what
            `Bench.counted` says; where that is Vela's flash, which leaves floats out, the first form's is of the file.
        drop: how much worse the metric is (positive: worse) when this part alone is quantized, if it was measured.
        drop_error: the standard error of that paired difference.
        without: the same drop when all is quantized, minus that when all but this part is.
        without_error: its standard error.
        kept_float: why the part did not take the form after all, or "".
        is_estimate: no model was run for it: `noise` is `estimate`, and bytes are counted.
        estimate: the noise by propagation, of all operators of the part, where that was asked for.
        weights_noise, activations_noise: the parts of the estimate from holding weights, and all else, in integers.
    """

    part: str
    form: str
    noise: float
    noise_error: float
    saved_bytes: int
    drop: float | None = None
    drop_error: float | None = None
    without: float | None = None
    without_error: float | None = None
    kept_float: str = ""
    is_estimate: bool = False
    estimate: float | None = None
    weights_noise: float | None = None
    activations_noise: float | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the part takes the form."""
        return self.noise < IMPOSSIBLE and not self.kept_float


@dataclass(frozen=True)
class Scores:
    """All scores of one model, on one set of samples.

    Attributes:
        about: what they were measured of: fingerprints of model, samples and settings, by what they are called.
        rows: in the order of the model.
        parts: part → the names of its operators.
        float_bytes: size of the float file.
        examples: how many examples they were measured on.
        metric: what `drop` is about, or "" where it was not measured.
    """

    about: Mapping[str, str]
    rows: tuple[Score, ...]
    parts: Mapping[str, tuple[str, ...]]
    float_bytes: int
    examples: int
    metric: str = ""
    format: int = field(default=FORMAT)

    def find(self, part: str, form: str) -> Score | None:
        """Returns the score of a part in a form, if there is one."""
        return next((row for row in self.rows if (row.part, row.form) == (part, form)), None)

    def with_row(self, row: Score) -> Scores:
        """Returns the scores with one more, or with another in its place."""
        rows = [r for r in self.rows if (r.part, r.form) != (row.part, row.form)]
        return replace(self, rows=(*rows, row))

    def to_json(self) -> dict[str, Any]:
        """Returns all as plain values; `format` is their version."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Writes them as JSON, atomically.

        Raises:
            FeatherweightError: if the file can't be written; one that was there stays.
        """
        write_atomically(path, [(json.dumps(asdict(self), indent=1) + "\n").encode()])


def scores_in(folder: Path | None) -> Path | None:
    """Returns where a folder keeps scores; None without a folder."""
    return None if folder is None else folder / "scores.json"


@checked(path=path_of)
def load_scores(path: str | Path) -> Scores:
    """Reads what `Scores.save` wrote.

    Raises:
        RecipeError: if the file can't be read, or holds no scores.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        rows = tuple(Score(**row) for row in content.pop("rows"))
        parts = {name: tuple(names) for name, names in content.pop("parts").items()}
        scores = Scores(**content, rows=rows, parts=parts)
        if scores.format != FORMAT:
            raise ValueError(f"format {scores.format}, not {FORMAT}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"'{path}' holds no scores ({error}). Delete it, or name another file.") from error
    return scores


def resumed(path: Path | None, fresh: Scores) -> Scores:
    """Returns the scores in a file, if there is one, once they are about the same as `fresh`; else these.

    Raises:
        RecipeError: if the file is about something else, which the message names.
    """
    if path is None or not os.path.lexists(path):
        return fresh
    found = load_scores(path)
    names = [name for name in fresh.about if found.about.get(name) != fresh.about[name]]
    if names:
        said = ", ".join(
            f"{name} there: {found.about.get(name)}, here: {fresh.about[name]}" for name in names if name in _SAID
        )
        raise RecipeError(
            f"'{path}' holds scores of something else: {listed(names)} differ{f' ({said})' if said else ''}. Name "
            "another folder, or delete it."
        )
    return found
