"""What becomes of the values of one tensor in two models: sums over many runs, and the row that they come to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from featherweight.analysis.channel_errors import ChannelSums
from featherweight.analysis.tensor_errors import ErrorSums, cosine, error_sums, power_ratio_db
from featherweight.graph.numerics import QuantParams, dequantize, quantize


@dataclass(frozen=True)
class TensorError:
    """The error of one tensor of the second model against the first, over all samples.

    With x the first model's value and e its error: `sqnr_db` is 10 log10(Σx²/Σe²), inf without error; `mse` is the
    mean of e², and is `rounding_mse + clipping_mse`: clipping is the part at values outside of the range that the
    tensor's integers can hold, rounding all the rest, error inherited from earlier tensors included.
    `own_sqnr_db` is the SQNR of just quantizing x with the tensor's parameters: where it is far above `sqnr_db`,
    the error came from upstream. It is None where the tensor has no integers behind it, where the first model has
    integers too, and for weights, where it would be `sqnr_db` itself.

    Attributes:
        layer: the user's name of the layer of `op`, as far as names tell.
        kind: ``output`` (name is the public one), ``activation`` or ``weight``.
        op: the operator that computes the tensor in the first model; for weights the one that reads it.
        dtype: how the second model stores the tensor.
        clipped_fraction: fraction (0..1) of values outside of the integers' range.
        skipped: number of values that are not finite in the first model; they are left out.
        differing_fraction: fraction (0..1) of values with any error.
        largest_steps: `max_abs_error` in steps of the second model's integers; None where they have no single scale.
        worst_channel: the index along the last axis (of weights with a scale per channel: along that axis) whose SQNR
            is lowest; None where there are none. Of outputs, these are columns.
        worst_channel_db: its SQNR.
        operator_sqnr_db: the SQNR if the operator that computes the tensor were the only one to round: it reads the
            first model's values, its weights and its results are the second's. None where it can't be told apart.
        inherited_sqnr_db: the SQNR with just the error that comes to the operator: y is held against what it gives
            alone. `operator_sqnr_db` and this are what makes up `sqnr_db`.
    """

    name: str
    kind: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    sqnr_db: float
    own_sqnr_db: float | None
    mse: float
    rounding_mse: float
    clipping_mse: float
    clipped_fraction: float
    cosine: float
    max_abs_error: float
    count: int
    skipped: int
    differing_fraction: float
    largest_steps: float | None
    layer: str = ""
    worst_channel: int | None = None
    worst_channel_db: float | None = None
    operator_sqnr_db: float | None = None
    inherited_sqnr_db: float | None = None


@dataclass(frozen=True, eq=False)
class Compared:
    """One thing to compare: tensors of both models, and the parameters of the integers behind the second.

    `is_rounded` is true where the first model's values are not themselves integers on a grid.
    """

    name: str
    kind: str
    op: str
    tensor: str
    other_tensor: str
    dtype: str
    params: QuantParams | None
    layer: str
    is_rounded: bool = True


class TensorSums:
    """What the rows of one tensor are computed from, over many runs."""

    def __init__(self, pair: Compared) -> None:
        self.pair = pair
        self.whole, self.own, self.operator, self.inherited = (ErrorSums() for _ in range(4))
        self.channels = ChannelSums()

    def add(self, x: np.ndarray, y: np.ndarray, alone: np.ndarray | None) -> None:
        """Adds the values of both models, and what the operator gives alone."""
        params = self.pair.params
        self.whole += error_sums(x, y, params)
        self.channels.add(x, y)
        if params is not None and self.pair.is_rounded:
            self.own += error_sums(x, _requantized(x, params))
        if alone is not None and alone.shape == x.shape:
            self.operator += error_sums(x, alone)
            self.inherited += error_sums(alone, y)

    def row(self, shape: tuple[int, ...]) -> TensorError:
        """Returns what it comes to."""
        made = tensor_row(self.pair, shape, self.whole, self.own, self.channels)
        signal = self.operator.signal
        if not self.operator.count or not self.pair.is_rounded:
            return made
        levels = [power_ratio_db(signal, sums.noise) for sums in (self.operator, self.inherited)]
        return replace(made, operator_sqnr_db=levels[0], inherited_sqnr_db=levels[1])


def _requantized(x: np.ndarray, params: QuantParams) -> np.ndarray:
    x = np.nan_to_num(x, nan=0.0)
    return dequantize(quantize(x, params), params)


def tensor_row(
    pair: Compared, shape: tuple[int, ...], sums: ErrorSums, own: ErrorSums | None, channels: ChannelSums
) -> TensorError:
    """Returns the row of a tensor; `own` are the sums of just quantizing the first model's values, if there are any."""
    count = max(sums.count, 1)
    worst = channels.worst()
    is_finite = np.isfinite(sums.noise)
    rounding = sums.noise - sums.clipping_noise if is_finite else sums.noise
    scales = pair.params.scale if pair.params is not None else ()
    return TensorError(
        name=pair.name,
        kind=pair.kind,
        op=pair.op,
        shape=shape,
        dtype=pair.dtype,
        sqnr_db=power_ratio_db(sums.signal, sums.noise),
        own_sqnr_db=None if own is None or own.count == 0 else power_ratio_db(own.signal, own.noise),
        mse=sums.noise / count,
        rounding_mse=max(rounding, 0.0) / count,
        clipping_mse=sums.clipping_noise / count,
        clipped_fraction=sums.clipped / count,
        cosine=cosine(sums),
        max_abs_error=sums.largest,
        count=sums.count,
        skipped=sums.skipped,
        differing_fraction=sums.differing / count,
        largest_steps=sums.largest / scales[0] if len(scales) == 1 else None,
        layer=pair.layer,
        worst_channel=None if worst is None else worst[0],
        worst_channel_db=None if worst is None else worst[1],
    )
