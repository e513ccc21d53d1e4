"""Repairs that were chosen in the noise of all else are taken back where wide operators make them superfluous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from tests.building import dense, layer, net, unary, weights

from featherweight.graph import Model
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Candidate, Setting, integer_model, planned
from featherweight.repair.improve import asked_repairs
from featherweight.repair.journal import Attempt, Improvement
from featherweight.repair.judge import Judge
from featherweight.repair.superfluous import without_superfluous
from featherweight.repair.wide_places import wide_places
from featherweight.targets import target as targets

WIDTH = 16


def joined() -> Model:
    """Columns of unlike range under one scale, all of which the next layer reads as one size."""
    constants = {
        "h": weights(32, WIDTH, seed=1),
        "small": weights(8, 32, seed=2),
        "large": weights(8, 32, seed=3) * 300,
    }
    sizes = np.repeat(np.array([1, 300], np.float32), 8)
    constants |= {"d": weights(16, 16, seed=4) / sizes, "y": weights(6, 16, seed=5)}
    layers = [
        dense("x", "h", "", "m", (1, 32)),
        unary("RELU", "m", "t", (1, 32)),
        dense("t", "small", "", "a", (1, 8)),
        dense("t", "large", "", "b", (1, 8)),
        layer("CONCATENATION", ("a", "b"), {"all": (1, 16)}, axis=1),
        dense("all", "d", "", "n", (1, 16)),
        unary("RELU", "n", "r", (1, 16)),
        dense("r", "y", "", "out", (1, 6)),
    ]
    return net({"x": (1, WIDTH)}, constants, layers, ["out"])


def ended(setting: Setting, model: Model, methods: Mapping[str, str]) -> tuple[Candidate, Improvement, Judge]:
    """Returns where trying stands after ranges by these methods, and then wide places."""
    judge = Judge(model, setting.held_out)
    start = planned(setting, model, recipes.load("int8"))
    found = wide_places(setting, start)
    assert isinstance(found, Candidate)
    wide = planned(setting, model, found.recipe, stats=start.stats, methods=methods)
    wide = wide.with_note("ranges: some").with_note(found.notes[-1])
    attempts = tuple(Attempt(name, None, 0.0, is_kept=True) for name in ("ranges", "wide-places"))
    return start, Improvement(wide, judge.levels(integer_model(wide)), attempts, ()), judge


@pytest.fixture
def setting() -> Setting:
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(32)]
    return Setting(targets.load("litert"), tuple(feeds[:24]), tuple(feeds[24:]))


def test_a_clip_that_costs_beside_wide_operators_is_taken_back(setting: Setting) -> None:
    model = joined()
    start, now, judge = ended(setting, model, {"out": "clip:0.5"})
    found = without_superfluous(setting, start, now, judge)
    assert found.levels.mean() > now.levels.mean() + 3
    assert found.levels == pytest.approx(judge.levels(integer_model(found.candidate)))
    assert found.candidate.methods == {}
    assert found.candidate.plan.forms == now.candidate.plan.forms
    first, last = found.attempts
    assert (first.is_kept, last.is_kept) == (False, True)
    assert first.reason.startswith("superfluous beside wide places: without ranges, +")
    assert [note.partition(":")[0] for note in found.candidate.notes] == ["wide places"]


def test_what_still_helps_stays(setting: Setting) -> None:
    model = joined()
    start, now, judge = ended(setting, model, {})
    clipped = planned(setting, model, start.recipe, stats=start.stats, methods={"out": "clip:0.5"})
    assert without_superfluous(setting, clipped, now, judge) is now
    nothing = replace(now, attempts=now.attempts[1:])
    assert without_superfluous(setting, start, nothing, judge) is nothing
    (gptq,) = asked_repairs("gptq")
    rounded = gptq.apply(setting, now.candidate)
    assert isinstance(rounded, Candidate)
    chosen = replace(now, candidate=rounded)  # weights that are fitted to what is there
    assert without_superfluous(setting, start, chosen, judge) is chosen
