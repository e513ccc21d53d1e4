"""How large a model's file is, and how large when it is compressed."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from featherweight import tflite
from featherweight.errors import FormatError
from featherweight.graph import Model
from featherweight.runtime.progress import track

_COPY_BYTES = 1 << 20


def sizes_bytes(
    source: Model | str | Path | bytes, *, compress: bool = True, progress: bool = False
) -> tuple[int, int | None]:
    """Returns (bytes of the file, bytes of it deflated at level 6, as zip does); the second is None if not asked for.

    Raises:
        FormatError: if the file can't be read.
    """
    if isinstance(source, Model):
        source = tflite.write(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return len(source), _deflated_bytes(np.frombuffer(source, np.uint8), progress) if compress else None
    path = Path(source)
    try:
        if not compress:
            return path.stat().st_size, None
        content: np.ndarray = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise FormatError(f"'{path}' can't be read: {error}. Give the path of a .tflite file.") from error
    return content.size, _deflated_bytes(content, progress)


def _deflated_bytes(content: np.ndarray, progress: bool) -> int:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    total = 0
    starts = range(0, content.size, _COPY_BYTES)
    for start in track(starts, "Measuring the compressed size", total=len(starts), enabled=progress):
        total += len(compressor.compress(content[start : start + _COPY_BYTES].tobytes()))
    return total + len(compressor.flush())
