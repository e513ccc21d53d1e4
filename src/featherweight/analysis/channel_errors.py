"""The error of a tensor channel by channel: its own ratio hides a channel of small values beside large ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featherweight.analysis.tensor_errors import power_ratio_db

# Tensors of more channels (rows of a table, classes of a vocabulary) are looked at as a whole.
_MOST_CHANNELS = 16384


@dataclass
class ChannelSums:
    """Sums over the values of each channel, index along `axis`, of many runs."""

    axis: int = -1
    signal: np.ndarray | float = 0.0
    noise: np.ndarray | float = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds float values and their counterparts, of one shape; what is not finite is left out."""
        if x.ndim < 2 or not 1 < x.shape[self.axis] <= _MOST_CHANNELS:
            return
        rest = tuple(d for d in range(x.ndim) if d != self.axis % x.ndim)
        with np.errstate(invalid="ignore", over="ignore"):  # masks are beyond float32's roots
            squares = np.square(x, dtype=np.float64), np.square(np.subtract(x, y, dtype=np.float64))
        is_plain = np.isfinite(squares[1])
        squares = squares if is_plain.all() else tuple(np.where(is_plain, each, 0) for each in squares)
        self.signal, self.noise = (
            have + each.sum(axis=rest) for have, each in zip((self.signal, self.noise), squares, strict=True)
        )

    def worst(self) -> tuple[int, float] | None:
        """Returns (channel, ratio in dB) of the lowest ratio; None without channels; channels of zeros are left out.

        >>> sums = ChannelSums()
        >>> sums.add(np.float32([[100, 1, 0]]), np.float32([[99, 0, 0]]))
        >>> sums.worst()
        (1, 0.0)
        """
        pairs = list(zip(np.atleast_1d(self.signal).tolist(), np.atleast_1d(self.noise).tolist(), strict=True))
        levels = {i: power_ratio_db(*pair) for i, pair in enumerate(pairs) if pair[0] > 0}
        if len(pairs) < 2 or not levels:
            return None
        index = min(levels, key=lambda i: levels[i])
        return index, levels[index]
