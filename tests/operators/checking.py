"""One random example of one operator, held against LiteRT: what `test_operators` and `conformance` share.

A module of this folder whose name ends in `cases` enrols its kinds by being there.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tests.operators import movers
from tests.operators.building import Case
from tests.operators.oracle import Feeds, Oracle

from featherweight.errors import UnsupportedOp
from featherweight.graph import Model, constant
from featherweight.runtime import run_reference

FAMILIES = (  # importing them fills CASES
    movers,
    *(
        importlib.import_module(f"tests.operators.{path.stem}")
        for path in sorted(Path(__file__).parent.glob("*cases.py"))
    ),
)

# What LiteRT has no kernel for, by profile, kind and form (None: all forms).
LACKING: set[tuple[str, str, str | None]] = {
    ("tflite_ref", "ELU", None),
    ("tflite_ref", "CEIL", None),
    ("tflite_ref", "ROUND", None),
    ("tflite_ref", "DEPTH_TO_SPACE", "int8"),
    ("tflite_ref", "TILE", "int8"),
    ("tflite_ref", "TILE", "int16"),
    ("tflite_ref", "DEPTHWISE_CONV_2D", "int8*int4"),
}
# Sums whose scales LiteRT's int16 kernel aborts on, and SUM, which its reference kernel gets wrong.
MAY_REFUSE = {("ADD", "int16"), ("SUB", "int16"), ("SUM", "int8"), ("SUM ties", "int8"), ("SUM", "int16")}
# How far the floats of float forms may be off, in ulps: functions differ in their last bits, and sums are added in
# other orders. An ulp is that of the output's largest magnitude; of sums of products, whose terms may cancel, it is
# that of the largest sum of the terms' magnitudes (by which Higham 2002, section 3.1, bounds the error). All else is
# compared exactly, the floats of integer and hybrid forms too.
FLOAT_ULPS = 16.0
_PRODUCTS = {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
# A gate of an LSTM is a function, of slope 1 at most, of sums whose terms are of this order.
_GATE = 1.0
# Whose options are made for the values that are fed.
FIXED_FEEDS = {"TFLite_Detection_PostProcess"}


@dataclass(frozen=True)
class Finding:
    """What one example came to in one profile.

    Attributes:
        worst: the largest distance of floats, in ulps (see `FLOAT_ULPS`).
        refused: why the reference kernels refuse the example; empty where they don't.
        lacking: LiteRT has no kernel.
        broken: what is wrong, in words: the first mismatch, or that LiteRT ends with an error.
    """

    elements: int = 0
    mismatches: int = 0
    worst: float = 0.0
    refused: str = ""
    lacking: bool = False
    broken: str = ""


def is_lacking(name: str, form: str, profile: str) -> bool:
    """True where LiteRT is known to have no kernel."""
    return bool({(profile, name, form), (profile, name, None)} & LACKING)


def example(case: Case, name: str, form: str) -> Model | str:
    """Returns the model of a case, or why the reference kernels rightly refuse it.

    Raises:
        UnsupportedOp: if nothing says that this kind may be refused.
    """
    try:
        return case.model()
    except UnsupportedOp as error:
        if (name, form) not in MAY_REFUSE:
            raise
        return str(error)


def compared(
    name: str, form: str, model: Model, content: bytes, feeds: Sequence[Feeds], oracle: Oracle, profile: str
) -> Finding:
    """Runs an example on LiteRT and on the reference kernels, and counts what differs.

    Raises:
        UnsupportedOp: if nothing says that this kind may be refused.
    """
    lacking = is_lacking(name, form, profile)
    try:
        found = [run_reference(model, arrays, profile) for arrays in feeds]
    except UnsupportedOp as error:
        if (name, form) not in MAY_REFUSE:
            raise
        return Finding(refused=str(error))
    expected = oracle(content, feeds, profile)
    if isinstance(expected, str):
        is_known = lacking and "Didn't find op" in expected
        return Finding(lacking=is_known, broken="" if is_known else f"{profile}: LiteRT: {expected}")
    if lacking:
        return Finding(broken=f"{profile}: LiteRT has a kernel, though LACKING says that it has none")
    total = Finding()
    for arrays, ours, theirs in zip(feeds, found, expected, strict=True):
        least = magnitude_of_terms(model, arrays) if form == "float32" else 0.0
        for our, their in zip(ours.values(), theirs, strict=True):
            total = differences(total, our, their, FLOAT_ULPS * (form == "float32"), profile, least)
    return total


def magnitude_of_terms(model: Model, feeds: Feeds) -> float:
    """Returns the largest sum of magnitudes of the terms that an operator adds up, 0 where it adds up no products."""
    graph, (node, *_) = model.main, model.main.nodes
    if node.op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        return _GATE
    if node.op not in _PRODUCTS:
        return 0.0
    positive = {
        name: constant(name, np.abs(tensor.array)) if tensor.is_constant and tensor.is_float else tensor
        for name, tensor in graph.tensors.items()
    }
    unbounded = replace(node, attrs={**node.attrs, "fused_activation_function": "NONE"})
    terms = replace(model, graphs=(replace(graph, nodes=(unbounded,), tensors=positive), *model.graphs[1:]))
    sums = run_reference(terms, {name: np.abs(array) for name, array in feeds.items()}, "integer_multiplier")
    return max(float(array.max(initial=0)) for array in sums.values())


def differences(
    total: Finding, ours: np.ndarray, theirs: np.ndarray, ulps: float, profile: str, least: float = 0.0
) -> Finding:
    """Returns a finding with what one output adds to it; `least`: the magnitude whose ulp counts at the least."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        wrong = f"{profile}: {ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
        return Finding(total.elements + theirs.size, total.mismatches + theirs.size, total.worst, broken=wrong)
    worst = total.worst
    different = (ours != theirs) & ~((ours != ours) & (theirs != theirs))
    if ulps and ours.dtype.kind == "f" and different.any():
        ends = np.abs(theirs[np.isfinite(theirs)]).max(initial=least)
        with np.errstate(invalid="ignore"):  # two infinities, or none where one should be
            distance = np.abs(ours.astype(np.float64) - theirs) / np.spacing(np.float32(ends))
        different &= ~(distance <= ulps)
        worst = max(worst, float(distance[np.isfinite(distance)].max(initial=0)))
    broken = total.broken
    if different.any() and not broken:
        place = tuple(int(i) for i in np.argwhere(different)[0])
        broken = f"{profile}: {different.sum()} of {different.size} differ, first at {place}: {ours[place]} instead "
        broken += f"of {theirs[place]}"
    return Finding(total.elements + theirs.size, total.mismatches + int(different.sum()), worst, broken=broken)


def further_feeds(case: Case, count: int, random: np.random.Generator) -> list[Feeds]:
    """Returns the case's own feeds, and more for the same file: its values in other places, floats shrunk besides.

    Operands are named x, y or z; what else is fed (sizes, places, conditions) stays as it is. Where there is nothing
    else, the own feeds are all.
    """
    varying = [] if case.op in FIXED_FEEDS else sorted(name for name in case.feeds if name.startswith(("x", "y", "z")))
    feeds = [case.feeds]
    while varying and len(feeds) < count:
        arrays = dict(case.feeds)
        for name in varying:
            values = random.permutation(case.feeds[name].reshape(-1)).reshape(case.feeds[name].shape)
            if values.dtype == np.float32 and len(feeds) % 2:
                values = (values * random.uniform(0.5, 1, values.shape)).astype(np.float32)
            arrays[name] = values
        feeds.append(arrays)
    return feeds
