"""Prints a digest of every file that `quantize` writes: `python tools/print_digests.py > digests.txt`.

Run it on two commits and compare: a change of structure changes no line. Each line is model, recipe, target, the
SHA-256 of the file and that of its plan, or the kind of the error. `--operators` takes one model for each operator
instead of the networks of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from tests import models, single_ops

import featherweight as fw

_PACKAGE = Path(fw.__file__).parent


def names(kind: str) -> list[str]:
    """Returns the recipes or targets of the package, by name."""
    return sorted(path.stem for path in (_PACKAGE / kind).glob("*.toml"))


def networks() -> Iterator[tuple[str, Any, Any]]:
    """Yields the networks of the tests: name, float model, samples."""
    for name in models.BUILDERS:
        # Recurrent layers take a form that depends on recipe and target: they are lowered anew for each.
        source = models.build(name) if name in models.RECURRENT else models.lowered(name)
        yield name, source, models.samples(name, 8)


def operators() -> Iterator[tuple[str, Any, Any]]:
    """Yields a model for each operator: name, float model, samples."""
    for name, make in single_ops.FACTORIES.items():
        model = make()
        yield name, model, [single_ops.feeds(model, seed) for seed in range(4)]


def digests(source: Any, samples: Any, recipe: str, target: str) -> str:
    """Returns the digests of the file and of the plan, or the kind of the error."""
    try:
        found = fw.quantize(
            source, recipe, calibration=samples, target=target, verify=False, progress=False, integers=recipe == "int8"
        )
    except fw.FeatherweightError as error:
        return type(error).__name__
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder, "model.tflite"))
        found.plan.save(Path(folder, "plan.json"))
        written = [Path(folder, name).read_bytes() for name in ("model.tflite", "plan.json")]
    return " ".join(hashlib.sha256(data).hexdigest()[:16] for data in written)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", action="store_true", help="one model for each operator")
    warnings.simplefilter("ignore")
    models.import_keras().utils.set_random_seed(0)
    for name, source, samples in operators() if parser.parse_args().operators else networks():
        for recipe in names("recipes"):
            for target in names("targets"):
                print(name, recipe, target, digests(source, samples, recipe, target), flush=True)


if __name__ == "__main__":
    main()
