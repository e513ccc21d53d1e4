from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L  # noqa: N812
from tests.backends import on_backend
from tests.training.compilation import optimizations, optimized, quick_compilation

import featherweight as fw
from featherweight.errors import DataError, RecipeError
from featherweight.pruning.allocation import allocate
from featherweight.pruning.prunable import matches
from featherweight.sparsity import patterns
from featherweight.sparsity.patterns import mask
from featherweight.sparsity.weight_layouts import dense_layout
from featherweight.training.pruning.bisection import keep_highest
from featherweight.training.pruning.variable_owners import find_kernels, living_layers
from featherweight.training.schedules import Schedule

__all__ = ["optimized", "quick_compilation"]

KEPT = ("first", "last", "depthwise")
STEPS, BATCH = 8, 16


@keras.saving.register_keras_serializable("tests")
class Custom(L.Layer):
    """A layer with kernels of its own, and vectors and biases of rank 2 that are none."""

    def build(self, shape: Any) -> None:
        self.mixing = self.add_weight(shape=(shape[-1], 12), name="mixing")
        self.row_bias = self.add_weight(shape=(1, 12), name="row_bias")
        self.inside = L.Dense(8, name="inside")
        self.inside.build((None, 12))

    def call(self, x: Any) -> Any:
        return self.inside(keras.ops.matmul(x, self.mixing) + self.row_bias)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = L.Dense(16), [L.Dense(24), L.Dense(10)]

    def call(self, x: Any) -> Any:
        x = keras.ops.relu(self.stem(x))
        return self.blocks[1](keras.ops.relu(self.blocks[0](x)))


def dense_net(features: int = 12, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(16, activation="relu", name="a", **options), L.Dense(24, activation="relu", name="b", **options)]
    return keras.Sequential([L.Input((features,)), *hidden, L.Dense(10, name="c")], name="net")


def conv_net() -> Any:
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, activation="relu", name="stem"), L.Conv2D(16, 3, activation="relu", name="body")]
    return keras.Sequential([L.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(10, name="head")], name="net")


def several_kinds_net() -> Any:
    keras.utils.set_random_seed(0)
    layers = [
        L.Conv2D(16, 3, padding="same", name="stem"),
        L.DepthwiseConv2D(3, name="depthwise_1"),
        L.Conv2D(32, 3, name="body_1"),
        L.DepthwiseConv2D(3, name="depthwise_2"),
        L.Conv2D(64, 3, name="body_2"),
    ]
    return keras.Sequential(
        [L.Input((12, 12, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(10, name="head")], name="net"
    )


def data(model: Any, steps: int = STEPS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * BATCH, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, model.output_shape[-1], len(x))


def trained(model: Any, optimizer: Any, steps: int = STEPS, **options: Any) -> Any:
    if not hasattr(model, "optimizer") or model.optimizer is not optimizer:
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    model.fit(*data(model, steps), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def kernel_of(model: Any, path: str) -> np.ndarray:
    return next(keras.ops.convert_to_numpy(v) for v in model.trainable_variables if v.path.removeprefix("net/") == path)


def zeros(model: Any, path: str) -> int:
    return int(np.count_nonzero(kernel_of(model, path) == 0))


def values(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]


# ---------------------------------------------------------------------------------------------------- compiled masks


SIZES = (1, 7, 40)


@functools.cache
def compiled_masks(is_pooled: bool) -> Any:
    function = jax.jit(lambda scores, counts: keep_highest(scores, counts, is_pooled))

    def call(scores: Any, counts: Any) -> Any:
        with optimizations(are_on=True):
            return function(scores, counts)

    return call


@given(
    levels=st.integers(1, 30),
    part=st.floats(0, 1),
    is_pooled=st.booleans(),
    has_signs=st.booleans(),
    seed=st.integers(0, 99),
)
def test_compiled_masks_are_those_of_numpy(
    levels: int, part: float, is_pooled: bool, has_signs: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = [(rng.integers(-levels * has_signs, levels, size) / 7).astype(np.float32) for size in SIZES]
    if is_pooled:
        counts = [round(part * sum(SIZES))]
        expected = np.split(patterns.keep_highest(np.concatenate(scores), counts[0]), np.cumsum(SIZES)[:-1])
    else:
        counts = [round(part * size) for size in SIZES]
        expected = [patterns.keep_highest(one, count) for one, count in zip(scores, counts, strict=True)]
    found = compiled_masks(is_pooled)(scores, np.array(counts, np.int32))
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one).tolist() == other.tolist()


@pytest.mark.parametrize("values", [[np.inf, 0, 1, np.inf], [1e-45, 0, 3e38, 1e-38], [np.nan, 1, 0, 2]])
def test_compiled_masks_of_extreme_scores(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    order = np.argsort(scores, kind="stable")  # NaN is the last: a broken weight stays to be seen
    for count in range(5):
        kept = np.asarray(compiled_masks(is_pooled=False)([scores], np.int32([count]))[0])
        assert sorted(np.flatnonzero(~kept)) == sorted(order[:count])


# -------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 7, 1), (0, 7, 3), (3, 8, 4), (2, 3, 100)])
def test_the_final_sparsity_is_exact_whatever_the_frequency(begin: int, end: int, frequency: int) -> None:
    optimizer = fw.SparseOptimizer("adam", fw.polynomial_decay(0.0, 0.77, begin, end), frequency=frequency)
    model = trained(dense_net(), optimizer)
    assert zeros(model, "a/kernel") == round(0.77 * 12 * 16)
    assert zeros(model, "b/kernel") == round(0.77 * 16 * 24)
    assert zeros(model, "c/kernel") == 0


@pytest.mark.parametrize(
    ("pattern", "start"),
    [("unstructured", "ones"), ("unstructured", "zeros"), ("1x4", "ones"), ("4x1", "zeros"), ("channel", "ones")],
)
def test_tied_and_zero_weights_give_the_exact_sparsity(pattern: str, start: str) -> None:
    """TFMOT prunes nothing where weights are tied."""
    model = dense_net(kernel_initializer=start)
    trained(model, fw.SparseOptimizer(keras.optimizers.SGD(0.0), fw.linear(0.0, 0.5, 0, 5), pattern), 6)
    for path in ("a/kernel", "b/kernel"):
        kernel, layout = kernel_of(model, path), dense_layout(kernel_of(model, path).shape)
        expected = dense_net(kernel_initializer=start).get_layer(path[0]).kernel
        kept = mask(np.abs(keras.ops.convert_to_numpy(expected)), 0.5, pattern, layout)
        assert kernel.tolist() == np.where(kept, keras.ops.convert_to_numpy(expected), 0).tolist()


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_pruned_weights_are_zero_after_every_step_and_masks_follow_the_schedule() -> None:
    model, schedule = dense_net(), fw.linear(0.0, 0.8, 2, 10)
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), schedule, frequency=3)
    trained(model, optimizer, 1)
    seen = []
    for _ in range(12):
        model.fit(*data(model, 1), batch_size=BATCH, verbose=0)
        masks = [keras.ops.convert_to_numpy(v) for v in optimizer.variables if v.dtype == "bool"]
        assert (kernel_of(model, "b/kernel")[~masks[1]] == 0).all()
        seen.append(zeros(model, "b/kernel"))
    expected = [schedule(max((s for s in (2, 5, 8, 10) if s <= step), default=0)) for step in range(2, 14)]
    assert seen == [round(sparsity * 16 * 24) for sparsity in expected]


def test_fewer_steps_than_the_frequency_prune_all_the_same() -> None:
    """TFMOT updates every 100 steps and prunes nothing, silently, in a shorter training."""
    model = trained(dense_net(), fw.SparseOptimizer("adam", fw.polynomial_decay(0.0, 0.9, 0, STEPS)))
    assert zeros(model, "b/kernel") == round(0.9 * 16 * 24)


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_n_of_m_follows_the_schedule() -> None:
    """TFMOT's 2:4 ignores its schedule."""
    optimizer = fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 10), "2:4", frequency=2)
    model = trained(dense_net(), optimizer, 4)
    assert zeros(model, "b/kernel") == round(0.2 * 16 * 24)
    trained(model, optimizer, 6)
    groups = kernel_of(model, "b/kernel").T.reshape(24, 4, 4)
    assert (np.count_nonzero(groups, axis=2) == 2).all()


def test_a_number_prunes_at_the_first_step() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    assert zeros(model, "b/kernel") == 192


@pytest.mark.parametrize("pattern", ["1x4", "2:4", "channel"])
def test_patterns_of_convolutions_lie_as_the_runtime_reads_them(pattern: str) -> None:
    model = trained(conv_net(), fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 4), pattern), 5)
    as_read = kernel_of(model, "body/kernel").transpose(3, 0, 1, 2) != 0  # (out, kh, kw, in)
    blocks = {"1x4": as_read.reshape(-1, 4), "2:4": as_read.reshape(-1, 4), "channel": as_read.reshape(16, -1)}[pattern]
    if pattern == "2:4":
        assert (blocks.sum(1) == 2).all()
    else:
        assert (blocks.all(1) == blocks.any(1)).all()
        assert np.count_nonzero(~blocks[:, 0]) == len(blocks) // 2


# ------------------------------------------------------------------------------------------------- which are pruned


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
    optimizer = fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 2))
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
    kernel = find_kernels(layer.trainable_variables, living_layers())[0]
    assert kernel.layout.view_shape == view


def test_the_first_convolution_the_classifier_and_depthwise_stay_dense_unless_named() -> None:
    model = several_kinds_net()
    kernels = find_kernels(model.trainable_variables, living_layers())
    roles = {kernel.path.split("/")[-2]: kernel.role for kernel in kernels if kernel.role}
    assert roles == {"stem": "first", "depthwise_1": "depthwise", "depthwise_2": "depthwise", "head": "last"}
    optimizer = fw.SparseOptimizer("adam", 0.5)
    optimizer.build(model.trainable_variables)
    reasons = {path.split("/")[-2]: reason for path, reason in optimizer.dense_kernels().items()}
    assert set(reasons) == set(roles)
    assert reasons["stem"].startswith("the first convolution; name it in a rule, or leave 'first' out of dense=")
    named = fw.SparseOptimizer("adam", 0.5, rules={"stem": 0.25, "*": 0.5})
    named.build(model.trainable_variables)
    assert set(named.dense_kernels()) == {path for path in optimizer.dense_kernels() if "stem" not in path}
    everything = fw.SparseOptimizer("adam", 0.5, dense=())
    everything.build(model.trainable_variables)
    assert everything.dense_kernels() == {}
    assert len(everything.patterns()) == len(kernels)


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_rules_give_kernels_their_own_sparsity() -> None:
    rules = [("b", 0.25), ("*/kernel", 0.75), ("c*", 0.1)]
    optimizer = fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 8), frequency=4, rules=rules)
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
    optimizer = fw.SparseOptimizer("adam", 0.5, "auto", target="litert", dense=())
    model = conv_net()
    optimizer.build(model.trainable_variables)
    assert optimizer.patterns() == {
        "net/stem/kernel": "unstructured",
        "net/body/kernel": "unstructured",
        "net/head/kernel": "1x16",
    }
    undivided = fw.SparseOptimizer("adam", 0.5, "auto", target="litert", dense=())
    undivided.build(dense_net().trainable_variables)  # 12 inputs don't divide by 16
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


def test_kernels_of_a_graph_model_lie_as_the_runtime_reads_them() -> None:
    model = fw.graph_model(fw.load(conv_net()))
    optimizer = fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 3), "1x4", dense=("first", "last"))
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
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.8, dense=()), 1)
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
    with pytest.raises(RecipeError, match=r"criterion='movement' has no effect without a schedule. Leave it out"):
        fw.SparseOptimizer("adam", None, criterion="movement")


# ------------------------------------------------------------------------------------------- criteria and allocation


def test_a_global_allocation_takes_the_lowest_of_all() -> None:
    model = dense_net()
    model.get_layer("a").kernel.assign(0.01 * np.arange(1, 193).reshape(12, 16) / 192)
    model.get_layer("b").kernel.assign(1 + np.arange(1, 385).reshape(16, 24))
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.0), 0.5, allocation="global")
    with pytest.warns(UserWarning, match="pruning has left no weight in net/a/kernel; the output of such a layer"):
        trained(model, optimizer, 1)
    with pytest.warns(UserWarning, match="pruning has left no weight in net/a/kernel"):
        assert optimizer.sparsities()["net/a/kernel"] == 1
    assert zeros(model, "a/kernel") == 192
    assert zeros(model, "b/kernel") == round(0.5 * (192 + 384)) - 192
    assert (kernel_of(model, "b/kernel").ravel()[:96] == 0).all()


def test_erk_keeps_small_kernels_denser_and_the_same_total() -> None:
    model = several_kinds_net()
    kernels = find_kernels(model.trainable_variables, living_layers())
    pattern = patterns.parse("unstructured")
    shares = allocate([(kernel, pattern) for kernel in kernels], {}, 0.9, "erk")
    uniform = allocate([(kernel, pattern) for kernel in kernels], {}, 0.9, "uniform")
    assert abs(sum(s.zeros for s in shares) - sum(s.zeros for s in uniform)) <= 1
    assert all(0 <= share.zeros < share.units for share in shares)
    density = {share.kernel.path: 1 - share.zeros / share.units for share in shares}
    sides = {k.path: [side for side in k.layout.shape if side > 1] for k in kernels}
    raw = {path: sum(side) / np.prod(side) for path, side in sides.items()}
    free = [path for path in density if density[path] < 1]
    ratios = [density[path] / raw[path] for path in free]
    np.testing.assert_allclose(ratios, np.mean(ratios), rtol=0.1)  # in proportion, but for whole numbers of weights
    ruled = allocate([(kernel, pattern) for kernel in kernels], {kernels[2].path: 0.5}, 0.9, "erk")
    assert ruled[2].zeros == round(0.5 * ruled[2].units)


def test_movement_prunes_what_moves_to_zero() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([L.Input((4,)), L.Dense(1, use_bias=False, name="a")], name="net")
    start = np.array([[1.0], [0.1], [-1.0], [-0.1]], "float32")
    model.get_layer("a").kernel.assign(start)
    optimizer = fw.SparseOptimizer(
        keras.optimizers.SGD(0.01), fw.constant(0.5, begin=3), criterion="movement", dense=()
    )
    model.compile(optimizer, lambda y, x: keras.ops.mean(x))
    x = np.tile(np.array([[1.0, -1.0, -1.0, 1.0]], "float32"), (4, 1))  # the gradient: 1, -1, -1, 1
    model.fit(x, np.zeros((4, 1)), batch_size=1, shuffle=False, verbose=0)
    kernel = kernel_of(model, "a/kernel").ravel()
    assert (kernel != 0).tolist() == [False, True, False, True]  # the large ones moved towards zero


def test_regrowth_exchanges_weights_for_those_with_large_gradients() -> None:
    def kept(regrowth: float | None, steps: int) -> list[np.ndarray]:
        model = dense_net()
        schedule = fw.constant(0.5, 0, 12)
        optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.001), schedule, frequency=3, regrowth=regrowth)
        masks = []
        for _ in range(steps // 3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trained(model, optimizer, 3)
            masks.append(kernel_of(model, "b/kernel") != 0)
            assert np.count_nonzero(masks[-1]) == 192
        return masks

    plain, grown = kept(None, 15), kept(0.4, 15)
    exchanged = [np.count_nonzero(a & ~b) for a, b in itertools.pairwise(grown)]
    assert not any(np.count_nonzero(a & ~b) > 4 for a, b in itertools.pairwise(plain))
    assert exchanged[0] > 10 * exchanged[2] == exchanged[3] == 0  # after steps 6, 9, 12, 15
    assert exchanged[0] <= 0.4 * 192


# ------------------------------------------------------------------------------------------------- with all of Keras


def test_the_model_is_untouched() -> None:
    model = dense_net()
    before, layers = model.get_config(), list(model.layers)
    count = len(model.weights)
    trained(model, fw.SparseOptimizer("adam", 0.5), 2)
    assert model.get_config() == before
    assert model.layers == layers
    assert len(model.weights) == count


@pytest.mark.parametrize(
    ("options", "is_mixed"),
    [
        ({}, True),
        ({"pattern": "1x4", "exclude": ["a"]}, False),
        ({"criterion": "movement", "rules": {"b": 0.5}}, False),
        ({"regrowth": 0.3, "pattern": "auto", "target": "litert"}, False),
        ({"allocation": "global", "exclude": ["c"]}, False),
    ],
    ids=str,
)
def test_a_saved_model_goes_on_as_if_nothing_had_happened(options: Any, is_mixed: bool, tmp_path: Path) -> None:
    """TFMOT's .keras files don't load."""
    model = dense_net(dtype="mixed_float16" if is_mixed else "float32")
    optimizer = fw.SparseOptimizer(
        keras.optimizers.Adam(0.01), fw.polynomial_decay(0.1, 0.8, 2, 14), frequency=5, **options
    )
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer) if is_mixed else optimizer
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SparseOptimizer: the schedule ends")
        trained(model, wrapped, 6)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    restored = loaded.optimizer.inner_optimizer if is_mixed else loaded.optimizer
    assert isinstance(restored, fw.SparseOptimizer)
    assert restored.get_config() == optimizer.get_config()
    for one in (model, loaded):
        one.fit(*data(one, 9), batch_size=BATCH, shuffle=False, verbose=0)
    for one, other in zip(values(model), values(loaded), strict=True):
        assert one.tolist() == other.tolist()


def test_masks_are_booleans_and_bits_in_the_file(tmp_path: Path) -> None:
    model = trained(dense_net(), fw.SparseOptimizer(keras.optimizers.SGD(), 0.5), 1)
    added = {
        v.path: v for v in model.optimizer.variables if v.path not in {w.path for w in keras.optimizers.SGD().variables}
    }
    bytes_of_masks = sum(np.prod(v.shape) for v in added.values() if v.dtype == "bool")
    assert bytes_of_masks == 12 * 16 + 16 * 24
    assert sum(np.prod(v.shape) for v in added.values() if v.dtype != "bool") < 8
    store: dict[str, Any] = {}
    model.optimizer.save_own_variables(store)
    assert store["mask_1"].nbytes == 16 * 24 // 8


def test_masks_are_not_restored_onto_another_model() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    store: dict[str, Any] = {}
    model.optimizer.save_own_variables(store)
    other = trained(dense_net(8), fw.SparseOptimizer("adam", 0.5), 1)
    with pytest.raises(DataError, match=r"the stored masks belong to another model .* \(12, 16\), \(16, 24\) .*"):
        other.optimizer.load_own_variables(store)
    moving = trained(dense_net(), fw.SparseOptimizer("adam", 0.5, criterion="movement"), 1)
    with pytest.raises(DataError, match=r"0 movements, this model's pruned kernels .* and 2\. Restore them onto"):
        moving.optimizer.load_own_variables(store)


def test_weights_of_a_plain_training_load_with_a_warning() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    with pytest.warns(UserWarning, match="No masks are stored for 'sparse_optimizer'; it keeps those that it has"):
        model.optimizer.load_own_variables({"0": np.zeros(1)})


@pytest.mark.parametrize("place", ["automatic", "inside", "outside"])
def test_mixed_precision(place: str) -> None:
    """TFMOT fails with mixed precision."""
    inner: Any = keras.optimizers.Adam()
    if place == "inside":
        inner = keras.optimizers.LossScaleOptimizer(inner)
    optimizer: Any = fw.SparseOptimizer(inner, fw.linear(0.0, 0.5, 0, 4))
    if place == "outside":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(dense_net(), optimizer, 5)
    finally:
        keras.config.set_dtype_policy(previous)
    names = [type(model.optimizer).__name__, type(model.optimizer.inner_optimizer).__name__]
    assert names == ["LossScaleOptimizer", "SparseOptimizer"]
    assert isinstance(model.optimizer.inner_optimizer.inner_optimizer, keras.optimizers.Adam)
    assert zeros(model, "b/kernel") == 192


def test_settings_of_a_dropped_loss_scale_are_named() -> None:
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=64.0, dynamic_growth_steps=5)
    optimizer = fw.SparseOptimizer(inner, 0.5)
    message = "is dropped, since another one is put around, and with it initial_scale=64, dynamic_growth_steps=5. Put"
    with pytest.warns(UserWarning, match=message):
        keras.optimizers.LossScaleOptimizer(optimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)


def test_a_step_that_is_skipped_counts_for_nothing() -> None:
    model = dense_net(dtype="mixed_float16")
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**40)
    optimizer = fw.SparseOptimizer(inner, 0.5)
    trained(model, optimizer, 2, auto_scale_loss=False)
    assert int(optimizer.iterations) == 0
    assert zeros(model, "b/kernel") == 0
    trained(model, optimizer, 40)
    assert int(optimizer.iterations) > 0
    assert zeros(model, "b/kernel") == 192


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_gradients_may_be_accumulated() -> None:
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = fw.SparseOptimizer(inner, fw.linear(0.0, 0.5, 0, 4))
    model = dense_net()
    trained(model, optimizer, 6)
    assert zeros(model, "b/kernel") == 48  # three updates, and a mask after the first of them
    trained(model, optimizer, 2)
    assert zeros(model, "b/kernel") == 192


def test_averaged_weights_keep_their_zeros() -> None:
    model = dense_net()
    trained(model, fw.SparseOptimizer(keras.optimizers.Adam(use_ema=True), fw.constant(0.5, 5)), 8)
    assert zeros(model, "b/kernel") == 192


def test_a_learning_rate_goes_through() -> None:
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.5), 0.5)
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    model = dense_net()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    callback = keras.callbacks.LearningRateScheduler(lambda _: 0.125)
    model.fit(*data(model, 1), callbacks=[callback], verbose=0)
    assert float(optimizer.inner_optimizer.learning_rate) == 0.125


def test_a_loop_without_fit() -> None:
    model, loss = dense_net(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = data(model, 1)
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.1), fw.linear(0.0, 0.5, 0, 3))
    optimizer.build(model.trainable_variables)

    def loss_of(weights: Any) -> Any:
        return loss(y, model.stateless_call(weights, [], x)[0])

    @jax.jit
    def step(weights: Any, state: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss_of)(weights), weights)

    weights, state = [v.value for v in model.trainable_variables], [v.value for v in optimizer.variables]
    for _ in range(3):
        weights, state = step(weights, state)
    assert [int((w == 0).sum()) for w in weights[::2]] == [96, 192, 0]
    stateful = dense_net()
    other = fw.SparseOptimizer(keras.optimizers.SGD(0.1), fw.linear(0.0, 0.5, 0, 2))
    for _ in range(2):
        other.apply(jax.grad(loss_of)([v.value for v in stateful.trainable_variables]), stateful.trainable_variables)
    assert other.sparsities() == {"net/a/kernel": 0.5, "net/b/kernel": 0.5}


def test_sparsities_are_logged(tmp_path: Path) -> None:
    model = dense_net()
    model.compile(fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 2)), "sparse_categorical_crossentropy")
    logged = tmp_path / "log.csv"
    callbacks = [fw.SparsityLog(), keras.callbacks.CSVLogger(logged)]
    history = model.fit(*data(model, 2), batch_size=BATCH, epochs=2, callbacks=callbacks, verbose=0).history
    assert history["sparsity"] == [0.5, 0.5]
    assert history["sparsity/net/b/kernel"] == [0.5, 0.5]
    assert "sparsity/net/a/kernel" in logged.read_text().splitlines()[0]
    json.dumps(history)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(RecipeError, match="the model is not compiled with a SparseOptimizer"):
        model.fit(*data(model, 1), callbacks=[fw.SparsityLog()], verbose=0)


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "fast"}, r"schedule='fast' is no schedule\. Use featherweight\.polynomial_decay"),
        ({"schedule": 1.5}, r"a sparsity is a fraction of zeros in \[0, 1\), not 1\.5"),
        ({"pattern": "3"}, "Sparsity pattern '3' is unknown"),
        ({"frequency": 0}, "frequency=0 is no whole number of steps from 1 on"),
        ({"frequency": 2.5}, r"frequency=2\.5 is no whole number"),
        ({"criterion": "taylor"}, r"criterion='taylor' is not understood \(allowed: magnitude, movement\)"),
        ({"allocation": "even"}, r"allocation='even' is not understood \(allowed: uniform, global, erk\)"),
        ({"dense": ["head"]}, r"dense='head' is not understood \(allowed: first, last, depthwise\)"),
        ({"rules": {"a": 1.0}}, r"Rule 'a': a sparsity is a fraction of zeros in \[0, 1\), not 1\.0"),
        ({"pattern": "auto"}, "takes the pattern from a target. Name one"),
        ({"pattern": "auto", "target": "abacus"}, "Unknown target 'abacus'"),
        ({"regrowth": 1.5}, r"regrowth=1\.5 is no fraction between 0 and 1, such as 0\.3"),
        ({"regrowth": 0.3}, "regrowth has no time: masks are updated at step 0 only. Give the schedule a later end"),
    ],
    ids=str,
)
def test_arguments_that_are_not_understood(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fw.SparseOptimizer("adam", **{"schedule": 0.5, **options})


@pytest.mark.parametrize("options", [{"criterion": "movement"}, {"allocation": "global"}])
def test_regrowth_needs_shares_and_magnitudes(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="regrowth works with criterion='magnitude' in a share for each kernel"):
        fw.SparseOptimizer("adam", fw.constant(0.5, 0, 9), regrowth=0.3, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"pattern": "1x5"},
            DataError,
            r"Kernel 'net/a/kernel', shape \(12, 16\): pattern '1x5' does not divide it: it has 12 consecutive inputs, "
            r"which don't divide by 5 \(nearest: 10 or 15\)",
        ),
        ({"pattern": "2:4"}, RecipeError, "pattern '2:4' holds at most a sparsity of 0.5, not 0.6"),
        ({"pattern": "2:4", "schedule": 0.4}, RecipeError, "'2:4' means a final sparsity of 0.5, not 0.4. Let the"),
        ({"exclude": ["d", "a"]}, RecipeError, "exclude 'd' matches no kernel. They are named net/a/kernel, net/b"),
        ({"rules": {"stem": 0.5}}, RecipeError, "rule 'stem' matches no kernel. They are named net/a/kernel"),
        ({"exclude": ["*"]}, RecipeError, r"nothing to prune; all kernels stay dense: 'net/a/kernel' \(excluded by"),
        ({"allocation": "global", "rules": {"a": 0.2}}, RecipeError, "a global allocation gives no kernel its own"),
        ({"schedule": 0.0, "rules": {"a": 0.2}}, RecipeError, "rules follow the schedule, which ends at a sparsity of"),
    ],
    ids=str,
)
def test_choices_that_no_model_can_follow(options: dict[str, Any], error: type[Exception], message: str) -> None:
    optimizer = fw.SparseOptimizer("adam", **{"schedule": 0.6, **options})
    with pytest.raises(error, match=message):
        optimizer.build(dense_net().trainable_variables)


def test_a_model_without_kernels() -> None:
    model = keras.Sequential([L.Input((4,)), L.BatchNormalization()])
    with pytest.raises(RecipeError, match="the model has no trainable kernel, so there is nothing to prune"):
        fw.SparseOptimizer("adam", 0.5).build(model.trainable_variables)
    only = keras.Sequential([L.Input((4,)), L.Dense(3)], name="net")
    with pytest.raises(RecipeError, match=r"there is nothing to prune; .* \(the last classifier; name it in a rule"):
        trained(only, fw.SparseOptimizer("adam", 0.5), 1)


def test_a_kernel_of_which_nothing_is_left() -> None:
    with pytest.warns(UserWarning, match="a sparsity of 0.97 leaves none of its 16 channel units"):
        fw.SparseOptimizer("adam", 0.97, "channel").build(dense_net().trainable_variables)


def test_a_kernel_of_which_erk_leaves_nothing() -> None:
    inputs = keras.Input((4,))
    small = L.Dense(2, name="small")(inputs)
    model = keras.Model(inputs, L.Dense(2000, name="large")(L.Dense(2000, name="middle")(small)), name="net")
    optimizer = fw.SparseOptimizer("adam", 0.9995, "channel", allocation="erk", dense=())
    with pytest.warns(
        UserWarning, match=r"Kernel 'small/kernel', shape .* a sparsity of 1 leaves none of its \d+ channel units"
    ):
        optimizer.build(model.trainable_variables)


def test_a_global_allocation_does_not_warn_of_what_it_may_keep() -> None:
    fw.SparseOptimizer("adam", 0.97, "channel", allocation="global").build(dense_net().trainable_variables)


def test_a_schedule_that_the_training_does_not_finish_warns_at_the_first_step() -> None:
    model = dense_net()
    message = (
        "the schedule ends at step 9, but this training ends at step 8, so the final sparsity of 0.5 is not reached"
    )
    with pytest.warns(UserWarning, match=message):
        trained(model, fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 9)))
    model.compile(fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 16)), "sparse_categorical_crossentropy")
    model.fit(*data(model), batch_size=BATCH, epochs=2, verbose=0)


def test_a_resumed_training_knows_the_steps_before(tmp_path: Path) -> None:
    model = dense_net()
    with pytest.warns(UserWarning, match="the schedule ends at step 12, but this training ends at step 8"):
        trained(model, fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 12)))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    trained(loaded, loaded.optimizer, 4)
    assert zeros(loaded, "b/kernel") == 192


def test_an_optimizer_that_has_seen_no_model() -> None:
    optimizer = fw.SparseOptimizer("adam", 0.5)
    for report in (optimizer.sparsities, optimizer.dense_kernels, optimizer.patterns, lambda: optimizer.kernels):
        with pytest.raises(RecipeError, match=r"it has no kernels yet\. Train a step, or call build"):
            report()
    with pytest.raises(ValueError, match="optimizer must already be built"):
        optimizer.apply([np.zeros(3)])


def test_a_schedule_of_ones_own() -> None:
    optimizer = fw.SparseOptimizer("adam", Schedule(lambda xp, step: 0.25 + 0.0 * step, (2, 4)))
    model = trained(dense_net(), optimizer, 5)
    assert zeros(model, "b/kernel") == 96
    with pytest.raises(RecipeError, match="a schedule of one's own has no settings to store"):
        optimizer.get_config()


# ------------------------------------------------------------------------------------------------- other backends

_SCRIPT = """
import sys, tempfile, warnings
import keras, numpy as np
import featherweight as fw
from keras import layers as L

def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((8, 8, 3)), L.Conv2D(8, 3, name="stem"), L.Conv2D(16, 3, name="body"),
                             L.Flatten(), L.Dense(10, name="head")], name="net")

rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 96)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for options in ({}, {"pattern": "1x4"}, {"pattern": "2:4"}, {"pattern": "channel"}, {"allocation": "global"},
                {"allocation": "erk"}, {"criterion": "movement"}, {"regrowth": 0.3}):
    optimizer = fw.SparseOptimizer(keras.optimizers.Adam(), fw.linear(0.0, 0.5, 0, 5), frequency=2, **options)
    model = net()
    model.compile(optimizer, loss)
    model.fit(x, y, batch_size=16, verbose=0)
    (sparsity,) = optimizer.sparsities().values()
    assert sparsity == 0.5, (options, sparsity)
    path = tempfile.mkdtemp() + "/m.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for one in (model, loaded):
        one.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert loaded.optimizer.sparsities()["body/kernel"] == 0.5
    for one, other in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
keras.config.set_dtype_policy("mixed_float16")
for wrap in (lambda o: o, keras.optimizers.LossScaleOptimizer):
    model, optimizer = net(), fw.SparseOptimizer(keras.optimizers.Adam(), fw.linear(0.0, 0.5, 0, 5))
    model.compile(wrap(optimizer), loss)
    model.fit(x, y, batch_size=16, verbose=0)
    assert [*optimizer.sparsities().values()] == [0.5]
print("DONE")
"""

_REPLICAS = """
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras, numpy as np
import featherweight as fw
from keras import layers as L
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([L.Input((12,)), L.Dense(16), L.Dense(24), L.Dense(10)])
    model.compile(fw.SparseOptimizer("adam", fw.linear(0.0, 0.5, 0, 5), frequency=2), "mse")
model.fit(np.ones((96, 12)), np.ones((96, 10)), batch_size=16, verbose=0)
for variable in model.optimizer.kernels:
    for copy in strategy.experimental_local_results(variable.value):
        assert (copy.numpy() == 0).mean() == 0.5
print("DONE")
"""


_TRACES = """
import keras, numpy as np
import featherweight as fw
class Counted(keras.layers.Dense):
    traces = 0
    def call(self, inputs):
        Counted.traces += 1
        return super().call(inputs)
model = keras.Sequential([keras.layers.Input((12,)), keras.layers.Dense(16), Counted(24), keras.layers.Dense(10)])
model.compile(fw.SparseOptimizer("adam", 0.5), "mse")
Counted.traces = 0
model.fit(np.ones((32, 12)), np.ones((32, 10)), batch_size=16, verbose=0)
assert Counted.traces == 1, Counted.traces
assert (np.asarray(model.layers[1].kernel) == 0).mean() == 0.5
print("DONE")
"""


def run_on(backend: str, script: str) -> None:
    assert on_backend(backend, script).endswith("DONE\n")


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    run_on(backend, _SCRIPT)


@pytest.mark.frameworks
def test_tensorflow_traces_the_step_once() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _TRACES)


@pytest.mark.frameworks
def test_several_devices_of_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _REPLICAS)
