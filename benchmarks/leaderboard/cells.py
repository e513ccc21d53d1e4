"""Cells: one JSON file each, written whole or not at all, with a key of everything that decides what it says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA, VERSION = "featherweight.leaderboard", 1
# Grows when the meaning of a cell's figures changes: all are measured again then.
MEASURE = 1

Cell = dict[str, Any]
Place = tuple[str, str, int]


def key_of(**parts: Any) -> str:
    """Returns a key of whatever decides about a cell.

    >>> key_of(a=1, b=2) == key_of(b=2, a=1), len(key_of())
    (True, 16)
    """
    text = json.dumps({"measure": MEASURE, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(path: str | Path) -> str:
    """Returns what stands for a file's content; empty for no file."""
    if not path:
        return ""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def place_of(cell: Mapping[str, Any]) -> Place:
    """Returns (network, way, draw)."""
    return cell["net"], cell["way"], cell["draw"]


class Store:
    """The cells of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, place: Place) -> Path:
        """Returns where a cell is kept."""
        net, way, draw = place
        return self.folder / f"{net}.{way}.{draw}.json"

    def read(self, place: Place) -> Cell | None:
        """Returns a cell; None where there is none that can be read: it is measured again."""
        return _read(self.path(place), place)

    def write(self, cell: Cell) -> None:
        """Keeps a cell: another process sees the old one or the new one, never a part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(place_of(cell))
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(cell, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)

    def take(self, cells: Iterable[Cell]) -> None:
        """Keeps cells of elsewhere where there is none of that place: a fresh clone goes on from published ones."""
        for cell in cells:
            if self.read(place_of(cell)) is None:
                self.write(cell)

    def all(self) -> list[Cell]:
        """Returns every cell that can be read."""
        found = (_read(path) for path in sorted(self.folder.glob("*.json")))
        return [cell for cell in found if cell is not None]


def _read(path: Path, place: Place | None = None) -> Cell | None:
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(cell, dict) or not {"net", "way", "draw", "key", "status"} <= cell.keys():
        return None
    return None if place is not None and place_of(cell) != place else cell


def published(path: Path) -> list[Cell]:
    """Returns the cells of a file that `publish` wrote; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []


def publish(path: Path, cells: Iterable[Cell]) -> None:
    """Writes cells as one file, a line each, in order of their places."""
    rows = [json.dumps(cell, ensure_ascii=False, sort_keys=True) for cell in sorted(cells, key=place_of)]
    head = f'{{"schema": "{SCHEMA}", "version": {VERSION}, "cells": [\n'
    partial = path.with_name(path.name + ".partial")
    partial.write_text(head + ",\n".join(rows) + "\n]}\n", encoding="utf-8")
    partial.replace(path)
