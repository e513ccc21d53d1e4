"""Training steps are compiled quickly; what is held against a file is compiled as for users, where it asks for that."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def compilation(quick_compilation: None) -> None:
    """Compiles quickly, unless a test asks for more."""
