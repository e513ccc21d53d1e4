"""``python -m featherweight``."""

from __future__ import annotations

from featherweight.cli import main

main()
