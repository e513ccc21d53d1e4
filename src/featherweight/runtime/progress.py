"""A progress bar for what takes longer than a second, on terminals only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_PATIENCE_S = 1.0


def track(
    items: Iterable[_Item], description: str, *, total: int | None = None, enabled: bool = True
) -> Iterator[_Item]:
    """Yields the items; once that has lasted a second, a bar on stderr shows how far it is.

    Nothing is drawn where `enabled` is false or stderr is not a terminal. `total` is None where unknown.

    >>> list(track([1, 2, 3], "counting"))
    [1, 2, 3]
    """
    if not enabled or not sys.stderr.isatty():
        yield from items
        return
    start, done, bar = time.monotonic(), 0, None
    try:
        for item in items:
            yield item
            done += 1
            if bar is None and time.monotonic() - start > _PATIENCE_S:
                bar = _bar(description, total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
    finally:
        if bar is not None:
            bar.stop()


def _bar(description: str, total: int | None) -> Any:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(description, total=total)
    bar.start()
    return bar
