"""Branches with inputs that are no tensor, as converters write them, are read, run and written again."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from tests.building import layer, net, of_graphs, tensor, unary

import featherweight as fw
from featherweight.tflite.names import schema


def branched() -> fw.Model:
    """A model of which one branch reads x, the other z."""
    flag = tensor("flag", (), "bool")
    given = {"flag": flag, "x": (1, 4), "z": (1, 4)}
    chosen = layer("IF", ("flag", "x", "z"), {"y": (1, 4)}, then_subgraph_index=1, else_subgraph_index=2)
    first = net({"x1": (1, 4), "z1": (1, 4)}, {}, [unary("NEG", "x1", "y1", (1, 4))], ["y1"])
    second = net({"x2": (1, 4), "z2": (1, 4)}, {}, [unary("ABS", "z2", "y2", (1, 4))], ["y2"])
    return of_graphs(main=net(given, {}, [chosen], ["y"]), first=first, second=second)


def without(content: bytes, graph: int, position: int) -> bytes:
    """Returns the file with one input of a graph that is no tensor."""
    packed = schema.ModelT.InitFromPackedBuf(content, 0)
    inputs = [int(index) for index in packed.subgraphs[graph].inputs]
    inputs[position] = -1
    packed.subgraphs[graph].inputs = inputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(packed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(("graph", "position"), [(1, 1), (2, 0)])
def test_a_branch_keeps_what_it_does_not_read(graph: int, position: int) -> None:
    content = without(fw.write(branched()), graph, position)
    model = fw.load(content)
    absent = model.graphs[graph].tensors[model.graphs[graph].inputs[position]]
    assert (absent.shape, absent.dtype, absent.is_constant) == ((1, 4), "float32", False)
    x, z = np.float32([[1, 2, 3, 4]]), np.float32([[-5, 6, -7, 8]])
    for flag, wanted in ((True, -x), (False, np.abs(z))):
        feeds = {"flag": np.array(flag), "x": x, "z": z}
        for source in (model, fw.load(fw.write(model))):
            for runtime in ("litert", "reference"):
                np.testing.assert_array_equal(fw.run(source, feeds, runtime=runtime), wanted)


def test_the_main_graph_has_no_caller_to_ask() -> None:
    with pytest.raises(fw.FormatError, match="an input or output of a subgraph is no tensor"):
        fw.load(without(fw.write(branched()), 0, 1))
