"""Filling: ranges just below a power of two, for chips whose every scale is one.

A scale that must be a power of two is up to twice as coarse as the range needs: 6 dB, and 3 dB on average. All channels
of tensors that hang together may be divided by one common factor (`factors.commuting`): the range before a rounding up
of exponents moves with it, and those of the weights around. The factors are chosen tensor by tensor, so that the noise
of all roundings beside what they need, ``4^(⌈log2 s⌉ - log2 s)`` of each scale s, is least in sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.repair.candidate import Candidate, Repair, Setting, planned
from featherweight.repair.factors.commuting import freedom
from featherweight.repair.factors.freedom import Freedom
from featherweight.repair.factors.scaling import scaled

# Factors of one octave that are tried; each of them again until none changes, or so many times.
_STEPS, _SWEEPS = np.arange(16) / 16, 20
# Rounding of float32 must not lift a range that just fits beyond its power of two.
_ROOM = 1e-3


@dataclass(frozen=True, eq=False)
class _Scales:
    """The scales of one tensor in octaves, and the groups whose exponents are added to them, or taken away."""

    octaves: np.ndarray
    added: int | None
    taken: int | None

    def waste(self, exponents: np.ndarray) -> float:
        """Returns the noise of these scales, rounded up to powers of two, by that of exact ones."""
        moved = self.octaves + _ROOM
        moved = moved if self.added is None else moved + exponents[self.added]
        moved = moved if self.taken is None else moved - exponents[self.taken]
        return float(np.mean(4.0 ** (np.ceil(moved) - moved)))


def _groups(free: Freedom) -> np.ndarray:
    """Returns for each label the least one that it hangs together with, since one tensor holds both, (count,)."""
    groups = np.arange(free.count)
    tensors = [np.unique(labels) for labels in free.channels.values()]
    while True:
        before = groups.copy()
        for labels in tensors:
            groups[labels] = groups[labels].min(initial=free.count)
        groups = groups[groups]
        if (groups == before).all():
            return groups


def _movable(free: Freedom, groups: np.ndarray) -> list[int]:
    """Returns the groups whose factor may be any: none of their labels is fixed, or has a bound for all channels."""
    is_held = ~free.is_free
    for cap in free.caps:
        is_held[cap.labels] = True
    return sorted(set(groups.tolist()) - set(groups[is_held].tolist()))


def _scales(setting: Setting, candidate: Candidate, free: Freedom, groups: np.ndarray) -> list[_Scales]:
    """Returns the scales that a target would have that takes any."""
    target = replace(setting.target, is_power_of_two=False)
    exact = planned(
        replace(setting, target=target),
        candidate.model,
        candidate.recipe,
        stats=candidate.stats,
        methods=candidate.methods,
    ).plan.params
    octaves = {name: np.log2(np.array(params.scale)) for name, params in exact.items()}
    found = [
        _Scales(octaves[name], None, int(groups[labels.flat[0]]))
        for name, labels in free.channels.items()
        if name in octaves and labels.size
    ]
    for weight in free.weights:
        if (name := weight.node.inputs[weight.position]) in octaves:
            reads, writes = (int(groups[labels.flat[0]]) for labels in (weight.reads, weight.writes))
            found.append(_Scales(octaves[name], reads, writes))
    return found


def _filling(scales: Sequence[_Scales], movable: Sequence[int], count: int) -> np.ndarray:
    """Returns the exponent of each group's factor, (count,): those with which ranges fill powers of two best."""
    exponents = np.zeros(count)
    touched = {group: [s for s in scales if (s.added == group) != (s.taken == group)] for group in movable}
    for _ in range(_SWEEPS):
        before = exponents.copy()
        for group, concerned in touched.items():
            wastes = []
            for step in _STEPS:
                exponents[group] = step
                wastes.append(sum(each.waste(exponents) for each in concerned))
            exponents[group] = _STEPS[int(np.argmin(wastes))]
        if (exponents == before).all():
            break
    return exponents


def _apply(setting: Setting, candidate: Candidate) -> Candidate | str:
    if not setting.target.is_power_of_two:
        return "scales need not be powers of two"
    if candidate.stats is None:
        return "values are not in integers"
    free = freedom(candidate.model.main)
    groups = _groups(free)
    scales = _scales(setting, candidate, free, groups)
    exponents = _filling(scales, movable := _movable(free, groups), free.count)
    moved = [group for group in movable if exponents[group]]
    if not moved:
        return "no tensors between weights could have a common factor"
    model = scaled(candidate.model, free, 2.0 ** exponents[groups])
    lost = [10 * np.log10(np.mean([s.waste(e) for s in scales])) for e in (np.zeros(free.count), exponents)]
    note = f"fill-powers: common factors of {len(moved)} groups of tensors; what rounding scales up to powers of two "
    return planned(setting, model, candidate.recipe).with_note(
        note + f"costs is {lost[1]:.1f} dB, {lost[0]:.1f} before"
    )


FILL_POWERS = Repair("fill-powers", "common factors with which ranges fill powers of two", _apply)
