"""Which variables are pruned, in which layout, and which stay dense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.training.pruning.nets import (
    BATCH,
    Custom,
    Subclassed,
    conv_net,
    data,
    dense_net,
    kernel_of,
    kernels_of,
    several_kinds_net,
    trained,
    zeros,
)

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.pruning.prunable import matches

IMAGE, SEQUENCE, VIDEO = (8, 8, 4), (6, 8), (3, 6, 6, 2)
_LSTM = {"lstm_cell/kernel": 128, "lstm_cell/recurrent_kernel": 64}
# Kind → (input shape, layers between input and classifier, path of each pruned kernel → its size).
KINDS: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]], dict[str, int]]] = {
    "conv_1d": (SEQUENCE, lambda: [L.Conv1D(4, 3), L.Conv1D(8, 3, name="y")], {"y/kernel": 96}),
    "conv_2d": (IMAGE, lambda: [L.Conv2D(4, 3), L.Conv2D(8, 3, name="y")], {"y/kernel": 288}),
    "conv_3d": ((6, 6, 6, 2), lambda: [L.Conv3D(4, 3), L.Conv3D(4, 3, name="y")], {"y/kernel": 432}),
    "transposed": (IMAGE, lambda: [L.Conv2DTranspose(8, 3, name="y")], {"y/kernel": 288}),
    "depthwise": (IMAGE, lambda: [L.DepthwiseConv2D(3), L.Dense(8, name="y")], {"y/kernel": 32}),
    "separable": (
        IMAGE,
        lambda: [L.Conv2D(4, 1), L.SeparableConv2D(8, 3, name="y")],
        {"y/pointwise_kernel": 32},
    ),
    "embedding": ((6,), lambda: [L.Embedding(20, 8, name="y")], {"y/embeddings": 160}),
    "lstm": (SEQUENCE, lambda: [L.LSTM(4, name="y")], {f"y/{path}": size for path, size in _LSTM.items()}),
    "gru": (SEQUENCE, lambda: [L.GRU(4, name="y")], {"y/gru_cell/kernel": 96, "y/gru_cell/recurrent_kernel": 48}),
    "rnn": (
        SEQUENCE,
        lambda: [L.SimpleRNN(4, name="y")],
        {"y/simple_rnn_cell/kernel": 32, "y/simple_rnn_cell/recurrent_kernel": 16},
    ),
    "bidirectional": (
        SEQUENCE,
        lambda: [L.Bidirectional(L.LSTM(4, name="r"), name="y")],
        {f"y/{way}_r/{path}": size for way in ("forward", "backward") for path, size in _LSTM.items()},
    ),
    "conv_lstm": (
        VIDEO,
        lambda: [L.TimeDistributed(L.Conv2D(4, 1)), L.ConvLSTM2D(4, 3, name="y")],
        {"y/conv_lstm_cell/kernel": 576, "y/conv_lstm_cell/recurrent_kernel": 576},
    ),
    "attention": (
        SEQUENCE,
        lambda: [lambda x: L.MultiHeadAttention(2, 4, name="y")(x, x)],
        {f"y/{name}/kernel": 64 for name in ("query", "key", "value", "attention_output")},
    ),
    "einsum": (SEQUENCE, lambda: [L.EinsumDense("abc,cd->abd", (6, 16), name="y")], {"y/kernel": 128}),
    "nested": (
        SEQUENCE,
        lambda: [keras.Sequential([L.Input(SEQUENCE), L.Dense(8, name="inside")], name="y")],
        {"y/inside/kernel": 64},
    ),
    "custom": (SEQUENCE, lambda: [Custom(name="y")], {"y/mixing": 96, "y/inside/kernel": 96}),
    "norms": (
        SEQUENCE,
        lambda: [L.Dense(8, name="y"), L.LayerNormalization(axis=(1, 2)), L.PReLU(), L.GroupNormalization(2)],
        {"y/kernel": 64},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_of_every_kind_of_layer(kind: str) -> None:
    """TFMOT stops at the first layer that it does not know."""
    keras.utils.set_random_seed(0)
    shape, layers, expected = KINDS[kind]
    inputs = x = keras.Input(shape, dtype="int32" if kind == "embedding" else "float32")
    for layer in layers():
        x = layer(x)
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)), name="net")
    optimizer = fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 2))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    array = rng.integers(0, 20, (8, *shape)) if kind == "embedding" else rng.normal(size=(8, *shape))
    model.fit(array, rng.integers(0, 3, 8), batch_size=4, verbose=0)
    found = {path.removeprefix("net/"): part for path, part in optimizer.sparsities().items()}
    assert {path: round(part * expected[path]) for path, part in found.items()} == {
        path: round(0.5 * size) for path, size in expected.items()
    }


@pytest.mark.parametrize(
    ("layer", "shape", "view"),
    [
        (L.Dense(8), (4, 6), (1, 8, 1, 6)),
        (L.Conv2D(8, (3, 2)), (4, 6, 6, 5), (1, 8, 6, 5)),
        (L.Conv2D(8, 3, groups=2), (4, 6, 6, 4), (1, 8, 9, 2)),
        (L.Conv1DTranspose(8, 3), (4, 6, 5), (1, 8, 3, 5)),
        (L.DepthwiseConv1D(3, depth_multiplier=2), (4, 6, 5), (1, 1, 3, 10)),
        (L.LSTM(7), (4, 6, 5), (4, 7, 1, 5)),
        (L.GRU(7), (4, 6, 5), (3, 7, 1, 5)),
        (L.EinsumDense("abcd,cde->abe", (None, 9)), (4, 6, 5, 3), (1, 9, 1, 15)),
        (L.EinsumDense("abc,cde->abde", (None, 9, 2)), (4, 6, 5), (1, 18, 1, 5)),
        (L.EinsumDense("...c,cd->...d", 9), (4, 6, 5), (1, 9, 1, 5)),
        (L.Embedding(11, 5), (4, 6), (1, 11, 1, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, L.Layer) else "",
)
def test_layouts_of_layers(layer: Any, shape: tuple[int, ...], view: tuple[int, ...]) -> None:
    layer.build(shape)
    kernel = kernels_of(layer)[0]
    assert kernel.layout.view_shape == view


def test_the_first_convolution_the_classifier_and_depthwise_stay_dense_unless_named() -> None:
    model = several_kinds_net()
    kernels = kernels_of(model)
    roles = {kernel.path.split("/")[-2]: kernel.role for kernel in kernels if kernel.role}
    assert roles == {"stem": "first", "depthwise_1": "depthwise", "depthwise_2": "depthwise", "head": "last"}
    optimizer = fw.SparseOptimizer("adam", 0.5, model=model)
    optimizer.build(model.trainable_variables)
    reasons = {path.split("/")[-2]: reason for path, reason in optimizer.dense_kernels().items()}
    assert set(reasons) == set(roles)
    assert reasons["stem"].startswith("the first convolution; name it in a rule, or leave 'first' out of keep=")
    named = fw.SparseOptimizer("adam", 0.5, rules={"stem": 0.25, "*": 0.5}, model=model)
    named.build(model.trainable_variables)
    assert set(named.dense_kernels()) == {path for path in optimizer.dense_kernels() if "stem" not in path}
    everything = fw.SparseOptimizer("adam", 0.5, keep=(), model=model)
    everything.build(model.trainable_variables)
    assert everything.dense_kernels() == {}
    assert len(everything.patterns()) == len(kernels)


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_rules_give_kernels_their_own_sparsity() -> None:
    rules = [("b", 0.25), ("*/kernel", 0.75), ("c*", 0.1)]
    optimizer = fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 8), frequency=4, rules=rules)
    model = trained(dense_net(), optimizer, 4)
    assert zeros(model, "b/kernel") == round(0.125 * 16 * 24)
    trained(model, optimizer, 4)
    assert [zeros(model, f"{name}/kernel") for name in "abc"] == [144, 96, 180]


def test_excluded_kernels_stay_dense() -> None:
    optimizer = fw.SparseOptimizer("adam", 0.5, exclude="a", rules={"c": 0.0, "b": 0.5})
    model = trained(dense_net(), optimizer, 1)
    assert [zeros(model, f"{name}/kernel") for name in "abc"] == [0, 192, 0]
    assert optimizer.dense_kernels() == {
        "net/a/kernel": "excluded by 'a'",
        "net/c/kernel": "rule 'c' gives it a sparsity of 0",
    }


def test_a_path_is_matched_by_its_parts() -> None:
    path = "net/block_1/conv/kernel"
    assert all(matches(path, name) for name in ("*", path, "block_1", "conv/kernel", "block_*", "net/*", "*/conv/*"))
    assert not any(matches(path, name) for name in ("block", "kern", "conv/bias", "Block_1"))


def test_auto_takes_the_pattern_of_the_target() -> None:
    model = conv_net()
    optimizer = fw.SparseOptimizer("adam", 0.5, "auto", target="litert", keep=(), model=model)
    optimizer.build(model.trainable_variables)
    assert optimizer.patterns() == {
        "net/stem/kernel": "unstructured",
        "net/body/kernel": "unstructured",
        "net/head/kernel": "1x16",
    }
    model = dense_net()
    undivided = fw.SparseOptimizer("adam", 0.5, "auto", target="litert", keep=(), model=model)
    undivided.build(model.trainable_variables)  # 12 inputs don't divide by 16
    assert undivided.patterns() == {
        "net/a/kernel": "unstructured",
        "net/b/kernel": "1x16",
        "net/c/kernel": "unstructured",
    }


def test_kernels_of_a_subclassed_model() -> None:
    model = Subclassed()
    optimizer = fw.SparseOptimizer("adam", 0.5)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.ones((8, 12), "float32"), np.zeros(8), verbose=0)
    assert [*optimizer.sparsities().values()] == [0.5, 0.5]


def test_a_model_that_trains_its_parts_with_optimizers_of_their_own() -> None:
    class Pair(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = conv_net(), conv_net()
            self.pruning = fw.SparseOptimizer("adam", 0.5, "1x4", keep=("first", "last"))

        def call(self, x: Any) -> Any:
            return self.one(x) + self.other(x)

        def train(self) -> None:
            variables = self.one.trainable_variables
            self.pruning.apply([np.ones(variable.shape) for variable in variables], variables)

    pair = Pair()
    pair(np.ones((1, 8, 8, 3)))
    pair.train()
    assert pair.pruning.sparsities() == {"net/body/kernel": 0.5}


def test_kernels_of_a_graph_model_lie_as_the_runtime_reads_them() -> None:
    model = fw.graph_model(fw.load(conv_net()))
    optimizer = fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 3), "1x4", keep=("first", "last"))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).normal(size=(4 * BATCH, 8, 8, 3)).astype("float32"), np.zeros(4 * BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    (kernel,) = (keras.ops.convert_to_numpy(v) for v in optimizer.kernels)
    assert kernel.shape == (16, 3, 3, 8)
    blocks = kernel.reshape(-1, 4) != 0
    assert (blocks.all(1) == blocks.any(1)).all()
    assert np.count_nonzero(~blocks[:, 0]) == len(blocks) // 2
    assert set(optimizer.patterns().values()) == {"1x4"}
    assert len(optimizer.dense_kernels()) == 2


def test_zeros_are_kept_without_a_schedule(tmp_path: Path) -> None:
    """TFMOT's quantization-aware training of a pruned model loses half of its zeros."""
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.8, keep=()), 1)
    before = {name: kernel_of(model, f"{name}/kernel") == 0 for name in "abc"}
    graph = fw.graph_model(fw.load(model))
    optimizer = fw.SparseOptimizer(keras.optimizers.Adam(0.01), None)
    graph.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    graph.fit(*data(model, 4), batch_size=BATCH, verbose=0)
    after = {path.split("/")[-2]: keras.ops.convert_to_numpy(k) == 0 for path, k in by_path(optimizer).items()}
    assert {name: zero.T.tolist() for name, zero in after.items()} == {k: v.tolist() for k, v in before.items()}
    model.compile(fw.SparseOptimizer("adam", None), "sparse_categorical_crossentropy")
    model.fit(*data(model, 1), verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    loaded.fit(*data(loaded, 2), verbose=0)
    assert all((loaded.get_layer(name).kernel.numpy() == 0).tolist() == zero.tolist() for name, zero in before.items())


def by_path(optimizer: Any) -> dict[str, Any]:
    return {kernel.path: kernel for kernel in optimizer.kernels}


def test_without_zeros_there_are_none_to_keep() -> None:
    with pytest.raises(RecipeError, match=r"it keeps the zeros of kernels, and these have none. Prune the model first"):
        trained(dense_net(), fw.SparseOptimizer("adam", None), 1)
    with pytest.raises(RecipeError, match=r"method='movement' has no effect without a schedule. Leave it out"):
        fw.SparseOptimizer("adam", None, method="movement")
