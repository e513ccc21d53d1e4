"""Whole Keras models: how they take inputs and give outputs, where they come from, and that they stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.lower.support import assert_equal_to_source, lowered_and_compared, ops, outputs_of, sequential, stirred

import featherweight as fw
from featherweight import tflite
from featherweight.errors import FormatError, LoweringError
from featherweight.lower import lower, lower_with_notes
from featherweight.runtime import run

pytestmark = pytest.mark.beside


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype("float32")


@keras.saving.register_keras_serializable("featherweight_tests")
class Affine(L.Layer):
    """A custom layer with a weight and plain arithmetic."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x: Any) -> Any:
        return keras.ops.sqrt(keras.ops.abs(x)) * self.scale + 1.0


class Subclassed(keras.Model):
    """A model without an input specification."""

    def __init__(self) -> None:
        super().__init__()
        self.first = L.Dense(6, activation="relu")
        self.second = L.Dense(2)

    def call(self, x: Any) -> Any:
        return {"logits": self.second(self.first(x)), "hidden": self.first(x)}


class TwoArguments(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, left: Any, right: Any) -> Any:
        return self.dense(left) - right


def _names(model: Any) -> tuple[list[str], list[str]]:
    signature = model.signatures[0]
    return [name for name, _ in signature.inputs], [name for name, _ in signature.outputs]


def test_residual_convnet_with_squeeze_and_excitation() -> None:
    image = keras.Input((12, 12, 3), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(image)))
    gate = L.Dense(8, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Add()([x, L.DepthwiseConv2D(3, padding="same")(x * gate)])
    x = L.Concatenate()([L.MaxPooling2D()(x), L.AveragePooling2D(2)(x)])
    model = stirred(keras.Model(image, L.Dense(4, activation="softmax", name="classes")(L.Flatten()(x))))
    lowered = lowered_and_compared(model, (12, 12, 3))
    assert _names(lowered.model) == (["image"], ["classes"])
    assert lowered.notes == ()


def test_transformer() -> None:
    tokens = keras.Input((10,), dtype="int32", name="tokens")
    x = L.Embedding(50, 16)(tokens)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 8)(x, x))
    x = x + L.Dense(16)(L.Dense(32, activation="gelu")(x))
    model = stirred(keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x))))
    lowered = lowered_and_compared(model, (10,), high=50)
    found = ops(lowered.model)
    assert [found.count(op) for op in ("GATHER", "SOFTMAX", "GELU", "REDUCE_MAX", "EXP")] == [1, 1, 1, 0, 0]
    assert lowered.notes == ()


def test_nested_models_and_a_custom_layer() -> None:
    inner = sequential((6,), L.Dense(5, activation="gelu"), L.LayerNormalization())
    x = keras.Input((6,), name="x")
    lowered_and_compared(stirred(keras.Model(x, Affine()(inner(x)))), (6,))


def test_inputs_and_outputs_as_lists() -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = L.Concatenate()([b, a])
    model = stirred(keras.Model([a, b], [L.Dense(2, name="p")(joined), L.Dense(5, name="q")(joined)]))
    lowered = lower_with_notes(model)
    assert _names(lowered.model) == (["a", "b"], ["p", "q"])
    assert_equal_to_source(lowered, model, [_random(3, 4), _random(3, 3)])


def test_inputs_and_outputs_as_dicts() -> None:
    b, a = keras.Input((4,), name="b"), keras.Input((3,), name="a")
    outputs = {"sum": L.Dense(2)(b) + L.Dense(2)(a), "rest": L.Dense(1)(a)}
    model = stirred(keras.Model({"b": b, "a": a}, outputs))
    lowered = lower_with_notes(model)
    feed = {"b": _random(3, 4), "a": _random(3, 3)}
    expected = model(feed)
    got = run(lowered.model, feed)
    assert isinstance(got, dict)
    assert sorted(got) == ["rest", "sum"]
    for name, array in got.items():
        np.testing.assert_allclose(array, np.asarray(expected[name]), atol=1e-5)


def test_subclassed_model_by_shape_by_samples_and_as_it_was_called() -> None:
    x = _random(2, 7)
    unbuilt = Subclassed()
    with pytest.raises(LoweringError, match=r"does not say the shapes of its inputs .* Pass input_shapes=\(None, …\)"):
        lower(unbuilt)
    by_shape = lower(unbuilt, input_shapes=(None, 7))
    assert _names(by_shape) == (["input"], ["hidden", "logits"])
    expected = unbuilt(x)
    for model in (by_shape, lower(unbuilt, samples=[x]), lower(unbuilt)):
        got = run(model, x)
        assert isinstance(got, dict)
        np.testing.assert_allclose(got["logits"], np.asarray(expected["logits"]), atol=1e-5)


def test_subclassed_model_with_two_arguments() -> None:
    model = TwoArguments()
    left, right = _random(3, 4), _random(3, 2)
    expected = np.asarray(model(left, right))
    lowered = lower(model, samples=[(left, right)])
    assert _names(lowered)[0] == ["left", "right"]
    np.testing.assert_allclose(run(lowered, {"left": left, "right": right}), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore")
def test_saved_models(tmp_path: Path, suffix: str) -> None:
    model = sequential((6, 6, 2), L.Conv2D(3, 3), L.Flatten(), L.Dense(2))
    path = tmp_path / f"model{suffix}"
    model.save(path)
    normal = keras.src.backend.random.normal
    lowered = lower(path)
    x = _random(3, 6, 6, 2)
    np.testing.assert_allclose(run(lowered, x), outputs_of(model, x)[0], atol=1e-5)
    assert keras.src.backend.random.normal is normal
    saved = tmp_path / "model.tflite"
    tflite.save(lowered, saved)
    assert ops(lower(saved)) == ops(lowered)
    assert lower(lowered) is lowered


@pytest.mark.filterwarnings("ignore")
def test_files_of_keras_2_name_groups_of_depthwise_layers(tmp_path: Path) -> None:
    model = sequential((6, 6, 2), L.DepthwiseConv2D(3, name="depthwise"))
    real = L.DepthwiseConv2D.get_config
    path = tmp_path / "old.h5"
    try:
        L.DepthwiseConv2D.get_config = lambda self: {**real(self), "groups": 1}  # type: ignore[method-assign]
        model.save(path)
    finally:
        L.DepthwiseConv2D.get_config = real  # type: ignore[method-assign]
    x = _random(2, 6, 6, 2)
    np.testing.assert_allclose(run(lower(path), x), outputs_of(model, x)[0], atol=1e-5)


def test_a_fixed_batch_and_free_sizes_are_taken_as_the_model_says() -> None:
    x = keras.Input(batch_shape=(2, 5))
    model = stirred(keras.Model(x, L.Dense(3)(x)))
    lowered = lower_with_notes(model)
    main = lowered.model.main
    assert main.tensors[main.inputs[0]].shape == (2, 5)
    assert main.tensors[main.inputs[0]].shape_signature is None
    free = sequential((None, None, 3), L.Conv2D(2, 3, padding="same"))
    with pytest.raises(LoweringError, match=r"free sizes \[None, None, None, 3\]; only the batch, the first, may be"):
        lower(free)
    sized = lower(free, input_shapes=(None, 6, 4, 3))
    assert run(sized, _random(2, 6, 4, 3)).shape == (2, 6, 4, 2)


def _texts() -> Any:
    """A model of texts of any length, with its mask."""
    tokens, mask = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((None,), dtype="int32", name="mask")
    x = L.Embedding(50, 8)(tokens) * keras.ops.cast(keras.ops.expand_dims(mask, -1), "float32")
    return stirred(keras.Model({"tokens": tokens, "mask": mask}, L.Dense(3, name="label")(L.GlobalMaxPooling1D()(x))))


def _text(length: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(length).integers(0, 50, (1, length)).astype("int32")
    return {"tokens": tokens, "mask": (np.arange(length)[None] < 4).astype("int32")}


def test_free_sizes_are_those_of_the_first_sample() -> None:
    model = _texts()
    lowered = lower_with_notes(model, samples=[_text(7)])
    assert lowered.notes == tuple(
        f"Input '{name}' leaves sizes free, [None, None]: [None, 7] is taken, as in the first sample "
        "(input_shapes sets others)."
        for name in ("mask", "tokens")
    )
    feed = {name: np.concatenate([array] * 3) for name, array in _text(7).items()}
    np.testing.assert_allclose(run(lowered.model, feed), np.asarray(model(feed)), atol=1e-5)
    with pytest.raises(
        LoweringError, match=r"free sizes \[None, None\].*pass samples that have them, or input_shapes="
    ):
        lower(model)
    with pytest.raises(
        LoweringError, match=r"'tokens' has shape \[1, 9\]; it must be \[1, 7\] \(sample 1, from 0 on\)"
    ):
        lower(model, samples=[_text(7), {**_text(7), "tokens": _text(9)["tokens"]}])


def test_shapes_that_are_given_go_before_those_of_samples() -> None:
    shapes = {"tokens": (None, 5), "mask": (None, 5)}
    sized = fw.load(_texts(), samples=[_text(5)], input_shapes=shapes)
    assert [sized.main.tensors[name].shape_signature for name in sized.main.inputs] == [(-1, 5), (-1, 5)]
    result = fw.quantize(_texts(), "int8", calibration=[_text(5)] * 4, input_shapes=shapes, progress=False)
    assert [result.model.main.tensors[name].shape for name in result.model.main.inputs] == [(1, 5), (1, 5)]
    with pytest.raises(LoweringError, match=r"gives 'mask' the shape \[None, 5, 1\], which does not fit the model's"):
        lower(_texts(), input_shapes={**shapes, "mask": (None, 5, 1)})
    with pytest.raises(LoweringError, match=r"input_shapes has no effect on a function: its shapes are those of the"):
        lower(lambda x: x, samples=[_random(1, 4)], input_shapes=(1, 4))
    with pytest.raises(FormatError, match=r"input_shapes has no effect on a Model, which says its shapes"):
        fw.load(sized, input_shapes=shapes)


def test_lowering_leaves_the_model_as_it_was() -> None:
    model = sequential((5, 3), L.LSTM(4, return_sequences=True), L.Dropout(0.5), L.BatchNormalization(), L.GRU(2))
    weights = [np.array(w) for w in model.get_weights()]
    config = model.get_config()
    x = _random(2, 5, 3)
    before = np.asarray(model(x))
    lower(model, unroll=True)
    assert model.get_config() == config
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    np.testing.assert_array_equal(np.asarray(model(x)), before)


def test_tensors_are_named_after_layers() -> None:
    model = sequential((8, 8, 2), L.Conv2D(3, 3, name="stem"), L.ReLU(name="act"), L.Conv2D(2, 3, name="head"))
    names = list(lower(model).main.tensors)
    assert [n for n in names if n.startswith("stem/")]
    assert not [n for n in names if "jit(" in n or ";" in n]


def test_nan_in_weights_is_said() -> None:
    model = sequential((4,), L.Dense(3))
    model.layers[0].bias.assign(np.array([0, np.nan, 1], "float32"))
    with pytest.raises(LoweringError, match="itself returns NaN or infinite values for random inputs"):
        lower(model)


def test_samples_verify_a_model_that_is_finite_only_there() -> None:
    model = keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: keras.ops.log(x - 5.0))])
    with pytest.raises(LoweringError, match="Pass inputs for which it is finite as samples="):
        lower(model)
    assert ops(lower(model, samples=[np.full((1, 4), 9, "float32")])) == ["SUB", "LOG"]


def test_what_can_not_be_lowered_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"Can't lower a builtins.int \(allowed: a path to a .tflite, .keras or"):
        lower(3)
    with pytest.raises(LoweringError, match=r"There is no file '.*gone.keras'"):
        lower(tmp_path / "gone.keras")
    with pytest.raises(LoweringError, match=r"has the suffix '.onnx' \(allowed: .tflite, .keras, .h5"):
        lower(tmp_path / "model.onnx")
    with pytest.raises(LoweringError, match=r"Unknown route 'x' \(allowed: auto, jax, tensorflow\)"):
        lower(tmp_path / "m.keras", route="x")
    (tmp_path / "bad.keras").write_bytes(b"nothing")
    with pytest.raises(LoweringError, match=r"Keras can't load '.*bad.keras'"):
        lower(tmp_path / "bad.keras")
    (tmp_path / "bad.tflite").write_bytes(b"nothing")
    with pytest.raises(FormatError):
        lower(tmp_path / "bad.tflite")
    model = sequential((4,), L.Dense(3))
    with pytest.raises(LoweringError, match="input_shapes names 'y', but the inputs are:"):
        lower(model, input_shapes={"y": (None, 4)})
    with pytest.raises(LoweringError, match=r"A sample for input '.*' has shape"):
        lower(model, samples=[np.zeros((1, 9), "float32")])


def test_a_computation_that_depends_on_values_is_said() -> None:
    class Branching(L.Layer):
        def call(self, x: Any) -> Any:
            return x if float(np.asarray(x).sum()) > 0 else -x

    class Wrapped(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.branching = Branching()

        def call(self, x: Any) -> Any:
            return self.branching(x)

    model = Wrapped()
    model(_random(1, 4))
    with pytest.raises(LoweringError, match=r"can't be traced on .*must not depend on the values of its inputs"):
        lower(model, samples=[_random(1, 4)])
