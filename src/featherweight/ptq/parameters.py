"""Gives tensors their parameters: ranges per group of tensors that must share a scale, then scales and zero points.

The rules are those of TensorFlow Lite's 8-bit quantization specification; where tensors must share parameters, the
group's range is the union of its members' ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from featherweight import operators
from featherweight.calibration import Stats
from featherweight.errors import listed
from featherweight.graph import Graph, Model, Node, consumers, producers
from featherweight.graph.numerics import QuantParams, integer_range, params_from_range
from featherweight.operators import profiles
from featherweight.operators.call import FUSED_BOUNDS
from featherweight.operators.families.control import VALUE, uses
from featherweight.ptq import recurrent
from featherweight.ptq.fitness import reading_infinity, unfaithful, unfit
from featherweight.ptq.forms.decisions import Forms, can_free
from featherweight.ptq.forms.following import stored_types
from featherweight.ptq.forms.islands import is_named
from featherweight.ptq.forms.nodes import real_tensors, weight_roles
from featherweight.ptq.front_ends import coarse_front_ends
from featherweight.ptq.groups import fixed_outputs, integer_nodes, notes_on_parts, tied_groups, unlike_tails
from featherweight.ptq.partners import MOST_STEPS, Partners, is_blank
from featherweight.ptq.plan import edge
from featherweight.ptq.ranges import Ranges
from featherweight.ptq.tails import coarse_tails
from featherweight.ptq.weights import planned_weights, shared_weights
from featherweight.recipes.recipe import Recipe
from featherweight.targets.target import Target

# From here on a product that XNNPACK leaves to the built-in kernel loses 20 µs (0.18 ns per multiply-accumulate).
_LEAST_SLOW_MACS = 110_000
# How much wider than measured the ranges of 16-bit activations are, but where a curve becomes too coarse by it: they
# have bits to spare beside 8-bit weights, and what calibration did not see is clipped otherwise. The largest value
# stays a whole number of steps: masks are 0 and 1.
_HEADROOM = 32767 / 16383
# From here on a number of times says no more than that.
_MANY_TIMES = 1000


class ParameterPlanner:
    """Carries the decisions so far from step to step; `params` and `edges` are the result."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        stats: Stats | None,
        recipe: Recipe,
        target: Target,
        forms: Forms,
        io: str,
        ranges: str,
        given: Mapping[str, QuantParams],
        methods: Mapping[str, str],
        *,
        is_free: bool,
        float_joins: bool,
        names_bind: bool,
        tight: Collection[str],
    ) -> None:
        self.graph, self.target, self.forms, self.io, self.given = graph, target, forms, io, given
        self.variables = uses(model)
        self.tables: dict[int, str] = {}
        self.symmetric = set[str]()
        for data, readers in stored_types(forms, graph).items():
            plain = [node for node, dtype in readers.values() if forms.forms[node.name] == dtype]
            if 0 < len(plain) < len(readers):
                self.tables[data] = plain[0].inputs[weight_roles(plain[0], graph)[0].weight]
                self.symmetric |= {name for node in plain for name in node.outputs}
        self.default_dtype = next((r.activation.dtype for r in recipe.rules if r.activation), "int8")
        self.made, self.read = producers(self.graph), consumers(self.graph)
        self.params: dict[str, QuantParams] = {}
        self.edges: dict[str, QuantParams] = {}
        self.notes: list[str] = []
        self.plain_float = set[str]()
        self.is_free, self.float_joins, self.names_bind, self.tight = is_free, float_joins, names_bind, frozenset(tight)
        self.too_wide: frozenset[str] = frozenset()
        self.dtypes = {t.name: dtype for t in real_tensors(self.graph) if (dtype := self.dtype_of(t.name))}
        self.ranges = Ranges(self.graph, stats, forms, ranges, methods)

    def planned(self, model: Model) -> list[tuple[Node, str]]:
        """Plans all parameters; returns the operators that can't compute in integers with them, each with the reason.

        Parameters are complete only where none is returned.
        """
        is_integer = any(self.forms.activation(node) for node in self.graph.nodes)
        if is_integer or self.io != "float32":
            if rejected := reading_infinity(self.graph, self.forms, self.ranges.unbounded()):
                return rejected
            self.plan_activations()
            if self.is_free and (rejected := self.slowed_by_zero_points()):
                return rejected
            if self.is_free and self.ranges.stats and (rejected := self.front_ends(self.ranges.stats)):
                return rejected
            if self.float_joins and self.io == "float32" and (rejected := self.mixing_parts()):
                return rejected
            if self.ranges.stats and (rejected := self.tails(self.ranges.stats)):
                return rejected
            coarse = unfaithful(self.graph, self.ranges.stats, self.forms, self.params, self.edges, self.target)
            self.too_wide = frozenset(node.inputs[0] for node, _ in coarse if self.has_curve(node)) - self.tight
            if self.too_wide:
                return []
            if rejected := [
                (node, reason)
                for node, reason in coarse
                if self.is_free and can_free(self.forms, node, self.graph, self.target)
            ]:
                return rejected
            self.notes += [f"{node.op} '{node.name}': {reason}" for node, reason in coarse]
        weights = list(planned_weights(model, self.forms, self.target, self.params, self.edges))
        for weight in shared_weights(weights, self.forms, self.tables, self.params):
            self.want(weight.node, weight.position, weight.tensor.name, weight.params)
            self.notes += weight.notes
        return unfit(self.graph, self.forms, self.params, self.edges, self.target) if is_integer else []

    def front_ends(self, stats: Stats) -> list[tuple[Node, str]]:
        """Returns the integer operators of front ends that are too coarse: those that no rule names."""
        found = coarse_front_ends(self.graph, stats, self.forms, self.params)
        rejected = [each for each in found.values() if not is_named(self.forms, each[0])]
        self.plain_float |= {node.name for node, _ in rejected}
        return rejected

    def tails(self, stats: Stats) -> list[tuple[Node, str]]:
        """Returns the integer operators that round an output over and over; notes them where they can't be float."""
        rejected: list[tuple[Node, str]] = []
        for tail in coarse_tails(self.graph, stats.tensors, self.forms, self.params):
            times = f"{tail.ratio:.0f}" if tail.ratio < _MANY_TIMES else f"over {_MANY_TIMES:,}"
            said = (
                f"operators behind the last layers, each rounding what others rounded, make {times} times as "
                f"much noise in '{tail.end}' as {tail.beside}"
            )
            if self.is_free and self.io == "float32":
                rejected += [(node, f"it is one of {len(tail.nodes)} {said}") for node in tail.nodes]
            else:
                self.notes.append(
                    f"{len(tail.nodes)} {said} ({listed([repr(node.name) for node in tail.nodes], 4)}); "
                    "improve='wide-places' finds the ones to keep in 16 bits"
                )
        self.plain_float |= {node.name for node, _ in rejected}
        return rejected

    def mixing_parts(self) -> list[tuple[Node, str]]:
        """Returns the integer operators that join parts of unlike range at an output, but those that a rule binds."""
        found = unlike_tails(self.graph, self.ranges, self.params) if self.ranges.stats else []
        found = [each for each in found if self.forms.activation(each[0])]
        return [each for each in found if not (self.names_bind and is_named(self.forms, each[0]))]

    def slowed_by_zero_points(self) -> list[tuple[Node, str]]:
        """Returns products that the delegate leaves to a slow kernel because an operand's zero point is not 0."""
        return [
            (
                node,
                f"slower in integers on target '{self.target.name}': '{name}' has a zero point, which XNNPACK refuses",
            )
            for node, dtype in integer_nodes(self.graph, self.forms)
            for position in operators.lookup(node.op).wants_symmetric
            for name in [node.inputs[position]]
            if dtype == "int8" and self.wants_symmetric(name) and self.params[name].zero_point != (0,)
            if operators.macs(node, self.graph) >= _LEAST_SLOW_MACS
        ]

    def dtype_of(self, name: str) -> str | None:
        """Returns the integer type of a tensor: its producer's, else its first integer consumer's, else None."""
        dtype = self.forms.activation(self.made.get(name))
        if dtype is None:
            dtype = next((d for node in self.read.get(name, ()) if (d := self.forms.activation(node))), None)
        is_border = self.io != "float32" and (name in self.graph.inputs or name in self.graph.outputs)
        return dtype or (self.default_dtype if is_border else None)

    def plan_activations(self) -> None:
        """Gives every tensor that is integer somewhere its parameters."""
        fixed = fixed_outputs(self.graph, self.forms)
        self.notes += self.ranges.notes_on_inputs()
        kept = [[use.value for use in each if use.value in self.dtypes] for each in self.variables.values()]
        groups = tied_groups(self.graph, self.forms, self.dtypes, self.ranges, fixed, filter(None, kept))
        for members in groups:
            self.params |= dict.fromkeys(members, self.group_params(members, fixed))
        self.params |= {name: params for name, params in fixed.items() if name not in self.params}
        self.partners = Partners(self.graph, self.params, self.target, [*fixed, *self.given])
        nodes = list(integer_nodes(self.graph, self.forms))
        self.partners.fit([node for node, _ in nodes if node.outputs], groups)
        for node, _ in nodes:
            self.plan_states(node)
        for node, dtype in nodes:
            self.plan_inputs(node, operators.lookup(node.op), dtype)
        self.plan_variables()
        self.notes += notes_on_parts(self.graph, self.ranges, self.params) if self.ranges.stats else []
        clipping = self.ranges.notes_on_clipping(self.params, {*fixed, *self.given})
        self.notes += [*self.ranges.notes_on_infinity(), *clipping]

    def plan_states(self, node: Node) -> None:
        """Gives the states of a fused recurrent layer their parameters: the outputs' to the hidden state."""
        for name, dtype in recurrent.states(node).items():
            if dtype != "int16":
                self.params[name] = self.params[node.outputs[0]]
            elif name in self.given:
                self.params[name] = self.given[name]
            else:
                low, high = self.ranges.extremes(name)
                self.params[name], notes = recurrent.cell_params(low, high, f"{node.op} '{node.name}'")
                self.notes += notes

    def plan_variables(self) -> None:
        """Gives what is assigned to a variable the parameters of what is read from it."""
        for each in self.variables.values():
            kept = next((self.params[use.value] for use in each if use.is_read and use.value in self.params), None)
            for use in each:
                if kept is not None and not use.is_read and self.forms.activation(use.node):
                    self.edges.pop(edge(use.node.name, VALUE), None)
                    self.want(use.node, VALUE, use.value, kept)

    def group_params(self, names: list[str], fixed: dict[str, QuantParams]) -> QuantParams:
        """Returns the parameters that hold the values of all tensors of a group."""
        dtype = self.dtypes[names[0]]
        known = {n: params for n in names if (params := self.given.get(n)) is not None and params.dtype == dtype}
        if len(set(known.values())) == 1:
            return next(iter(known.values()))
        # Several are joined on one grid: it holds what each of theirs does.
        measured = [_held(known[n]) if n in known else self.ranges.of(n, dtype) for n in names]
        measured += [compared for name in names for compared in self.ranges.compared(name)]
        low, high = min(a for a, _ in measured), max(b for _, b in measured)
        least = max(self.least_width(name) for name in names)
        if 0 < max(high, 0.0) - min(low, 0.0) < least:
            self.notes.append(
                f"tensor '{names[0]}': its range [{low:.3g}, {high:.3g}] was widened to a width of {least:.3g}: steps "
                "so small that the bounds of its fused activation are no int32 numbers do not load"
            )
            high = min(low, 0.0) + least
        if dtype == "int16" and not known and self.tight.isdisjoint(names):
            low, high = low * _HEADROOM, high * _HEADROOM
        params = self.from_range(low, high, dtype, names[0], symmetric=any(map(self.wants_symmetric, names)))
        if low < high and is_blank(params):
            self.notes.append(f"tensor '{names[0]}': its values, up to {max(-low, high):.3g}, count as zero")
        return params

    def has_curve(self, node: Node) -> bool:
        """True for a 16-bit operator that follows a curve over its input's whole range: in coarser steps over more."""
        return self.forms.activation(node) == "int16" and operators.lookup(node.op).is_curved

    def wants_symmetric(self, name: str) -> bool:
        """True for a tensor that takes a zero point of 0 only: of the target, of the delegate, and as weights do."""
        return (
            self.target.is_symmetric
            or name in self.symmetric
            or (
                profiles.find(self.target.profile).is_delegate
                and any(
                    node.inputs[position] == name
                    for node in self.read.get(name, ())
                    for position in operators.lookup(node.op).wants_symmetric
                )
            )
        )

    def least_width(self, name: str) -> float:
        """Returns how wide a tensor's range must be for its fused activation's bounds, in steps, to fit int32.

        LiteRT refuses the file otherwise (kernel_util.cc, CalculateActivationRangeQuantized); it takes a dead layer.
        """
        node = self.made.get(name)
        fused = str(node.attrs.get("fused_activation_function", "NONE")) if node else "NONE"
        largest = max((abs(bound) for bound in FUSED_BOUNDS.get(fused, ()) if bound), default=0.0)
        qmin, qmax = integer_range(self.dtypes[name])
        return largest / MOST_STEPS * (qmax - qmin)

    def from_range(self, low: float, high: float, dtype: str, where: str, *, symmetric: bool = False) -> QuantParams:
        """Returns per-tensor activation parameters in the target's kind of scale."""
        return params_from_range(
            low,
            high,
            dtype,
            symmetric=symmetric or dtype == "int16",
            power_of_two=self.target.is_power_of_two,
            where=f"tensor '{where}'",
        )

    def plan_inputs(self, node: Node, op: operators.Op, dtype: str) -> None:
        """Decides what each real input of an integer node must be, where that is not the tensor's own choice."""
        tied = [t.name for i, t in self.graph.float_inputs(node) if i in op.same_scale and not t.is_constant]
        shared = next((self.params[name] for name in (*node.outputs, *tied) if name in self.params), None)
        weights = {position for role in op.weights for position in role[:2]}
        for position, tensor in self.graph.float_inputs(node):
            if position in weights or tensor.is_variable:
                continue
            own_range = self.ranges.of_constant(tensor) if tensor.is_constant else None
            if position in op.same_scale and shared is not None and shared.dtype == dtype:
                wanted = shared
            elif own_range is not None:
                symmetric = self.wants_symmetric(tensor.name)
                own = self.from_range(*own_range, dtype, tensor.name, symmetric=symmetric)
                wanted = self.partners.beside(node, position, own)
            elif self.params[tensor.name].dtype != dtype:
                symmetric = self.wants_symmetric(tensor.name)
                wanted = self.from_range(
                    *self.narrowed_range(tensor.name, dtype), dtype, tensor.name, symmetric=symmetric
                )
            else:
                continue
            self.want(node, position, tensor.name, wanted)

    def narrowed_range(self, name: str, dtype: str) -> tuple[float, float]:
        """Returns the range of a tensor for readers of another type: what its integers hold, or of it what occurs.

        Integers of 16 bits are symmetric, and have room to spare: in 8 bits that would be two of them.
        """
        own = self.params[name]
        low, high = _held(own)
        stats = self.ranges.stats
        if dtype == "int16" or name in self.given or not stats or name not in stats.tensors:
            return low, high
        least, most = self.ranges.of(name, dtype)
        return max(low, least), min(high, most)

    def want(self, node: Node, position: int, name: str, wanted: QuantParams) -> None:
        """Records the parameters of one input: as the tensor's, if it has none yet, else for this edge alone."""
        if self.params.setdefault(name, wanted) != wanted:
            self.edges[edge(node.name, position)] = wanted


def _held(params: QuantParams) -> tuple[float, float]:
    """Returns the least and the largest number that integers of one scale hold."""
    low, high = (params.scale[0] * (q - params.zero_point[0]) for q in integer_range(params.dtype))
    return low, high
