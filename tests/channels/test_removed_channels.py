"""Removed channels: the smaller graph against the whole one under masks, what stays, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests import models
from tests.building import Layer, conv, dense, layer, net, reshape, unary, weights
from tests.channels.channel_oracle import masked, outputs

import featherweight as fw
from featherweight.errors import DataError, FormatError, RecipeError
from featherweight.graph import Model, Tensor, constant, replace_graph
from featherweight.tasks import remove_channels as channels
from featherweight.tasks.remove_channels import remove_channels
from featherweight.training.keras_models.saliency import contributions

FAMILIES = ("convnet", "depthwise", "dense", "transformer", "multi_input", "multi_output", "upsampling")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The labels that were removed, call by call."""
    seen: list[set[int]] = []
    cut = channels.without_channels

    def remembered(model: Model, labels: object, removed: set[int]) -> Model:
        seen.append(set(removed))
        return cut(model, labels, removed)

    monkeypatch.setattr(channels, "without_channels", remembered)
    return seen


def sizes(removed: fw.Removed) -> dict[str, tuple[int, int]]:
    """Operator → channels before and after."""
    return {name: (group.before, group.after) for group in removed.groups for name in group.operators}


@pytest.mark.parametrize("name", FAMILIES)
def test_smaller_graph_is_the_masked_one(name: str, taken: list[set[int]]) -> None:
    whole = models.lowered(name)
    removed = remove_channels(whole, 0.5, multiple=2)
    oracle = masked(whole, taken[-1])
    assert removed.macs[1] < removed.macs[0]
    assert removed.weight_bytes[1] < removed.weight_bytes[0]
    for sample in models.samples(name, 2):
        theirs = outputs(oracle, sample)
        for ours, masks, dense_output in zip(
            outputs(removed.model, sample), theirs, outputs(whole, sample), strict=True
        ):
            np.testing.assert_allclose(ours, masks, atol=1e-5)
            assert np.abs(dense_output - masks).max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_say_what_stays_and_why(name: str) -> None:
    removed = remove_channels(models.lowered(name), 0.5, multiple=2)
    assert any(group.after < group.before for group in removed.groups)
    for group in removed.groups:
        assert (group.after == group.before) == bool(group.reason)
        assert group.reason or (group.after % 2 == 0 and group.after >= group.before / 2 > 0)


def test_residual_sums_share_their_channels() -> None:
    groups = remove_channels(models.lowered("convnet"), 0.5, multiple=2).groups
    stem = next(g for g in groups if any("stem" in name for name in g.operators))
    assert any("block_1_conv_b" in name for name in stem.operators)
    assert len(stem.kernels) == 2


def test_attention_loses_heads() -> None:
    removed = remove_channels(models.lowered("transformer"), 0.5)
    heads = next(group for group in removed.groups if len(group.operators) == 3 and "query" in group.operators[0])
    assert (heads.before, heads.after) == (16, 8)
    stream = next(group for group in removed.groups if "embedding" in group.operators[0])
    assert "MEAN 'attention_norm/" in stream.reason


def test_share_of_macs_is_reached_and_not_by_far() -> None:
    removed = remove_channels(models.lowered("depthwise"), macs=0.4, multiple=2)
    assert 0.4 <= 1 - removed.macs[1] / removed.macs[0] <= 0.5


def test_lowest_magnitude_goes_first() -> None:
    w = weights(6, 3, 3, 3)
    w[[1, 4]] *= 0.01
    whole = _two_convolutions(w)
    removed = remove_channels(whole, 0.34, multiple=2)
    left = removed.model.main.tensors["w"].array
    assert left is not None
    np.testing.assert_array_equal(left, w[[0, 2, 3, 5]])


COUNTED = ((37, 8), (37, 16), (37, None), (16, None), (37, 5))


def test_counts_are_multiples() -> None:
    removed = [remove_channels(_two_convolutions(weights(n, 3, 3, 3)), 0.6, multiple=m) for n, m in COUNTED]
    assert [sizes(one)["a"][1] for one in removed] == [16, 16, 16, 8, 15]
    with pytest.raises(RecipeError, match=r"there is nothing to remove: 'a' \(6 channels; at least 8 stay\)"):
        remove_channels(_two_convolutions(weights(6, 3, 3, 3)), 0.5)


def test_excluded_groups_stay() -> None:
    removed = remove_channels(models.lowered("convnet"), 0.5, multiple=2, exclude="block_1_conv_b")
    stem = next(group for group in removed.groups if any("stem" in name for name in group.operators))
    assert (stem.before, stem.after, stem.reason) == (8, 8, "excluded by 'block_1_conv_b'")


def test_result_is_quantized_and_trained_further() -> None:
    removed = fw.remove_channels(models.lowered("convnet"), macs=0.5, multiple=4)
    given = models.samples("convnet", 4)
    quantized = fw.quantize(removed.model, "int8", calibration=given, progress=False)
    agreement = outputs(quantized.model, given[0])[0] - outputs(removed.model, given[0])[0]
    assert np.abs(agreement).max() < 0.02
    graph = fw.graph_model(removed.model)
    graph.compile("sgd", "sparse_categorical_crossentropy")
    history = graph.fit(models.batch("convnet", 8), np.arange(8) % 10, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


def test_free_batch_stays_free() -> None:
    removed = remove_channels(models.lowered("convnet"), 0.5, multiple=2)
    before, after = outputs(removed.model, models.samples("convnet", 1)[0])[0].shape[0], 5
    assert (before, outputs(removed.model, models.batch("convnet", after))[0].shape[0]) == (1, 5)


def _digits(count: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures, and labels that the model gives them with all its channels."""
    x = models.batch("convnet", count)["image"]
    return x, outputs(models.lowered("convnet"), x)[0].argmax(axis=1)


def test_taylor_scores_are_weight_times_gradient() -> None:
    whole, (x, y) = models.lowered("convnet"), _digits(8)
    name = next(n for n, t in whole.main.tensors.items() if t.shape == (10, 16))
    products = next(contributions(whole, (x, y), "sparse_categorical_crossentropy"))[name].sum(axis=1)
    w = whole.main.tensors[name].array
    assert w is not None

    def loss(row: int, factor: float) -> float:
        scaled = w.copy()
        scaled[row] *= factor
        chosen = outputs(_with(whole, **{name: scaled}), x)[0][np.arange(8), y]
        return float(-np.log(chosen.astype(np.float64)).mean())

    measured = [(loss(row, 1.01) - loss(row, 0.99)) / 0.02 for row in range(10)]
    np.testing.assert_allclose(products, measured, atol=2e-4)


def test_taylor_keeps_what_the_loss_needs() -> None:
    """A channel with the largest weights that nothing reads goes first."""
    w = weights(4, 3, 3, 3)
    w[1] *= 10
    whole = _two_convolutions(w, unary("RELU", "a", "m", (1, 4, 4, 4)), last="m")
    read = weights(4, 1, 1, 4, seed=2)
    read[..., 1] = 0
    whole, x = _with(whole, v=read), np.random.default_rng(0).normal(size=(16, 4, 4, 3)).astype(np.float32)
    y = np.zeros((16, 4, 4, 4), np.float32)
    removed = remove_channels(whole, 0.25, multiple=1, method="taylor", data=(x, y), loss="mse")
    left = removed.model.main.tensors["w"].array
    assert left is not None
    assert sizes(removed)["m"] == (4, 3)
    assert np.abs(left).max() < np.abs(w[1]).max()


def test_taylor_takes_the_share_of_macs() -> None:
    data = _digits()
    removed = fw.remove_channels(
        models.lowered("convnet"), macs=0.4, method="taylor", data=data, loss="sparse_categorical_crossentropy",
        multiple=2,
    )  # fmt: skip
    assert removed.macs[1] <= 0.6 * removed.macs[0]


# ------------------------------------------------------------------------------------------- operators built by hand


def _two_convolutions(w: np.ndarray, *between: Layer, last: str = "a", reads: int | None = None) -> Model:
    """A convolution `a`, what lies between, and a convolution `y` that reads the tensor `last`."""
    count = len(w)
    given: dict[str, np.ndarray] = {
        "w": w,
        "b": weights(count, seed=1),
        "v": weights(4, 1, 1, reads or count, seed=2),
        "c": weights(4, seed=3),
    }
    layers = (conv("x", "w", "b", "a", (1, 4, 4, count)), *between, conv(last, "v", "c", "y", (1, 4, 4, 4)))
    return net({"x": (1, 4, 4, 3)}, given, layers, "y")


def _with(model: Model, **arrays: np.ndarray) -> Model:
    tensors = {**model.main.tensors, **{name: constant(name, array) for name, array in arrays.items()}}
    return replace_graph(model, 0, replace(model.main, tensors=tensors))


def _between(shape: tuple[int, ...], op: str, *inputs: str, **attrs: object) -> Layer:
    return layer(op, inputs, {"m": shape}, **attrs)


def _integers(*values: object) -> np.ndarray:
    return np.array(values, np.int32)


W = weights(8, 3, 3, 3)
MOVERS: dict[str, Callable[[], Model]] = {
    "pad of channels": lambda: _with(
        _two_convolutions(W, _between((1, 4, 4, 12), "PAD", "a", "p"), last="m", reads=12),
        p=_integers([0, 0], [0, 0], [0, 0], [2, 2]),
    ),
    "slice": lambda: _with(
        _two_convolutions(W, _between((1, 4, 4, 4), "SLICE", "a", "s", "z"), last="m", reads=4),
        s=_integers(0, 0, 0, 4),
        z=_integers(1, 4, 4, -1),
    ),
    "space to depth": lambda: _two_convolutions(
        W,
        _between((1, 2, 2, 32), "SPACE_TO_DEPTH", "a", block_size=2),
        layer("DEPTH_TO_SPACE", ("m",), {"n": (1, 4, 4, 8)}, block_size=2),
        last="n",
    ),
    "split": lambda: _with(
        _two_convolutions(
            W,
            layer("SPLIT", ("i", "a"), {"m": (1, 4, 4, 4), "n": (1, 4, 4, 4)}, num_splits=2),
            layer("MUL", ("m", "n"), {"o": (1, 4, 4, 4)}),
            last="o",
            reads=4,
        ),
        i=np.array(3, np.int32),
    ),
    "constant beside": lambda: _with(
        _two_convolutions(
            W,
            _between((1, 4, 4, 11), "CONCATENATION", "a", "k", axis=3),
            last="m",
            reads=11,
        ),
        k=weights(1, 4, 4, 3, seed=5),
    ),
    "prelu": lambda: _with(
        _two_convolutions(W, _between((1, 4, 4, 8), "PRELU", "a", "k"), last="m"), k=weights(1, 1, 8, seed=5)
    ),
    "depthwise of two": lambda: _with(
        _two_convolutions(
            W,
            _between(
                (1, 4, 4, 16), "DEPTHWISE_CONV_2D", "a", "k", "l", stride_h=1,
                stride_w=1, padding="SAME", depth_multiplier=2, dilation_h_factor=1, dilation_w_factor=1,
            ),
            last="m",
            reads=16,
        ),
        k=weights(1, 3, 3, 16, seed=5),
        l=weights(16, seed=6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVERS)
def test_operator_follows_its_channels(name: str, taken: list[set[int]]) -> None:
    whole = MOVERS[name]()
    removed = remove_channels(whole, 0.5, multiple=2)
    assert removed.groups[0].after < removed.groups[0].before, removed.groups
    sample = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    expected = outputs(masked(whole, taken[-1]), sample)[0]
    np.testing.assert_allclose(outputs(removed.model, sample)[0], expected, atol=1e-5)


def test_operator_without_a_rule_keeps_all() -> None:
    shape = (1, 4, 4, 8)
    whole = _two_convolutions(W, _between(shape, "REVERSE_V2", "a", "r"), last="m")
    with pytest.raises(RecipeError, match=r"'a' \(REVERSE_V2 'm' reads them all\)"):
        remove_channels(_with(whole, r=_integers(3)), 0.5, multiple=2)


def test_groups_of_a_convolution_keep_all() -> None:
    whole = _two_convolutions(W, reads=4)
    with pytest.raises(RecipeError, match=r"'a' \(CONV_2D 'y' has groups\)"):
        remove_channels(whole, 0.5, multiple=2)


def test_shared_weight_stays_shared(taken: list[set[int]]) -> None:
    square = weights(8, 3, 3, 8, seed=4)
    twice = (conv("a", "q", "b", "m", (1, 4, 4, 8)), conv("m", "q", "b", "n", (1, 4, 4, 8)))
    whole = _with(_two_convolutions(W, *twice, last="n"), q=square)
    removed = remove_channels(whole, 0.5, multiple=2)
    graph = removed.model.main
    assert graph.nodes[1].inputs[1] == graph.nodes[2].inputs[1]
    sample = np.ones((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(
        outputs(removed.model, sample)[0], outputs(masked(whole, taken[-1]), sample)[0], atol=1e-5
    )


def test_constant_of_two_layers_is_cut_for_each(taken: list[set[int]]) -> None:
    whole = _with(_two_convolutions(W, conv("a", "q", "b", "m", (1, 4, 4, 8)), last="m"), q=weights(8, 3, 3, 8, seed=4))
    removed = remove_channels(whole, 0.5, multiple=2)
    assert sizes(removed)["a"] == sizes(removed)["m"] == (8, 4)
    sample = np.ones((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(
        outputs(removed.model, sample)[0], outputs(masked(whole, taken[-1]), sample)[0], atol=1e-5
    )


# ------------------------------------------------------------------------------------------------------ zero channels


def _zeroed(bias: bool = True) -> Model:
    w, b = W.copy(), weights(8, seed=1)
    w[[2, 5, 6]] = 0
    if bias:
        b[[2, 5, 6]] = 0
    return _with(_two_convolutions(w), b=b)


def test_zero_channels_go_without_a_change() -> None:
    removed = remove_channels(_zeroed(), only_zero=True)
    assert sizes(removed)["a"] == (8, 5)
    sample = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(removed.model, sample)[0], outputs(_zeroed(), sample)[0], atol=1e-6)


def test_channels_with_a_bias_are_not_zero() -> None:
    removed = remove_channels(_zeroed(bias=False), only_zero=True)
    assert removed.groups[0].reason == "none of them is zero for every input"


@pytest.mark.parametrize(("op", "left"), [("RELU", 5), ("HARD_SWISH", 5), ("LOGISTIC", 8), ("EXP", 8)])
def test_zero_that_becomes_another_value_stays(op: str, left: int) -> None:
    zeroed = _zeroed().main.tensors
    whole = _two_convolutions(W, unary(op, "a", "m", (1, 4, 4, 8)), last="m")
    whole = replace_graph(whole, 0, replace(whole.main, tensors={**whole.main.tensors, **_only(zeroed, "w", "b")}))
    assert remove_channels(whole, only_zero=True).groups[0].after == left


def test_zero_that_is_added_to_stays() -> None:
    zeroed = _zeroed()
    whole = _two_convolutions(W, layer("ADD", ("a", "k"), {"m": (1, 4, 4, 8)}), last="m")
    added = np.zeros(8, np.float32)
    added[5] = 1
    tensors = {**whole.main.tensors, **_only(zeroed.main.tensors, "w", "b"), "k": constant("k", added)}
    removed = remove_channels(replace_graph(whole, 0, replace(whole.main, tensors=tensors)), only_zero=True)
    assert sizes(removed)["a"] == (8, 6)


@pytest.mark.parametrize(("value", "left"), [(0.0, 5), (1.0, 8)])
def test_zero_that_one_number_is_added_to_stays(value: float, left: int) -> None:
    zeroed = _zeroed()
    whole = _two_convolutions(W, layer("ADD", ("a", "k"), {"m": (1, 4, 4, 8)}), last="m")
    whole = _with(whole, k=np.array([value], np.float32), **{n: zeroed.main.tensors[n].array for n in ("w", "b")})
    assert sizes(remove_channels(whole, only_zero=True))["a"] == (8, left)


def test_one_zero_channel_is_left() -> None:
    whole = _with(_two_convolutions(np.zeros_like(W)), b=np.zeros(8, np.float32))
    assert sizes(remove_channels(whole, only_zero=True))["a"] == (8, 1)


def _only(tensors: object, *names: str) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names}  # type: ignore[index]


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "nothing says how much to remove"),
        ({"sparsity": 0.5, "macs": 0.5}, "sparsity, macs says how much"),
        ({"sparsity": 1.0}, r"sparsity is 1\.0 \(allowed: a finite number from 0 to 1, without 1\)"),
        ({"macs": -0.5}, r"macs is -0\.5 \(allowed: a finite number from 0 to 1, without 1\)"),
        ({"macs": 0.99}, r"macs=0.99 can't be removed; 0\.\d+ is the most"),
        ({"sparsity": 0.5, "multiple": 0}, r"multiple is 0 \(allowed: a whole number from 1 on, or 'measured'\)"),
        ({"sparsity": 0.5, "method": "movement"}, "method 'movement' is unknown"),
        ({"sparsity": 0.5, "method": "taylor"}, r"pass data=\(inputs, labels\)"),
        ({"sparsity": 0.5, "loss": "mse"}, "data= and loss= are for method='taylor'"),
        ({"sparsity": 0.5, "exclude": "stemm"}, "exclude 'stemm' matches no weight"),
        ({"sparsity": 0.5, "exclude": "*"}, r"there is nothing to remove: .*\(excluded by '\*'\)"),
    ],
)
def test_bad_options(options: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        remove_channels(models.lowered("convnet"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros((2, 24, 24, 3)), r"must be a pair \(inputs, labels\), not ndarray"),
        ((np.zeros((2, 24, 24, 3)), np.zeros(3)), r"lengths of \[2, 3\]; they must be equal"),
    ],
)
def test_bad_data(data: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        remove_channels(models.lowered("convnet"), 0.5, method="taylor", data=data, loss="mse")


def test_quantized_models_are_refused() -> None:
    given = models.samples("dense", 2)
    quantized = fw.quantize(models.lowered("dense"), "int8", calibration=given, progress=False).model
    with pytest.raises(FormatError, match="remove_channels takes float models"):
        remove_channels(quantized, 0.5)


def test_model_without_weights_is_refused() -> None:
    plain = net({"x": (1, 8)}, {}, (unary("RELU", "x", "y", (1, 8)),), "y")
    with pytest.raises(RecipeError, match="no weights whose outputs are channels"):
        remove_channels(plain, 0.5)


def test_recurrent_loops_keep_all() -> None:
    with pytest.raises(RecipeError, match=r"WHILE 'gru/while' reads them all"):
        remove_channels(models.lowered("gru"), 0.5, multiple=2)


def test_flattened_and_split_positions(taken: list[set[int]]) -> None:
    layers = (
        conv("x", "w", "b", "a", (1, 4, 4, 8)),
        reshape("a", "s", "f", (1, 128)),
        dense("f", "d", "e", "g", (1, 64)),
        reshape("g", "t", "h", (1, 4, 4, 4)),
        conv("h", "v", "c", "y", (1, 4, 4, 2)),
    )
    given = {
        "w": W, "b": weights(8), "s": _integers(1, 128), "d": weights(64, 128), "e": weights(64),
        "t": _integers(-1, 4, 4, 4), "v": weights(2, 1, 1, 4), "c": weights(2),
    }  # fmt: skip
    whole = net({"x": (1, 4, 4, 3)}, given, layers, "y")
    removed = remove_channels(whole, 0.5, multiple=2)
    tensors = removed.model.main.tensors
    assert tensors["f"].shape == (1, 64)
    assert tensors["h"].shape == (1, 4, 4, 2)
    sample = np.ones((1, 4, 4, 3), np.float32)
    np.testing.assert_allclose(
        outputs(removed.model, sample)[0], outputs(masked(whole, taken[-1]), sample)[0], atol=1e-5
    )
