"""`featherweight curve`: what it writes and prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.calling import call, ok


def test_points_are_printed_kept_and_drawn(folder: Path) -> None:
    base = ("curve", "model.tflite", "--data", "data.npz")
    said = ok(*base, "--sparsities", "0.5,0.9", "--report", "c.png", "--resume", "kept")
    assert "Knee: the largest sparsity" in said
    assert (folder / "c.png").is_file()
    assert (folder / "kept" / "curve.json").is_file()
    assert len(json.loads(ok(*base, "--sparsities", "0.5", "--json"))["points"]) == 2
    for args, text in (
        (("--sparsities", "much"), "'much' is no list of numbers"),
        (("--retrain", "2"), "--retrain and --train belong together"),
        (("--report", "c.doc"), "names no form"),
    ):
        result = call(*base, *args)
        assert result.exit_code == 2
        assert text in " ".join(result.stderr.split())
