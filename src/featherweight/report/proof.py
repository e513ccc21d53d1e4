"""A proof sheet: whether everything that runs a file computes the same integers; as text, JSON and one HTML page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.pages import Card, Column, Listing, Page, Table
from featherweight.proof.rows import FAILED, Mismatch, RuntimeRow
from featherweight.report.summary import check_suffix, environment, to_plain
from featherweight.report.text import section, shortened, table
from featherweight.tflite import write_atomically

_WIDTH = 118
_HEADERS = ("runtime", "result", "compared with", "outputs differ", "tensors differ", "from the target's")
_MOST_TENSORS = 10


@dataclass(frozen=True, eq=False)
class ProofSheet:
    """Whether all that runs a file computes the same integers.

    Attributes:
        file: what was proven, in words.
        file_bytes, file_sha256: of the file.
        vectors: how many sets of inputs.
        vectors_sha256: of their bytes, in order.
        target: whose runtime and arithmetic count.
        notes: what limits the proof.
    """

    file: str
    file_bytes: int
    file_sha256: str
    vectors: int
    vectors_sha256: str
    target: str
    profile: str
    rows: tuple[RuntimeRow, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=environment)

    @property
    def is_equal(self) -> bool:
        """True where nothing that ran contradicts another."""
        return not any(row.is_failure for row in self.rows)

    @property
    def is_proven(self) -> bool:
        """True where, besides, the target's own runtime computed the same integers, or its compiler took the file."""
        own = [row for row in self.rows if row.is_target]
        return self.is_equal and any(
            row.status == "accepted" or (row.status == "equal" and row.is_claimed) for row in own
        )

    @property
    def verdict(self) -> str:
        """What is to be said first, in one sentence."""
        wrong = [row for row in self.rows if row.is_failure]
        if wrong:
            row = wrong[0]
            if row.status in FAILED:
                return f"Not proven: {row.what}, what '{self.target}' runs, {row.status} it: {row.said}"
            count = sum(each.differing for each in row.outputs)
            where = f", first in '{row.first.name}'" if row.first else ""
            return f"Not equal: {row.what} differs from profile '{row.profile}' in {count} elements of outputs{where}."
        ran = [row for row in self.rows if row.status == "equal" and row.is_claimed and row.runtime != "ours"]
        missing = [row for row in self.rows if row.is_target and row.status == "not installed"]
        count = f"{len(ran)} runtime{'s' if len(ran) > 1 else ''}"
        said = f"{count} computed the integers of the reference kernels" if ran else "no runtime was compared"
        beside = [row for row in self.rows if row.outputs and not row.is_claimed]
        if not ran and beside:
            equal = sum(not any(each.differing for each in row.outputs) for row in beside)
            said = f"{equal} of {len(beside)} runtimes computed the reference kernels' outputs, for information"
        if missing:
            return f"Not proven: {said}, but what '{self.target}' runs is not installed: {missing[0].what}."
        return f"{'Equal' if ran else 'Not proven'}: {said}, on {self.vectors} vectors."

    def __repr__(self) -> str:
        return f"Proof of {self.file} for '{self.target}': {self.verdict}\n  print() shows all of it"

    def __str__(self) -> str:
        return text(self)

    def to_json(self) -> dict[str, Any]:
        """Returns the sheet as plain lists, dicts, strings, numbers and None (also for infinite numbers)."""
        said = {"is_equal": self.is_equal, "is_proven": self.is_proven, "verdict": self.verdict}
        return {**said, **to_plain(self)}

    def save(self, path: str | Path) -> None:
        """Writes it in the form that the path's suffix says: .json, .txt or .html.

        Raises:
            FeatherweightError: for another suffix, or if the file can't be written; one that was there stays.
        """
        suffix = check_suffix(path)
        if suffix == ".json":
            content = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        else:
            content = page(self).html() if suffix == ".html" else f"{self}\n"
        write_atomically(path, [content.encode("utf-8", "replace")])


def text(sheet: ProofSheet) -> str:
    """Returns a proof sheet as text, without a newline at the end."""
    title = f"Proof of {sheet.file} for target {sheet.target}"
    head = [title, "=" * len(title), *textwrap.wrap(sheet.verdict, _WIDTH), *_hashes(sheet)]
    said = [line for row in sheet.rows if row.said for line in textwrap.wrap(f"{row.what}: {row.said}", _WIDTH)]
    parts = [
        "\n".join(head),
        section("Runtimes", table(_HEADERS, map(_cells, sheet.rows), (3, 4, 5))),
        section("What they said", "\n".join(said)),
        section("Where they differ", "\n".join(_places(sheet))),
        section("Notes", "\n".join(sheet.notes)),
    ]
    return "\n\n".join(part for part in parts if part)


def page(sheet: ProofSheet) -> Page:
    """Returns the content of the page about a proof sheet."""
    ran = [row for row in sheet.rows if row.status == "equal" and row.is_claimed and row.runtime != "ours"]
    cards = (
        Card(
            "Verdict",
            "proven" if sheet.is_proven else "equal" if sheet.is_equal else "not equal",
            tone="good" if sheet.is_proven else "" if sheet.is_equal else "bad",
        ),
        Card("Runtimes with the same integers", str(len(ran)), detail=f"of {len(sheet.rows)} that were looked for"),
        Card("Vectors", f"{sheet.vectors:,}", detail=f"SHA-256 {sheet.vectors_sha256}"),
        Card("File", f"{sheet.file_bytes:,} bytes", detail=f"SHA-256 {sheet.file_sha256}"),
    )
    columns = tuple(Column(name) for name in _HEADERS)
    said = tuple(f"{row.what}: {row.said}" for row in sheet.rows if row.said)
    listings = (("What they said", said), ("Where they differ", tuple(_places(sheet))), ("Notes", sheet.notes))
    return Page(
        f"Proof of {sheet.file} for target {sheet.target}",
        sheet.verdict,
        cards,
        (
            Table("Runtimes", columns, tuple(map(_cells, sheet.rows))),
            *(Listing(title, tuple(lines)) for title, lines in listings if lines),
        ),
        sheet.environment,
    )


def _hashes(sheet: ProofSheet) -> list[str]:
    return [
        f"File: {sheet.file_bytes:,} bytes, SHA-256 {sheet.file_sha256}",
        f"Vectors: {sheet.vectors}, SHA-256 {sheet.vectors_sha256}",
    ]


def _cells(row: RuntimeRow) -> tuple[str, ...]:
    compared = "" if row.runtime == "ours" else f"profile {row.profile}" if row.outputs else "-"
    if row.outputs and not row.is_claimed:
        compared += ", for information"
    status = row.status + (" (the target's own)" if row.is_target else "")
    beside = "-" if row.from_target is None else f"{row.from_target:,}"
    return (row.what, status, compared, _counted(row.outputs), _counted(row.tensors), beside)


def _counted(differences: tuple[Mismatch, ...]) -> str:
    if not differences:
        return "-"
    return f"{sum(each.differing for each in differences):,} of {sum(each.elements for each in differences):,}"


def _places(sheet: ProofSheet) -> list[str]:
    """Says which outputs and tensors differ, the first of each runtime's."""
    lines: list[str] = []
    for row in sheet.rows:
        wrong = [each for each in (*row.outputs, *row.tensors) if each.differing]
        lines += [
            f"{row.what}: '{shortened(each.name)}' {each.dtype}, {each.differing:,} of {each.elements:,}, "
            f"by {each.largest:g} at most"
            for each in wrong[:_MOST_TENSORS]
        ]
        lines += [f"{row.what}: … and {len(wrong) - _MOST_TENSORS} more"] if len(wrong) > _MOST_TENSORS else []
    return lines
