"""What the documents promise: links that lead somewhere, and a reference of everything public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import featherweight as fw

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_reference_has_every_public_name() -> None:
    pages = "".join((ROOT / "docs" / "reference" / name).read_text("utf-8") for name in ("python.md", "errors.md"))
    described = set(re.findall(r"^\.\. auto(?!module)\w+:: featherweight\.(\w+)", pages, re.MULTILINE))
    aliases = {"ModelLike", "__version__"}  # words for types, and the version: nothing to describe
    assert described == set(fw.__all__) - aliases


@pytest.mark.parametrize("name", sorted(set(fw.__all__) - {"ModelLike", "__version__"}))
def test_everything_public_has_a_docstring(name: str) -> None:
    assert (getattr(fw, name).__doc__ or "").strip()
