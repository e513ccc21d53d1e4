"""Quantization-aware training's way in: a float model becomes a trainable integer one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.arguments import (
    checked,
    count,
    either,
    flag,
    instance,
    layer_name,
    path,
    shapes,
    stream,
    text,
    wrong,
)
from featherweight.calibration import Stats, calibrate, needs_histogram
from featherweight.errors import RecipeError, UnsupportedOp, listed
from featherweight.graph import Model
from featherweight.lower import keras
from featherweight.lower.precision import in_float32
from featherweight.operators import profiles
from featherweight.passes.substitutes import substituted
from featherweight.ptq import planning
from featherweight.ptq.forms.decisions import no_obstacle
from featherweight.ptq.plan import Plan, with_present_names
from featherweight.ptq.plan import load as load_plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.samples import as_feeds, input_tensors
from featherweight.targets import target as device
from featherweight.tasks.load import as_fed, load, peeked
from featherweight.tasks.quantize import methods
from featherweight.tasks.requirements import require_integer, unchanged
from featherweight.tasks.verification import measured

if TYPE_CHECKING:
    from featherweight.training.graph.exposed import Exposed
    from featherweight.training.qat.dropout_places import Found
    from featherweight.training.qat.quantized_model import QuantizedModel
    from featherweight.training.qat.settings import Oscillations, RangeTraining

_log = logging.getLogger("featherweight")


def _source_of_dropout(value: Any, where: str) -> Any:
    """True, False, or a Keras model or its file."""
    if isinstance(value, bool) or keras.is_keras_model(value):
        return value
    if isinstance(value, (str, Path)) and Path(value).suffix.lower() in keras.SUFFIXES:
        return value
    raise wrong(value, where, "True, False, a Keras model, or the path of a .keras or .h5 file")


def _several(value: Any, where: str) -> tuple[Any, ...]:
    """At least one target, each once."""
    if isinstance(value, (list, tuple)) and value:
        loaded = [device.load(one) for one in value]
        if len({one.name for one in loaded}) == len(loaded):
            return tuple(value)
    raise wrong(value, where, "a list of targets (names, TOML files or values), each once")


@checked(
    {"samples": "limit"},
    calibration=stream,
    targets=_several,
    ranges=text,
    plan=either(instance(Plan), path, allowed="a Plan, or the path of its JSON file"),
    approximate=flag,
    dropout=_source_of_dropout,
    keep_zeros=flag,
    keep_clusters=flag,
    strict=flag,
    limit=count(way="Data go to calibration=."),
    verify=flag,
    name=layer_name,
    input_shapes=shapes,
    progress=flag,
)
def quantize_aware(
    source: Any,
    recipe: str | Path | recipes.Recipe = "int8",
    *,
    calibration: Iterable[Any] | None = None,
    target: str | Path | device.Target = "litert",
    targets: Sequence[str | Path | device.Target] | None = None,
    ranges: str = "minmax",
    train_ranges: str | RangeTraining = "fixed",
    oscillations: str | Oscillations | None = None,
    plan: Plan | str | Path | None = None,
    approximate: bool = False,
    teacher: Any = None,
    dropout: Any = True,
    keep_zeros: bool = True,
    keep_clusters: bool = True,
    strict: bool = False,
    limit: int | None = None,
    verify: bool = True,
    name: str | None = None,
    input_shapes: Any = None,
    progress: bool = True,
) -> QuantizedModel:
    """Returns a `keras.Model` whose predictions are, bit for bit, what LiteRT computes from the file of `finalize`.

    Weights that the source has frozen (a Keras model's ``trainable=False``, a torch module's ``requires_grad=False``)
    are not trained. Before any training step the predictions are those of `quantize` with the same arguments and
    `integers=True`: what stays float for speed there is integers here, for it is integers that training computes
    exactly. But what joins parts of unlike range at an output (a detector's boxes and scores) stays float, as in
    `quantize`: nothing would be left of the scores.

    Args:
        source: what `load` takes; recurrent layers are unrolled.
        recipe: a recipe's name, TOML file or value.
        calibration: samples from the training split, any iterable.
        target: the device, by name, TOML file or value.
        targets: several devices, for all of which one set of weights is trained: a `SeveralTargets` is returned, which
            is compiled, fitted and finalized as a model is. Not with `plan` or learned ranges.
        ranges: how calibration chooses the ranges that training starts from, as in `quantize`.
        train_ranges: how activation ranges move: ``fixed``, ``learned`` (weight scales too; LSQ: Esser et al.,
            1902.08153), ``moving_average`` or ``minmax`` of the batches, or a `RangeTraining` with freezing, narrowing
            and a delay. Unless learned, weight scales stay at their ratio to the channel's largest weight.
        oscillations: ``freeze`` or ``dampen`` integer weights that jump to and fro, or an `Oscillations`; None: don't.
        plan: start from it instead of planning anew: of a repaired model, say, which is then the source (a `Quantized`,
            or its `float_model`). It decides recipe, target and ranges.
        approximate: train by classic fake quantization, for any operator; the file then computes other integers.
        teacher: what training draws the outputs to, without labels: True for the float model itself, or another model
            of the same inputs and outputs (what `load` takes). `compile` then needs no loss, and `fit` no labels.
        dropout: True puts the dropout and noise layers of a Keras `source` back into training steps; a Keras model (or
            its path) puts in its own, where `source` is a graph that was lowered from it; False leaves them out.
        keep_zeros: weights that are zero now stay zero (a pruned model stays pruned).
        keep_clusters: weights of few values (`cluster`) keep as many: those of one value move together.
        strict: raise if any operator but the border conversions computes in float.
        limit: use at most so many samples.
        verify: warn of outputs that are noise before training, measured on some of the calibration samples.
        name: of the Keras model.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an unknown name or option, or missing samples.
        UnsupportedOp: if `strict`, naming all operators that have no training kernel; else they stay float.
        DataError: for samples or weights that can't be used.
        TargetViolation: if `strict` is broken.
    """
    from featherweight.training.graph.exposed import expose
    from featherweight.training.qat.blueprint import dissolving, draw_blueprint
    from featherweight.training.qat.provenance import Origin
    from featherweight.training.qat.quantized_model import QuantizedModel
    from featherweight.training.qat.settings import Oscillations, RangeTraining

    if targets is not None:
        if plan is not None or target != "litert":
            raise RecipeError("quantize_aware: targets= goes without target= and plan=. Leave them out.")
        options = {
            "ranges": ranges, "train_ranges": train_ranges, "oscillations": oscillations, "approximate": approximate,
            "teacher": teacher, "dropout": dropout, "keep_zeros": keep_zeros, "keep_clusters": keep_clusters,
            "strict": strict, "limit": limit, "verify": verify, "input_shapes": input_shapes, "progress": progress,
        }  # fmt: skip
        return _for_several(source, recipe, calibration, targets, name, options)
    given = plan if plan is None or isinstance(plan, Plan) else load_plan(plan)
    if given is not None:
        target = _check_given(given, target)
        source = getattr(source, "float_model", None) or source
    named = str(target) if isinstance(target, (str, Path)) else None
    recipe, target = recipes.load(recipe), device.load(target)
    moving, steadied = RangeTraining.of(train_ranges), Oscillations.of(oscillations)
    first, calibration = peeked(calibration)
    model, substitutes = load(source, unroll=True, samples=first, input_shapes=input_shapes), ()
    first = as_fed(first, model.main)
    if recipe.needs_ranges:
        model, substitutes = substituted(model, target)
    exposed = expose(model)
    live = _live(source)
    exposed, frozen = _frozen(live, exposed)
    teaching = _teacher(teacher, exposed, first)
    noise = _dropout(live if dropout is True else _live(dropout), exposed, first)
    if given is None:
        stats = _measured(exposed.model, recipe, calibration, ranges, limit, progress=progress)
        decided, integer = _planned(
            exposed.model, stats, recipe, target, ranges, strict=strict, approximate=approximate
        )
    else:
        decided, integer = _carried_out(exposed.model, given, target, strict=strict, approximate=approximate)
    seen = [calibration] if isinstance(calibration, Mapping) else first
    measured(exposed.model, integer, decided, {0: seen} if verify else {}, limit)
    lost = dissolving(exposed, integer) if keep_clusters else ()
    idle = tuple(filter(None, [unchanged(decided)]))
    for note in idle:
        _log.warning("%s. What is trained is the float model.", note)
    blueprint = draw_blueprint(
        exposed,
        integer,
        replace(decided, notes=(*substitutes, *decided.notes, *frozen, *noise.notes, *lost, *idle)).to_json(),
        Origin(target, named),
        ranges=moving,
        keep_zeros=keep_zeros,
        keep_clusters=keep_clusters,
        approximate=approximate,
        oscillations=steadied,
        noises=noise.noises,
        teacher=teaching,
    )
    return QuantizedModel(blueprint, name=name)


def _for_several(
    source: Any, recipe: Any, calibration: Any, chosen: Sequence[Any], name: str | None, options: dict[str, Any]
) -> Any:
    """Returns models of one set of weights, by target."""
    from featherweight.training.courses.several import SeveralTargets

    samples = calibration if calibration is None or hasattr(calibration, "__len__") else list(calibration)
    found: dict[str, QuantizedModel] = {}
    for one in chosen:
        own = device.load(one).name
        named = None if name is None else f"{name}_{own.replace('-', '_')}"
        found[own] = quantize_aware(source, recipe, calibration=samples, target=one, name=named, **options)
    return SeveralTargets(found)


def _measured(
    model: Model, recipe: recipes.Recipe, calibration: Any, ranges: str, limit: int | None, *, progress: bool
) -> Stats | None:
    """Returns what calibration measures, or None for a recipe that needs no ranges."""
    if not recipe.needs_ranges:
        return None
    if calibration is None:
        said = f"Recipe '{recipe.name}' measures activation ranges"
        raise RecipeError(f"{said}: pass calibration samples from the training split.")
    histograms = True in {needs_histogram(method) for method in (ranges, *methods(recipe))}
    return calibrate(model, calibration, histograms=histograms, limit=limit, progress=progress)


def _planned(
    model: Model,
    stats: Stats | None,
    recipe: recipes.Recipe,
    target: device.Target,
    ranges: str,
    *,
    strict: bool,
    approximate: bool,
) -> tuple[Plan, Model]:
    """Returns the plan of what target and training can both compute, and the model with the plan carried out.

    Raises:
        UnsupportedOp: if `strict`, naming all nodes of the target's own plan that training can't compute.
        TargetViolation: if `strict` is broken.
    """
    from featherweight.training.qat.program import obstacle_in, without_kernel

    profile = profiles.find(target.profile)
    obstacle = no_obstacle if strict else obstacle_in(model, profile, approximate=approximate)
    plan = planning.plan(
        model,
        stats,
        recipe,
        target,
        io="float32",
        ranges=ranges,
        integers=True,
        float_joins=not strict,
        obstacle=obstacle,
    )
    integer = rewrite(model, plan)
    if strict:
        if missing := without_kernel(integer, profile, approximate=approximate):
            raise UnsupportedOp(
                f"strict: {len(missing)} node(s) have no training kernel: {listed(missing.values(), limit=1000)}. "
                "Leave `strict` out to keep them float, or quantize after training."
            )
        require_integer(integer, plan)
    return plan, integer


def _check_given(plan: Plan, target: str | Path | device.Target) -> str | Path | device.Target:
    """Returns the target of a plan: the one that is given, where it is that, else the shipped one of its name.

    Raises:
        RecipeError: if the plan is for another target.
    """
    if isinstance(target, str) and target == "litert":
        return plan.target
    if device.load(target).name != plan.target:
        raise RecipeError(
            f"quantize_aware: the plan is for target '{plan.target}', not '{device.load(target).name}'. Leave target= "
            "out, or plan anew."
        )
    return target


def _carried_out(
    model: Model, plan: Plan, target: device.Target, *, strict: bool, approximate: bool
) -> tuple[Plan, Model]:
    """Returns a plan with float borders, as training has them, and the model with it carried out.

    Raises:
        UnsupportedOp: if it asks for integers that training has no kernel for.
    """
    from featherweight.training.qat.program import without_kernel

    plan = with_present_names(replace(plan, io="float32"), model)
    integer = rewrite(model, plan)
    if missing := without_kernel(integer, profiles.find(target.profile), approximate=approximate):
        raise UnsupportedOp(
            f"quantize_aware: {len(missing)} node(s) of the plan have no training kernel: "
            f"{listed(missing.values(), limit=20)}. Plan with rules that keep them float."
        )
    if strict:
        require_integer(integer, plan)
    return plan, integer


def _live(source: Any) -> Any:
    """Returns the model that a path of a Keras file leads to; anything else as it is."""
    is_path = isinstance(source, (str, Path)) and Path(source).suffix.lower() in keras.SUFFIXES
    return keras.load(source) if is_path else source


def _frozen(source: Any, exposed: Exposed) -> tuple[Exposed, tuple[str, ...]]:
    """Returns the graph without what the source has frozen among what is trained, and notes on it."""
    from featherweight.training.graph.frozen import frozen_in_source
    from featherweight.training.graph.source_weights import source_weights

    found = frozen_in_source(exposed, source_weights(source))
    if found.variables and len(found.variables) == len({e.variable for e in exposed.table if e.variable is not None}):
        warnings.warn(
            "All weights are frozen in the source (trainable=False, requires_grad=False), so none is trained. Make "
            "layers trainable there, or set `trainable = True` on the model in training.",
            stacklevel=3,
        )
    return replace(exposed, frozen=found.variables), found.notes


def _dropout(keras_model: Any, exposed: Exposed, samples: Sequence[Any] | None) -> Found:
    """Returns the dropout of a Keras model with its places in the float graph; nothing of what is no Keras model."""
    from featherweight.training.qat.dropout_places import Found, dropout_of, has_dropout

    if not keras.is_keras_model(keras_model) or not has_dropout(keras_model):
        return Found()
    model = exposed.model
    given = next(as_feeds(samples, model)) if samples else random_inputs(input_tensors(model))
    arrays = list(given.values())
    keras.build(keras_model, samples)
    computing, _ = in_float32(keras_model)  # as the graph computes: places are found by values
    return dropout_of(computing, lambda copy: keras.read_live(copy, samples).call(*arrays), exposed, given)


def _teacher(teacher: Any, student: Exposed, samples: Sequence[Any] | None) -> Exposed | None:
    """Returns the float graph that training draws the outputs to, if any."""
    from featherweight.training.graph.exposed import expose

    if teacher is None or teacher is False:
        return None
    if teacher is True:
        return student
    # The samples may name inputs as the student does; a Keras model is verified without them.
    is_keras = keras.is_keras_model(teacher) or isinstance(teacher, (str, Path))
    return expose(load(teacher, samples=None if is_keras else samples))
