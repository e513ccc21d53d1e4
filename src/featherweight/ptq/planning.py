"""Makes the plan: the form of every operator, then the parameters of every tensor, until no operator is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from featherweight.arguments import checked, flag, function, instance, mapping, text
from featherweight.calibration import Stats
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model, ModelLike
from featherweight.graph.numerics import QuantParams
from featherweight.operators.entries import callers, entries, joined
from featherweight.ptq.fitness import form_in_8_bits
from featherweight.ptq.forms.choosing import check_is_float, choose_forms, no_ranges
from featherweight.ptq.forms.decisions import Obstacle, no_obstacle, reasons_said, set_free
from featherweight.ptq.forms.following import keep_tables_of_floats, share_tables
from featherweight.ptq.forms.islands import (
    hidden_scores,
    keep_chains_float,
    keep_faster_float,
    keep_scores_float,
    settle,
    slow_in_16_bits,
)
from featherweight.ptq.forms.small_weights import keep_small_weights
from featherweight.ptq.parameters import ParameterPlanner
from featherweight.ptq.plan import INTEGER_BORDERS, Plan
from featherweight.recipes import recipe as recipes
from featherweight.recipes.matching import outdated_rules
from featherweight.targets import target as targets


@checked(
    stats=instance(Stats, way="Pass what calibrate(model, samples) returns."),
    io=text,
    ranges=text,
    given=mapping(text, instance(QuantParams)),
    methods=mapping(text, text),
    integers=flag,
    float_joins=flag,
    obstacle=function,
)
def plan(
    model: ModelLike,
    stats: Stats | None = None,
    recipe: str | recipes.Recipe = "int8",
    target: str | targets.Target = "litert",
    *,
    io: str | None = None,
    ranges: str = "minmax",
    given: Mapping[str, QuantParams] | None = None,
    methods: Mapping[str, str] | None = None,
    integers: bool = False,
    float_joins: bool | None = None,
    obstacle: Obstacle = no_obstacle,
) -> Plan:
    """Returns the plan that the recipe gives for the model on the target.

    Args:
        model: a float model, as `load` returns it.
        recipe: a recipe's name, TOML file or value.
        target: the device, by name, TOML file or value.
        stats: what `calibrate` measured; needed by recipes with integer activations only.
        io: ``float32``, ``int8`` or ``uint8`` inputs and outputs; None takes the target's habit.
        ranges: how ranges are chosen where the recipe does not say; not ``auto``, which needs samples (`quantize`).
        given: parameters of activations that are known already (trained, or another tool's) and stand as they are.
        methods: tensor → range method, for tensors whose range is to be chosen otherwise than the recipe says.
        integers: write in integers what the target runs in integers, even where float would be faster or finer.
        float_joins: keep what joins parts of unlike range at a float output in float, where the target runs floats,
            even if rules name it; None: unless `integers` is true, or rules name it.
        obstacle: what else must be able to compute the model (training, for example) says here which forms it can't.

    Raises:
        RecipeError: for an unknown recipe, target, range method or `io`, or a rule that matches nothing.
        FormatError: if the model is quantized already.
        DataError: if ranges or weights are missing or unusable.
    """
    recipe, target = recipes.load(recipe), targets.load(target)
    check_is_float(model)
    chosen = _with_ranges(model, stats, given) if recipe.needs_ranges else list(entries(model))
    graph = joined(model, chosen)
    forms = choose_forms(model, recipe, target, obstacle, _unplanned(model, chosen))
    settle(forms, model, graph, recipe, target)
    share_tables(forms, graph, target)
    keep_tables_of_floats(forms, graph)
    keep_small_weights(forms, model, target)
    _check_io(io, recipe)
    io = io or (target.io if recipe.needs_ranges else "float32")
    if recipe.needs_ranges and stats is None and given is None:
        raise RecipeError(f"Recipe '{recipe.name}' needs measured ranges. Pass calibration samples.")
    is_free = target.is_float_allowed and not integers
    if is_free:
        keep_faster_float(forms, graph, target)
        keep_chains_float(forms, graph)
        keep_scores_float(forms, graph, io)
        settle(forms, model, graph, recipe, target)
    tight: set[str] = set()
    while True:
        planner = ParameterPlanner(
            model,
            graph,
            stats,
            recipe,
            target,
            forms,
            io,
            ranges,
            given or {},
            methods or {},
            is_free=is_free,
            float_joins=is_free if float_joins is None else float_joins and target.is_float_allowed,
            names_bind=float_joins is None,
            tight=tight,
        )
        rejected = planner.planned(model)
        if planner.too_wide:
            tight |= planner.too_wide
            continue
        if not rejected:
            break
        for node, reason in rejected:
            if node.name in planner.plain_float:
                forms.keep(node, reason)  # weights too: they are as coarse beside what is quiet
            elif finer := form_in_8_bits(node, graph, forms, planner.params, planner.edges, target):
                forms.forms[node.name] = finer
                forms.notes.append(f"{node.op} '{node.name}': weights are int8: {reason}")
            else:
                set_free(forms, node, graph, target, reason)
        settle(forms, model, graph, recipe, target)
    return Plan(
        recipe.name,
        target.name,
        target.profile,
        io,
        forms.forms,
        planner.params,
        planner.edges,
        forms.kept_float,
        forms.dropped,
        (
            *reasons_said(forms),
            *outdated_rules(recipe, model),
            *forms.notes,
            *planner.notes,
            *slow_in_16_bits(forms, graph, target),
            *hidden_scores(forms, graph),
        ),
    )


def _with_ranges(model: Model, stats: Stats | None, given: Mapping[str, QuantParams] | None) -> list[int]:
    """Returns the graphs that a caller runs and calibration measured; the first one, where it measured none."""
    known = {*(stats.tensors if stats else ()), *(given or ())}
    return [index for index in entries(model) if not known.isdisjoint(model.graphs[index].tensors)] or [0]


def _unplanned(model: Model, chosen: Collection[int]) -> dict[int, str]:
    """Returns why the other graphs can't compute in integers that need fixed ranges."""
    named, called = entries(model), callers(model)
    found: dict[int, str] = {}
    for index in range(len(model.graphs)):
        if index in named and index not in chosen:
            found[index] = (
                f"signature '{named[index]}' has no calibration samples (those given are for "
                f"{listed(repr(named[other]) for other in chosen)}); give each signature its own, "
                "{'name': samples, …} (--calibration NAME=DATA)"
            )
        elif index not in named:
            found[index] = no_ranges([node.op for node in called.get(index, ())])
    return found


def _check_io(io: str | None, recipe: recipes.Recipe) -> None:
    """Raises RecipeError for a type of inputs and outputs that there is not, or not beside the recipe's integers."""
    if io not in (None, "float32", *INTEGER_BORDERS):
        raise RecipeError(f"io '{io}' is unknown (allowed: float32, {', '.join(INTEGER_BORDERS)}).")
    if io in INTEGER_BORDERS and not recipe.needs_ranges:
        raise RecipeError(f"io {io} needs integer activations, which recipe '{recipe.name}' has not. Use io float32.")
    if io == "uint8" and any(rule.activation and rule.activation.dtype != "int8" for rule in recipe.rules):
        raise RecipeError(
            f"io uint8 stands for int8 activations, and recipe '{recipe.name}' has others. Use io int8, which takes "
            "the recipe's own type, or io float32."
        )
