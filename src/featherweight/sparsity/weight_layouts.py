"""How the runtime reads the kernels that a framework stores in another order of axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How the runtime reads a kernel that a framework stores in another order of axes.

    The kernel transposed by `axes` begins with its output channels and ends with the inputs that the runtime reads one
    after the other; between them lie the positions of a convolution:

    | kernel | stored | as the runtime reads it |
    |---|---|---|
    | dense, recurrent | (in, out) | (out, in) |
    | convolution | (kh, kw, in, out) | (out, kh, kw, in) |
    | transposed convolution | (kh, kw, out, in) | (out, kh, kw, in) |
    | depthwise convolution | (kh, kw, in, multiplier) | (1, kh, kw, in × multiplier) |
    | embedding | (vocabulary, features) | (vocabulary, features) |

    Attributes:
        shape: the kernel's shape as it is stored.
        axes: the order of its axes that the runtime reads.
        outputs: how many axes, at the front, are rows.
        inputs: how many axes, at the back, are columns: read one after the other.
        gates: how many matrices of a recurrent cell lie below each other in the rows.
        has_channels_last: whether the output channels are the columns (depthwise convolutions, embeddings).
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    outputs: int = 1
    inputs: int = 1
    gates: int = 1
    has_channels_last: bool = False

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(gates, rows, positions, columns)."""
        sizes = [self.shape[axis] for axis in self.axes]
        middle = len(sizes) - self.inputs
        rows, positions = math.prod(sizes[: self.outputs]), math.prod(sizes[self.outputs : middle])
        return self.gates, rows // self.gates, positions, math.prod(sizes[middle:])

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def runtime_layout(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a weight that is stored as the runtime reads it: (out, in) or (out, kh, kw, in).

    >>> runtime_layout((8, 3, 3, 4)).view_shape
    (1, 8, 9, 4)
    """
    return Layout(shape, tuple(range(len(shape))))


def dense_layout(shape: tuple[int, ...], gates: int = 1) -> Layout:
    """Returns the layout of a kernel (in, out); `gates` matrices of a recurrent cell lie beside each other in `out`.

    >>> dense_layout((4, 8)).view_shape
    (1, 8, 1, 4)
    """
    return Layout(shape, (1, 0), gates=gates)


def conv_layout(shape: tuple[int, ...], gates: int = 1) -> Layout:
    """Returns the layout of a kernel (positions ..., in, out).

    >>> conv_layout((3, 3, 4, 8)).view_shape
    (1, 8, 9, 4)
    """
    rank = len(shape)
    return Layout(shape, (rank - 1, *range(rank - 1)), gates=gates)


def transposed_conv_layout(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a kernel (positions ..., out, in).

    >>> transposed_conv_layout((3, 3, 8, 4)).view_shape
    (1, 8, 9, 4)
    """
    rank = len(shape)
    return Layout(shape, (rank - 2, *range(rank - 2), rank - 1))


def depthwise_layout(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a kernel (positions ..., in, multiplier), whose channels the runtime reads last.

    >>> depthwise_layout((3, 3, 4, 2)).view_shape
    (1, 1, 9, 8)
    """
    return Layout(shape, tuple(range(len(shape))), outputs=0, inputs=2, has_channels_last=True)


def embedding_layout(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a table (vocabulary, features).

    >>> embedding_layout((50, 8)).view_shape
    (1, 50, 1, 8)
    """
    return Layout(shape, (0, 1), has_channels_last=True)


def view(xp: Any, values: Any, layout: Layout) -> Any:
    """Returns a kernel as (gates, rows, positions, columns); `xp` is ``numpy`` or ``keras.ops``."""
    return xp.reshape(xp.transpose(values, layout.axes), layout.view_shape)


def unview(xp: Any, values: Any, layout: Layout) -> Any:
    """Undoes `view`."""
    sizes = tuple(layout.shape[axis] for axis in layout.axes)
    inverse = tuple(layout.axes.index(axis) for axis in range(len(sizes)))
    return xp.transpose(xp.reshape(values, sizes), inverse)
