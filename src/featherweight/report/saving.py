"""Writes the content of a page in the form that a path asks for."""

from __future__ import annotations

import json
from pathlib import Path

from featherweight.pages import Page
from featherweight.report.summary import check_suffix
from featherweight.tflite import write_atomically


def save_page(page: Page, path: str | Path) -> None:
    """Writes a page as HTML, text or JSON, by the suffix of the path.

    Raises:
        FeatherweightError: for another suffix, or if the file can't be written; one that was there stays.
    """
    match check_suffix(path):
        case ".html":
            content = page.html()
        case ".json":
            content = json.dumps(page.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        case _:
            content = page.text()
    write_atomically(path, [f"{content.rstrip()}\n".encode("utf-8", "replace")])
