"""`python -m benchmarks.architectures`: lowers and quantizes the roster or a part of it, one row per recipe.

Lowered files, samples and the source's outputs are kept in the cache, so that a recipe is tried again in seconds:
after a change in quantization run it again; after one in lowering, with --lower.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.architectures import page, trial
from benchmarks.architectures.roster import ROSTER, chosen
from benchmarks.processes import Limits


def main() -> int:
    """Runs the chosen architectures; 1 if one of their recipes does not run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.architectures", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="names or parts of names (default: all)")
    parser.add_argument("--recipes", default=",".join(trial.RECIPES), help="default: %(default)s")
    parser.add_argument("--target", default="litert", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=trial.default_cache(), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="a JSON file to put the rows into; others in it stay")
    parser.add_argument("--missing", action="store_true", help="leave out architectures that --out has rows of")
    parser.add_argument("--page", type=Path, help="write the page of results, of all rows in --out, to this file")
    parser.add_argument("--lower", action="store_true", help="lower again what the cache has")
    parser.add_argument("--latency", action="store_true", help="time the files as well")
    parser.add_argument(
        "--seconds", type=float, default=trial.LIMITS.seconds, help="of a process (default: %(default)g)"
    )
    parser.add_argument(
        "--memory", type=float, default=trial.LIMITS.memory_mb, help="MB of a process (default: %(default)g)"
    )
    parser.add_argument("--list", action="store_true", help="list the names")
    parser.add_argument("-v", "--verbose", action="store_true", help="print rows whole, as JSON")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(ROSTER))
        return 0
    failed = 0
    rows = trial.Rows(arguments.out)
    for name in chosen(arguments.names):
        if arguments.missing and rows.has(name):
            continue
        options = trial.Options(
            arguments.cache,
            tuple(arguments.recipes.split(",")),
            arguments.target,
            arguments.lower,
            arguments.latency,
            Limits(arguments.seconds, arguments.memory),
        )
        for row in trial.rows_of(name, options):
            rows.put(row)
            failed += row["status"] != "ok"
            print(json.dumps(row, indent=1) if arguments.verbose else trial.line(row), flush=True)
    if arguments.page:
        arguments.page.write_text(page.markdown(rows.rows.values()), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
