"""What a model in training is made of is one value: it shows what was decided, and survives as plain values."""

from __future__ import annotations

import json
from typing import Any

from tests import models

import featherweight as fw
from featherweight.training.qat.blueprint import blueprint_from_config


def test_a_blueprint_shows_what_was_decided_and_survives_as_plain_values() -> None:
    pruned = fw.prune(models.lowered("dense"), 0.5).model
    samples = models.samples("dense", 4, seed=1)
    options: dict[str, Any] = {"train_ranges": "minmax", "oscillations": "freeze", "teacher": True}
    model: Any = fw.quantize_aware(pruned, "w4a8", calibration=samples, progress=False, **options)
    blueprint = model.blueprint
    assert blueprint.ranges == fw.RangeTraining("minmax")
    assert blueprint.oscillations == fw.Oscillations("freeze")
    assert blueprint.teacher is blueprint.exposed
    assert set(blueprint.sparse) <= blueprint.exposed.trained <= set(blueprint.exposed.model.main.tensors)
    assert blueprint.sparse
    assert blueprint.sources.keys() <= blueprint.integer.main.tensors.keys()
    again, others = blueprint_from_config(json.loads(json.dumps(blueprint.to_config())))
    assert others == {}
    for field in ("plan", "origin", "sources", "chunks", "sparse", "ranges", "oscillations", "noises", "approximate"):
        assert getattr(again, field) == getattr(blueprint, field), field
    assert (again.exposed.table, again.exposed.batch) == (blueprint.exposed.table, blueprint.exposed.batch)
    assert (again.exposed.inputs, again.exposed.outputs) == (blueprint.exposed.inputs, blueprint.exposed.outputs)
    assert again.to_config() == blueprint.to_config()
