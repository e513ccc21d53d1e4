"""Finds the Python function that a ``pkg.module:function`` on the command line names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featherweight.errors import DataError


def is_reference(text: str) -> bool:
    """Returns whether a text has the form ``pkg.module:function``.

    >>> is_reference("my.data:samples"), is_reference("C:/data.npz"), is_reference("data.npz")
    (True, False, False)
    """
    module, separator, function = text.partition(":")
    return bool(separator) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_function(reference: str, what: str) -> Callable[..., Any]:
    """Returns the function; modules of the working directory are found as well.

    Raises:
        DataError: if the module can't be imported, has no such name, or it is not callable.
    """
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(
            f"{what} '{reference}': the module '{module_name}' can't be imported ({type(error).__name__}: {error}). "
            "Run in the directory that holds it, or install it."
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        found = "has no such name" if function is None else f"'{name}' is a {type(function).__name__}, not a function"
        raise DataError(f"{what} '{reference}': the module '{module_name}' {found}. Name a function in it.")
    return function
