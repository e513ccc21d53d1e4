"""Common factors of tensors with which ranges fill powers of two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.repair.factors.test_equalize import IMAGES, relu_net

import featherweight as fw
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Candidate, Setting, planned
from featherweight.repair.factors.fill import FILL_POWERS
from featherweight.targets import target as targets


def filled(model: Any, target: str) -> tuple[Candidate, Candidate | str]:
    model = fw.load(model)
    feeds = tuple({model.main.inputs[0]: image[np.newaxis]} for image in IMAGES)
    setting = Setting(targets.load(target), feeds, (), integers=True)
    start = planned(setting, model, recipes.load("int8"))
    return start, FILL_POWERS.apply(setting, start)


def ran(model: fw.Model) -> np.ndarray:
    return np.asarray(fw.run(model, IMAGES))


def error(candidate: Candidate, wanted: np.ndarray) -> float:
    made = fw.quantize(candidate.model, calibration=list(IMAGES), target="power-of-two", io="float32", progress=False)
    return float(np.square(ran(made.model) - wanted).mean())


def scaled_by(factor: float) -> Any:
    """Returns a net whose ranges are somewhere between powers of two."""
    source = relu_net(scale=0.2)
    for layer in source.layers:
        if layer.name in ("first", "second"):
            layer.set_weights([each * factor for each in layer.get_weights()])
    return source


def test_ranges_fill_powers_of_two_and_the_function_stays() -> None:
    errors = []
    for factor in (1.05, 1.2, 1.35, 1.5, 1.65, 1.8, 1.95):
        start, found = filled(scaled_by(factor), "power-of-two")
        assert isinstance(found, Candidate)
        wanted = ran(start.model)
        np.testing.assert_allclose(ran(found.model), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        assert [node.op for node in found.model.main.nodes] == [node.op for node in start.model.main.nodes]
        (note,) = (note for note in found.notes if note.startswith("fill-powers"))
        costs, before = (float(part.split()[0]) for part in note.split("costs is ")[1].split(" dB, "))
        assert costs < before
        errors.append((error(start, wanted), error(found, wanted)))
    # Any one net may lose, since tensors count alike; nets on average win.
    assert np.log2(errors).mean(axis=0) @ (1, -1) > 0.3


def test_other_scales_need_none() -> None:
    assert filled(relu_net(), "int8-per-tensor")[1] == "scales need not be powers of two"


def test_a_bound_for_all_channels_holds_its_tensors() -> None:
    start, found = filled(relu_net("relu6", scale=0.2), "power-of-two")
    assert found == "no tensors between weights could have a common factor"
    assert start.stats is not None


@pytest.mark.parametrize(
    ("target", "said"), [("esp32-s3", " dB at the output"), ("litert", "need not be powers of two")]
)
def test_it_is_one_of_those_that_are_tried(target: str, said: str) -> None:
    model = relu_net(scale=0.5)
    made = fw.quantize(model, improve="auto", calibration=list(IMAGES), target=target, progress=False)
    assert any(note.startswith("improve: fill-powers: ") and said in note for note in made.plan.notes)
