"""The version of this package."""

from __future__ import annotations


def package_version() -> str:
    """Returns the installed version; ``0+unknown`` where it runs from a source tree that is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("featherweight")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
