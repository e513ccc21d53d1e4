"""Operators that move, join, cut, repeat, pick or reduce."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
from tests.devices.grid import EVERY, QUANTIZED, SHAPES, Entries, built, grid, ints, operand, params, values

from featherweight.graph.numerics import QuantParams

PLACES = ("int32", "int64")


@grid("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL", forms=EVERY)
def _reduce(op: str, dtype: str) -> Entries:
    def case(shape, axes, keep=False, out=None, flat=True, constant=True):
        made = built(op, dtype, {"keep_dims": keep}).fed("x", values(shape, dtype), params(dtype))
        array = ints(*axes) if flat else np.int32(axes[0]).reshape(())
        operand(made, "axes", array, None, constant=constant)
        return made.gives(dtype, out or params(dtype))

    for keep in (False, True):
        for shape, choices in {
            (7,): ((0,), (-1,)),
            (2, 5): ((0,), (1,), (0, 1), (-1,)),
            (2, 3, 5): ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2), (-1,)),
            (1, 3, 4, 5): (
                (0,),
                (1,),
                (2,),
                (3,),
                (1, 2),
                (2, 1),
                (2, 3),
                (1, 3),
                (1, 2, 3),
                (0, 1, 2, 3),
                (-1,),
                (-3, -2),
                (1, 1, 2),
            ),
            (2, 3, 4, 5): ((0,), (1,), (3,), (1, 2), (1, 2, 3), (-1,)),
            (1, 1, 4, 5): ((3,), (2, 3), (-1,)),
            (1, 3, 4, 1): ((3,), (1, 2)),
            (2, 1, 3, 2, 4): ((0,), (2,), (4,), (2, 3), (1, 2, 3)),
            (1, 2, 1, 3, 2, 2): ((5,), (3, 4)),
        }.items():
            for axes in choices:
                yield f"{list(shape)} over {list(axes)}{', kept' if keep else ''}", case(shape, axes, keep)
    yield "one axis, no vector", case((1, 3, 4, 5), (2,), flat=False)
    yield "computed axes", case((1, 3, 4, 5), (1, 2), constant=False)
    yield "many", case((1, 70, 70, 2), (1, 2))
    if dtype in QUANTIZED:
        for scale in (0.09, 0.01):
            yield f"other scale {scale}", case((1, 3, 4, 5), (1, 2), out=params(dtype, scale, -4))
        yield "other scale, over the channels", case((1, 3, 4, 5), (3,), out=params(dtype, 0.09, -4))
        yield "long", case((1, 4097, 1, 2), (1,))
        yield "4096", case((1, 4096, 1, 2), (1,))


@grid("ARG_MAX", "ARG_MIN", forms=EVERY)
def _arg(op: str, dtype: str) -> Entries:
    for out, code in (("int32", 2), ("int64", 4)):
        for shape in SHAPES[1:]:
            for axis in {0, len(shape) - 1, -1, len(shape) // 2}:
                made = built(op, dtype, {"output_type": code}).fed("x", values(shape, dtype), params(dtype))
                yield f"{list(shape)} along {axis} to {out}", made.constant("axis", ints(axis)).gives(out, None)
        for depth in (127, 128, 1000):
            made = built(op, dtype, {"output_type": code}).fed("x", values((1, depth), dtype), params(dtype))
            yield f"depth {depth} to {out}", made.constant("axis", ints(1)).gives(out, None)
        made = built(op, dtype, {"output_type": code}).fed("x", values((2, 5), dtype), params(dtype))
        yield f"axis without a vector to {out}", made.constant("axis", np.int32(1).reshape(())).gives(out, None)
        made = built(op, dtype, {"output_type": code}).fed("x", values((2, 5), dtype), params(dtype))
        yield f"int64 axis to {out}", made.constant("axis", ints(1, dtype="int64")).gives(out, None)


def _moved(op, dtype, shape, constants=(), attrs=None, out=None, fixed=True, count=1):
    made = built(op, dtype, attrs).fed("x", values(shape, dtype), params(dtype))
    for number, array in enumerate(constants):
        operand(made, f"c{number}", array, None, constant=fixed)
    return made.gives(dtype, out or params(dtype), count)


@grid("RESHAPE", forms=EVERY)
def _reshape(op: str, dtype: str) -> Entries:
    for shape in (
        (24,),
        (2, 12),
        (2, 3, 4),
        (1, 2, 3, 4),
        (1, 1, 2, 3, 4),
        (1, 1, 2, 1, 3, 4),
        (1, 1, 1, 2, 1, 3, 4),
        (1, -1),
        (-1,),
        (2, -1, 4),
    ):
        yield f"to {list(shape)}", _moved(op, dtype, (2, 3, 4), (ints(*shape),))
    yield "shape in the options", _moved(op, dtype, (2, 3, 4), (), {"new_shape": (4, 6)})
    yield "one number to none", _moved(op, dtype, (1, 1), (np.zeros(0, np.int32),))
    yield "computed shape", _moved(op, dtype, (2, 3, 4), (ints(4, 6),), fixed=False)


@grid("SQUEEZE", forms=EVERY)
def _squeeze(op: str, dtype: str) -> Entries:
    for shape, dims in (
        ((1, 3, 1, 5), ()),
        ((1, 3, 1, 5), (0,)),
        ((1, 3, 1, 5), (2,)),
        ((1, 3, 1, 5), (-2,)),
        ((1, 1, 2, 1, 3), (0, 1)),
        ((1, 1), (1,)),
    ):
        yield f"{list(shape)} {list(dims)}", _moved(op, dtype, shape, (), {"squeeze_dims": dims})


@grid("EXPAND_DIMS", forms=EVERY)
def _expand(op: str, dtype: str) -> Entries:
    for shape in ((), (7,), (2, 3, 4), (1, 3, 4, 5), (2, 1, 3, 2, 4)):
        for axis in (0, -1, len(shape), len(shape) // 2):
            yield f"{list(shape)} at {axis}", _moved(op, dtype, shape, (ints(axis),))
    yield "axis without a vector", _moved(op, dtype, (2, 3, 4), (np.int32(1).reshape(()),))
    yield "int64 axis", _moved(op, dtype, (2, 3, 4), (ints(1, dtype="int64"),))


@grid("TRANSPOSE", forms=EVERY)
def _transpose(op: str, dtype: str) -> Entries:
    orders = [*permutations(range(2)), *permutations(range(3)), *permutations(range(4))]
    orders += [
        (0, 1, 2, 4, 3),
        (0, 4, 1, 2, 3),
        (4, 3, 2, 1, 0),
        (0, 2, 1, 3, 4),
        (0, 1, 3, 2, 4, 5),
        (5, 4, 3, 2, 1, 0),
        (0, 2, 1, 3, 4, 5, 6),
    ]
    for order in orders:
        shape = (2, 3, 4, 5, 2, 3, 2)[: len(order)]
        yield f"{list(order)}", _moved(op, dtype, shape, (ints(*order),))
    yield "batch 1", _moved(op, dtype, (1, 3, 4, 5), (ints(0, 3, 1, 2),))
    yield "computed order", _moved(op, dtype, (2, 3, 4), (ints(1, 0, 2),), fixed=False)


@grid("TILE", "BROADCAST_TO", forms=EVERY)
def _repeat(op: str, dtype: str) -> Entries:
    for kind in PLACES:
        for shape in SHAPES[1:]:
            sizes = [2 if position % 2 else 1 for position in range(len(shape))]
            if op == "BROADCAST_TO":
                sizes = [size if size > 1 else 3 for size in shape]
            yield f"{list(shape)} by {sizes} in {kind}", _moved(op, dtype, shape, (ints(*sizes, dtype=kind),))
        if op == "BROADCAST_TO":
            yield f"more dimensions in {kind}", _moved(op, dtype, (5,), (ints(2, 3, 5, dtype=kind),))
        else:
            yield f"all four in {kind}", _moved(op, dtype, (1, 2, 3, 4), (ints(2, 2, 2, 2, dtype=kind),))
    yield "computed", _moved(op, dtype, (1, 3), (ints(2, 3) if op == "BROADCAST_TO" else ints(2, 1),), fixed=False)


@grid("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", forms=EVERY)
def _blocks(op: str, dtype: str) -> Entries:
    for batch in (1, 2):
        for block in (2, 3):
            yield f"block {block}, batch {batch}", _moved(op, dtype, (batch, 6, 6, 36), (), {"block_size": block})


@grid("REVERSE_V2", forms=EVERY)
def _reverse(op: str, dtype: str) -> Entries:
    for shape in SHAPES[1:]:
        for axes in {(0,), (len(shape) - 1,), (-1,), (0, 1), (1,), (max(len(shape) - 2, 0),)}:
            if max(axes) < len(shape):
                yield f"{list(shape)} along {list(axes)}", _moved(op, dtype, shape, (ints(*axes),))


@grid("PAD", "PADV2", "MIRROR_PAD", forms=EVERY)
def _pad(op: str, dtype: str) -> Entries:
    def case(shape, widths, kind="int32", fixed=True, mode=1, value=None, computed=False):
        attrs = {"mode": mode} if op == "MIRROR_PAD" else {}
        made = _moved(op, dtype, shape, (np.asarray(widths, kind),), attrs, fixed=fixed)
        if op == "PADV2":
            operand(made, "value", values((1,), dtype, "v"), value or params(dtype), constant=not computed)
        return made

    for kind in PLACES:
        for shape in SHAPES[1:]:
            widths = [(1, 1) if 0 < position < 3 else (0, 0) for position in range(len(shape))]
            widths[0] = (1, 1) if len(shape) == 1 else widths[0]
            yield f"{list(shape)} {widths} in {kind}", case(shape, widths, kind)
    for widths in (
        ((0, 0), (1, 2), (2, 1), (0, 0)),
        ((0, 0), (0, 0), (0, 0), (1, 2)),
        ((1, 0), (0, 0), (0, 0), (0, 0)),
        ((1, 1), (1, 1), (1, 1), (1, 1)),
        ((0, 0), (0, 0), (0, 0), (0, 0)),
    ):
        for mode in (1, 0) if op == "MIRROR_PAD" else (1,):
            shape = (2, 4, 5, 6) if any(widths[0]) else (1, 4, 5, 6)
            yield f"{widths}{'' if mode else ', reflected'}", case(shape, widths, mode=mode)
    yield "computed widths", case((1, 4, 5, 6), ((0, 0), (1, 1), (1, 1), (0, 0)), fixed=False)
    if op == "PADV2":
        yield "computed value", case((1, 4, 5, 6), ((0, 0), (1, 1), (1, 1), (0, 0)), computed=True)
        if dtype == "int8":
            yield (
                "value of another scale",
                case((1, 4, 5, 6), ((0, 0), (1, 1), (1, 1), (0, 0)), value=params(dtype, 0.09)),
            )


@grid("SLICE", forms=EVERY)
def _slice(op: str, dtype: str) -> Entries:
    for kind in PLACES:
        for shape in SHAPES[1:]:
            begin = [1 if size > 2 else 0 for size in shape]
            sizes = [size - 1 if size > 2 else size for size in shape]
            yield (
                f"{list(shape)} in {kind}",
                _moved(op, dtype, shape, (ints(*begin, dtype=kind), ints(*sizes, dtype=kind))),
            )
        yield (
            f"the rest in {kind}",
            _moved(op, dtype, (1, 3, 4, 5), (ints(0, 1, 1, 2, dtype=kind), ints(-1, -1, 2, -1, dtype=kind))),
        )
        yield (
            f"half a batch in {kind}",
            _moved(op, dtype, (2, 3, 4, 5), (ints(1, 0, 0, 0, dtype=kind), ints(1, 3, 4, 5, dtype=kind))),
        )
    yield "computed begin", _moved(op, dtype, (1, 3, 4, 5), (ints(0, 1, 1, 2), ints(1, 2, 2, 2)), fixed=False)


@grid("STRIDED_SLICE", forms=EVERY)
def _strided(op: str, dtype: str) -> Entries:
    def case(shape, first, last, steps, fixed=True, **masks):
        attrs = {f"{name}_mask": masks.get(name, 0) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
        return _moved(op, dtype, shape, (ints(*first), ints(*last), ints(*steps)), attrs, fixed=fixed)

    for shape in SHAPES[1:]:
        ends = [max(size - 1, 1) for size in shape]
        yield f"{list(shape)}", case(shape, [0] * len(shape), ends, [1] * len(shape))
    for steps in ((1, 2, 1, 1), (1, 1, 2, 1), (1, 2, 2, 1), (1, 1, 1, 2), (2, 1, 1, 1), (1, 3, 3, 1), (1, 4, 1, 1)):
        yield f"steps {list(steps)}", case((2, 9, 8, 6), (0, 0, 0, 0), (2, 9, 8, 6), steps)
    yield "step -1 of rows", case((1, 5, 4, 3), (0, 4, 0, 0), (1, 0, 4, 3), (1, -1, 1, 1))
    yield "steps 2 of [4, 9]", case((4, 9), (0, 0), (4, 9), (1, 2))
    yield "steps 2 of [2, 9, 5]", case((2, 9, 5), (0, 0, 0), (2, 9, 5), (1, 2, 1))
    yield "negative ends", case((1, 5, 4, 3), (0, -4, -3, 0), (1, -1, -1, 3), (1, 1, 1, 1))
    yield "masks", case((1, 5, 4, 3), (0, 1, 1, 0), (1, 3, 3, 3), (1, 1, 1, 1), begin=3, end=6)
    yield "shrunk", case((1, 5, 4, 3), (0, 2, 0, 0), (1, 3, 4, 3), (1, 1, 1, 1), shrink_axis=2)
    yield "shrunk channel", case((1, 5, 4, 3), (0, 0, 0, 1), (1, 5, 4, 2), (1, 1, 1, 1), shrink_axis=8)
    yield "shrunk from the end", case((2, 5, 3), (0, -1, 0), (2, 0, 3), (1, 1, 1), shrink_axis=2, begin=5, end=5)
    yield "new axis", case((2, 5, 3), (0, 0, 0, 0), (0, 2, 5, 3), (1, 1, 1, 1), new_axis=1)
    yield "ellipsis", case((2, 5, 4, 3), (0, 0, 1), (0, 0, 3), (1, 1, 1), ellipsis=2, begin=1, end=1)
    yield "fewer numbers than dimensions", case((2, 5, 4, 3), (0, 1), (2, 4), (1, 1))
    yield "computed begin", case((1, 5, 4, 3), (0, 1, 0, 0), (1, 4, 4, 3), (1, 1, 1, 1), fixed=False)


@grid("GATHER", forms=EVERY)
def _gather(op: str, dtype: str) -> Entries:
    def case(shape, places, axis=0, batches=0, kind="int32", fixed=True):
        return _moved(op, dtype, shape, (np.asarray(places, kind),), {"axis": axis, "batch_dims": batches}, fixed=fixed)

    for kind in (*PLACES, "int16"):
        for fixed in (True, False):
            for shape in ((7,), (5, 4), (3, 2, 5), (2, 3, 4, 5), (2, 1, 3, 2, 4)):
                for axis in {0, len(shape) - 1, -1}:
                    yield (
                        f"{list(shape)} axis {axis}, {kind}, {'constant' if fixed else 'computed'}",
                        case(shape, (0, 1, 1), axis, 0, kind, fixed),
                    )
    yield "one place", case((5, 4), 2)
    yield "places of two dimensions", case((5, 4), ((0, 2), (1, 4)))
    yield "batches", case((2, 5, 4), ((0, 1), (4, 2)), 1, 1)
    yield "batches and axis", case((2, 5, 4), ((0, 1), (3, 2)), 2, 1)
    yield "table", case((100, 16), (3, 50, 99), 0, 0, "int32", False)


@grid("GATHER_ND", forms=EVERY)
def _gather_nd(op: str, dtype: str) -> Entries:
    for kind in PLACES:
        for places in (((1,), (0,)), ((0, 1), (1, 2)), ((0, 1, 2), (1, 0, 3)), (((0, 1),), ((1, 1),))):
            yield f"{np.shape(places)} {kind}", _moved(op, dtype, (2, 3, 4), (np.asarray(places, kind),))
            yield (
                f"{np.shape(places)} {kind}, computed",
                _moved(op, dtype, (2, 3, 4), (np.asarray(places, kind),), fixed=False),
            )


@grid("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", forms=EVERY)
def _batches(op: str, dtype: str) -> Entries:
    to_batch = op == "SPACE_TO_BATCH_ND"
    for edges in (((0, 0), (0, 0)), ((2, 0), (0, 2)) if to_batch else ((1, 0), (0, 1))):
        yield (
            f"four dimensions, {edges}",
            _moved(op, dtype, (1, 4, 6, 3) if to_batch else (4, 2, 3, 3), (ints(2, 2), ints(*edges))),
        )
    yield "three dimensions", _moved(op, dtype, (1, 4, 3) if to_batch else (2, 2, 3), (ints(2), ints((0, 0))))
    yield "block 1x2", _moved(op, dtype, (1, 4, 6, 3) if to_batch else (4, 2, 3, 3), (ints(1, 2), ints((0, 0), (0, 0))))
    yield (
        "computed",
        _moved(
            op,
            dtype,
            (1, 4, 6, 3) if to_batch else (4, 2, 3, 3),
            (ints(2, 2), ints((2, 0), (0, 2)) if to_batch else ints((0, 0), (0, 0))),
            fixed=False,
        ),
    )


@grid("SPLIT", "SPLIT_V", "UNPACK", forms=EVERY)
def _cut(op: str, dtype: str) -> Entries:
    for shape in ((6,), (4, 6), (2, 4, 6), (1, 4, 4, 6), (2, 4, 4, 6), (2, 1, 4, 2, 6)):
        for axis in {0, -1, len(shape) // 2}:
            size = shape[axis]
            if op == "UNPACK":
                yield (
                    f"{list(shape)} along {axis}",
                    _moved(op, dtype, shape, (), {"num": size, "axis": axis}, count=size),
                )
            elif op == "SPLIT_V":
                sizes = (1, size - 1) if size > 1 else (1,)
                arrays = (ints(*sizes), np.int32(axis).reshape(()))
                yield (
                    f"{list(shape)} along {axis}",
                    _moved(op, dtype, shape, arrays, {"num_splits": len(sizes)}, count=len(sizes)),
                )
                if len(sizes) > 1:
                    arrays = (ints(1, -1), np.int32(axis).reshape(()))
                    yield (
                        f"{list(shape)} along {axis}, the rest",
                        _moved(op, dtype, shape, arrays, {"num_splits": 2}, count=2),
                    )
                    arrays = (ints(*sizes, dtype="int64"), np.int32(axis).reshape(()))
                    yield (
                        f"{list(shape)} along {axis}, in int64",
                        _moved(op, dtype, shape, arrays, {"num_splits": 2}, count=2),
                    )
            else:
                for parts in {size, 2}:
                    if size % parts == 0:
                        made = built(op, dtype, {"num_splits": parts}).constant("axis", np.int32(axis).reshape(()))
                        made.fed("x", values(shape, dtype), params(dtype))
                        yield f"{list(shape)} along {axis} in {parts}", made.gives(dtype, params(dtype), parts)
                        made = built(op, dtype, {"num_splits": parts}).constant("axis", ints(axis))
                        made.fed("x", values(shape, dtype), params(dtype))
                        yield f"{list(shape)} along {[axis]} in {parts}", made.gives(dtype, params(dtype), parts)


@grid("PACK", "CONCATENATION", forms=EVERY)
def _joined(op: str, dtype: str) -> Entries:
    def case(shape, axis, count=2, fixed=(), other=None, fused="NONE"):
        attrs = {"axis": axis} | ({"values_count": count} if op == "PACK" else {"fused_activation_function": fused})
        made = built(op, dtype, attrs)
        for number in range(count):
            quant = other if other and number == count - 1 else params(dtype)
            operand(made, f"x{number}", values(shape, dtype, str(number)), quant, constant=number in fixed)
        return made.gives(dtype, params(dtype))

    for shape in SHAPES if op == "PACK" else SHAPES[1:]:
        for axis in {0, -1, len(shape) // 2}:
            yield f"{list(shape)} along {axis}", case(shape, axis)
    for count in (1, 5, 12):
        yield f"{count} inputs", case((1, 3, 4, 5), 3, count)
    yield "a constant", case((1, 3, 4, 5), 3, 3, (1,))
    yield "a constant first", case((1, 3, 4, 5), 3, 2, (0,))
    if op == "CONCATENATION":
        yield "RELU", case((1, 3, 4, 5), 3, fused="RELU")
        if dtype in QUANTIZED:
            yield "other scale", case((1, 3, 4, 5), 3, other=params(dtype, 0.09))


@grid("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", forms=("int8", "int16", "float32"))
def _resize(op: str, dtype: str) -> Entries:
    sizes = (
        ((1, 4, 4, 3), (8, 8)),
        ((1, 4, 4, 3), (16, 16)),
        ((1, 4, 4, 3), (32, 32)),
        ((1, 4, 4, 3), (64, 64)),
        ((1, 4, 4, 3), (12, 12)),
        ((1, 4, 4, 3), (4, 4)),
        ((1, 4, 4, 3), (2, 2)),
        ((1, 4, 4, 3), (7, 7)),
        ((1, 4, 4, 3), (6, 6)),
        ((1, 4, 4, 3), (8, 4)),
        ((1, 4, 4, 3), (8, 16)),
        ((1, 1, 1, 3), (5, 7)),
        ((1, 1, 4, 3), (1, 8)),
        ((1, 4, 1, 3), (8, 1)),
        ((1, 1, 4, 3), (2, 8)),
        ((2, 4, 4, 3), (8, 8)),
        ((1, 3, 5, 2), (5, 9)),
        ((1, 2, 2, 1), (3, 3)),
        ((1, 4, 6, 3), (7, 11)),
    )
    for align, half in ((False, False), (False, True), (True, False)):
        for shape, size in sizes:
            attrs = {"align_corners": align, "half_pixel_centers": half}
            mode = ", corners aligned" if align else ", pixels halved" if half else ""
            what = f"{list(shape)} to {list(size)}{mode}"
            yield what, _moved(op, dtype, shape, (ints(*size),), attrs)
    yield (
        "computed size",
        _moved(
            op, dtype, (1, 4, 4, 3), (ints(8, 8),), {"align_corners": False, "half_pixel_centers": False}, fixed=False
        ),
    )


@grid("CUMSUM", forms=EVERY)
def _cumulated(op: str, dtype: str) -> Entries:
    for exclusive in (False, True):
        for axis in (0, 2, -1):
            yield (
                f"axis {axis}{', exclusive' if exclusive else ''}",
                _moved(
                    op, dtype, (2, 3, 4), (np.int32(axis).reshape(()),), {"exclusive": exclusive, "reverse": exclusive}
                ),
            )


@grid("DYNAMIC_UPDATE_SLICE", forms=EVERY)
def _updated(op: str, dtype: str) -> Entries:
    for kind in PLACES:
        for fixed in (False, True):
            made = (
                built(op, dtype)
                .fed("x", values((1, 8, 4), dtype), params(dtype))
                .fed("u", values((1, 2, 4), dtype, "u"), params(dtype))
            )
            operand(made, "s", ints(0, 3, 0, dtype=kind), None, constant=fixed)
            yield f"places in {kind}, {'constant' if fixed else 'fed'}", made.gives(dtype, params(dtype))


@grid("TOPK_V2", forms=EVERY)
def _top(op: str, dtype: str) -> Entries:
    made = built(op, dtype).fed("x", values((2, 10), dtype), params(dtype)).constant("k", np.int32(3).reshape(()))
    made.gives(dtype, params(dtype), 2)
    made.outputs[1] = replace(made.outputs[1], dtype="int32", quant=None)
    yield "three", made


@grid("SHAPE", "RANK", forms=EVERY)
def _described(op: str, dtype: str) -> Entries:
    for out, code in (("int32", 2), ("int64", 4)):
        if op == "SHAPE" or out == "int32":
            made = built(op, dtype, {"out_type": code} if op == "SHAPE" else {}).fed(
                "x", values((2, 3, 4), dtype), params(dtype)
            )
            yield f"to {out}", made.gives(out, None)


@grid("FILL", forms=EVERY)
def _filled(op: str, dtype: str) -> Entries:
    for kind in PLACES:
        for fixed in (True, False):
            made = built(op, dtype)
            operand(made, "size", ints(2, 3, dtype=kind), None, constant=fixed)
            yield (
                f"{kind} sizes, {'constant' if fixed else 'fed'}",
                made.fed("value", values((), dtype), params(dtype)).gives(dtype, params(dtype)),
            )


@grid("WHERE", forms=EVERY)
def _where(op: str, dtype: str) -> Entries:
    yield "places", built(op, dtype).fed("x", values((2, 5), dtype), params(dtype)).gives("int64", None)


@grid("RANGE", forms=("float32", "int32"))
def _range(op: str, dtype: str) -> Entries:
    made = built(op, dtype)
    for name, number in (("first", 0), ("limit", 5), ("step", 1)):
        operand(made, name, np.asarray(number, dtype), None, constant=name != "first")
    yield "five", made.gives(dtype, None)


@grid("ONE_HOT", forms=("float32", "int32", "int8", "bool"))
def _one_hot(op: str, dtype: str) -> Entries:
    made = built(op, dtype, {"axis": -1}).fed("places", ints(0, 2, 5), None)
    made.constant("depth", np.int32(6).reshape(())).constant("on", np.asarray(1, dtype)).constant(
        "off", np.asarray(0, dtype)
    )
    yield "of six", made.gives(dtype, None)


@grid("EMBEDDING_LOOKUP", forms=("float32", "float32*int8", "float32*int4"))
def _looked_up(op: str, form: str) -> Entries:
    dtype = form.partition("*")[2] or "float32"
    for channels in (False, True):
        if dtype == "float32" and channels:
            continue
        made = built(op, form).fed("x", ints(0, 2, 5), None)
        scales = tuple(0.01 * (i + 1) for i in range(10 if channels else 1))
        quant = None if dtype == "float32" else QuantParams(dtype, scales, (0,) * len(scales), 0 if channels else None)
        made.constant("w", values((10, 16), dtype), quant, None if dtype == "float32" else dtype)
        yield "a scale per row" if channels else "one scale", made.gives("float32", None)
