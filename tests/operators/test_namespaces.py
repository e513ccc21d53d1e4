"""Reference kernels compute on NumPy alone."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys
import featherweight.operators
import featherweight.runtime.reference
print(sorted({name.split(".")[0] for name in sys.modules} & {"keras", "jax", "torch", "tensorflow"}))
"""


def test_reference_kernels_import_no_framework() -> None:
    ended = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
