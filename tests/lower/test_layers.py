"""Keras layers, one by one: equal to Keras at batches 1 and 3, and the operators that they should become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers as L  # noqa: N812
from tests.lower.support import all_ops, lowered_and_compared, ops, sequential

IMAGE = (8, 8, 4)
SEQUENCE = (9, 4)
VOLUME = (6, 5, 4, 2)


def _tanh_gelu(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=True)


# name: (input shape, layers, operators or None where they are of no interest)
CASES: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]], list[str] | None]] = {
    "conv, batch norm, relu6": (
        IMAGE,
        lambda: [L.Conv2D(6, 3, padding="same", use_bias=False), L.BatchNormalization(), L.ReLU(6.0)],
        ["CONV_2D"],
    ),
    "conv stride": (IMAGE, lambda: [L.Conv2D(6, 3, strides=2, padding="same")], ["CONV_2D"]),
    "grouped conv": (IMAGE, lambda: [L.Conv2D(8, 3, groups=2)], None),
    "dilated conv": (IMAGE, lambda: [L.Conv2D(6, 3, dilation_rate=2, padding="same")], ["CONV_2D"]),
    "depthwise": (IMAGE, lambda: [L.DepthwiseConv2D(3, padding="same")], ["DEPTHWISE_CONV_2D"]),
    "depthwise multiplier": (IMAGE, lambda: [L.DepthwiseConv2D(3, depth_multiplier=2)], ["DEPTHWISE_CONV_2D"]),
    "separable": (IMAGE, lambda: [L.SeparableConv2D(6, 3)], ["DEPTHWISE_CONV_2D", "CONV_2D"]),
    "conv 1-D": (SEQUENCE, lambda: [L.Conv1D(6, 3, activation="relu")], ["RESHAPE", "CONV_2D", "RESHAPE"]),
    "conv 1-D net": (
        SEQUENCE,
        lambda: [
            L.Conv1D(6, 3, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.MaxPooling1D(2),
            L.Conv1D(4, 2, activation="relu"),
            L.GlobalAveragePooling1D(),
        ],
        None,
    ),
    "causal conv 1-D": (SEQUENCE, lambda: [L.Conv1D(6, 3, dilation_rate=2, padding="causal")], None),
    "separable 1-D": (SEQUENCE, lambda: [L.SeparableConv1D(6, 3)], None),
    "conv 3-D": (VOLUME, lambda: [L.Conv3D(3, 2)], None),
    "dense": (IMAGE, lambda: [L.Flatten(), L.Dense(5, activation="relu")], ["RESHAPE", "FULLY_CONNECTED"]),
    "dense on images": (IMAGE, lambda: [L.Dense(5)], ["FULLY_CONNECTED"]),
    "einsum dense": (SEQUENCE, lambda: [L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")], ["FULLY_CONNECTED"]),
    "softmax": (SEQUENCE, lambda: [L.Softmax()], ["SOFTMAX"]),
    "exact gelu": (SEQUENCE, lambda: [L.Dense(5, activation="gelu")], ["FULLY_CONNECTED", "GELU"]),
    "tanh gelu": (SEQUENCE, lambda: [L.Activation(_tanh_gelu)], ["GELU"]),
    "hard swish": (IMAGE, lambda: [L.Activation("hard_swish")], ["HARD_SWISH"]),
    "swish": (IMAGE, lambda: [L.Activation("swish")], ["LOGISTIC", "MUL"]),
    "elu": (IMAGE, lambda: [L.ELU()], None),
    "leaky relu": (IMAGE, lambda: [L.LeakyReLU()], None),
    "prelu": (IMAGE, lambda: [L.PReLU(shared_axes=[1, 2])], ["PRELU"]),
    "prelu per element": (IMAGE, lambda: [L.PReLU()], ["PRELU"]),
    "sigmoid, tanh": (IMAGE, lambda: [L.Activation("sigmoid"), L.Activation("tanh")], ["LOGISTIC", "TANH"]),
    "max pool": (IMAGE, lambda: [L.MaxPooling2D(3, 2, padding="same")], ["MAX_POOL_2D"]),
    "average pool": (IMAGE, lambda: [L.AveragePooling2D(3, 2, padding="same")], ["AVERAGE_POOL_2D"]),
    "max pool 1-D": (SEQUENCE, lambda: [L.MaxPooling1D(2)], ["RESHAPE", "MAX_POOL_2D", "RESHAPE"]),
    "max pool 1-D same": (SEQUENCE, lambda: [L.MaxPooling1D(3, 2, padding="same")], None),
    "average pool 1-D": (SEQUENCE, lambda: [L.AveragePooling1D(2)], ["RESHAPE", "AVERAGE_POOL_2D", "RESHAPE"]),
    "average pool 1-D same": (
        SEQUENCE,
        lambda: [L.AveragePooling1D(3, 2, padding="same")],
        ["RESHAPE", "AVERAGE_POOL_2D", "RESHAPE"],
    ),
    "max pool 1-D channels first": (SEQUENCE, lambda: [L.MaxPooling1D(2, data_format="channels_first")], None),
    "max pool 3-D": (VOLUME, lambda: [L.MaxPooling3D(2)], None),
    "average pool 3-D": (VOLUME, lambda: [L.AveragePooling3D((2, 3, 2), strides=1, padding="same")], None),
    "global pools": (IMAGE, lambda: [L.GlobalMaxPooling2D()], ["REDUCE_MAX"]),
    "layer norm": (SEQUENCE, lambda: [L.LayerNormalization()], None),
    "group norm": (IMAGE, lambda: [L.GroupNormalization(2)], None),
    "batch norm first": (IMAGE, lambda: [L.BatchNormalization(), L.Conv2D(3, 2)], None),
    "rescaling": (IMAGE, lambda: [L.Rescaling(2.0, offset=-1.0)], ["MUL", "ADD"]),
    "bilinear": (IMAGE, lambda: [L.UpSampling2D(2, interpolation="bilinear")], ["RESIZE_BILINEAR"]),
    "bilinear down": (IMAGE, lambda: [L.Resizing(3, 5)], ["RESIZE_BILINEAR"]),
    "nearest": (IMAGE, lambda: [L.UpSampling2D((2, 3))], ["RESIZE_NEAREST_NEIGHBOR"]),
    "nearest rows": (IMAGE, lambda: [L.UpSampling2D((2, 1))], ["RESIZE_NEAREST_NEIGHBOR"]),
    "padding and cropping": (IMAGE, lambda: [L.ZeroPadding2D(1), L.Cropping2D(2)], None),
    "time distributed": (SEQUENCE, lambda: [L.TimeDistributed(L.Dense(3))], None),
    "permute": (IMAGE, lambda: [L.Permute((2, 1, 3)), L.Reshape((64, 4))], None),
}


@pytest.mark.parametrize("name", CASES)
def test_layer_is_lowered_exactly_with_a_free_batch(name: str) -> None:
    shape, layers, expected = CASES[name]
    lowered = lowered_and_compared(sequential(shape, *layers()), shape)
    assert not any(op.startswith("STABLEHLO_") or op == "BROADCAST_TO" for op in all_ops(lowered.model))
    if expected is not None:
        assert ops(lowered.model) == expected
    if name != "time distributed":
        assert lowered.notes == ()
        main = lowered.model.main
        for tensor in (*main.inputs, *main.outputs):
            signature = main.tensors[tensor].shape_signature
            assert signature is not None
            assert signature[0] == -1
            assert -1 not in signature[1:]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_transposed_convolution_has_the_sizes_of_keras(kernel: int, stride: int, padding: str) -> None:
    model = sequential((5, 4, 3), L.Conv2DTranspose(2, kernel, stride, padding=padding))
    lowered = lowered_and_compared(model, (5, 4, 3))
    assert lowered.model.main.tensors[lowered.model.main.outputs[0]].shape[1:] == model.output_shape[1:]
    if stride > 1:
        assert "TRANSPOSE_CONV" in ops(lowered.model)


def test_transposed_convolution_takes_in_batch_norm_bias_and_activation() -> None:
    layers = [L.Conv2DTranspose(4, 3, 2, padding="same"), L.BatchNormalization(), L.ReLU()]
    lowered = lowered_and_compared(sequential(IMAGE, *layers), IMAGE)
    assert ops(lowered.model) == ["TRANSPOSE_CONV"]
    assert "TRANSPOSE_CONV 'output'" not in lowered.notes[0]
    assert "needs its output's batch as a constant" in lowered.notes[0]


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_convolution_in_one_and_three_dimensions(padding: str) -> None:
    one = sequential(SEQUENCE, L.Conv1DTranspose(3, 3, 2, padding=padding))
    assert ops(lowered_and_compared(one, SEQUENCE).model) == ["RESHAPE", "TRANSPOSE_CONV", "RESHAPE"]
    three = sequential((3, 3, 3, 2), L.Conv3DTranspose(2, 3, 2, padding=padding))
    assert "CONV_3D_TRANSPOSE" in ops(lowered_and_compared(three, (3, 3, 3, 2)).model)


def test_transposed_convolution_with_output_padding_and_dilation() -> None:
    model = sequential(IMAGE, L.Conv2DTranspose(3, 3, 2, padding="same", output_padding=0), L.ReLU())
    lowered_and_compared(model, IMAGE)
