"""The converter's MLIR bindings, imported where they are needed; they have no type information."""

from __future__ import annotations

import importlib
import os
from typing import Any

from featherweight.errors import LoweringError

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def ir() -> Any:
    """The module of MLIR's objects."""
    return _imported("litert_converter.mlir.ir")


def passmanager() -> Any:
    """The module of MLIR's pass manager."""
    return _imported("litert_converter.mlir.passmanager")


def converter() -> Any:
    """The converter's own functions."""
    return _imported("litert_converter.converter_api_ext")


def _imported(name: str) -> Any:
    """Imports a module of litert-converter.

    Raises:
        LoweringError: if it is not installed, or broken.
    """
    chosen = os.environ.get(_ONEDNN)
    os.environ.setdefault(_ONEDNN, "0")  # Else the library greets on stderr. It computes nothing with it.
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoweringError(
            f"Lowering needs the package litert-converter, which can't be imported ({error}). "
            "Install it with: pip install 'featherweight[keras]'."
        ) from error
    finally:
        if chosen is None:
            os.environ.pop(_ONEDNN, None)
