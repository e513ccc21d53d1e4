"""The main job from end to end: load a model from anywhere, quantize it, keep what was decided beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from featherweight import recipe as recipes
from featherweight import target as targets
from featherweight import tflite
from featherweight.calibration import calibrate, needs_histogram
from featherweight.errors import FormatError, RecipeError, TargetViolation, listed
from featherweight.graph import Model
from featherweight.lower import Lowered, lower_with_notes
from featherweight.pruning.choosing import ROLES
from featherweight.ptq import plan as plans
from featherweight.ptq.passes import prepare
from featherweight.ptq.planning import plan as make_plan
from featherweight.ptq.recurrent import choose_form
from featherweight.ptq.rewrite import rewrite
from featherweight.report import Report, make_report
from featherweight.sparsity.channels import Removed, remove_from_graph
from featherweight.sparsity.oneshot import Pruned, prune_graph

_FRAMEWORK_FILES = (".keras", ".h5")
# Samples that a lowered model is verified with.
_LOWERED_WITH = 3


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with the plan that it was made by and the report on it."""

    model: Model
    plan: plans.Plan
    report: Report

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


def load(source: Any, *, unroll: bool = False, fuse: bool = False, samples: Iterable[Any] | None = None) -> Model:
    """Returns the float graph of a model: a ``.tflite`` file, a Keras file, or a live framework model.

    Operators without integer kernels are written in ones that have them (`featherweight.ptq.passes`).

    Args:
        source: a path (``.tflite``, ``.keras``, ``.h5``), the bytes of a ``.tflite`` file, a `Model`, or a live model.
        unroll: write recurrent layers out step by step instead of as loops, which full-integer recipes need.
        fuse: write Keras LSTM layers as one operator each, which integer targets have kernels for.
        samples: inputs to verify a lowered model with; a PyTorch module or JAX function needs at least one.

    Raises:
        FormatError: if a file can't be read as a model.
        LoweringError: if a framework model can't be lowered, or the result differs from it.
    """
    return load_with_notes(source, unroll=unroll, fuse=fuse, samples=samples).model


def load_with_notes(
    source: Any, *, unroll: bool = False, fuse: bool = False, samples: Iterable[Any] | None = None
) -> Lowered:
    """Like `load`, with what lowering noted; what it returns can be quantized as it is."""
    loaded = _read_or_lower(source, unroll, fuse, samples)
    return replace(loaded, model=prepare(loaded.model))


def _read_or_lower(source: Any, unroll: bool, fuse: bool, samples: Iterable[Any] | None) -> Lowered:
    if isinstance(source, Lowered):
        return source
    if isinstance(source, Model):
        return Lowered(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Lowered(tflite.read(source))
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix not in _FRAMEWORK_FILES:
            return Lowered(tflite.read(path))
        if not path.is_file():
            raise FormatError(f"'{path}' can't be read: there is no such file. Give a .tflite, .keras or .h5 path.")
    return lower_with_notes(source, unroll=unroll, fuse=fuse, samples=samples)


def quantize(
    source: Any,
    recipe: str | Path | recipes.Recipe = "int8",
    *,
    calibration: Iterable[Any] | None = None,
    target: str | Path | targets.Target = "litert",
    io: str | None = None,
    strict: bool = False,
    ranges: str = "minmax",
    plan: plans.Plan | str | Path | None = None,
    samples: int | None = None,
    recurrent: str = "auto",
    progress: bool = True,
) -> Quantized:
    """Quantizes a model after training and returns it with its plan and report.

    Args:
        source: what `load` takes, or what `load_with_notes` returned.
        recipe: a recipe's name, TOML file or value.
        calibration: samples from the training split, any iterable; needed by recipes with integer activations.
        target: the device, by name, TOML file or value.
        io: ``float32`` or ``int8`` inputs and outputs; None takes the target's habit.
        strict: raise if any operator but the border conversions computes in float.
        ranges: ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        plan: a plan (or its JSON file) to carry out instead of making one.
        samples: use at most so many samples.
        recurrent: the form of the recurrent layers of a framework model: ``loop``, ``fused`` (LSTM layers as one
            operator each), ``unrolled``, or ``auto``: what suits recipe and target; the plan's notes say which and why.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an unknown name or option, or missing samples.
        DataError: for samples or weights that can't be used.
        TargetViolation: if `strict` is broken, with every operator that stands in the way.
    """
    recipe, target = recipes.load(recipe), targets.load(target)
    histograms = True in {needs_histogram(method) for method in (ranges, *methods(recipe))}
    given = plans.load(plan) if isinstance(plan, (str, Path)) else plan
    first, calibration = peeked(calibration)
    form = choose_form(recipe, target, recurrent)
    lowered = load_with_notes(source, unroll=form.unroll, fuse=form.fuse, samples=first)
    model = lowered.model
    if given is None and recipe.needs_ranges and calibration is None:
        raise RecipeError(
            f"Recipe '{recipe.name}' measures activation ranges: pass calibration samples from the training split "
            "(calibration=…, --calibration DATA), or use 'dynamic', which needs none."
        )
    decided = given
    if decided is None:
        stats = None
        if recipe.needs_ranges and calibration is not None:
            stats = calibrate(model, calibration, histograms=histograms, limit=samples, progress=progress)
        decided = make_plan(model, stats, recipe, target, io=io, ranges=ranges)
        notes = [f"Recurrent layers: {listed(lowered.recurrent)}; {form.reason}."] if lowered.recurrent else []
        decided = replace(decided, notes=(*lowered.notes, *notes, *decided.notes))
    result = rewrite(model, decided)
    if strict:
        require_integer(result, decided)
    return Quantized(result, decided, make_report(model, result, decided, targets.check(result, target)))


def prune(
    source: Any,
    sparsity: float,
    *,
    pattern: str = "unstructured",
    method: str = "magnitude",
    calibration: Iterable[Any] | None = None,
    allocation: str = "uniform",
    exclude: str | Sequence[str] = (),
    rules: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    dense: Sequence[str] = ROLES,
    target: str | Path | targets.Target | None = None,
    samples: int | None = None,
    progress: bool = True,
) -> Pruned:
    """Prunes a float model without training; each kernel ends with exactly round(sparsity × units) zero units.

    Layers are pruned one after the other; what a method measures is fed by the pruned layers before.

    Args:
        source: what `load` takes.
        sparsity: the fraction of weights (blocks, channels) to set to zero, in [0, 1).
        pattern: ``unstructured``, blocks as ``1x4`` (outputs × consecutive inputs), ``2:4``, ``channel`` (outputs, left
            in the model as zeros), or ``auto`` for what `target` names.
        method: ``magnitude``; ``wanda``: magnitude × norm of the input (Sun et al., 2306.11695); ``sparsegpt``, which
            updates the weights that stay (Frantar & Alistarh, 2301.00774). The last two need `calibration`.
        calibration: samples from the training split, any iterable.
        allocation: ``uniform``, ``erk`` (Evci et al., 1911.11134) or ``global`` (the smallest of all kernels together).
        exclude: shell patterns of kernels that stay dense, matching their name or a part of it.
        rules: shell pattern → sparsity of its own, 0 for dense; the first that matches decides.
        dense: what stays dense unless a rule names it: the ``first`` convolution, the ``last`` kernel, ``depthwise``.
        target: a target's name or file, for ``auto``.
        samples: use at most so many samples (128).
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an option that is not understood, missing samples, or nothing to prune.
        DataError: if a pattern does not divide a kernel, or weights or samples can't be used.
        FormatError: if the model is quantized.
    """
    first, calibration = peeked(calibration)
    return prune_graph(
        load(source, samples=first),
        sparsity,
        pattern=pattern,
        method=method,
        calibration=calibration,
        allocation=allocation,
        exclude=exclude,
        rules=rules,
        dense=dense,
        target=target,
        samples=samples,
        progress=progress,
    )


def remove_channels(
    source: Any,
    fraction: float | None = None,
    *,
    macs: float | None = None,
    only_zero: bool = False,
    criterion: str = "magnitude",
    data: Any = None,
    loss: Any = None,
    multiple: int | None = None,
    exclude: str | Sequence[str] = (),
    samples: Iterable[Any] | None = None,
) -> Removed:
    """Removes channels from a float model, with all that depends on them; the result is a smaller dense model.

    Channels that are added, multiplied or concatenated with others go together with them, through depthwise
    convolutions, pooling, padding and reshapes; of attention, whole heads go. The lowest scores go first.

    Args:
        source: what `load` takes.
        fraction: of each group's channels, at most, in [0, 1).
        macs: at least this share of all multiply-accumulates, in [0, 1), from where scores are lowest.
        only_zero: exactly the channels that are 0 for every input, their weights and biases being 0; outputs stay as
            they are.
        criterion: ``magnitude``, the mean of |w| over all weights that make a channel (Li et al., 1608.08710, section
            3.1), relative to that of its group; or ``taylor``, the squared change of the loss without the channel, to
            first order (Molchanov et al., 1906.10771, section 3.1).
        data: for ``taylor``: (inputs, labels) from the training split; inputs are an array, or a dict by public name.
        loss: for ``taylor``: a Keras loss, or its name.
        multiple: groups keep a multiple of so many channels, which runtimes compute together, and not none; by default
            16, or 8 where a group has 16 or less. `only_zero` does not heed it.
        exclude: shell patterns of weights or operators, matching their name or a part of it, whose outputs all stay.
        samples: inputs to verify a lowered model with; a PyTorch module or JAX function needs at least one.

    Raises:
        RecipeError: for an option that is not understood, or nothing to remove.
        DataError: if the data are no pair of equal length.
        UnsupportedOp: if an operator can't be trained, for ``taylor``.
        FormatError: if the model is quantized.
    """
    model = load(source, samples=samples)
    return remove_from_graph(
        model,
        fraction,
        macs=macs,
        only_zero=only_zero,
        criterion=criterion,
        data=data,
        loss=loss,
        multiple=multiple,
        exclude=exclude,
    )


def peeked(samples: Iterable[Any] | None) -> tuple[list[Any] | None, Iterable[Any] | None]:
    """Returns the first samples, to lower with, and all of them: an iterator is consumed once only."""
    if samples is None or isinstance(samples, (str, bytes, Path, Mapping)) or not isinstance(samples, Iterable):
        return None, samples  # what calibration will say of it stands
    iterator = iter(samples)
    first = list(islice(iterator, _LOWERED_WITH))
    if iterator is samples and first:
        samples = chain(first, iterator)
    return first or None, samples


def methods(recipe: recipes.Recipe) -> list[str]:
    """Returns the range methods that a recipe's rules name."""
    return [r.activation.range_method for r in recipe.rules if r.activation and r.activation.range_method]


def require_integer(model: Model, plan: plans.Plan) -> None:
    """Raises TargetViolation if an operator computes in float, naming each, with the plan's reason."""
    found: list[str] = []
    for graph in model.graphs:
        for node in graph.nodes:
            form = targets.form_of(node, graph)
            if form is None and (targets.is_border(node, graph) or not targets.converts(node)):
                continue
            if form is None or form.startswith("float32"):
                reason = plan.kept_float.get(node.name) or (
                    "converts between float and integer operators" if form is None else f"computes in {form}"
                )
                found.append(f"{node.op} '{node.name}' ({reason.removeprefix(f'{node.op}: ')})")
    if found:
        raise TargetViolation(
            f"strict: {len(found)} operators are not integer: {listed(found, 20)}. Choose another recipe or target, "
            "change these layers, or leave `strict` out."
        )
