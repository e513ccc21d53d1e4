"""`check` held against a client, one model at a time: what `test_devices` and `conformance` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.devices.grid import Tried
from tests.devices.judges import Verdict
from tests.operators.checking import FLOAT_ULPS, Finding, differences, magnitude_of_terms

from featherweight.errors import FeatherweightError
from featherweight.operators.families.control import keeps_state
from featherweight.targets import target as targets

Outcome = Literal["runs", "refused", "processor", "unproven", "refused unsaid", "wrong unsaid", "said in vain"]
# In which `check` and the client disagree.
WRONG: tuple[Outcome, ...] = ("refused unsaid", "wrong unsaid", "said in vain")


@dataclass(frozen=True)
class Judgement:
    """What one model came to on one target.

    Attributes:
        outcome: `check` has nothing to say and the client runs it (to the reference kernels' integers, where there
            are any), or it complains and the client refuses or goes wrong; ``processor``: a conversion of floats, which
            is not the NPU's; ``unproven``: it complains, the client runs, and nothing says whether rightly. The
            other three are disagreements.
        elements: how many elements were compared.
        words: `check`'s or the client's.
        is_crash: the client ended, or did not end.
    """

    outcome: Outcome
    elements: int
    words: str
    is_crash: bool


def judged(tried: Tried, target: targets.Target, verdict: Verdict) -> Judgement:
    """Returns what `check` says of a model, held against a client's verdict."""
    graph = tried.model.main
    said = targets.check(tried.model, target)
    words = said[0].message if said else verdict.text[-300:]
    # Vela has no word for a file that it compiles in part: an error is that of a whole file.
    fatal = ("killed by", "no answer") if target.is_float_allowed else ("killed by", "no answer", "Error: ")
    is_crash = not verdict.runs and any(word in verdict.text for word in fatal)
    ends = {graph.tensors[name].dtype for name in (*graph.nodes[0].inputs[:1], graph.outputs[0])}
    if targets.converts(graph.nodes[0]) and not target.is_float_allowed and "float32" in ends:
        return Judgement("processor", 0, words, is_crash)
    found = _compared(tried, verdict) if verdict.outputs else Finding()
    if not verdict.runs:
        return Judgement("refused" if said else "refused unsaid", 0, words, is_crash)
    if found.broken:
        return Judgement("refused" if said else "wrong unsaid", found.elements, found.broken, is_crash)
    if not said:
        return Judgement("runs", found.elements, words, is_crash)
    # What Vela compiles is not run: whether variables stay from run to run, and what a recurrent layer computes.
    is_run, states = bool(verdict.outputs), any(tensor.is_variable for tensor in graph.tensors.values())
    is_open = (tried.expected is None and (is_run or states)) or (keeps_state(tried.model) and not is_run)
    return Judgement("unproven" if is_open else "said in vain", found.elements, words, is_crash)


def _compared(tried: Tried, verdict: Verdict) -> Finding:
    """Returns how a client's outputs differ from the reference kernels': floats within some ulps, all else exactly."""
    total, is_real = Finding(), tried.form == "float32"
    try:
        least = magnitude_of_terms(tried.model, tried.feeds) if is_real else 0.0
    except FeatherweightError:
        least = 0.0
    for ours, theirs in zip(tried.expected or (), verdict.outputs, strict=tried.expected is not None):
        # TFLite Micro gives a scalar as a vector of one number.
        shaped = theirs.reshape(ours.shape) if theirs.size == ours.size else theirs
        total = differences(total, ours, shaped, FLOAT_ULPS * is_real, "tflm", least)
    return total
