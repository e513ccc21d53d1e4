"""What repairs were tried and what came of each; kept in a folder, so that a run that was ended goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError, RecipeError, listed
from featherweight.repair.candidate import Candidate
from featherweight.repair.candidate_files import from_bytes, to_bytes
from featherweight.repair.judge import Gain
from featherweight.tflite import write_atomically

_FORMAT = 2


@dataclass(frozen=True)
class Attempt:
    """One repair that was tried.

    Attributes:
        gain: what it brought on held-out samples; None where it was not measured.
        seconds: what it took, measuring included.
        is_kept: whether the model has it.
        reason: why not, or what else there is to say.
    """

    name: str
    gain: Gain | None
    seconds: float
    is_kept: bool
    reason: str = ""

    def __str__(self) -> str:
        verdict = "kept" if self.is_kept else "not kept"
        measured = f"{self.gain} at the output, " if self.gain else ""
        return f"{self.name}: {measured}{self.seconds:.0f} s, {verdict}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, eq=False)
class Improvement:
    """Where the trying of repairs stands.

    Attributes:
        candidate: with all that were kept.
        levels: of it, as `Judge.levels` gives them.
        waiting: names of the repairs to try, the next one first.
    """

    candidate: Candidate
    levels: np.ndarray
    attempts: tuple[Attempt, ...]
    waiting: tuple[str, ...]


class Journal:
    """Keeps an improvement in a folder: a verdict on each repair in JSON, and the candidate so far beside it.

    Args:
        folder: that no other process uses.
        about: what it depends on, by what it is called.
        name: of its files.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], name: str = "improve") -> None:
        self.folder, self.about, self.name = folder, dict(about), name
        self.path = folder / f"{name}.json"
        self._stored: tuple[Candidate, dict[str, str]] | None = None

    def read(self) -> Improvement | None:
        """Returns what an earlier run has kept here; None where there is nothing.

        Raises:
            RecipeError: if it is about something else, which is named, or damaged.
        """
        if not self.path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}, not {_FORMAT}")
            if content.pop("sha256") != _digest(content):
                raise ValueError("it is not what was written")
            about, file = content["about"], content["candidate"]
            attempts = tuple(_attempt(row) for row in content["attempts"])
            waiting, levels = tuple(content["waiting"]), np.array(content["levels_db"], np.float64)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(self.path, str(error)) from error
        if others := [name for name in self.about if about.get(name) != self.about[name]]:
            raise RecipeError(
                f"'{self.path}' keeps the repairs of something else: {listed(others)} differ. Name another folder, or "
                "delete that file."
            )
        path = self.folder / Path(str(file["file"])).name
        try:
            stored = path.read_bytes()
            if hashlib.sha256(stored).hexdigest() != file["sha256"]:
                raise ValueError("its bytes are not those that were written")
            candidate = from_bytes(stored)
        except (OSError, ValueError, FeatherweightError) as error:
            raise self._damaged(path, str(error)) from error
        self._stored = candidate, file
        return Improvement(candidate, levels, attempts, waiting)

    def keep(self, found: Improvement) -> None:
        """Writes an improvement in place of the one before; at every moment, one of the two is there as a whole.

        Raises:
            FeatherweightError: if it can't be written.
        """
        old = None if self._stored is None else self._stored[1]
        if self._stored is None or self._stored[0] is not found.candidate:
            stored = to_bytes(found.candidate)
            file = {
                "file": f"{self.name}-{len(found.attempts)}.candidate",
                "sha256": hashlib.sha256(stored).hexdigest(),
            }
            write_atomically(self.folder / file["file"], [stored])
            self._stored = found.candidate, file
        content = {
            "format": _FORMAT,
            "about": self.about,
            "attempts": [asdict(attempt) for attempt in found.attempts],
            "waiting": found.waiting,
            "levels_db": found.levels.tolist(),
            "candidate": self._stored[1],
        }
        content["sha256"] = _digest(content)
        write_atomically(self.path, [(json.dumps(content, indent=1) + "\n").encode()])
        if old is not None and old["file"] != self._stored[1]["file"]:
            (self.folder / old["file"]).unlink(missing_ok=True)

    def _damaged(self, path: Path, why: str) -> RecipeError:
        return RecipeError(
            f"'{path}' keeps no repairs ({why}). Delete '{self.path}' to begin anew, or name another folder."
        )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _attempt(row: Mapping[str, Any]) -> Attempt:
    gain: Mapping[str, Any] | None = row["gain"]
    known = None if gain is None else Gain(**gain)
    return Attempt(str(row["name"]), known, float(row["seconds"]), bool(row["is_kept"]), str(row["reason"]))


def attempts_said(attempts: Sequence[Attempt]) -> list[str]:
    """Returns a line on each attempt, as plans note it."""
    return [f"improve: {attempt}" for attempt in attempts]
