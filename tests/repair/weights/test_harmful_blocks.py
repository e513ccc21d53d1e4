"""What lessens a block's error and harms the model is undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.building import dense, net, weights

from featherweight.graph import Model
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Setting, planned
from featherweight.repair.judge import Judge
from featherweight.repair.weights import reconstruct
from featherweight.targets import target as targets

LARGE = slice(0, 4)


def two_layers() -> Model:
    """The second layer reads the small channels of the first one alone."""
    constants = {"a": weights(16, 16, seed=1), "b": weights(6, 16, seed=2)}
    constants["a"][LARGE] *= 30
    constants["b"][:, LARGE] = 0
    return net({"x": (1, 16)}, constants, [dense("x", "a", "", "h", (1, 16)), dense("h", "b", "", "y", (1, 6))], ["y"])


@pytest.mark.parametrize("is_harmful", [True, False])
def test_a_block_that_harms_the_model_is_undone(is_harmful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_layers()
    random = np.random.default_rng(0)
    samples = tuple({"x": random.normal(size=(1, 16)).astype(np.float32)} for _ in range(32))
    target = targets.load("litert")
    plan = planned(Setting(target, samples, ()), model, recipes.load("int8")).plan
    exact = np.asarray(model.main.tensors["a"].array)
    rough = exact * np.float32(0.7)
    rounded = reconstruct.written(model, {"a": rough})
    learnt = exact.copy()
    if is_harmful:
        learnt[4:] = 0

    def trained(part: Model, *_: Any) -> Mapping[str, np.ndarray]:
        return {"a": learnt} if "a" in part.main.tensors else {}

    monkeypatch.setattr(reconstruct, "_trainer", lambda: trained)
    found, rows = reconstruct.reconstructed(rounded, model, plan, samples, target)
    judge = Judge(model, samples)
    before, after = (float(judge.levels(rewrite(each, plan)).mean()) for each in (rounded, found))
    assert rows[0].after_db > rows[0].before_db + 3
    assert np.array_equal(np.asarray(found.main.tensors["a"].array), rough if is_harmful else learnt)
    assert after > before + 1.5 or is_harmful
    assert rows[0].reason == (
        "the model's outputs on other samples are nearer without this block and those behind it" if is_harmful else ""
    )
