"""`python -m benchmarks.leaderboard`: fills missing cells, and writes the page."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.leaderboard import cells, latency, page, running
from benchmarks.leaderboard.nets import NETS
from benchmarks.leaderboard.roster import WAYS
from benchmarks.leaderboard.running import Wish
from benchmarks.measuring import FOLDER, RESULTS, ROOT, say

CELLS = FOLDER / "leaderboard.json"
MARKDOWN, HTML = ROOT / "docs" / "leaderboard.md", RESULTS / "leaderboard.html"
PICTURE, PICTURED = ROOT / "docs" / "leaderboard.svg", "EfficientNet-Lite0"


def main() -> int:
    """Fills the chosen cells; 0 also where some are left, which are named: the next run goes on with them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS), metavar="NET", help="default: all")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY", help="default: all")
    parser.add_argument("--models", type=Path, help="a folder with .h5 models of MLPerf Tiny")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many")
    parser.add_argument("--cell-seconds", type=float, default=900.0, help="the most that a process may take")
    parser.add_argument("--retry", action="store_true", help="try cells again that failed")
    parser.add_argument("--only", choices=("cells", "latency", "page"), help="default: all three, in this order")
    parser.add_argument("--keep", action="store_true", help="keep cells of other versions; fill only what is missing")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no maker outlives this process
    wish = Wish(
        {name: NETS[name] for name in arguments.nets},
        {name: WAYS[name] for name in arguments.ways},
        arguments.models,
        arguments.seconds,
        arguments.cell_seconds,
        arguments.retry,
        arguments.keep,
    )
    left: list[str] = []
    wish.store.take(cells.published(CELLS))
    try:
        if arguments.only in (None, "cells"):
            left += running.fill(wish)
        if arguments.only in (None, "latency"):
            left += latency.fill(wish)
    except KeyboardInterrupt:
        say("stopped; what was measured is kept, the next run goes on from there")
        return 130
    finally:
        _publish(wish)
    for reason in left:
        say(f"left: {reason}")
    return 0


def _publish(wish: Wish) -> None:
    """Writes all cells, and the pages of them."""
    found = wish.store.all()
    if not found:
        return
    cells.publish(CELLS, found)
    made = page.page_of(found, NETS, WAYS)
    page.write(made, HTML, MARKDOWN)
    if PICTURED in {section.title for section in made.sections}:
        PICTURE.write_text(page.picture(made, PICTURED), encoding="utf-8")
    say(f"written: {HTML}, {MARKDOWN.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
