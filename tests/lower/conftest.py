"""What lowered models are compared with is compiled quickly."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def compilation(quick_compilation: None) -> None:
    """Compiles quickly."""
