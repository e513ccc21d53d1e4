"""The forms in which an operator can be kept wide, as rules of a recipe."""

from __future__ import annotations

from dataclasses import replace

from featherweight import operators
from featherweight.graph import Graph, Node
from featherweight.ptq.forms.nodes import weight_position
from featherweight.recipes.matching import exactly
from featherweight.recipes.recipe import Rule, Scheme
from featherweight.repair.candidate import Setting
from featherweight.targets.target import Target


def wide_rules(node: Node, graph: Graph, rule: Rule | None, setting: Setting) -> tuple[Rule, ...]:
    """Returns rules that keep an integer operator wide, each wider than the one before; none where there is no form.

    Weights stay integers, but for small ones (`keep_small`): activations are quantized on the fly, or have 16 bits, or
    the weights are read as floats; at last, where the target runs floats, all is float. What the recipe names by a
    pattern stays as it is.
    """
    if rule is None or rule.match != "*":
        return ()
    target, match = setting.target, exactly(node.outputs[0])
    has_floats = target.is_float_allowed and not setting.integers
    op = operators.lookup(node.op)
    weight = (rule.weight or Scheme("int8")) if weight_position(node, graph) is not None else None
    if not has_floats:
        found = _in_16_bits(node, match, weight, target)
        return () if found is None else (found,)
    if weight is None:
        return (Rule(match),)
    if op.weight is None:  # a table that is copied out of
        return (Rule(match, weight=replace(weight, dtype="int8", block_size=None)),)
    read = None
    if weight.dtype in target.weight_only:
        read = Rule(match, weight=replace(weight, block_size=None), weight_only=True, keep_small=True)
    hybrid = Rule(match, weight=weight, keep_small=True) if target.runs(node.op, f"float32*{weight.dtype}") else None
    if weight.dtype == "int4":  # weights of 4 bits stay as small as they are
        found = hybrid or read or _in_16_bits(node, match, weight, target)
        return () if found is None else (found,)
    first = hybrid or _in_16_bits(node, match, weight, target)
    plain = Rule(match) if target.runs(node.op, "float32") else None
    return tuple(rule for rule in (first, read, plain) if rule is not None)


def _in_16_bits(node: Node, match: str, weight: Scheme | None, target: Target) -> Rule | None:
    op = operators.lookup(node.op)
    form = "int16" if weight is None or op.weight is None else "int16*int8"
    if not target.runs(node.op, form) or form not in op.versions:
        return None
    stored = replace(weight, dtype="int8", block_size=None) if weight else None
    return Rule(match, weight=stored, activation=Scheme("int16"))
