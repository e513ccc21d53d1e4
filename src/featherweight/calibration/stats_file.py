"""Statistics as a file: JSON of which the same statistics give the same bytes, whatever was merged in which order."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.calibration.details import Magnitudes
from featherweight.calibration.histogram import BINS, Histogram
from featherweight.calibration.stats import ChannelMoments, Stats, TensorStats
from featherweight.errors import DataError
from featherweight.tflite import write_atomically

FORMAT = 1
_KEYS = ("format", "samples", "tensors")


def save_stats(stats: Stats, path: str | Path) -> None:
    """Writes statistics as JSON, atomically; `load_stats` reads them without loss.

    Raises:
        FeatherweightError: if the file can't be written; one that was there stays.
    """
    rows = {name: _packed(stats.tensors[name]) for name in sorted(stats.tensors)}
    content = json.dumps({"format": FORMAT, "samples": stats.samples, "tensors": rows}, indent=1, allow_nan=False)
    write_atomically(path, [f"{content}\n".encode()])


def load_stats(path: str | Path) -> Stats:
    """Reads what `save_stats` wrote.

    Raises:
        DataError: if the file can't be read, or holds no statistics.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"load_stats: path is {shown(path)} (allowed: the path of a file that Stats.save wrote).")
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Statistics '{path}' can't be read: {error}. Write them with Stats.save.") from error
    if not isinstance(content, dict) or sorted(content) != sorted(_KEYS) or content["format"] != FORMAT:
        raise DataError(f"'{path}' holds no statistics of format {FORMAT}. Record or calibrate again, and save that.")
    try:
        tensors = {str(name): _unpacked(row) for name, row in content["tensors"].items()}
        return Stats(int(content["samples"]), tensors)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"Statistics '{path}' are damaged ({type(error).__name__}: {error}). Record or calibrate again."
        ) from error


def _packed(stats: TensorStats) -> dict[str, Any]:
    row: dict[str, Any] = {"count": stats.count, "low": stats.low, "high": stats.high}
    row |= {name: value for name in ("peak", "is_masked") if (value := getattr(stats, name)) is not None}
    row |= {"is_infinite": True} if stats.is_infinite else {}
    if stats.histogram is not None:
        each = stats.histogram
        row["histogram"] = {
            "exponent": each.exponent,
            "counts": _text(each.counts),
            "zeros": each.zeros,
            "counted": each.counted,
        }
    if stats.magnitudes is not None:
        row["magnitudes"] = {"keys": _text(stats.magnitudes.keys), "counts": _text(stats.magnitudes.counts)}
    if stats.channels is not None:
        each = stats.channels
        row["channels"] = {
            "count": each.count,
            "sums": _text(each.sums),
            "squares": _text(each.squares),
            "number": each.sums.shape[1],
        }
    return row


def _unpacked(row: dict[str, Any]) -> TensorStats:
    histogram = magnitudes = channels = None
    if (found := row.pop("histogram", None)) is not None:
        counts = _array(found["counts"], np.int64)
        if counts.size != 2 * BINS - 1:
            raise ValueError(f"a histogram of {counts.size} bins")
        histogram = Histogram(int(found["exponent"]), counts, int(found["zeros"]), int(found["counted"]))
    if (found := row.pop("magnitudes", None)) is not None:
        magnitudes = Magnitudes(_array(found["keys"], np.uint16), _array(found["counts"], np.int64))
    if (found := row.pop("channels", None)) is not None:
        sums, squares = (
            _array(found[name], np.int64).reshape(-1, int(found["number"])) for name in ("sums", "squares")
        )
        channels = ChannelMoments(int(found["count"]), sums, squares)
    low, high = float(row.pop("low")), float(row.pop("high"))
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ValueError(f"a range from {low} to {high}")
    return TensorStats(
        int(row.pop("count")), low, high, histogram=histogram, channels=channels, magnitudes=magnitudes, **row
    )


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _array(text: str, dtype: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), np.dtype(dtype).newbyteorder("<")).astype(dtype)
