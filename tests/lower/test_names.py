"""What lowering calls tensors: layers, their weights and outputs; and what it called them before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight.lower import names
from featherweight.lower.names import after_layers
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Recipe, Rule


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


def test_a_batch_norm_that_goes_into_a_layer_leaves_it_its_name() -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, use_bias=False, name="conv"), layers.BatchNormalization(name="conv_bn"), layers.ReLU(),
        layers.DepthwiseConv2D(3, use_bias=False, name="dw"), layers.BatchNormalization(name="dw_bn"), layers.ReLU(6),
        layers.Conv2D(4, 1, name="pw"), layers.BatchNormalization(name="pw_bn"),
        layers.Flatten(),
        layers.Dense(5, use_bias=False, name="dense"), layers.BatchNormalization(name="dense_bn"), layers.ReLU(),
        layers.Dense(2, name="out"),
    ])  # fmt: skip
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 2, w.shape).astype(np.float32) for w in layer.get_weights()])
    lowered = fw.load(model)
    for name in ("conv", "dw", "pw", "dense"):
        assert {name, f"{name}/kernel", f"{name}/bias"} <= set(lowered.tensors)
    assert not [name for name in lowered.tensors if "_bn" in name]
    assert any("_bn/" in (tensor.former_name or "") for tensor in lowered.tensors.values())
    assert [*after_layers(lowered).tensors] == [*lowered.tensors]
    recipe = Recipe("mine", (Rule("dw"), *recipes.load("weights8").rules))
    assert set(fw.quantize(lowered, recipe).plan.kept_float) >= {"dw"}


def test_operations_of_no_layer_keep_their_names() -> None:
    body = models.lowered("gru").graphs[2]
    assert {"dot_general", "add_7"} <= set(body.tensors)


def test_a_file_holds_the_names(tmp_path: Path) -> None:
    fw.save(models.lowered("dense"), tmp_path / "dense.tflite")
    written = fw.load(tmp_path / "dense.tflite")
    assert {"dense_1/kernel", "dense_1/bias", "dense_1"} <= set(written.tensors)
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
