"""PyTorch operations that litert-torch has no word for, or a wrong one, in operations that it lowers.

Each function computes what its operation does for the arguments that it understands, and returns NotImplemented for
others, which stay as they are. `torch.export` puts them in place of the operations.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial, reduce
from typing import Any

from featherweight.errors import LoweringError

_MOST_AXES_OF_POWERS, _LARGEST_PRODUCT = 4, 4


def decomposed(program: Any) -> Any:
    """Returns an exported program with the operations of this module written in others; the same one without any."""
    import torch

    table = _table()
    scaled = _table_of_scaled() if any("alpha" in node.kwargs for node in program.graph.nodes) else {}
    if not scaled and not any(node.target in table for node in program.graph.nodes):
        return program
    with torch.no_grad():
        return program.run_decompositions({**table, **scaled})


def hide_first_constants(program: Any) -> None:
    """Hides constants that come first in differences and quotients, in place: the converter would put them last.

    `rewrites.constants_first` says where. A reciprocal is a quotient of one.
    """
    import torch
    from litert_torch.backend.optimization_barrier import optimization_barrier_op as barrier

    aten = torch.ops.aten
    graph, fed = program.graph_module.graph, program.graph_signature.user_inputs
    ordered = (aten.sub.Tensor, aten.div.Tensor, aten.div.Tensor_mode)
    constant: set[Any] = set()

    def made(target: Any, *args: Any) -> Any:
        """A call of what is made before `node`, with the value that says its shape and type."""
        new = graph.call_function(target, args)
        values = torch.fx.node.map_arg(args, lambda arg: arg.meta["val"])
        new.meta = {**node.meta, "val": target(*values)}
        return new

    for node in list(graph.nodes):
        is_full = node.target == aten.full_like.default or not node.all_input_nodes
        if node.op == "placeholder" and node.name not in fed:
            constant.add(node)
        if node.op != "call_function":
            continue
        if is_full or all(item in constant for item in node.all_input_nodes):
            constant.add(node)
            continue
        is_inverse = node.target == aten.reciprocal.default
        if not is_inverse and (node.target not in ordered or node.args[1] in constant or _is_fed(node, constant)):
            continue
        with graph.inserting_before(node), node.meta["val"].fake_mode:
            first = 1 if is_inverse else node.args[0]
            if not isinstance(first, torch.fx.Node):
                first = made(torch.full, (), first)
            hidden = made(operator.getitem, made(barrier, (first, first)), 0)  # Of one, its lowering gives no tuple.
        if is_inverse:
            node.target, node.args = aten.div.Tensor, (hidden, node.args[0])
        else:
            node.update_arg(0, hidden)
    graph.lint()


def _is_fed(node: Any, constant: Collection[Any]) -> bool:
    first = node.args[0]
    return hasattr(first, "op") and first not in constant


@contextlib.contextmanager
def bags_as_lookups() -> Generator[None]:
    """Lets `embedding_bag` look rows of ids up and sum, for a while: its own operation hides that they are rows."""
    from torch.nn import functional

    original = functional.embedding_bag
    functional.embedding_bag = _embedding_bag_of(original)
    try:
        yield
    finally:
        functional.embedding_bag = original


def _table() -> dict[Any, Callable[..., Any]]:
    import torch

    aten = torch.ops.aten
    return {
        aten.convolution.default: _transposed_convolution,
        aten.sort.default: _sort,
        aten.sort.stable: _stable_sort,
        aten.median.dim: _median,
        aten.pow.Tensor_Scalar: _power,
        aten.pow.Scalar: _power_of_constant,
    }


def _table_of_scaled() -> dict[Any, Callable[..., Any]]:
    import torch

    aten = torch.ops.aten
    return {aten.add.Tensor: partial(_scaled, torch.add), aten.sub.Tensor: partial(_scaled, torch.sub)}


def _scaled(function: Callable[..., Any], x: Any, other: Any, *, alpha: float = 1) -> Any:
    """x ± alpha · other."""
    return NotImplemented if alpha == 1 else function(x, other * alpha)


def _transposed_convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """A transposed convolution without padding, of which the ends are cut off, or zeros appended.

    Without any padding an output has (n − 1)·stride + (kernel − 1)·dilation + 1 values; `padding` cuts from both ends,
    `output_padding` leaves more at the second. Where that is what SAME does, the operator does it itself.
    """
    import torch
    from torch.nn import functional

    dimensions = x.ndim - 2
    if transposed and dimensions == 3:
        raise LoweringError(
            "ConvTranspose3d has no operator that litert-torch can write (one of 1 or 2 dimensions has). Put "
            "nn.Upsample and nn.Conv3d in its place, or build the layer as Keras's Conv3DTranspose, which is lowered."
        )
    if not transposed or dimensions not in (1, 2):
        return NotImplemented
    wide = dimensions == 1
    is_plain = _is_same(weight, stride, padding, output_padding) or not any((*padding, *output_padding))
    if not wide and is_plain and all(hole == 1 for hole in dilation):
        return NotImplemented
    if wide:  # The operator is two-dimensional.
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
        stride, dilation, padding = ((1, *stride), (1, *dilation), (0, *padding))
        output_padding = (0, *output_padding)
    for axis, hole in enumerate(dilation, 2):
        weight = _with_holes(weight, axis, hole)
    y = torch.ops.aten.convolution.default(x, weight, None, stride, [0, 0], [1, 1], True, [0, 0], groups)
    for axis, (cut, more) in enumerate(zip(padding, output_padding, strict=True), 2):
        y = y.narrow(axis, cut, y.shape[axis] - cut - max(cut - more, 0))
    appended = [max(more - cut, 0) for cut, more in zip(padding, output_padding, strict=True)]
    if any(appended):
        y = functional.pad(y, (0, appended[1], 0, appended[0]))
    y = y.squeeze(2) if wide else y
    return y if bias is None else y + bias.reshape(-1, *(1,) * dimensions)


def _is_same(weight: Any, stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int]) -> bool:
    """True where SAME padding cuts the same numbers of values from both ends."""
    sizes = zip(weight.shape[2:], stride, padding, output_padding, strict=True)
    return all(size - step == 2 * cut and not more for size, step, cut, more in sizes)


def _with_holes(weight: Any, axis: int, hole: int) -> Any:
    """A dilated kernel written out, zeros between its taps: the operator has no dilation."""
    import torch

    if hole == 1:
        return weight
    taps = weight.unsqueeze(axis + 1)
    nothing = torch.zeros_like(taps)
    wide = torch.cat([taps, *[nothing] * (hole - 1)], axis + 1).flatten(axis, axis + 1)
    return wide.narrow(axis, 0, (weight.shape[axis] - 1) * hole + 1)


def _sort(x: Any, dim: int = -1, descending: bool = False) -> Any:
    import torch

    if not x.ndim:
        return NotImplemented
    return torch.topk(x, x.shape[dim], dim, largest=descending)


def _stable_sort(x: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    return _sort(x, dim, descending)


def _median(x: Any, dim: int, keepdim: bool = False) -> Any:
    """The lower one of the two in the middle."""
    import torch

    size = x.shape[dim]
    values, places = torch.topk(x, (size + 1) // 2, dim, largest=False)
    values, places = values.narrow(dim, -1, 1), places.narrow(dim, -1, 1)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _power(x: Any, exponent: float) -> Any:
    """Powers of more than four axes, which the converter has no operator for: products, or a power of one axis."""
    if x.ndim <= _MOST_AXES_OF_POWERS:
        return NotImplemented
    if exponent == int(exponent) and 1 <= exponent <= _LARGEST_PRODUCT:
        return reduce(operator.mul, [x] * int(exponent))
    return (x.reshape(-1) ** exponent).reshape(x.shape)


def _power_of_constant(base: float, x: Any) -> Any:
    return NotImplemented if x.ndim <= _MOST_AXES_OF_POWERS else (base ** x.reshape(-1)).reshape(x.shape)


def _embedding_bag_of(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `torch.nn.functional.embedding_bag` for rows of ids; the original for all else."""

    def embedding_bag(
        input: Any,  # noqa: A002 (torch's name)
        weight: Any,
        offsets: Any = None,
        max_norm: Any = None,
        norm_type: float = 2,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        per_sample_weights: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Any:
        import torch
        from torch.nn import functional

        if offsets is not None:
            raise LoweringError(
                "EmbeddingBag with offsets sums bags of any length, for which LiteRT has no operator. Pass rows of ids "
                "(n, length) without offsets, filled up with the id that padding_idx names."
            )
        if input.ndim != 2 or max_norm is not None:
            given = (offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights)
            return original(input, weight, *given, include_last_offset, padding_idx)
        rows = functional.embedding(input, weight)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.unsqueeze(-1)
        if padding_idx is None:
            return {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[mode](rows, dim=1)
        counted = (input != padding_idx % weight.shape[0]).unsqueeze(-1)
        if mode == "max":
            lowest = torch.where(counted, rows, torch.full_like(rows, -math.inf)).amax(1)
            return torch.where(counted.any(1), lowest, torch.zeros_like(lowest))
        total = (rows * counted).sum(1)
        return total if mode == "sum" else total / counted.sum(1).clamp(min=1)

    return embedding_bag
