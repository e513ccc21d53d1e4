"""quantize ends in a file that its runtime runs, or in an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests import models

import featherweight as fw
from featherweight.tasks import quantize as task


def test_a_file_that_would_not_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: fw.Model, plan: fw.Plan) -> fw.Model:
        done = made(model, plan)
        main = done.main
        last = replace(main.nodes[-1], op="CUSTOM", attrs={}, custom_code="NoSuchOperator")
        return replace(done, graphs=(replace(main, nodes=(*main.nodes[:-1], last)),))

    made = task.rewrite
    monkeypatch.setattr(task, "rewrite", broken)
    with pytest.raises(fw.TargetViolation, match="would not run in LiteRT"):
        fw.quantize(models.lowered("dense"), calibration=models.samples("dense"), progress=False)
