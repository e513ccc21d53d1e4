"""What happens to the process of a command: Ctrl-C, and streams that the shell has closed."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_LATER_S = 0.02


@contextmanager
def noting_interrupts(interrupts: list[int]) -> Generator[None]:
    """Notes Ctrl-C besides raising KeyboardInterrupt, where signals can be handled (the main thread).

    Where it is raised within a callback, of the garbage collector for example, Python drops it: it is raised again.
    """

    def note(number: int, frame: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    def dropped(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:  # Later: here, it would be dropped again.
            threading.Timer(_LATER_S, _thread.interrupt_main).start()
        else:
            hook(found)

    hook = sys.unraisablehook
    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:
        yield
        return
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def open_closed_output() -> None:
    """Opens a standard output that the shell has closed (``>&-``) to nothing.

    Else it is None, and what a library prints goes into the first file that takes its number.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
