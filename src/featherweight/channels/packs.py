"""How many channels kernels compute together, as measured on this machine, and what groups of channels keep of it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from featherweight.channels.groups import Group
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.operators import registered
from featherweight.runtime.litert import Session

_WIDTHS = (4, 8, 16, 32)
# A pointwise convolution that takes tens of microseconds: long beside the call, short beside what interrupts it.
_SIDE, _READ = 64, 64
_ROUNDS = 100
# Half a pack more costs a whole one where less than this share of its time is saved.
_SAVED = 0.35
# Two packs that cost less than this more than one are no packs.
_MORE = 1.2


def multiple_of(group: Group, pack: int, multiple: int | None = None) -> int:
    """Returns what a group's channels stay a multiple of: what is asked for, or a pack; half of one in small groups.

    Args:
        group: the channels.
        pack: channels that kernels compute together.
        multiple: what is asked for.
    """
    if multiple is not None:
        return multiple
    return pack if group.channels > pack else max(pack // 2, 1)


def measured_pack(dtype: str) -> int:
    """Returns how many output channels LiteRT's convolutions compute together here, in int8 or float32.

    Pointwise convolutions of p, 3/2 p and 2 p channels are timed in turn, the fastest of many runs each: p is a pack
    where 3/2 p cost what 2 p do. The largest such p counts; without one, it is 4.
    """
    counts = sorted({width * factor // 2 for width in _WIDTHS for factor in (2, 3, 4)})
    sessions = {count: Session(convolution(count, dtype), threads=1) for count in counts}
    fastest = dict.fromkeys(counts, float("inf"))
    given = np.zeros((1, _SIDE, _SIDE, _READ), dtype)
    for _ in range(_ROUNDS):
        for count, session in sessions.items():
            start = time.perf_counter()
            session.run(given)
            fastest[count] = min(fastest[count], time.perf_counter() - start)
    for session in sessions.values():
        session.close()
    return pack_of(fastest)


def pack_of(seconds: Mapping[int, float]) -> int:
    """Returns the pack that times by number of channels tell (see `measured_pack`).

    >>> pack_of({n: -(-n // 16) for n in (4, 6, 8, 12, 16, 24, 32, 48, 64)})
    16
    >>> pack_of({n: n for n in (4, 6, 8, 12, 16, 24, 32, 48, 64)})
    4
    """
    for width in reversed(_WIDTHS):
        one, more, two = (seconds[width * factor // 2] for factor in (2, 3, 4))
        if two > _MORE * one and two - more < _SAVED * (two - one):
            return width
    return _WIDTHS[0]


def convolution(channels: int, dtype: str, side: int = _SIDE, read: int = _READ) -> Model:
    """Returns a pointwise convolution of that many output channels."""
    shape, written = (1, side, side, read), (1, side, side, channels)
    real = QuantParams(dtype, (0.05,), (0,)) if dtype == "int8" else None
    weight = np.ones((channels, 1, 1, read), dtype)
    scales = QuantParams("int8", (0.01,) * channels, (0,) * channels, 0) if real else None
    products = QuantParams("int32", (0.0005,) * channels, (0,) * channels, 0) if real else None
    tensors = {
        "x": Tensor("x", shape, dtype, quant=real),
        "w": constant("w", weight, quant=scales),
        "b": constant("b", np.zeros(channels, "int32" if real else "float32"), quant=products),
        "y": Tensor("y", written, dtype, quant=real),
    }
    attrs = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 1}
    convolution = next(op for op in registered() if op.weight_kind == "conv")
    version = convolution.versions.get("int8*int8", 1) if real else 1
    node = Node(convolution.name, ("x", "w", "b"), ("y",), attrs, version)
    return Model((Graph("main", ("x",), ("y",), (node,), tensors),))
