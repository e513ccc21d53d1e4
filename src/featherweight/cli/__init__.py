"""The command line: ``featherweight COMMAND``; see ``featherweight --help``."""

from __future__ import annotations

import signal
import sys

from featherweight.cli import (
    choose as choosing,
)
from featherweight.cli import (
    compare as proof,
)
from featherweight.cli import (
    curve as curves,
)
from featherweight.cli import (
    deploy as deploying,
)
from featherweight.cli import (
    diagnose as causes,
)
from featherweight.cli import (
    listing,
    timing,
)
from featherweight.cli import (
    prove as proving,
)
from featherweight.cli import (
    prune as pruning,
)
from featherweight.cli import (
    quantize as making,
)
from featherweight.cli import (
    train as training,
)
from featherweight.cli.harness import app
from featherweight.cli.process import open_closed_output

__all__ = ["app", "main"]

_MODULES = (deploying, causes, choosing, curves, making, proof, listing, proving, pruning, timing, training)
_ORDER = (
    "demo",
    "inspect",
    "lower",
    "quantize",
    "train",
    "prune",
    "cluster",
    "compare",
    "diagnose",
    "evaluate",
    "benchmark",
    "check",
    "curve",
    "sensitivity",
    "search",
    "optimize",
    "encode",
    "deploy",
    "prove",
    "recipes",
    "targets",
    "schema",
)
app.registered_commands.sort(key=lambda info: _ORDER.index(info.callback.__name__ if info.callback else ""))


def main() -> None:
    """Runs the command line and exits: 0 only on success, 1 on an error, 2 on a usage error, 130 on Ctrl-C."""
    open_closed_output()
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("featherweight: interrupted.\n")
        sys.exit(130)
    finally:
        # The work is over: what is left is to wait for workers and threads of libraries, which print tracebacks.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
