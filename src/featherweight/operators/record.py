"""What is known about one operator, in one record, and where to find it.

A *form* says in which types an operator computes: ``"int8"`` for operators without weights,
``"activation*weight"`` for those with (``"int8*int8"``, ``"int16*int8"``, ``"int8*int4"``; ``"float32*int8"`` is the
hybrid, dynamic-range form, whose activations the kernel quantizes itself), ``"float32"`` where both are float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from featherweight.errors import FormatError
from featherweight.graph import Graph, Node, Tensor
from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Call, Kernel, tensors_of
from featherweight.operators.limits import refused_fused
from featherweight.operators.relevance import EVERYTHING, Interval, Reading, Rule
from featherweight.operators.scratch import Scratch, nothing

Macs = Callable[[Node, Graph], int]
WeightKind = Literal["", "conv", "depthwise", "transposed", "dense", "recurrent", "embedding"]


def _none(node: Node, graph: Graph) -> int:
    return 0


def _always(call: Call) -> bool:
    return True


def _all_matter(reading: Reading, position: int) -> Interval:
    return EVERYTHING


def _no_refusal(call: Call) -> str | None:
    return None


class WeightRole(NamedTuple):
    """Positions of a weight, of the bias that is added to its product (None: there is none), and of its operand."""

    weight: int
    bias: int | None
    activation: int


@dataclass(frozen=True)
class Op:
    """Facts of one operator; positions count its inputs.

    In files:
        options: the table of the file format that holds its attributes; empty where it has none, or where the table
            has no fields and files do without (QUANTIZE, DEQUANTIZE).

    Roles of its inputs:
        weight: position of the weight, the operand that is constant and quantized symmetrically.
        axis: the weight's axis that has a scale per index; None where kernels want one scale.
        weight_axes: the weight's axes of (output channels, channels that it reads); equal in depthwise convolutions.
        weight_kind: ``conv``, ``depthwise``, ``transposed``, ``dense``, ``recurrent`` or ``embedding``, also of a
            constant that takes the place of what is computed (GATHER); empty for all others.
        bias: position of the bias, int32 at input scale × weight scale.
        activation: position of the operand that the bias scale and the weight belong to, and whose type is the form's;
            that of the weight where the operator copies out of it.
        more_weights: the weights besides the first, where there are several.
        trained: what a float constant that is trained is called, by its position.
        nibbles: types of the activation whose integer kernels take weights of int4.
        sparse_blocks: form → sizes of the blocks of values in which LiteRT takes a weight that is stored sparsely.

    Traits:
        axes: what becomes of the axes of its inputs, a word of `operators.axes`.
        shape_operand: position of the operand that says the output's shape; None where none does.
        indices: positions of operands that hold sizes, places or axes, of either integer type.
        is_conversion: its output stands for the same numbers in another type.
        unpacks: it holds packed values (of a narrower type, or sparse), and makes plain ones of them.
        is_mover: its outputs hold values of its float inputs, and zeros, in other places.
        is_homogeneous: f(a x) = a f(x) for every a > 0, channel by channel, of its activation.
        is_joint: f(a x, a z) = a f(x, z) for every a > 0, channel by channel, of all its operands together.
        is_product: f(a x, z) = a f(x, z) and, where z is no divisor, f(x, a z) = a f(x, z).
        is_even: f(-x) = f(x): it measures how large values are.
        fuses: runtimes compute the fused activation that it names, behind its result, of floats and integers alike.
        is_steep_at_zero: its derivative has no bound near zero.
        is_of_positive: it is defined from zero on.
        picks: its outputs hold values of its float inputs, or say how they compare or where they lie, so that it does
            to integers of one scale what it does to the numbers that they stand for.

    Other facts:
        same_scale: positions of inputs that must have the outputs' parameters.
        fixed_output: output parameters that kernels assume, as dtype → (scale, zero point).
        moves_data: its outputs hold values of its first float input and zeros only, so their range is implied.
        versions: form → operator version that runtimes need at least.
        calls: option fields that name other graphs (loops, branches).
        delegated: says whether XNNPACK takes a call of the operator's integer form; reads tensors only, no values.
        channels_first: XNNPACK computes it with channels first, too, which is where its convolutions run sparsely.
        refused: says why LiteRT's integer kernel can't compute a call (it ends with an error, ends the process, or
            computes nonsense), or None; reads tensors only, no values.
        finest: (type, largest scale of an input) → the finest scale that an output beside it can have; None where
            there is no such limit.
        coarse: says why the integer kernel loses what a call is about, although it computes it, or None.
        divisor: position of the operand that others are divided by: its errors count relative to itself.
        integer_attrs: attributes that the integer form of a type needs, by the type.
        biased: types of activations whose kernels are right with a bias only, if with one of zeros.
        relevant: which values of an input matter to what it computes.
        normalizes_rows: what it computes of a value depends on how far it is below the largest of its row.
        probability: what its results are as probabilities: ``softmax`` of classes, ``sigmoid`` of a yes; else empty.
        is_curved: its integer kernel follows a curve, so that its error depends on where values lie.
        is_factor: its results multiply others, one for each row: the error of each counts relative to itself.
        wants_symmetric: positions of computed operands that XNNPACK takes with a zero point of 0 only.
        macs: multiply-accumulates of one run.
        scratch: memory that TFLite Micro's kernel takes beside its tensors.
        kernels: reference implementations by form; ``*`` takes any.
        definition: what it computes of floats, or of values that it only moves, over any array namespace: the reference
            kernel of some types, and what a Keras model computes.
    """

    name: str
    options: str = ""
    weight: int | None = None
    axis: int | None = None
    weight_axes: tuple[int, int] | None = None
    weight_kind: WeightKind = ""
    bias: int | None = None
    activation: int = 0
    more_weights: tuple[WeightRole, ...] = ()
    trained: Mapping[int, str] = field(default_factory=dict[int, str])
    nibbles: tuple[str, ...] = ()
    sparse_blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    axes: AxesRule = ""
    shape_operand: int | None = None
    indices: tuple[int, ...] = ()
    is_conversion: bool = False
    unpacks: bool = False
    is_mover: bool = False
    is_homogeneous: bool = False
    is_joint: bool = False
    is_product: bool = False
    is_even: bool = False
    fuses: bool = False
    is_steep_at_zero: bool = False
    is_of_positive: bool = False
    picks: bool = False
    same_scale: tuple[int, ...] = ()
    fixed_output: Mapping[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    moves_data: bool = False
    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    calls: tuple[str, ...] = ()
    delegated: Callable[[Call], bool] = _always
    channels_first: bool = False
    refused: Callable[[Call], str | None] = _no_refusal
    finest: Callable[[str, float], float] | None = None
    coarse: Callable[[Call], str | None] = _no_refusal
    divisor: int | None = None
    integer_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    biased: tuple[str, ...] = ()
    relevant: Rule = _all_matter
    normalizes_rows: bool = False
    probability: Literal["", "softmax", "sigmoid"] = ""
    is_curved: bool = False
    is_factor: bool = False
    wants_symmetric: tuple[int, ...] = ()
    macs: Macs = _none
    scratch: Scratch = nothing
    kernels: Mapping[str, Kernel] = field(default_factory=dict[str, Kernel])
    definition: Kernel | None = None

    @property
    def weights(self) -> tuple[WeightRole, ...]:
        """All weights, the first one first."""
        first = () if self.weight is None else (WeightRole(self.weight, self.bias, self.activation),)
        return (*first, *self.more_weights)

    @property
    def has_integer_weights(self) -> bool:
        """True where kernels take weights that are stored in integers."""
        return self.weight is not None and bool(self.versions)

    def input_of(self, node: Node, position: int | None) -> str:
        """Returns the name of a node's input in one of these roles; empty where it has none."""
        return "" if position is None or position >= len(node.inputs) else node.inputs[position]

    @property
    def elementwise(self) -> Literal[0, 1, 2]:
        """1 where each output element comes from one element, 2 where from one of each operand, broadcast; else 0."""
        return 1 if self.axes == "same" else 2 if self.axes == "joined" else 0

    @property
    def is_of_shape(self) -> bool:
        """True where it reads no values, only sizes: the type that its input is stored in makes no difference."""
        return self.axes == "shape"

    @property
    def is_reduction(self) -> bool:
        """True where the axes that its second input names come together in one value each."""
        return self.axes in ("reduction", "decision")

    def form(self, node: Node, graph: Graph) -> str:
        """Returns the form in which a node computes, by the types of what it reads and writes; empty without inputs."""
        inputs, outputs = tensors_of(node, graph)
        reads: dict[int | None, Tensor | None] = dict(enumerate(inputs))
        activation = outputs[0] if self.weight == self.activation else reads.get(self.activation)
        if activation is None:
            return ""
        weight = reads.get(self.weight)
        if self.weight is None and activation.dtype == "float32":
            weight = next((t for t in inputs if t is not None and t.quant is not None), None)
        if weight is None or weight.dtype == activation.dtype == "float32":
            return activation.dtype
        return f"{activation.dtype}*{weight.dtype}"


_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_OPS: dict[str, Op] = {}
INTEGER_FORMS = tuple(f"{activation}*{weight}" for activation in ("int8", "int16") for weight in ("int8", "int4"))
HYBRID_FORMS = ("float32*int8", "float32*int4")
ALL_INPUTS = tuple(range(1024))


def register(op: Op) -> Op:
    """Adds one operator's record; raises if it has one."""
    if op.name in _OPS:
        raise ValueError(f"operator {op.name} is registered twice")
    _OPS[op.name] = op
    return op


def kernel(op: str, *forms: str) -> Callable[[Kernel], Kernel]:
    """Attaches a reference kernel to an operator's record, for these forms (``*``: any).

    Raises:
        ValueError: if the operator has no record, or a kernel for one of the forms.
    """

    def attach(function: Kernel) -> Kernel:
        if op not in _OPS:
            raise ValueError(f"operator {op} has no record; register it before its kernels")
        for form in forms:
            if form in _OPS[op].kernels:
                raise ValueError(f"operator {op} has two kernels for {form}")
        _OPS[op] = replace(_OPS[op], kernels={**_OPS[op].kernels, **dict.fromkeys(forms, function)})
        return function

    return attach


def definition(op: str, *forms: str) -> Callable[[Kernel], Kernel]:
    """Attaches the definition of an operator, which is its reference kernel for these forms (see `kernel`), too."""

    def attach(function: Kernel) -> Kernel:
        kernel(op, *forms)(function)
        _OPS[op] = replace(_OPS[op], definition=function)
        return function

    return attach


def lookup(name: str) -> Op:
    """Returns the record of an operator; one that nothing is known about gets a record without facts."""
    return _OPS.get(name) or Op(name)


def placed(call: Call) -> Call:
    """Returns the call in the arithmetic that runs it: that of LiteRT's own kernels, where XNNPACK does not take it."""
    return call if not call.profile.is_delegate or _is_taken(call) else call.fallen_back()


def _is_taken(call: Call) -> bool:
    """True where XNNPACK takes a call; scales that are no normal float32 numbers it takes nowhere."""
    scales = (scale for t in call.inputs if t is not None and t.quant is not None for scale in t.quant.scale)
    return lookup(call.node.op).delegated(call) and all(scale >= _SMALLEST_SCALE for scale in scales)


def refusal(call: Call) -> str | None:
    """Returns why LiteRT's integer kernel can't compute a call, or None: also for floats, and for other runtimes."""
    op = lookup(call.node.op)
    others = [t for i, t in enumerate(call.inputs) if t is not None and i != op.weight]
    real = [t for t in (*others, *call.outputs) if t.dtype in ("int8", "int16")]
    has_scales = (
        bool(real)
        and bool(call.outputs)
        and all(t.quant is not None and len(t.quant.scale) == 1 and t.quant.scale[0] > 0 for t in real)
    )
    if not call.profile.is_litert or not has_scales:
        return None
    with np.errstate(over="ignore"):  # scales may be of any size
        is_delegated = call.profile.is_delegate and _is_taken(call)
        return op.refused(call) or (None if is_delegated else refused_fused(call))


def macs(node: Node, graph: Graph) -> int:
    """Returns the multiply-accumulates of one run of a node.

    Raises:
        FormatError: if the node lacks an input, a dimension or an attribute that its operator has.
    """
    try:
        return lookup(node.op).macs(node, graph)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(
            f"{node.op} '{node.name}' lacks an input, a dimension or an attribute that the operator has. The file is "
            "damaged: copy or convert it again."
        ) from error


def registered() -> tuple[Op, ...]:
    """Returns all records, by name."""
    return tuple(_OPS[name] for name in sorted(_OPS))


def output_elements(node: Node, graph: Graph) -> int:
    """Returns the number of elements of the node's first output."""
    return math.prod(graph.tensors[node.outputs[0]].shape)
