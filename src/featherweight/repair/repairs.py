"""The repairs that there are, in the order in which they build on each other: the graph, then ranges, then weights."""

from __future__ import annotations

from featherweight.ptq.equalization import equalize_graph
from featherweight.repair.candidate import Candidate, Repair, Setting, planned


def _equalize(setting: Setting, candidate: Candidate) -> Candidate | str:
    found = equalize_graph(candidate.model)
    done = sum(not row.reason for row in found.tensors)
    if not done:
        return "no weights with a tensor between them whose channels could be evened out"
    changed = planned(setting, found.model, candidate.recipe)
    left = [f"'{row.name}': {row.reason}" for row in found.tensors if row.reason]
    note = f"equalized the channels of {done} tensors between weights"
    return changed.with_note(note + (f"; left alone: {'; '.join(left)}" if left else ""))


REPAIRS: tuple[Repair, ...] = (Repair("equalize", "gives the channels of neighbouring weights like ranges", _equalize),)
