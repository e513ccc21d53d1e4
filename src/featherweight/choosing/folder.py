"""The folder that measurements are kept in: one process at a time uses it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

from featherweight.errors import RecipeError


@contextlib.contextmanager
def locked(folder: str | Path | None, what: str = "a search") -> Generator[Path | None]:
    """Gives the folder to keep something in, made where it is missing, which no other process uses meanwhile."""
    if folder is None:
        yield None
        return
    held = Path(folder)
    try:
        held.mkdir(parents=True, exist_ok=True)
        lock = (held / ".lock").open("w")
    except OSError as error:
        raise RecipeError(f"'{held}' is no folder to keep {what} in: {error.strerror}. Name another one.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"'{held}' is in use by another process. Wait for it, or name another folder.") from error
        yield held
