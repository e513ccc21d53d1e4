"""Times a dense and a sparse file of one layer on LiteRT: ``python -m featherweight.sparse_files.timing``.

In a process of its own, since a file that kernels do not take may end it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from featherweight.runtime.benchmark import benchmark

_RUNS = 30


def main(dense: str, sparse: str, times: str) -> None:
    """Writes [median milliseconds of the dense file, of the sparse one], interleaved on one thread, as JSON."""
    rows = benchmark({"dense": Path(dense), "sparse": Path(sparse)}, runs=_RUNS)
    Path(times).write_text(json.dumps([row.median_ms for row in rows]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
