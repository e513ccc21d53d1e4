"""Names that a person knows, read off those that converters write."""

from __future__ import annotations

from tests.building import CONV, layer, net, weights

from featherweight.graph import Graph
from featherweight.operators.layers import layer_names, shown_names

PATH = "net.Net/net.Block_first/torch.nn.modules.linear.Linear_proj"


def keras_like() -> Graph:
    """As JAX names a Keras model: operations, numbered, and a padding that went into the layer behind it."""
    constants = {"block_1/conv_2": weights(4, 3, 3, 2), "block_1_pad/pad_1": weights(4), "shape": weights(2)}
    layers = [
        layer("CONV_2D", ("x", "block_1/conv_2", "block_1_pad/pad_1"), {"block_1_pad/pad": (1, 4, 4, 4)}, **CONV),
        layer("MUL", ("block_1_pad/pad", "block_1_pad/pad"), {"act/mul": (1, 4, 4, 4)}),
        layer("ADD", ("act/mul", "shape"), {"act/add": (1, 4, 4, 4)}),
    ]
    return net({"x": (1, 4, 4, 2)}, constants, layers, ["act/add"]).main


def test_weights_biases_and_outputs_are_called_after_the_users_layers() -> None:
    graph = keras_like()
    assert layer_names(graph) == {"block_1_pad/pad": "block_1", "act/mul": "act", "act/add": "act"}
    assert shown_names(graph) == {
        "x": "x",
        "block_1/conv_2": "block_1/kernel",
        "block_1_pad/pad_1": "block_1/bias",
        "block_1_pad/pad": "block_1",
        "act/mul": "act/mul",
        "act/add": "act/add",  # an output of the model keeps the name that its users know
    }


def test_paths_of_torch_are_short_and_their_numbers_go() -> None:
    constants = {f"{PATH}_2": weights(4, 4), f"{PATH}_3": weights(4)}
    layers = [
        layer("TRANSPOSE", ("x", "x"), {PATH: (4, 4)}),
        layer("FULLY_CONNECTED", (PATH, f"{PATH}_2", f"{PATH}_3"), {f"{PATH}_1": (4, 4)}),
        layer("RESHAPE", (f"{PATH}_1", "x"), {"y": (4, 4)}),
    ]
    graph = net({"x": (4, 4)}, constants, layers, ["y"]).main
    assert shown_names(graph) == {
        "x": "x",
        "y": "y",
        PATH: "first.proj/transpose",
        f"{PATH}_2": "first.proj/kernel",
        f"{PATH}_3": "first.proj/bias",
        f"{PATH}_1": "first.proj",
    }


def test_shown_names_differ_and_shared_weights_have_one() -> None:
    layers = [
        layer("FULLY_CONNECTED", ("x", "dense/w"), {"dense/dot": (4, 4)}),
        layer("FULLY_CONNECTED", ("dense/dot", "dense/w"), {"dense/dot_1": (4, 4)}),
        layer("FULLY_CONNECTED", ("dense/dot_1", "dense/w"), {"y": (4, 4)}),
    ]
    found = shown_names(net({"x": (4, 4)}, {"dense/w": weights(4, 4)}, layers, ["y"]).main)
    assert len(set(found.values())) == len(found)
    assert found["dense/w"] == "dense/kernel"
    assert {found["dense/dot"], found["dense/dot_1"]} == {"dense/fully_connected", "dense"}
