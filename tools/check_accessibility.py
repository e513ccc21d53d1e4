"""Holds pages against axe in headless Chromium: `python tools/check_accessibility.py axe.min.js PAGE|FOLDER ...`.

Light and dark, on a wide screen and a phone's. Exits with 1 where anything is a serious or critical violation.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.browser import Tab, find_browser, tab

WINDOWS = ((1280, "light"), (1280, "dark"), (390, "light"))
GRAVE = ("serious", "critical")
_MOST_SHOWN = 3


def violations(opened: Tab, axe: str, page: Path) -> list[str]:
    """Returns what axe finds grave on a page, each with the elements it is about."""
    found: list[str] = []
    for width, scheme in WINDOWS:
        opened.open(page, width=width, scheme=scheme)
        opened.run(axe)
        for each in opened.run("axe.run().then((result) => result.violations)"):
            if each["impact"] in GRAVE:
                elements = ", ".join(node["target"][0] for node in each["nodes"][:_MOST_SHOWN])
                found.append(f"{page.name}, {width} px, {scheme}: {each['id']} ({len(each['nodes'])}): {elements}")
    return found


def main(axe: Path, places: list[Path]) -> int:
    """Checks all pages; returns the exit status."""
    if find_browser() is None:
        sys.exit("No Chromium is installed (Debian: apt-get install chromium-headless-shell).")
    pages = [page for place in places for page in (sorted(place.rglob("*.html")) if place.is_dir() else [place])]
    pages = [page for page in pages if "_static" not in page.parts]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tab(Path(profile)) as opened:
        found = [line for page in pages for line in violations(opened, axe.read_text("utf-8"), page.resolve())]
    print("\n".join([*found, f"{len(found)} grave violations on {len(pages)} pages"]))
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(place) for place in sys.argv[2:]]))
