"""Small weights in a finer type than a recipe asks for: a few bytes that bring much.

The layers with the fewest weights are those nearest to the input and the depthwise ones: their errors pass through all
that follows, and so few weights do not even them out. TensorFlow's converter leaves weights of less than 1,024 elements
float beside float activations. On EfficientNet-Lite0, `dynamic` gains 5 dB by that for 0.2 % of the bytes, and the
depthwise kernel of 1,296 weights another 0.2 dB. In 4 bits, 8 bits for what has less than 4,096 weights raise the
agreement with the float model on 100 crops of photographs from .64 to .79 (`weights4`) and from .65 to .81 (`w4a8`) for
0.6 % and 0.3 % of the bytes. That covers the first convolution; the last layer, a quarter of all weights, gains nothing
by 8 bits, and has them where it is small.
"""

from __future__ import annotations

from collections import Counter

from featherweight import operators
from featherweight.errors import listed
from featherweight.graph import Graph, Model, Node
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.nodes import weight_roles
from featherweight.targets.target import Target

# With less elements than this, beside float activations, weights stay float: depthwise kernels, and others.
_FLOAT_BELOW = {True: 2048, False: 1024}
# With less than this they are int8, where int4 is asked for.
_INT8_BELOW = 4096
# What all of it may add to the bytes of the weights: in a small model, most weights are small.
_LARGEST_SHARE = 0.1


def keep_small_weights(forms: Forms, model: Model, target: Target) -> None:
    """Gives small weights a finer type, where their rules say so (`Rule.keep_small`) and the target can.

    First come 8 bits where 4 are asked for, then floats beside float activations; of each, depthwise kernels and then
    what is smallest, as long as all adds no more than a tenth to the bytes of the weights that the recipe stores in
    integers. A constant that several operators read stays as it is: stored once.
    """
    found = [(node, graph) for graph in model.graphs for node in graph.nodes if _bits(forms, node)]
    readers = Counter(id(data) for node, graph in found for data in _constants(node, graph))
    bytes_left = _LARGEST_SHARE * sum(_elements(node, graph) * _bits(forms, node) / 8 for node, graph in found)
    small = [
        (node, graph)
        for node, graph in sorted(found, key=lambda pair: (not _is_depthwise(pair[0]), _elements(*pair)))
        if forms.rules[node.name].keep_small and all(readers[id(data)] == 1 for data in _constants(node, graph))
    ]
    in_int8: dict[str, str] = {}
    for finer in (_in_8_bits, _in_float):
        for node, graph in small:
            wanted, bits = finer(forms, node, graph)
            added = _elements(node, graph) * (bits - _bits(forms, node)) / 8
            if not 0 < added <= bytes_left or not _runs(forms, node, graph, wanted, target):
                continue
            bytes_left -= added
            if wanted == "float32":
                most = _FLOAT_BELOW[_is_depthwise(node)]
                in_int8.pop(node.name, None)
                forms.keep(node, f"it has less than {most} weights: float costs few bytes there, and keeps much")
            else:
                forms.forms[node.name] = wanted
                in_int8[node.name] = f"'{node.name}'"
    if in_int8:
        forms.notes.append(
            f"weights of less than {_INT8_BELOW} elements are int8, which costs few bytes and keeps much (as long as "
            f"finer weights add no more than {_LARGEST_SHARE:.0%} of bytes): "
            f"{listed(in_int8.values())}"
        )


def _in_8_bits(forms: Forms, node: Node, graph: Graph) -> tuple[str, int]:
    """Returns the form of an operator with a small weight in 8 bits, and those; (its own, 0) where it has no such."""
    form = forms.forms[node.name]
    if not form.endswith("int4") or _elements(node, graph) >= _INT8_BELOW:
        return form, 0
    return f"{form.removesuffix('int4')}int8", 8


def _in_float(forms: Forms, node: Node, graph: Graph) -> tuple[str, int]:
    """Returns the float form of an operator with a small weight, and 32; (its own, 0) beside integers."""
    form = forms.forms[node.name]
    is_small = _elements(node, graph) < _FLOAT_BELOW[_is_depthwise(node)]
    return ("float32", 32) if form.startswith("float32") and is_small else (form, 0)


def _bits(forms: Forms, node: Node) -> int:
    """Returns the bits that a weight of an operator is planned to be stored in, 0 where it is no integer."""
    dtype = forms.forms.get(node.name, "").replace("+", "*").partition("*")[2]
    return INTEGER_BITS.get(dtype, 0)


def _constants(node: Node, graph: Graph) -> list[object]:
    return [graph.tensors[node.inputs[role.weight]].data for role in weight_roles(node, graph)]


def _elements(node: Node, graph: Graph) -> int:
    return sum(graph.tensors[node.inputs[role.weight]].elements for role in weight_roles(node, graph))


def _is_depthwise(node: Node) -> bool:
    return operators.lookup(node.op).weight_kind == "depthwise"


def _runs(forms: Forms, node: Node, graph: Graph, form: str, target: Target) -> bool:
    """True where the target, and what else must compute the operator, can do so in a form."""
    is_stored = "+" in form and form.rpartition("+")[2] in target.weight_only
    if not (is_stored or target.runs(node.op, form)):
        return False
    return form == "float32" or forms.obstacle(node, graph, form) is None
