"""A float model in the units of a quantized one whose channels were divided by factors."""

from __future__ import annotations

import numpy as np
import pytest
from tests.diagnosis.planted import Parts, pictures

import featherweight as fw
from featherweight.repair.factors.units import in_units_of


def uneven() -> Parts:
    parts = Parts()
    for name, reader in (("dw", "pw"), ("pw", "deep")):
        for channel in range(16):
            parts.rescale(name, reader, [channel], 2.0 ** (channel % 7 - 3))
    return parts


@pytest.mark.parametrize("improve", ["equalize", "smooth", "equalize,gptq,bias-correction"])
def test_tensors_of_an_equalized_model_are_compared_in_its_units(improve: str) -> None:
    model, samples = uneven().model(), pictures()
    made = fw.quantize(model, calibration=samples, improve=improve, progress=False)
    assert {row.name: row for row in fw.compare(model, made, samples, progress=False)}.keys() >= {"pw", "deep/w"}
    for row in fw.compare(model, made, samples, progress=False):
        assert row.sqnr_db > 20 or row.op == "MINIMUM", row  # bounds beyond the range are clipped, which costs nothing
    found = fw.diagnose(model, made.model, samples, progress=False)
    assert not {cause.name for cause in found.causes} & {"other-weights", "clipped-range"}, str(found)
    assert found.own_db == pytest.approx(found.level_db, abs=4)


def test_the_function_stays_and_factors_are_those_of_equalizing() -> None:
    model, samples = uneven().model(), pictures(4)
    made = fw.quantize(model, calibration=pictures(), improve="equalize", progress=False)
    found = in_units_of(model, made.model)
    expected, other = (fw.run(each, np.concatenate(samples)) for each in (model, found))
    np.testing.assert_allclose(other, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    ours, theirs = (each.main.tensors["deep/w"].array for each in (found, made.float_model))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02 * np.abs(theirs).max())


def test_what_was_not_divided_is_returned_as_it_is() -> None:
    model, samples = uneven().model(), pictures()
    for recipe, improve in (("int8", None), ("w4a8", None), ("w4a8", "gptq,weight-scales"), ("weights4", None)):
        made = fw.quantize(model, recipe, calibration=samples, improve=improve, verify=False, progress=False)
        assert in_units_of(model, made.model) is model
    parts = uneven()
    parts.constants["deep/w"] = np.roll(parts.constants["deep/w"], 5, axis=0)
    other = fw.quantize(parts.model(), calibration=samples, verify=False, progress=False)
    assert in_units_of(model, other.model) is model
