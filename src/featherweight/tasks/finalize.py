"""Quantization-aware training's way out: what was trained becomes a file, with its plan and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from featherweight.arguments import checked, choice, shown, stream
from featherweight.encoded_files.store import check_decodes
from featherweight.errors import RecipeError, UnsupportedOp, listed
from featherweight.graph import Graph, Model
from featherweight.graph.editor import with_constants
from featherweight.graph.numerics import QuantParams
from featherweight.ptq import plan as plans
from featherweight.ptq.rewrite import rewrite
from featherweight.report import make_report
from featherweight.targets import target as targets
from featherweight.targets.delivery import for_device
from featherweight.tasks.load import as_fed, peeked
from featherweight.tasks.quantize import Quantized
from featherweight.tasks.requirements import DECODE, DENSE, STORES, stored_as
from featherweight.tasks.verification import measured

if TYPE_CHECKING:
    from featherweight.training.courses.several import SeveralTargets
    from featherweight.training.qat.quantized_model import QuantizedModel


# Both are Keras models, whose type a checker without Keras' types does not know: to it the two are alike.
@overload
def finalize(  # pyright: ignore[reportOverlappingOverload]
    model: QuantizedModel, *, samples: Iterable[Any] | None = None, store: str = DENSE
) -> Quantized: ...


@overload
def finalize(  # pyright: ignore[reportOverlappingOverload]
    model: SeveralTargets, *, samples: Iterable[Any] | None = None, store: str = DENSE
) -> dict[str, Quantized]: ...


@checked(samples=stream, store=choice(*STORES))
def finalize(model: Any, *, samples: Iterable[Any] | None = None, store: str = DENSE) -> Any:
    """Returns what was trained as an integer model, with its plan and report; of several targets, one for each by name.

    The plan notes where weights grew so much that sums in training may have left what float32 holds exactly, and where
    scales moved into or out of what XNNPACK takes.

    Args:
        model: what `quantize_aware` returned, trained.
        samples: inputs to measure the outputs on, against the trained weights in float; a warning names noise.
        store: ``decode``: weights encoded where that makes the file smaller, as in `quantize`.

    Raises:
        RecipeError: if the model does not come from `quantize_aware`, or its target does not decode weights.
        DataError: if a weight or range is not finite, or samples don't fit.
        UnsupportedOp: if the file would not compute the model's integers.
    """
    from featherweight.training.courses.several import SeveralTargets
    from featherweight.training.graph.writeback import float_graph
    from featherweight.training.integer.exact_sums import doubtful_sums
    from featherweight.training.qat.finite_checks import require_finite
    from featherweight.training.qat.quantized_model import QuantizedModel

    if isinstance(model, SeveralTargets):
        fed = None if samples is None else list(samples)
        return {name: finalize(one, samples=fed, store=store) for name, one in model.models.items()}
    if not isinstance(model, QuantizedModel):
        raise RecipeError(
            f"finalize: model is {shown(model)} (allowed: a model that quantize_aware made). Load a saved one with "
            "keras.saving.load_model; for a float model, call quantize."
        )
    target = model.blueprint.origin.target
    if store == DECODE:
        check_decodes(target)
    require_finite(model)
    model.refresh()
    trained = float_graph(model)
    plan = _current_plan(plans.from_json(model.blueprint.plan), model)
    integers = model.integers()
    result, rounded, bounded = _with_large_biases(rewrite(trained, plan), integers, model.bias_limits())
    _check_integers(result.main, integers)
    result, order = for_device(result, target)
    notes = [*order, *_moved_between_kernels(model)]
    if rounded:
        where = listed(map(repr, rounded))
        notes.append(f"biases {where} hold integers beyond 2**24: the file has them as float32 rounds them")
    if bounded:
        where = listed(map(repr, bounded))
        notes.append(
            f"biases {where} grew beyond the integers that their layers' tiny scales give them, and stay there"
        )
    if doubtful := doubtful_sums(result, model.blueprint.chunks):
        where = listed(map(repr, doubtful))
        notes.append(f"weights grew in training: sums of {where} may not have been exact in float32 there")
    if model.blueprint.approximate:
        notes.append("training was approximate (classic fake quantization): the file computes other integers")
    if not int(np.asarray(model.scales.step)):
        notes.append("nothing was trained: this is what quantize makes of the model")
    violations = targets.check(result, target)
    first = as_fed(peeked(samples)[0], trained.main)
    plan, errors = measured(trained, result, replace(plan, notes=(*plan.notes, *notes)), {0: first})
    report = replace(make_report(trained, result, plan, violations), outputs=errors)
    return stored_as(store, Quantized(result, plan, report, trained), target)


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


def _current_plan(plan: plans.Plan, model: QuantizedModel) -> plans.Plan:
    """Returns the plan with the parameters that training left."""
    current, graph = model.scales.parameters(), model.integer.main
    # Integers that a border conversion makes of a float tensor have its parameters, under a name of their own.
    made = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "QUANTIZE"}
    sources = {**model.blueprint.sources, **made}
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


def _with_large_biases(
    model: Model, trained: Mapping[str, np.ndarray], limits: Mapping[str, np.ndarray]
) -> tuple[Model, list[str], list[str]]:
    """Returns the model with biases as training has them, and the names of rounded and of bounded ones.

    Beyond 2**24, float32 is up to four steps off; of such a bias, sums in float32 are what XNNPACK makes of the int32
    ones. What training bounds (the bias of a layer whose outputs are tiny may move by more than its integers hold) is
    beyond that in the float graph.
    """
    values, rounded, bounded = dict[str, np.ndarray](), list[str](), list[str]()
    for name, limit in limits.items():
        tensor, integers = model.main.tensors.get(name), trained[name].astype(np.float64)
        written = None if tensor is None or tensor.is_float else tensor.array
        if written is None:
            continue
        real, magnitude = written.astype(np.float64), np.abs(integers)
        is_bounded = (magnitude == limit) & (integers * real > magnitude**2)
        is_rounding = np.abs(real - integers) <= 4 * np.spacing(magnitude.astype(np.float32))
        is_rounding &= (magnitude > 1 << 24) & (real != integers)
        values[name] = np.where(is_bounded | is_rounding, integers, real).astype(written.dtype)
        rounded += [name] if (is_rounding & ~is_bounded).any() else []
        bounded += [name] if is_bounded.any() else []
    changed = {name: values[name] for name in {*rounded, *bounded}}
    return with_constants(model, changed), rounded, bounded


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
