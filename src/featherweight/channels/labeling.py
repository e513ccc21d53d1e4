"""The labels of all channels of a graph, operator by operator."""

from __future__ import annotations

from featherweight.channels import rules_of_movers, rules_of_products
from featherweight.channels.labels import Labeled, Labeling, unlabeled
from featherweight.channels.rules import rule_of
from featherweight.graph import Graph

# The modules that fill the table of rules.
_FAMILIES = (rules_of_movers, rules_of_products)


def label(graph: Graph) -> Labeled:
    """Returns the labels of all channels of a graph."""
    labels = Labeling(graph)
    for name in graph.inputs:
        labels.tensors[name] = unlabeled(graph.tensors[name].shape)
    for index, node in enumerate(graph.nodes):
        labels.index = index
        outputs = rule_of(node.op)(labels, node)
        for name, axes in zip(node.outputs, outputs, strict=True):
            if name:
                labels.tensors[name] = axes
    for name in graph.outputs:
        for axis in labels.tensors.get(name, ()):
            labels.fix(axis, f"they are features of the model's output '{name}'")
    return labels.finished()
