"""Convolutions that compute a linear form: how they are placed, into which it is parted, how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from featherweight.graph import Node, Tensor
from featherweight.graph.editor import Editor
from featherweight.operators.call import fused_activation
from featherweight.operators.geometry import Pair, window_padding
from featherweight.passes.linear_forms import Form, added, as_integers

# The largest number of float32.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Place:
    """How a convolution computes a form: first tap, size, dilation, padding of its kernel; pads if it needs a PAD."""

    first: Pair
    size: Pair
    dilation: Pair
    padding: str
    pads: tuple[Pair, Pair] | None


@dataclass(frozen=True)
class Branch:
    """A form in one convolution: its kernel (out, height, width, in / groups), float64, and how that is placed."""

    form: Form
    kernel: np.ndarray
    place: Place

    @property
    def stored(self) -> int:
        """How many numbers it stores; none where it is the source itself, which needs no operator."""
        if self.form.is_of_channels and bool((self.kernel == 1).all()) and not self.form.bias.any():
            return 0
        return self.kernel.size + len(self.form.bias)


@dataclass(frozen=True)
class Merged:
    """What takes the place of a tree: convolutions of its source, added up."""

    branches: tuple[Branch, ...]

    @property
    def operators(self) -> int:
        """How many operators it takes."""
        each = [1 + (branch.place.pads is not None) for branch in self.branches if branch.stored]
        return sum(each) + len(self.branches) - 1

    @property
    def lost(self) -> float:
        """The power of what integers of eight bits lose of the kernels; all where float32 does not hold them."""
        if any(np.abs(values).max() > _LARGEST for b in self.branches for values in (b.kernel, b.form.bias)):
            return math.inf
        return sum(power(as_integers(branch.kernel) - branch.kernel) for branch in self.branches)


def power(values: np.ndarray) -> float:
    """Returns the sum of squares: what a kernel makes of white noise."""
    return float(np.square(values).sum())


def kernel_of(form: Form, place: Place) -> np.ndarray:
    """Returns the kernel that computes a form at a place."""
    count, made = form.channels
    kernel = np.zeros((made, *place.size, count // form.groups))
    for offset, matrix in form.taps().items():
        row, column = ((offset[axis] - place.first[axis]) // place.dilation[axis] for axis in (0, 1))
        kernel[:, row, column] = matrix.reshape(made, -1)
    return kernel


def ways(form: Form, kernel: np.ndarray, place: Place) -> Iterator[Merged]:
    """Yields ways to compute a form, given in one convolution: those of fewer operators first.

    In the others stands apart what may be much larger than the rest: a factor for each channel; then all parts.
    """
    yield Merged((Branch(form, kernel, place),))
    of_channels = [part for part in form.parts if part.is_of_channels]
    others = [part for part in form.parts if not part.is_of_channels]
    if of_channels and len(others) > 1:
        yield from _apart([reduce(added, others), *of_channels])
    yield from _apart(form.parts)


def _apart(parts: Sequence[Form]) -> Iterator[Merged]:
    places = [(part, place_of(part)) for part in parts]
    branches = [Branch(part, kernel_of(part, place), place) for part, place in places if place is not None]
    if len(branches) == len(parts) > 0:
        yield Merged(tuple(branches))


def place_of(form: Form) -> Place | None:
    """Returns how a convolution computes the taps of a form, or None where it would need strides and dilations."""
    found: list[tuple[int, int, int]] = []
    for axis in (0, 1):
        taken = {offset[axis] for offset in form.offsets}
        places = sorted(taken | {min(0, *taken)})  # a kernel begins at the place of its result at the latest
        dilation = math.gcd(*(place - places[0] for place in places)) or 1
        found.append((places[0], (places[-1] - places[0]) // dilation + 1, dilation))
    first, size, dilation = ((a, b) for a, b in zip(*found, strict=True))
    if max(form.stride) > 1 and max(dilation) > 1:
        return None

    def windows(padding: str, more: Pair = (0, 0)) -> list[tuple[int, int]]:
        """Returns (results, first place) of each axis."""
        made: list[tuple[int, int]] = []
        for axis in (0, 1):
            extent = form.source[axis] + more[axis]
            count, pad = window_padding(extent, size[axis], form.stride[axis], dilation[axis], padding)
            made.append((count, -pad[0]))
        return made

    wanted = list(zip(form.extents, first, strict=True))
    for padding in ("valid", "same"):
        if windows(padding) == wanted:
            return Place(first, size, dilation, padding.upper(), None)
    ends = [
        (form.extents[a] - 1) * form.stride[a] + first[a] + (size[a] - 1) * dilation[a] + 1 - form.source[a]
        for a in (0, 1)
    ]
    above, left = ((-first[axis], max(ends[axis], 0)) for axis in (0, 1))
    if [count for count, _ in windows("valid", (sum(above), sum(left)))] != list(form.extents):
        return None
    return Place(first, size, dilation, "VALID", (above, left))


def written(edit: Editor, root: Node, source: str, merged: Merged) -> list[Node]:
    """Returns the operators that compute a form of `source` as the result of `root`, whose activation they end in."""
    extras = {key: value for key, value in root.extras.items() if key != "options"}
    ends = {"fused_activation_function": fused_activation(root)}
    like = replace(edit.tensors[root.name], file_name=None)
    is_alone = len(merged.branches) == 1

    def result(number: int) -> str:
        return root.name if is_alone else edit.add(replace(like, name=f"{root.name}/branch{number}"))

    nodes, results = list[Node](), list[str]()
    for number, branch in enumerate(merged.branches):
        results.append(result(number) if branch.stored else source)
        if branch.stored:
            nodes += _convolution(edit, results[-1], source, branch)
    first, *others = results
    for number, other in enumerate(others, 1):
        total = root.name if number == len(others) else edit.add(replace(like, name=f"{root.name}/sum{number}"))
        nodes.append(Node("ADD", (first, other), (total,)))
        first = total
    return [*nodes[:-1], replace(nodes[-1], attrs={**nodes[-1].attrs, **ends}, extras=extras)]


def _convolution(edit: Editor, result: str, source: str, branch: Branch) -> list[Node]:
    form, place = branch.form, branch.place
    count, made = form.channels
    is_depthwise = form.groups == count > 1
    nodes = [] if place.pads is None else [_padding(edit, result, source, place.pads)]
    kernel = branch.kernel.transpose(3, 1, 2, 0) if is_depthwise else branch.kernel
    constants = {"kernel": kernel, "bias": form.bias}
    names = [edit.constant(f"{result}/{what}", array.astype(np.float32)) for what, array in constants.items()]
    attrs = {
        "padding": place.padding,
        "stride_h": form.stride[0],
        "stride_w": form.stride[1],
        "dilation_h_factor": place.dilation[0],
        "dilation_w_factor": place.dilation[1],
        **({"depth_multiplier": made // count} if is_depthwise else {}),
    }
    op = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    return [*nodes, Node(op, (nodes[0].name if nodes else source, *names), (result,), attrs)]


def _padding(edit: Editor, result: str, source: str, pads: tuple[Pair, Pair]) -> Node:
    like = edit.tensors[source]
    shape = (like.shape[0], like.shape[1] + sum(pads[0]), like.shape[2] + sum(pads[1]), like.shape[3])
    signature = None if like.shape_signature is None else (like.shape_signature[0], *shape[1:])
    padded = edit.add(Tensor(f"{result}/pad", shape, like.dtype, shape_signature=signature))
    amounts = edit.constant(f"{result}/pads", np.array([(0, 0), *pads, (0, 0)], np.int32))
    return Node("PAD", (source, amounts), (padded,))
