"""Structured pruning: channels are removed from a float graph, with all that depends on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.arguments import checked, choice, count, either, flag, number, several, shapes, stream, text
from featherweight.channels.always_zero import zero_channels
from featherweight.channels.amounts import share_of_macs, share_of_time
from featherweight.channels.cut import constant_bytes, total_macs, without_channels
from featherweight.channels.groups import Group, find_groups, magnitudes, taylor
from featherweight.channels.labeling import label
from featherweight.channels.labels import Labeled
from featherweight.channels.latencies import clock_of
from featherweight.channels.packs import measured_pack, multiple_of
from featherweight.channels.steps import fraction_of, steps_of
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.operators import profiles
from featherweight.pruning.prunable import check_float, matches
from featherweight.targets import target as targets
from featherweight.tasks.load import load

METHODS = ("magnitude", "taylor")
MEASURED = "measured"
# Channels that kernels compute together, where a target does not say.
_PACK = 16
# From so much more of the multiply-accumulates on than was asked for, it is said.
_MUCH_MORE = 0.1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that go through the same tensors, and how many of them are left.

    Attributes:
        kernels: the weights whose outputs they are.
        operators: the operators that multiply by those weights.
        before, after: how many outputs of one weight belong to the group.
        reason: why all of them stayed; empty where some went.
    """

    kernels: tuple[str, ...]
    operators: tuple[str, ...]
    before: int
    after: int
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Removed:
    """A smaller float model, and what was removed.

    Attributes:
        groups: all groups of channels, those that stayed whole too.
        macs: multiply-accumulates of one run, before and after.
        weight_bytes: bytes of all constants, before and after.
        time_us: microseconds that convolutions and dense layers take on this machine, each timed alone, before and
            after; None where no share of it was asked for.
    """

    model: Model
    groups: tuple[ChannelGroup, ...]
    macs: tuple[int, int]
    weight_bytes: tuple[int, int]
    time_us: tuple[float, float] | None = None

    def __repr__(self) -> str:
        cut = sum(group.after < group.before for group in self.groups)
        return (
            f"Smaller model: channels of {cut} of {len(self.groups)} groups were removed\n"
            f"  multiply-accumulates  {self.macs[0]:,} → {self.macs[1]:,}\n"
            f"  bytes of constants    {self.weight_bytes[0]:,} → {self.weight_bytes[1]:,}\n"
            + (f"  time of products, µs  {self.time_us[0]:,.1f} → {self.time_us[1]:,.1f}\n" if self.time_us else "")
            + repr(self.model)
        )

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


@checked(
    {"fraction": "sparsity", "criterion": "method"},
    sparsity=number(0, 1, open_at="high", way="It is the fraction of each group's channels to remove."),
    macs=number(0, 1, open_at="high", way="It is the fraction of all multiply-accumulates to remove."),
    latency=number(0, 1, open_at="high", way="It is the fraction of the time to save."),
    only_zero=flag,
    method=text,
    multiple=either(count(), choice(MEASURED), allowed="a whole number from 1 on, or 'measured'"),
    form=choice("int8", "float32"),
    exclude=several(text),
    samples=stream,
    input_shapes=shapes,
)
def remove_channels(
    source: Any,
    sparsity: float | None = None,
    *,
    macs: float | None = None,
    latency: float | None = None,
    only_zero: bool = False,
    method: str = "magnitude",
    data: Any = None,
    loss: Any = None,
    multiple: int | str | None = None,
    target: str | Path | targets.Target = "litert",
    form: str = "int8",
    exclude: str | Sequence[str] = (),
    samples: Iterable[Any] | None = None,
    input_shapes: Any = None,
) -> Removed:
    """Removes channels from a float model, with all that depends on them; the result is a smaller dense model.

    Channels that are added, multiplied or concatenated with others go together with them, through depthwise
    convolutions, pooling, padding and reshapes; of attention, whole heads go. The lowest scores go first.

    Args:
        source: what `load` takes.
        sparsity: the fraction of each group's channels that go, at most, in [0, 1).
        macs: at least this share of all multiply-accumulates, in [0, 1), from where scores are lowest.
        latency: at least this share of the time that convolutions and dense layers take in LiteRT on this machine, in
            [0, 1), from where scores are lowest for the microseconds saved: operators are timed alone, with the
            channels that are left (`channels.latencies`). Times differ from call to call, and so may the choice.
        only_zero: exactly the channels that are 0 for every input, their weights and biases being 0; outputs stay as
            they are.
        method: ``magnitude``, the mean of ``|w|`` over all weights that make a channel (Li et al., 1608.08710, section
            3.1), relative to that of its group; or ``taylor``, the squared change of the loss without the channel, to
            first order (Molchanov et al., 1906.10771, section 3.1).
        data: for ``taylor``: (inputs, labels) from the training split; inputs are an array, or a dict by public name.
        loss: for ``taylor``: a Keras loss, or its name.
        multiple: groups keep a multiple of so many channels, and not none; by default as many as the target's kernels
            compute together, or half of that in groups that have no more. ``measured`` times LiteRT's on this machine.
            `only_zero` does not heed it.
        target: the device that the model will run on, by name, TOML file or value.
        form: the type that it will compute in there, ``int8`` or ``float32``.
        exclude: shell patterns of weights or operators, matching their name or a part of it, whose outputs all stay.
        samples: inputs to verify a lowered model with; a PyTorch module or JAX function needs at least one.
        input_shapes: as in `load`.

    Warns:
        UserWarning: if much more goes than was asked for, since groups keep packs of channels.

    Raises:
        RecipeError: for an option that is not understood, or nothing to remove.
        DataError: if the data are no pair of equal length.
        UnsupportedOp: if an operator can't be trained, for ``taylor``.
        FormatError: if the model is quantized.
    """
    model = load(source, samples=samples, input_shapes=input_shapes)
    check_float(model, "remove_channels")
    device = targets.load(target)
    pack, multiple = _pack(device, form, multiple)
    _check(sparsity, macs, latency, only_zero)
    if latency is not None:
        _check_timed(device, f"latency={latency:g}", "give macs=")
    _check_method(method, data, loss, only_zero=only_zero)
    labels = label(model.main)
    groups = _excluded(find_groups(model.main, labels), several(text)(exclude, "exclude"))
    times = None
    if only_zero:
        removed = _with_one_left(groups, zero_channels(model.main, labels, groups))
    else:
        scores = _scores(model, labels, groups, method, data, loss)
        least = [multiple_of(group, pack, multiple) for group in groups]
        steps = [steps_of(*each) for each in zip(groups, scores, least, strict=True)]
        if not any(steps):
            raise RecipeError(_nothing(groups, pack, multiple))
        if sparsity is not None:
            removed = {v for group, own in zip(groups, steps, strict=True) for v in fraction_of(group, own, sparsity)}
        elif latency is not None:
            removed, times = share_of_time(clock_of(model, labels, form), groups, scores, steps, latency)
        else:
            assert macs is not None
            removed = share_of_macs(model, labels, [step for own in steps for step in own], macs)
    smaller = without_channels(model, labels, removed)
    rows = tuple(_row(group, removed, pack, multiple, only_zero=only_zero) for group in groups)
    sizes, products = (constant_bytes(model), constant_bytes(smaller)), (total_macs(model), total_macs(smaller))
    if macs is not None and (gone := 1 - products[1] / max(products[0], 1)) > macs + _MUCH_MORE:
        least = sorted({multiple_of(group, pack, multiple) for group in groups if not group.reason})
        warnings.warn(
            f"remove_channels: {gone:.0%} of the multiply-accumulates went, {macs:.0%} were asked for: groups of few "
            f"channels keep a multiple of {listed(least)}. multiple=1 keeps closer to it, in kernels that compute "
            "channels that are not there.",
            stacklevel=3,
        )
    return Removed(smaller, rows, products, sizes, times)


def _pack(target: targets.Target, form: str, multiple: int | str | None) -> tuple[int, int | None]:
    """Returns how many channels kernels compute together, and what was asked for instead."""
    if multiple == MEASURED:
        _check_timed(target, "multiple='measured'", "leave it out for what the target says, or give a number")
        return measured_pack(form), None
    assert not isinstance(multiple, str)
    return target.packs.get(form, _PACK), multiple


def _check_timed(target: targets.Target, what: str, way: str) -> None:
    if not profiles.find(target.profile).is_delegate:
        raise RecipeError(
            f"remove_channels: {what} times LiteRT, which target '{target.name}' does not run. Instead, {way}."
        )


def _check(sparsity: float | None, macs: float | None, latency: float | None, only_zero: bool) -> None:
    shares = {"sparsity": sparsity, "macs": macs, "latency": latency}
    given = [name for name, share in shares.items() if share is not None] + ["only_zero"] * only_zero
    if len(given) != 1:
        raise RecipeError(
            f"remove_channels: {listed(given) or 'nothing'} says how much to remove. Give one of sparsity= (of each "
            "group's channels), macs= (of all multiply-accumulates), latency= (of the time) and only_zero=True."
        )


def _check_method(method: str, data: Any, loss: Any, *, only_zero: bool) -> None:
    if method not in METHODS:
        raise RecipeError(f"remove_channels: method '{method}' is unknown (allowed: {listed(METHODS)}).")
    if method == "taylor" and (data is None or loss is None):
        raise RecipeError(
            "remove_channels: method 'taylor' takes gradients: pass data=(inputs, labels) from the training split "
            "and a loss=, or use 'magnitude', which needs neither."
        )
    if (method == "magnitude" or only_zero) and not (data is None and loss is None):
        raise RecipeError("remove_channels: data= and loss= are for method='taylor', with sparsity= or macs=.")


def _excluded(groups: Sequence[Group], patterns: Sequence[str]) -> list[Group]:
    """Returns the groups, those that an exclusion names fixed.

    Raises:
        RecipeError: if an exclusion matches no kernel.
    """
    for pattern in patterns:
        if not any(matches(name, pattern) for group in groups for name in (*group.members, *group.operators)):
            names = [name for group in groups for name in group.operators]
            raise RecipeError(
                f"remove_channels: exclude '{pattern}' matches no weight. Operators with weights are {listed(names)}."
            )
    found: list[Group] = []
    for group in groups:
        names = (*group.members, *group.operators)
        hit = next((pattern for pattern in patterns if any(matches(name, pattern) for name in names)), None)
        is_free = hit is not None and not group.reason
        found.append(replace(group, reason=f"excluded by '{hit}'") if is_free else group)
    return found


def _scores(
    model: Model, labels: Labeled, groups: Sequence[Group], method: str, data: Any, loss: Any
) -> list[np.ndarray]:
    """Returns a score for each channel of each group."""
    if method == "magnitude":
        return [magnitudes(model.main, labels, group) for group in groups]
    from featherweight.training.keras_models.saliency import contributions  # Keras is imported where it is needed

    return taylor(model.main, labels, groups, contributions(model, data, loss))


def _with_one_left(groups: Sequence[Group], zeros: set[int]) -> set[int]:
    """Returns the channels to remove, one less in groups that would be left with none."""
    full = {group.labels[0] for group in groups if set(group.labels) <= zeros}
    return zeros - full


def _row(group: Group, removed: set[int], pack: int, multiple: int | None, *, only_zero: bool) -> ChannelGroup:
    left = sum(value not in removed for value in group.labels) * group.rows
    reason = group.reason
    if not reason and left == group.channels:
        if only_zero:
            reason = "none of them is zero for every input"
        elif group.channels <= (least := multiple_of(group, pack, multiple)):
            reason = f"at least {least} channels stay"
        else:
            reason = "others go first"
    return ChannelGroup(group.members, group.operators, group.channels, left, reason)


def _nothing(groups: Sequence[Group], pack: int, multiple: int | None) -> str:
    if not groups:
        return "remove_channels: the model has no weights whose outputs are channels, so there is nothing to remove."
    few = [f"{g.channels} channels; at least {multiple_of(g, pack, multiple)} stay" for g in groups]
    rows = [f"'{g.operators[0]}' ({g.reason or why})" for g, why in zip(groups, few, strict=True)]
    return f"remove_channels: there is nothing to remove: {listed(rows)}."
