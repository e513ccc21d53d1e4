"""Fused LSTM layers in integers: what their kernel prescribes, and in which style a target wants recurrent layers.

Full integer form (LiteRT lstm_eval.cc, EvalInteger8x8_16): int8 inputs, weights and outputs; an int16 cell state whose
scale is a power of two; gates in Q3.12. The hidden state holds earlier outputs, and has their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Node, Tensor
from featherweight.graph.numerics import QuantParams
from featherweight.operators import lookup
from featherweight.operators.families.recurrent import CELL, HIDDEN, LSTM
from featherweight.recipes.recipe import Recipe
from featherweight.targets.target import Target

STYLES = ("loop", "fused", "unrolled")
# The integer type that each state has beside an integer layer.
STATE_DTYPES: Mapping[int, str] = {HIDDEN: "int8", CELL: "int16"}
# The kernel wants a cell scale of at most 2**-9 (lstm_eval.cc: cell_state_shift), which reaches to 64.
_LARGEST_CELL_EXPONENT = 6
_GATE_SCALE = 2.0**-12
_GATES = ("input", "forget", "cell", "output")


@dataclass(frozen=True)
class Style:
    """How recurrent layers are lowered: `fuse` and `unroll` as `lower` takes them.

    Attributes:
        name: ``loop``, ``fused`` (what can't be is unrolled for integers, else a loop) or ``unrolled``.
        reason: why this one.
    """

    name: str
    fuse: bool
    unroll: bool
    reason: str


def choose_style(recipe: Recipe, target: Target, wish: str = "auto") -> Style:
    """Returns the style of recurrent layers for a recipe on a target; a `wish` other than ``auto`` decides.

    Measured on an LSTM of 256 units over 50 steps (x86, one thread, SQNR against float): as a loop it is the smallest
    and fastest in float (2.9 ms) and with int8 weights (0.6 ms, 41 dB), but loops have no integer form; unrolled it
    takes 2.0 ms in integers (29 dB), fused 10.5 ms, but at 35 dB and 0.6 times the bytes, in the one operator that
    microcontrollers have for it.

    Raises:
        RecipeError: if the wish is unknown.
    """
    if wish not in ("auto", *STYLES):
        raise RecipeError(f"recurrent '{wish}' is unknown (allowed: auto, {listed(STYLES)}).")
    integer = recipe.needs_ranges
    where = f"recipe '{recipe.name}' on target '{target.name}'"
    if wish != "auto":
        name, reason = wish, "as asked for"
    elif target.io == "int8" and target.forms.get(LSTM):
        rest = "are written out" if integer else "stay loops"
        reason = f"target '{target.name}' is made for integers: LSTM layers are one operator there, other loops {rest}"
        name = "fused"
    elif integer:
        name, reason = (
            "unrolled",
            f"loops have no integer form, and unrolled layers are faster than fused ones ({where})",
        )
    else:
        name, reason = "loop", f"the smallest and fastest form beside float activations ({where})"
    return Style(name, name == "fused", name == "unrolled" or (name == "fused" and integer), reason)


def states(node: Node) -> dict[str, str]:
    """Returns the state tensors of a fused layer, each with its integer type; nothing for other operators."""
    if node.op != LSTM or len(node.inputs) <= CELL:
        return {}
    return {node.inputs[position]: dtype for position, dtype in STATE_DTYPES.items() if node.inputs[position]}


def obstacle(node: Node, graph: Graph) -> str | None:
    """Returns why an LSTM can't compute with integer weights here, or None (also for other operators)."""
    if node.op != LSTM:
        return None
    used = {0, HIDDEN, CELL} | {p for role in lookup(LSTM).weights for p in role[:2] if p is not None}
    missing = [p for p in sorted(used) if p >= len(node.inputs) or not node.inputs[p]]
    further = [p for p, name in enumerate(node.inputs) if name and p not in used]
    if missing or further:
        return (
            f"only the plain LSTM has an integer form here (input {listed(missing)} is missing)"
            if missing
            else f"peepholes, projections and layer norms (input {listed(further)}) have no integer form here"
        )
    computed = [node.inputs[p] for p in used - {0, HIDDEN, CELL} if not graph.tensors[node.inputs[p]].is_constant]
    if computed:
        return f"its weight '{computed[0]}' is computed, not constant"
    attrs = node.attrs
    if attrs.get("fused_activation_function") != "TANH" or attrs.get("time_major"):
        return "the integer kernel wants tanh, and the batch before the steps"
    if attrs.get("proj_clip"):
        return "clipping of its projection has no integer form here"
    return None


def cell_params(low: float, high: float, where: str) -> tuple[QuantParams, list[str]]:
    """Returns the parameters of a cell state, int16 at 2^(m − 15) with m = max(0, ceil(log2 max|c|)) ≤ 6, and notes.

    Larger cells are cut off at ±64, where tanh has long been ±1.
    """
    largest = max(-low, high, 0.0)
    exponent = max(0, math.ceil(math.log2(largest))) if largest > 0 else 0
    notes: list[str] = []
    if exponent > _LARGEST_CELL_EXPONENT:
        notes.append(f"{where}: its cell state reaches {largest:.3g}; the kernel's int16 cuts it off at 64")
        exponent = _LARGEST_CELL_EXPONENT
    return QuantParams("int16", (2.0 ** (exponent - 15),), (0,)), notes


def with_intermediates(node: Node, hidden: QuantParams, add: Callable[[Tensor], str]) -> Node:
    """Returns an integer LSTM with the five tensors that tell its kernel the gates' scale and the hidden state's.

    `add` adds one to the graph, and returns the name that it gets.
    """
    gate = QuantParams("int16", (_GATE_SCALE,), (0,))
    params = {f"gate_{name}": gate for name in _GATES} | {"gated": hidden}
    names = [add(Tensor(f"{node.name}/{name}", (0,), each.dtype, quant=each)) for name, each in params.items()]
    return replace(node, extras={**node.extras, "intermediates": tuple(names)})
