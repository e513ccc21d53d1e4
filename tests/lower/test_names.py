"""What lowering calls tensors: layers, their weights and outputs; and what it called them before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests import models

import featherweight as fw
from featherweight.lower import names
from featherweight.lower.names import after_layers


@pytest.mark.parametrize("name", ["convnet", "dense", "transformer", "gru"])
def test_names_are_unique_and_naming_twice_changes_nothing(name: str) -> None:
    model = models.lowered(name)
    assert len(model.tensors) == sum(len(graph.tensors) for graph in model.graphs)
    assert [*after_layers(model).tensors] == [*model.tensors]


def test_weights_biases_and_outputs_are_named_after_layers() -> None:
    found = {*models.lowered("convnet").tensors}
    assert found >= {"stem/kernel", "stem/bias", "stem", "block_1_add", "pool"}
    assert found >= {"probabilities/kernel", "probabilities/fully_connected", "probabilities"}
    assert not [name for name in found if "general" in name or "broadcast" in name]


def test_operations_of_no_layer_keep_their_names() -> None:
    body = models.lowered("gru").graphs[2]
    assert {"dot_general", "add_7"} <= set(body.tensors)


def test_a_file_holds_the_names(tmp_path: Path) -> None:
    fw.save(models.lowered("dense"), tmp_path / "dense.tflite")
    written = fw.load(tmp_path / "dense.tflite")
    assert {"norm_1/kernel", "norm_1/bias", "norm_1"} <= set(written.tensors)
    assert {tensor.former_name for tensor in written.tensors.values()} == {None}


def test_plans_and_statistics_by_former_names_still_fit() -> None:
    model = models.lowered("convnet")
    samples = models.batch("convnet", 4)
    now = fw.quantize(model, "int8", calibration=samples)
    former = {name: tensor.former_name or name for name, tensor in model.tensors.items()}
    stats = fw.calibrate(model, samples)
    again = fw.quantize(model, "int8", stats=stats.renamed(former), verify=False)
    assert again.plan.params == fw.quantize(model, "int8", stats=stats, verify=False).plan.params

    def old(table: dict[str, object]) -> dict[str, object]:
        return {former.get(name, name): value for name, value in table.items()}

    content = {name: old(dict(getattr(now.plan, name))) for name in ("forms", "params", "kept_float", "dropped")}
    edges = {f"{former[key.rpartition(':')[0]]}:{key.rpartition(':')[2]}": p for key, p in now.plan.edges.items()}
    plan = fw.Plan("int8", "litert", now.plan.profile, now.plan.io, **content, edges=edges)  # type: ignore[arg-type]
    by_plan = fw.quantize(model, plan=plan)
    assert fw.write(by_plan) == fw.write(now)
    assert any("before they were named after layers" in note for note in by_plan.plan.notes)


def test_a_file_by_former_names_is_still_compared_tensor_by_tensor() -> None:
    model, samples = models.lowered("dense"), models.batch("dense", 2)
    made = fw.quantize(model, "int8", calibration=samples, verify=False).model
    former = {name: tensor.former_name or name for name, tensor in model.tensors.items()}
    old = names._renamed(made.main, {name: former.get(name, name) for name in made.tensors})
    rows = fw.compare(model, replace(made, graphs=(old,)), [samples])
    assert [row.name for row in rows] == [row.name for row in fw.compare(model, made, [samples])]
