"""Reads and inspects mutated files under libFuzzer's guidance: ``make fuzz RUNS=1000000``.

What comes out of damage is a model or a `FeatherweightError`: no other exception, nothing that takes over ten seconds,
no memory beyond `MEMORY_MB`. A finding is written to the folder that is printed, and its bytes belong in a test.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["featherweight", "flatbuffers"]):
    from featherweight.analysis.inspection import inspect
    from featherweight.errors import FeatherweightError
    from featherweight.tflite import read

from tests.tflite.files import every_file

SECONDS, MEMORY_MB, LARGEST_BYTES = 10, 1024, 1 << 14


def survive(content: bytes) -> None:
    """Reads and inspects bytes, and all that their constants hold."""
    try:
        model = read(content)
        inspect(content, compress=False)
        for tensor in model.tensors.values():
            _ = tensor.array
    except FeatherweightError:
        pass


def main() -> None:
    """Mutates the tests' files; the arguments are libFuzzer's."""
    seeds = Path(tempfile.mkdtemp(prefix="fuzz-seeds-"))
    for name, content in every_file().items():
        if len(content) <= LARGEST_BYTES:
            (seeds / name.replace("/", "_")).write_bytes(content)
    limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LARGEST_BYTES}"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(seeds)], survive)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
