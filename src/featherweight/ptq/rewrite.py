"""Turns a float graph and a plan into integers: the only place that writes them.

Tensors keep their names. A tensor that is integers on one side of an operator and real on the other gets a QUANTIZE
or DEQUANTIZE and a second tensor, once for each set of parameters; constants are converted instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.arguments import checked, instance
from featherweight.errors import RecipeError, UnsupportedOp
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor, constant
from featherweight.graph.editor import Editor, without_orphans, without_unused
from featherweight.graph.numerics import QuantParams, bias_params, bias_type
from featherweight.operators.entries import entries
from featherweight.operators.families.quantize import conversion
from featherweight.passes.copied_operands import with_copied_operands
from featherweight.ptq import recurrent
from featherweight.ptq.constants import quantized_constant
from featherweight.ptq.forms.nodes import casts_of_bytes
from featherweight.ptq.plan import Plan, check_fits, edge, with_present_names

# (a constant's data, shape, parameters …) → what it became, and the constant, which must outlive the key.
Shared = dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Tensor]]


@checked(plan=instance(Plan, way="Pass what plan(…) returns, or quantize(model, plan=…) for a plan's JSON file."))
def rewrite(model: ModelLike, plan: Plan) -> Model:
    """Returns the model with the plan carried out.

    Raises:
        RecipeError: if the plan names operators or tensors that the model lacks, or lacks parameters it needs.
    """
    plan = with_present_names(plan, model)
    check_fits(model, plan)
    taken = set(model.tensors)
    callable_graphs = entries(model)
    shared: Shared = {}
    public = {tensor for signature in model.signatures for _, tensor in signature.outputs}
    rewriters = [
        _Rewriter(graph, plan, plan.io if index in callable_graphs else "float32", taken, shared, public)
        for index, graph in enumerate(model.graphs)
    ]
    graphs = tuple(with_copied_operands(rewriter.rewritten(), taken) for rewriter in rewriters)
    signatures = tuple(
        replace(
            signature,
            inputs=tuple((name, rewriters[signature.graph].borders.get(t, t)) for name, t in signature.inputs),
            outputs=tuple((name, rewriters[signature.graph].borders.get(t, t)) for name, t in signature.outputs),
        )
        for signature in model.signatures
    )
    return replace(model, graphs=graphs, signatures=signatures)


class _Rewriter(Editor):
    """Rebuilds one graph node by node, with none of its tensors to begin with."""

    def __init__(
        self, graph: Graph, plan: Plan, io: str, taken: set[str], shared: Shared, public: Collection[str]
    ) -> None:
        super().__init__(graph, taken)
        self.shared = shared
        self.tensors.clear()
        self.public = public
        self.plan, self.io = plan, io
        self.borders: dict[str, str] = {}
        self.made: dict[tuple[str, QuantParams | None, str], str] = {}
        self.casts = casts_of_bytes(graph) if io == "uint8" else {}
        self.dropped = {n.outputs[0]: n.inputs[0] for n in graph.nodes if n.name in plan.dropped}

    def rewritten(self) -> Graph:
        """Returns the new graph."""
        inputs = tuple(self.input(name) for name in self.graph.inputs)
        for node in self.graph.nodes:
            if node.name not in self.plan.dropped:
                self.planned(node)
        outputs = tuple(self.output(name) for name in self.graph.outputs)
        for name, border in zip(self.graph.outputs, outputs, strict=True):
            if name != border and name not in self.public:
                self.name_as_before(name, border)
        graph = replace(self.result(), inputs=inputs, outputs=outputs)
        return without_unused(without_orphans(graph, self.graph, ("CAST",)) if self.casts else graph)

    def intermediates(self, node: Node) -> tuple[str, ...]:
        """Returns the tensors that a node refers to besides inputs and outputs."""
        return node.extras.get("intermediates", ())

    def activation(self, node: Node) -> str | None:
        """Returns the integer type that a node computes in, None for float."""
        form = self.plan.forms.get(node.name, "float32")
        return None if form.startswith("float32") else form.split("*")[0]

    def input(self, name: str) -> str:
        """Adds a graph input; a float one keeps its name, the integers made from it get their own."""
        tensor = self.graph.tensors[name]
        if self.io == "float32" or not tensor.is_float or name not in self.plan.params:
            self.tensors[name] = tensor
            return name
        self.tensors[name] = _typed(tensor, self.at_border(self.plan.params[name]))
        return name

    def at_border(self, params: QuantParams) -> QuantParams:
        """Returns what an integer input or output has for its parameters inside; bytes are int8 moved by 128."""
        if self.io != "uint8":
            return params
        return replace(params, dtype="uint8", zero_point=tuple(point + 128 for point in params.zero_point))

    def output(self, name: str) -> str:
        """Returns the tensor that stands for a graph output, converted to what the border wants."""
        while name in self.dropped:
            kept = self.dropped[name]
            self.borders[name] = kept
            name = kept
        tensor = self.graph.tensors[name]
        if name not in self.tensors:
            self.tensors[name] = tensor
        if not tensor.is_float or tensor.is_constant:
            return name
        wanted = None if self.io == "float32" else self.plan.params.get(name)
        wanted = wanted and self.at_border(wanted)
        converted = self.converted(name, wanted)
        for original, kept in list(self.borders.items()):
            if kept == name:
                self.borders[original] = converted
        if converted != name:
            self.borders[name] = converted
        return converted

    def name_as_before(self, name: str, border: str) -> None:
        """Lets an output that no signature names keep its name in the file; the integers behind it take another."""
        shown = self.graph.tensors[name].file_name
        self.tensors[border] = replace(self.tensors[border], file_name=name if shown is None else shown)
        if name in self.tensors:
            behind = self.tensors[name]
            self.tensors[name] = replace(behind, file_name=self.fresh(f"{name}_{behind.dtype}"))

    def planned(self, node: Node) -> None:
        """Adds one operator in its planned form."""
        form = self.plan.forms.get(node.name, "float32")
        inputs = tuple(self.operand(node, i, name, form) for i, name in enumerate(node.inputs))
        dtype = self.activation(node)
        if dtype in operators.lookup(node.op).biased:
            inputs = self.with_bias(node, inputs, str(dtype))
        for name in (*node.outputs, *self.intermediates(node)):
            tensor = self.graph.tensors.get(name)
            if tensor is not None and name not in self.tensors:
                is_integer = dtype is not None and tensor.is_float
                self.tensors[name] = _typed(tensor, self.params(name)) if is_integer else tensor
        attrs: Mapping[str, Any] = node.attrs
        if form.startswith("float32*") and "asymmetric_quantize_inputs" in attrs:
            attrs = dict(attrs) | {"asymmetric_quantize_inputs": True}
        if dtype is not None and (needed := operators.lookup(node.op).integer_attrs.get(dtype)):
            attrs = {**attrs, **needed}
        if dtype is not None and recurrent.states(node):
            node = recurrent.with_intermediates(node, self.params(node.outputs[0]), self.add)
        version = max(node.version, operators.lookup(node.op).versions.get(form, 1))
        self.nodes.append(replace(node, inputs=inputs, attrs=attrs, version=version))

    def params(self, name: str) -> QuantParams:
        """Returns a tensor's planned parameters."""
        if name not in self.plan.params:
            raise RecipeError(
                f"The plan has no parameters for '{name}', which an integer operator needs. Plan it again."
            )
        return self.plan.params[name]

    def operand(self, node: Node, position: int, name: str, form: str) -> str:
        """Returns the tensor that stands for one input of a node in its planned form."""
        if not name:
            return name
        name = self.dropped.get(name, name)
        tensor = self.graph.tensors[name]
        op, dtype = operators.lookup(node.op), self.activation(node)
        if not tensor.is_float or tensor.is_variable:
            is_integer = tensor.is_float and dtype is not None
            typed = _typed(tensor, self.params(name)) if is_integer else tensor
            if self.tensors.setdefault(name, typed).dtype != typed.dtype:
                raise RecipeError(
                    f"The plan writes the state '{name}' in {self.tensors[name].dtype}, but {node.op} '{node.name}' "
                    f"keeps it in {typed.dtype}. Plan it again."
                )
            return name
        if op.is_of_shape and name in self.tensors:
            return name
        wanted = self.plan.edges.get(edge(node.name, position))
        if dtype is not None:
            role = next((role for role in op.weights if position in role[:2]), None)
            if role is not None and position == role.bias:
                return self.bias(node, role, tensor, dtype)
            return self.converted(name, wanted or self.params(name), narrow=role is not None)
        if tensor.is_constant and form != "float32" and name in self.plan.params:
            stored = self.converted(name, wanted or self.params(name), narrow=True)
            return stored if "*" in form else self.dequantized(stored)
        return self.converted(name, None)

    def converted(self, name: str, wanted: QuantParams | None, *, narrow: bool = False) -> str:
        """Returns a tensor that holds the values of `name` with the wanted parameters (None: as float)."""
        tensor = self.graph.tensors[name]
        if tensor.is_constant:
            return self.stored(tensor, wanted, narrow=narrow)
        have = self.tensors[name].quant if name in self.tensors else None
        if have == wanted:
            return name
        if wanted is not None and (byte := self.of_byte(name)):
            name = byte
        key = (name, wanted, "")
        if key not in self.made:
            self.made[key] = self.conversion(name, wanted)
        return self.made[key]

    def of_byte(self, name: str) -> str:
        """Returns the input of bytes that a tensor is the CAST of, at the border of bytes; else the empty name.

        Bytes are integers of scale 1 already: integers of another scale come straight from them.
        """
        made = self.casts.get(name, "")
        if made:
            self.tensors[made] = replace(self.tensors[made], quant=QuantParams("uint8", (1.0,), (0,)))
        return made

    def conversion(self, name: str, wanted: QuantParams | None) -> str:
        """Adds a QUANTIZE or DEQUANTIZE and returns its output."""
        source = self.tensors[name]
        kind = "float32" if wanted is None else wanted.dtype
        base = replace(self.graph.tensors.get(name, source), data=None, quant=None, dtype="float32", file_name=None)
        result = self.add(replace(base if wanted is None else _typed(base, wanted), name=f"{name}_{kind}"))
        self.nodes.append(conversion(source, self.tensors[result]))
        return result

    def stored(self, tensor: Tensor, wanted: QuantParams | None, *, narrow: bool = False) -> str:
        """Returns a constant with the wanted parameters; the first one takes over the tensor's name."""
        key = (tensor.name, wanted, "")
        if key in self.made:
            return self.made[key]
        name = tensor.name if tensor.name not in self.tensors else self.fresh(f"{tensor.name}_copy")
        if wanted is None:
            self.tensors[name] = replace(tensor, name=name)
        else:
            made = quantized_constant(tensor, wanted, name, narrow=narrow)
            # What other tensors, in other graphs too, hold already is not held twice.
            held = id(tensor.data), tensor.shape, replace(wanted, scale_tensor=None), narrow
            same = self.shared.setdefault(held, (made, tensor))[0]
            self.tensors |= {t.name: replace(t, data=s.data) for t, s in zip(made, same, strict=True)}
        self.made[key] = name
        return name

    def dequantized(self, name: str) -> str:
        """Returns the float tensor that a DEQUANTIZE makes from a stored weight."""
        key = (name, None, "weight")
        if key not in self.made:
            self.made[key] = self.conversion(name, None)
        return self.made[key]

    def bias(self, node: Node, role: operators.WeightRole, tensor: Tensor, dtype: str) -> str:
        """Returns the bias in int32 (int64 beside int16) at input scale × weight scale; one for each consumer."""
        if not tensor.is_constant:
            raise UnsupportedOp(
                f"{node.op} '{node.name}': its bias '{tensor.name}' is computed; keep the operator float."
            )
        weight, activation = (
            self.plan.edges.get(edge(node.name, position)) or self.params(node.inputs[position])
            for position in (role.weight, role.activation)
        )
        values, wide = np.asarray(tensor.array), bias_type(dtype)
        return self.stored(tensor, bias_params(values, activation.scale[0], np.asarray(weight.scale), wide))

    def with_bias(self, node: Node, inputs: tuple[str, ...], dtype: str) -> tuple[str, ...]:
        """Returns the inputs, with a bias of zeros where there is none and the kernel is right with one only."""
        role = operators.lookup(node.op).weights[0]
        if role.bias is None or (role.bias < len(inputs) and inputs[role.bias]):
            return inputs
        channels = self.graph.tensors[node.inputs[role.weight]].shape[operators.lookup(node.op).axis or 0]
        zeros = constant(self.fresh(f"{node.name}/bias"), np.zeros(channels, np.float32))
        name = self.bias(node, role, zeros, dtype)
        return (*inputs[: role.bias], *[""] * (role.bias - len(inputs)), name)


def _typed(tensor: Tensor, params: QuantParams) -> Tensor:
    extras = {key: value for key, value in tensor.extras.items() if key != "quantization"}
    return replace(tensor, dtype=params.dtype, quant=params, extras=extras)
