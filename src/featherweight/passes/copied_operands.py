"""Keeps what LiteRT computes wrong at a second size out of files whose batch is free.

Behind XNNPACK's float BATCH_MATMUL whose second operand DEQUANTIZE writes, outputs are noise once an interpreter that
was allocated is resized to a larger batch (LiteRT 2.3). A RESHAPE between the two, to the same shape, makes it right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, producers
from featherweight.graph.editor import Editor
from featherweight.runtime.resizing import reads_integers_second


def with_copied_operands(graph: Graph, taken: set[str]) -> Graph:
    """Returns the graph with a RESHAPE before each product whose second operand is read from integers.

    Args:
        graph: with integers.
        taken: names that nothing new may have.
    """
    tensors = graph.tensors
    if not any(-1 in (tensors[name].shape_signature or ())[:1] for name in graph.inputs):
        return graph
    made, edit, copies = producers(graph), Editor(graph, taken), dict[str, str]()
    for node in graph.nodes:
        if reads_integers_second(node, made, graph):
            name = node.inputs[1]
            if name not in copies:
                shape = edit.constant(f"{name}_shape", np.array([-1, *tensors[name].shape[1:]], np.int32))
                copies[name] = edit.add(replace(tensors[name], name=f"{name}_copy", file_name=None))
                edit.node("RESHAPE", (name, shape), (copies[name],))
            node = replace(node, inputs=(node.inputs[0], copies[name], *node.inputs[2:]))
        edit.nodes.append(node)
    return edit.result()
