"""Any lowered float graph as a Keras model: what it computes, what it trains, how it is saved."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from tests import building, models, single_ops
from tests.training.variants import VARIANTS

import featherweight as fw
from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor, constant, io_names
from featherweight.training import GraphModel, float_graph
from featherweight.training.graph.source_layers import layer_path

NETS = [(name, False) for name in models.BUILDERS] + [(name, True) for name in models.RECURRENT]
ROWS = 4


def by_name(outputs: Any, model: Model) -> dict[str, np.ndarray]:
    names = list(io_names(model)[1])
    return outputs if isinstance(outputs, dict) else {names[0]: np.asarray(outputs)}


def assert_equal(found: Any, expected: Any, model: Model, tolerance: float = 1e-5) -> None:
    wanted = by_name(expected, model)
    found = by_name(found, model)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)


def one_op(op: str, constants: dict[str, np.ndarray], out: tuple[int, ...], x: tuple[int, ...], **attrs: Any) -> Model:
    return building.model_of(op, {"x": x, **constants}, {"y": out}, **attrs)


@pytest.mark.parametrize(("name", "unroll"), NETS)
def test_a_graph_model_computes_what_litert_computes(name: str, unroll: bool) -> None:
    graph = models.lowered(name, unroll)
    x = models.batch(name, ROWS)
    assert_equal(fw.graph_model(graph).predict(x, verbose=0), fw.run(graph, x), graph)


def test_a_fused_recurrent_layer_computes_what_litert_computes() -> None:
    graph, x = models.lowered("lstm", fuse=True), models.batch("lstm", ROWS)
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in {node.op for node in graph.main.nodes}
    assert_equal(fw.graph_model(graph).predict(x, verbose=0), fw.run(graph, x), graph)


@pytest.mark.parametrize("op", single_ops.FACTORIES)
def test_every_operator_computes_what_litert_computes(op: str) -> None:
    graph = single_ops.FACTORIES[op]()
    x = single_ops.feeds(graph)
    outputs = fw.graph_model(graph)(x)
    outputs = {name: np.asarray(value) for name, value in outputs.items()} if isinstance(outputs, dict) else outputs
    assert_equal(outputs, fw.run(graph, x), graph)


@pytest.mark.parametrize("name", VARIANTS)
def test_unusual_options_compute_what_litert_computes(name: str) -> None:
    graph = VARIANTS[name]()
    x = single_ops.feeds(graph)
    assert_equal(np.asarray(fw.graph_model(graph)(x)), fw.run(graph, x), graph)


@pytest.mark.parametrize(("size", "padding", "taps"), [(12, "SAME", 3), (11, "SAME", 2), (13, "VALID", 3)])
def test_transposed_convolutions_have_the_size_that_the_file_says(size: int, padding: str, taps: int) -> None:
    weights = {"w": building.weights(4, taps, taps, 8)}
    inputs = {"size": building.ints(1, size, size, 4), **weights, "x": (1, 6, 6, 8)}
    graph = building.model_of(
        "TRANSPOSE_CONV",
        inputs,
        {"y": (1, size, size, 4)},
        stride_h=2,
        stride_w=2,
        padding=padding,
    )
    x = np.random.default_rng(0).normal(0, 1, (1, 6, 6, 8)).astype(np.float32)
    assert_equal(np.asarray(fw.graph_model(graph)(x)), fw.run(graph, x), graph)


def test_inputs_are_a_dict_a_list_or_one_array() -> None:
    graph = models.lowered("multi_input")
    model, x = fw.graph_model(graph), models.batch("multi_input", 3)
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(list(x.values()), verbose=0), expected)
    single = models.batch("dense", 3)
    dense = fw.graph_model(models.lowered("dense"))
    np.testing.assert_array_equal(
        dense.predict(single, verbose=0), dense.predict(next(iter(single.values())), verbose=0)
    )


def test_several_outputs_are_a_dict_that_fit_takes_losses_for() -> None:
    graph = models.lowered("multi_output")
    model, x = fw.graph_model(graph), models.batch("multi_output", 8)
    outputs = model.predict(x, verbose=0)
    assert {name: array.shape for name, array in outputs.items()} == {
        "box": (8, 4),
        "label": (8, 4),
        "mask": (8, 12, 12, 1),
    }
    model.compile("sgd", {"box": "mse", "label": "mse", "mask": "mse"})
    losses = model.fit(x, {name: array + 0.5 for name, array in outputs.items()}, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_wrong_inputs_are_named() -> None:
    model = fw.graph_model(models.lowered("multi_input"), name="two")
    x = models.batch("multi_input", 2)
    with pytest.raises(DataError, match=r"Input 'context' of the model 'two' is missing \(given: image"):
        model({"image": x["image"]})
    with pytest.raises(DataError, match=r"The model 'two' takes 2 inputs \(image, context\), not 1"):
        model(x["image"])
    with pytest.raises(DataError, match=r"Input 'image' of the model 'two' has the shape \[2, 12, 12\]; it must be"):
        model({**x, "image": x["image"][..., 0]})


@pytest.mark.parametrize("name", ["depthwise", "lstm"])
def test_fit_reduces_the_loss_and_the_file_has_the_trained_weights(name: str) -> None:
    graph = models.lowered(name)
    model, x = fw.graph_model(graph), models.batch(name, 16)
    random = np.random.default_rng(0)
    targets = model.predict(x, verbose=0)
    targets = targets + random.normal(0, 0.3, targets.shape).astype(np.float32)
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=True)
    losses = model.fit(x, targets, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    trained = model.predict(x, verbose=0)
    assert np.abs(trained - by_name(fw.run(graph, x), graph)[next(iter(io_names(graph)[1]))]).max() > 1e-4
    assert_equal(trained, fw.run(float_graph(model), x), graph)


def test_every_trained_weight_of_a_loop_has_a_gradient() -> None:
    model, x = fw.graph_model(models.lowered("lstm")), models.batch("lstm", 5)
    assert {variable.path.split("/", 1)[1] for variable in model.trainable_variables} == {
        "lstm_cell/kernel",
        "lstm_cell/kernel_1",
        "lstm_cell/offset",
        "logits/kernel",
        "logits/bias",
    }

    def loss(values: list[Any]) -> Any:
        outputs, _ = model.stateless_call(values, [], x)
        return (outputs**2).sum()

    gradients = jax.jit(jax.grad(loss))([variable.value for variable in model.trainable_variables])
    assert all(np.abs(np.asarray(gradient)).max() > 0 for gradient in gradients)


def test_a_loop_compiled_as_a_loop_and_one_written_out_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = models.lowered("gru"), models.batch("gru", 3)
    compiled = fw.graph_model(graph).predict(x, verbose=0)
    monkeypatch.setattr("featherweight.training.float.control._WRITTEN_OUT", models.STEPS)
    written_out = fw.graph_model(graph).predict(x, verbose=0)
    np.testing.assert_allclose(written_out, compiled, rtol=1e-6, atol=1e-6)


def test_a_custom_training_loop() -> None:
    model, x = fw.graph_model(models.lowered("dense")), models.batch("dense", 8)
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)

    def loss(trained: list[Any], x: Any) -> Any:
        outputs, _ = model.stateless_call(trained, [], x, training=True)
        return keras.ops.mean(keras.ops.square(outputs))

    @jax.jit
    def step(trained: list[Any], state: list[Any], x: Any) -> tuple[Any, Any, Any]:
        value, gradients = jax.value_and_grad(loss)(trained, x)
        return value, *optimizer.stateless_apply(state, gradients, trained)

    trained = [variable.value for variable in model.trainable_variables]
    state = [variable.value for variable in optimizer.variables]
    values = []
    for _ in range(4):
        value, trained, state = step(trained, state, x)
        values.append(float(value))
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_a_saved_model_loads_without_custom_objects(name: str, tmp_path: Path) -> None:
    graph, x = models.lowered(name), models.batch(name, 3)
    model = fw.graph_model(graph, name="saved")
    for variable in model.trainable_variables:
        variable.assign_add(np.full(variable.shape, 0.01, np.float32))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = fw.graph_model(graph)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert isinstance(loaded, GraphModel)
    assert loaded.layer_table == model.layer_table
    for other in (loaded, fresh):
        for variable, value in zip(model.variables, other.variables, strict=True):
            np.testing.assert_array_equal(value, variable)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_training_goes_on_where_a_saved_model_stopped(tmp_path: Path) -> None:
    x = next(iter(models.batch("dense", 8).values()))
    model = fw.graph_model(models.lowered("dense"))
    model.compile("adam", "mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.fit(x, x, verbose=0).history["loss"]
    np.testing.assert_allclose(loaded.fit(x, x, verbose=0).history["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "imports",
    [
        "import featherweight, sys; assert 'keras' not in sys.modules; import keras, featherweight.training",
        "import keras, featherweight",
    ],
)
def test_a_saved_model_loads_in_a_new_process_that_imported_the_package(imports: str, tmp_path: Path) -> None:
    model, x = fw.graph_model(models.lowered("dense")), models.batch("dense", 2)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", next(iter(x.values())))
    script = (
        f"{imports}\n"
        "import numpy as np\n"
        f"model = keras.saving.load_model(r'{tmp_path / 'model.keras'}')\n"
        f"np.save(r'{tmp_path / 'y.npy'}', model.predict(np.load(r'{tmp_path / 'x.npy'}'), verbose=0))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_the_policys_type(policy: str) -> None:
    graph, x = models.lowered("convnet"), models.batch("convnet", 4)
    model = fw.graph_model(graph, dtype=policy)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    (inner,) = model.tensors(x, ["stem"]).values()
    assert keras.backend.standardize_dtype(inner.dtype) == policy.removeprefix("mixed_")
    outputs = model.predict(x, verbose=0)
    assert outputs.dtype == np.float32
    difference = np.abs(outputs - by_name(fw.run(graph, x), graph)["probabilities"]).max()
    assert 0 < difference < 0.02


def test_weights_are_named_after_their_layers() -> None:
    model = fw.graph_model(models.lowered("transformer"), name="net")
    paths = {variable.path: tuple(variable.shape) for variable in model.variables}
    assert paths["net/embedding/embeddings"] == (models.VOCABULARY, 16)
    assert paths["net/attention/query/kernel"] == (16, 16)
    assert paths["net/attention_norm/scale"] == (1, 1, 16)
    assert model.get_layer("feed_forward_in").count_params() == 64 * 16 + 64
    frozen = {entry.tensor: entry.reason for entry in model.layer_table if entry.variable is None}
    assert frozen == {
        "attention_norm/add_2": "one number: a constant of the arithmetic",
        "attention/vmap()/mul_1": "one number: a constant of the arithmetic",
    }


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("block_1_conv_a/conv_general_dilated_2", "block_1_conv_a"),
        ("attention/vmap(BTNH,BSNH->BNTS)/dot_general", "attention"),
        ("lstm/while/body/lstm_cell/add", "lstm/lstm_cell"),
        ("model/stem/Conv2D;model/norm/batchnorm/mul", "model/norm/batchnorm"),
        ("net.Net/torch.nn.modules.conv.Conv2d_stem_1", "stem"),
        ("net.Net/torch.nn.modules.container.Sequential_features/net.My_Block_2/torch.nn.modules.conv.Conv2d_conv",
         "features/2/conv"),
        ("tensor_5", ""),
    ],
)  # fmt: skip
def test_layers_are_read_from_the_names_of_all_sources(name: str, layer: str) -> None:
    assert layer_path(name) == layer


def test_layers_can_be_frozen() -> None:
    model, x = fw.graph_model(models.lowered("dense")), models.batch("dense", 8)
    layer = next(part for part in model.layers if part.name == "dense_1")
    layer.trainable = False
    before = [variable.numpy() for variable in layer.weights]
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((8, 64), np.float32), verbose=0)
    assert len(model.trainable_variables) == len(model.weights) - 2
    for variable, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def two_dense(kernels: tuple[np.ndarray, np.ndarray], shared: bool, bias: np.ndarray | None) -> Model:
    """Two dense layers, one behind the other; their biases are one constant if there is one."""
    names = ("a/kernel", "a/kernel" if shared else "b/kernel")
    tensors = {"x": Tensor("x", (1, 4), "float32", shape_signature=(-1, 4))}
    tensors |= {name: constant(name, kernel) for name, kernel in zip(names, kernels, strict=True)}
    tensors |= {name: Tensor(name, (1, 4), "float32", shape_signature=(-1, 4)) for name in ("a/y", "b/y")}
    more = ()
    if bias is not None:
        tensors["bias"], more = constant("bias", bias), ("bias",)
    nodes = (
        Node("FULLY_CONNECTED", ("x", names[0], *more), ("a/y",), {"keep_num_dims": True}),
        Node("FULLY_CONNECTED", ("a/y", names[1], *more), ("b/y",), {"keep_num_dims": True}),
    )
    return Model((Graph("main", ("x",), ("b/y",), nodes, tensors),))


def test_dropped_biases_come_back_as_zeros() -> None:
    graph = two_dense((building.weights(4, 4), building.weights(4, 4) * 2), shared=False, bias=None)
    model = fw.graph_model(graph, name="net")
    paths = {variable.path: np.asarray(variable) for variable in model.variables}
    assert list(paths) == ["net/a/kernel", "net/a/bias", "net/b/kernel", "net/b/bias"]
    assert not paths["net/a/bias"].any()
    x = building.weights(3, 4)
    model.variables[1].assign([1.0, 2.0, 3.0, 4.0])
    assert_equal(model.predict(x, verbose=0), fw.run(float_graph(model), x), graph)
    assert np.abs(model.predict(x, verbose=0) - fw.run(graph, x)).max() > 0.1


def test_what_nodes_share_by_chance_is_trained_apart_and_what_they_share_is_one_variable() -> None:
    kernels = building.weights(4, 4), building.weights(4, 4) * 2
    by_chance = fw.graph_model(two_dense(kernels, shared=False, bias=np.ones(4, np.float32)))
    assert len(by_chance.variables) == 4
    shared = fw.graph_model(two_dense((kernels[0], kernels[0]), shared=True, bias=np.ones(4, np.float32)))
    assert len(shared.variables) == 2
    same_values = fw.graph_model(two_dense((kernels[0], kernels[0]), shared=False, bias=building.weights(4)))
    assert len(same_values.variables) == 2
    written = float_graph(same_values)
    assert {"a/kernel", "b/kernel"} < set(written.main.tensors)


def test_an_unrolled_cell_has_one_set_of_weights() -> None:
    model = fw.graph_model(models.lowered("lstm", unroll=True), name="net")
    assert {variable.path: tuple(variable.shape) for variable in model.variables} == {
        "net/lstm/lstm_cell/kernel": (64, 8),
        "net/lstm/lstm_cell/kernel_1": (64, 16),
        "net/lstm/lstm_cell/bias": (64,),
        "net/logits/kernel": (4, 16),
        "net/logits/bias": (4,),
    }


def test_masks_and_single_numbers_are_not_trained() -> None:
    mask = np.where(np.tri(4, dtype=bool), 0, -1e9).astype(np.float32)
    graph = one_op("ADD", {"mask": mask}, (1, 4, 4), (1, 4, 4))
    model = fw.graph_model(graph)
    assert not model.variables
    (entry,) = model.layer_table
    assert (entry.tensor, entry.variable, entry.layer, entry.reason) == ("mask", None, "y", "a mask")


def test_all_nodes_without_a_function_are_named() -> None:
    tensors = {name: Tensor(name, (1, 4), "float32") for name in ("x", "a", "b", "y")}
    nodes = (
        Node("CUSTOM", ("x",), ("a",), custom_code="mine"),
        Node("RELU", ("a",), ("b",)),
        Node("RFFT2D", ("b",), ("y",)),
    )
    graph = Model((Graph("main", ("x",), ("y",), nodes, tensors),))
    with pytest.raises(
        UnsupportedOp,
        match=r"2 node\(s\) of the model can't be trained: CUSTOM 'a' \(the operator has no differentiable function\), "
        r"RFFT2D 'y' \(the operator has no differentiable function\)\. A graph model takes",
    ):
        fw.graph_model(graph)


def test_a_quantized_graph_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    quantized = fw.quantize(models.lowered("dense"), "int8", calibration=[x]).model
    with pytest.raises(UnsupportedOp, match=r"FULLY_CONNECTED '.*' \(tensor '.*' is int8\)"):
        fw.graph_model(quantized)


def test_a_loop_that_depends_on_data_says_so() -> None:
    graph = models.lowered("lstm")
    main = graph.main
    counter = next(node for node in main.nodes if node.op == "WHILE").inputs[0]
    tensors = dict(main.tensors)
    tensors["count"] = Tensor("count", (), "int32")
    nodes = tuple(replace(n, inputs=tuple("count" if i == counter else i for i in n.inputs)) for n in main.nodes)
    fed = replace(main, inputs=(*main.inputs, "count"), nodes=nodes, tensors=tensors)
    model = fw.graph_model(Model((fed, *graph.graphs[1:])))
    with pytest.raises(UnsupportedOp, match="WHILE 'lstm/while': a loop whose count depends on data is not supported"):
        model({**models.batch("lstm", 1), "count": np.int32(0)})
