"""Quantization-aware training from end to end: a float model becomes a trainable integer one, and that one a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.calibration import calibrate, needs_histogram
from featherweight.errors import RecipeError, UnsupportedOp, listed
from featherweight.graph import Graph, Model, constant, replace_graph
from featherweight.graph.numerics import QuantParams
from featherweight.lower import keras as framework
from featherweight.lower.precision import in_float32
from featherweight.operators import profiles
from featherweight.ptq import plan as plans
from featherweight.ptq import planning
from featherweight.ptq.forms import no_obstacle
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.report import make_report
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.samples import as_feeds, input_tensors
from featherweight.targets import target as targets
from featherweight.tasks.load import load, peeked
from featherweight.tasks.quantize import Quantized, methods, require_integer

if TYPE_CHECKING:
    from featherweight.training.qat.dropout_places import Found
    from featherweight.training.qat.quantized_model import QuantizedModel
    from featherweight.training.qat.settings import Oscillations, RangeTraining


def quantize_aware(
    source: Any,
    recipe: str | Path | recipes.Recipe = "int8",
    *,
    calibration: Iterable[Any] | None = None,
    target: str | Path | targets.Target = "litert",
    ranges: str = "minmax",
    train_ranges: str | RangeTraining = "fixed",
    oscillations: str | Oscillations | None = None,
    approximate: bool = False,
    teacher: Any = None,
    dropout: Any = True,
    keep_zeros: bool = True,
    strict: bool = False,
    samples: int | None = None,
    name: str | None = None,
    input_shapes: Any = None,
    progress: bool = True,
) -> QuantizedModel:
    """Returns a `keras.Model` whose predictions are, bit for bit, what LiteRT computes from the file of `finalize`.

    Before any training step they are those of `quantize` with the same arguments and `integers=True`: what stays float
    for speed there is integers here, for it is integers that training computes exactly.

    Args:
        source: what `load` takes; recurrent layers are unrolled.
        recipe: a recipe's name, TOML file or value.
        calibration: samples from the training split, any iterable.
        target: the device, by name, TOML file or value.
        ranges: how calibration chooses the ranges that training starts from, as in `quantize`.
        train_ranges: how activation ranges move: ``fixed``, ``learned`` (weight scales too; LSQ: Esser et al.,
            1902.08153), ``moving_average`` or ``minmax`` of the batches, or a `RangeTraining` with freezing, narrowing
            and a delay. Unless learned, weight scales stay at their ratio to the channel's largest weight.
        oscillations: ``freeze`` or ``dampen`` integer weights that jump to and fro, or an `Oscillations`; None: don't.
        approximate: train by classic fake quantization, for any operator; the file then computes other integers.
        teacher: what training draws the outputs to, without labels: True for the float model itself, or another model
            of the same inputs and outputs (what `load` takes). `compile` then needs no loss, and `fit` no labels.
        dropout: True puts the dropout and noise layers of a Keras `source` back into training steps; a Keras model (or
            its path) puts in its own, where `source` is a graph that was lowered from it; False leaves them out.
        keep_zeros: weights that are zero now stay zero (a pruned model stays pruned).
        strict: raise if any operator but the border conversions computes in float.
        samples: use at most so many samples.
        name: of the Keras model.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an unknown name or option, or missing samples.
        UnsupportedOp: if `strict`, naming all operators that have no training kernel; else they stay float.
        DataError: for samples or weights that can't be used.
        TargetViolation: if `strict` is broken.
    """
    from featherweight.training.graph.split_constants import exposed
    from featherweight.training.qat.distillation import teacher_of
    from featherweight.training.qat.program import obstacle_in
    from featherweight.training.qat.provenance import Origin
    from featherweight.training.qat.quantized_model import QuantizedModel

    named = str(target) if isinstance(target, (str, Path)) else None
    recipe, target = recipes.load(recipe), targets.load(target)
    first, calibration = peeked(calibration)
    model = exposed(load(source, unroll=True, samples=first, input_shapes=input_shapes))
    noise = _dropout(source if dropout is True else dropout, model, first)
    if recipe.needs_ranges and calibration is None:
        said = f"Recipe '{recipe.name}' measures activation ranges"
        raise RecipeError(f"{said}: pass calibration samples from the training split.")
    stats = None
    if recipe.needs_ranges and calibration is not None:
        histograms = True in {needs_histogram(method) for method in (ranges, *methods(recipe))}
        stats = calibrate(model, calibration, histograms=histograms, limit=samples, progress=progress)
    profile = profiles.find(target.profile)
    obstacle = no_obstacle if strict else obstacle_in(model, profile, approximate=approximate)
    plan = planning.plan(model, stats, recipe, target, io="float32", ranges=ranges, integers=True, obstacle=obstacle)
    integer = rewrite(model, plan)
    if strict:
        _require_kernels(integer, profile, approximate=approximate)
        require_integer(integer, plan)
    taught = None
    if teacher is not None and teacher is not False:
        # The samples may name inputs as the student does; a Keras model is verified without them.
        given = None if framework.is_keras_model(teacher) or isinstance(teacher, (str, Path)) else first
        taught = teacher_of(model if teacher is True else load(teacher, samples=given))
    plan = replace(plan, notes=(*plan.notes, *noise.notes))
    sources = _sources(model.main, integer.main)
    return QuantizedModel(
        model,
        integer,
        sources,
        plan.to_json(),
        Origin(target, named),
        train_ranges,
        teacher=taught,
        sparse=None if keep_zeros else (),
        approximate=approximate,
        oscillations=oscillations,
        noises=noise.noises,
        name=name,
    )


def finalize(model: QuantizedModel) -> Quantized:
    """Returns what was trained as an integer model, with its plan and report.

    The plan notes where weights grew so much that sums in training may have left what float32 holds exactly, and where
    scales moved into or out of what XNNPACK takes.

    Raises:
        RecipeError: if the model does not come from `quantize_aware`.
        DataError: if a weight or range is not finite.
        UnsupportedOp: if the file would not compute the model's integers.
    """
    from featherweight.training.graph.writeback import float_graph
    from featherweight.training.integer.exact_sums import doubtful_sums
    from featherweight.training.qat.finite_checks import require_finite
    from featherweight.training.qat.quantized_model import QuantizedModel

    if not isinstance(model, QuantizedModel):
        raise RecipeError(
            f"finalize takes a model that quantize_aware made, not {type(model).__name__}. For a float model, call "
            "quantize."
        )
    require_finite(model)
    model.refresh()
    trained = float_graph(model)
    plan = _current_plan(plans.from_json(model.plan), model)
    integers = model.integers()
    result, rounded = _with_large_biases(rewrite(trained, plan), integers)
    _check_integers(result.main, integers)
    notes = _moved_between_kernels(model)
    if rounded:
        where = listed(map(repr, rounded))
        notes.append(f"biases {where} hold integers beyond 2**24: the file has them as float32 rounds them")
    if doubtful := doubtful_sums(result, model.chunks):
        where = listed(map(repr, doubtful))
        notes.append(f"weights grew in training: sums of {where} may not have been exact in float32 there")
    if model.approximate:
        notes.append("training was approximate (classic fake quantization): the file computes other integers")
    if not int(np.asarray(model.scales.step)):
        notes.append("nothing was trained: this is what quantize makes of the model")
    violations = targets.check(result, model.origin.target)
    plan = replace(plan, notes=(*plan.notes, *notes))
    return Quantized(result, plan, make_report(trained, result, plan, violations))


def _moved_between_kernels(model: QuantizedModel) -> list[str]:
    """Returns notes on nodes whose scales moved into or out of XNNPACK's window since they were planned."""
    from featherweight.training.qat.program import left_by_delegate

    planned = left_by_delegate(model.integer.main, model.scales.profile)
    notes: list[str] = []
    for names, runs in ((model.left - planned, "LiteRT's own kernels"), (planned - model.left, "XNNPACK's kernels")):
        if names:
            notes.append(
                f"scales moved across the limits of XNNPACK: {listed(map(repr, sorted(names)))} now run on {runs}, as "
                "predictions do; training steps may have gone on in the other arithmetic until the next epoch began"
            )
    return notes


def _dropout(source: Any, model: Model, samples: Sequence[Any] | None) -> Found:
    """Returns the dropout of a Keras model with its places in the float graph; nothing of what is no Keras model."""
    from featherweight.training.qat.dropout_places import Found, dropout_of, has_dropout

    is_path = isinstance(source, (str, Path)) and Path(source).suffix.lower() in framework.SUFFIXES
    keras_model = framework.load(source) if is_path else source
    if not framework.is_keras_model(keras_model) or not has_dropout(keras_model):
        return Found()
    given = next(as_feeds(samples, model)) if samples else random_inputs(input_tensors(model))
    arrays = list(given.values())
    with in_float32(keras_model):  # as the graph computes: places are found by values
        live = framework.read_live(keras_model, samples)
        return dropout_of(keras_model, lambda: live.call(*arrays), model, given)


def _require_kernels(integer: Model, profile: profiles.Profile, *, approximate: bool) -> None:
    """Raises UnsupportedOp if a node of a rewritten model has no training kernel, naming all."""
    from featherweight.training.qat.program import without_kernel

    if missing := without_kernel(integer, profile, approximate=approximate):
        raise UnsupportedOp(
            f"strict: {len(missing)} node(s) have no training kernel: {listed(missing.values(), limit=1000)}. Leave "
            "`strict` out to keep them float, or quantize after training."
        )


def _sources(graph: Graph, integer: Graph) -> dict[str, str]:
    """Returns constant of the integer graph → float constant that it was made of."""
    nodes = {node.name: node for node in graph.nodes}
    found = {
        name: name for name, t in integer.tensors.items() if t.is_constant and t.is_float and name in graph.tensors
    }
    for node in integer.nodes:
        for position, name in enumerate(node.inputs):
            tensor = integer.tensors.get(name)
            if tensor is None or not tensor.is_constant or tensor.quant is None:
                continue
            if node.name in nodes:
                found[name] = nodes[node.name].inputs[position]
            elif name in graph.tensors:
                found[name] = name
    return found


def _current_plan(plan: plans.Plan, model: QuantizedModel) -> plans.Plan:
    """Returns the plan with the parameters that training left."""
    current, graph = model.scales.parameters(), model.integer.main
    sources = _sources(model.graph.main, graph)
    # Integers that a border conversion makes of a float tensor have its parameters, under a name of their own.
    sources |= {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "QUANTIZE"}
    params = dict(plan.params)
    for name, moved in current.items():
        planned = sources.get(name, name) if name not in params else name
        # (A file does not say along which axis one scale lies: axes may differ.)
        was, before = plan.params.get(planned), graph.tensors[name].quant
        if was is not None and before is not None and (was.dtype, was.scale) == (before.dtype, before.scale):
            params[planned] = replace(was, scale=moved.scale, zero_point=moved.zero_point)
    nodes = {node.name: node for node in graph.nodes}
    edges: dict[str, QuantParams] = {}
    for key, planned in plan.edges.items():
        name, _, position = key.rpartition(":")
        tensor = nodes[name].inputs[int(position)] if name in nodes else ""
        edges[key] = current.get(tensor, planned)
    return replace(plan, params=params, edges=edges)


def _with_large_biases(model: Model, trained: Mapping[str, np.ndarray]) -> tuple[Model, list[str]]:
    """Returns the model with biases beyond 2**24 (of all but dead channels) as training has them, and their names.

    There, float32 is up to four steps off. Of such a bias, sums in float32 are what XNNPACK makes of the int32 ones.
    """
    tensors, rounded = dict(model.main.tensors), list[str]()
    for name, integers in trained.items():
        tensor = tensors.get(name)
        written = None if tensor is None or tensor.dtype != "int32" else tensor.array
        if tensor is None or written is None or np.abs(integers).max(initial=0) <= 1 << 24:
            continue
        steps = np.spacing(np.abs(integers).astype(np.float32))
        is_rounding = np.abs(written - integers.astype(np.float64)) <= 4 * steps
        held = np.where((np.abs(integers) > 1 << 24) & is_rounding, integers.astype(np.int64), written)
        if (held != written).any():
            tensors[name] = replace(tensor, data=constant(name, held.astype(np.int32)).data)
            rounded.append(name)
    return replace_graph(model, 0, replace(model.main, tensors=tensors)), rounded


def _check_integers(graph: Graph, trained: Mapping[str, np.ndarray]) -> None:
    """Raises where the rewriter's integers are not those that the model computed with."""
    wrong: list[str] = []
    for name, integers in trained.items():
        written = graph.tensors[name].array if name in graph.tensors else None
        if written is None or not np.array_equal(written.astype(np.float64), integers.astype(np.float64)):
            wrong.append(name)
    if wrong:
        raise UnsupportedOp(
            f"The file would not hold the integers that the model was trained with, in {len(wrong)} constants: "
            f"{listed(map(repr, wrong), 5)}. This is a defect; please report it with the model."
        )
