"""What Arm's compiler Vela says of a file for an Ethos-U: flash, SRAM and cycles; it runs in a process of its own."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from featherweight import tflite
from featherweight.errors import FeatherweightError, RecipeError, listed
from featherweight.graph import Model
from featherweight.processes.apart import Ended, run_apart

# What is compiled for where a target's name says no more: the sizes that most boards have.
USUAL = {"ethos-u55": "ethos-u55-128", "ethos-u65": "ethos-u65-256", "ethos-u85": "ethos-u85-256"}
_MACS = {"u55": (32, 64, 128, 256), "u65": (256, 512), "u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"ethos-{kind}-{macs}" for kind, sizes in _MACS.items() for macs in sizes)
_KIB = 1024
_LONGEST_S = 600


@dataclass(frozen=True)
class NpuFigures:
    """Vela's estimates for a file, in its default system and memory configuration.

    Attributes:
        accelerator: what was compiled for.
        flash_bytes: constants and commands in flash, on the chip and off it.
        sram_bytes: of activations and buffers.
        cycles: of the NPU for one inference.
        npu_operators, cpu_operators: how many run where.
    """

    accelerator: str
    flash_bytes: int
    sram_bytes: int
    cycles: int
    npu_operators: int
    cpu_operators: int


def accelerator_of(target: str, wish: str | None = None) -> str:
    """Returns the accelerator that Vela is to compile for.

    Args:
        target: name of a target, which tells the family.
        wish: an accelerator by Vela's name; None: the usual one of the target.

    Raises:
        RecipeError: for a name that Vela has not, or a target that is no Ethos-U.

    >>> accelerator_of("ethos-u65")
    'ethos-u65-256'
    """
    if wish is not None and wish not in ACCELERATORS:
        raise RecipeError(f"accelerator '{wish}' is unknown to Vela (allowed: {listed(ACCELERATORS, 12)}).")
    if wish is None and target not in USUAL:
        raise RecipeError(
            f"Vela compiles for Ethos-U, and target '{target}' names none (allowed: {listed(USUAL)}). Choose one, or "
            f"give accelerator=, such as '{USUAL['ethos-u55']}'."
        )
    return wish or USUAL[target]


def has_vela() -> bool:
    """True where Vela is installed."""
    return importlib.util.find_spec("ethosu") is not None and importlib.util.find_spec("ethosu.vela") is not None


def require_vela() -> None:
    """Raises FeatherweightError if Vela is not installed."""
    if not has_vela():
        raise FeatherweightError(
            "Limits of flash, SRAM and cycles need Arm's Vela, which is not installed: pip install ethos-u-vela."
        )


def npu_figures(model: Model, accelerator: str) -> NpuFigures:
    """Returns what Vela estimates for the file that a model is written as.

    Raises:
        FeatherweightError: if Vela is not installed, or fails; the message ends with its own.
    """
    require_vela()
    found = compiled(model, accelerator)
    if isinstance(found, Ended):
        raise FeatherweightError(f"Vela makes no file for {accelerator}: {found}")
    return found


def compiled(model: Model, accelerator: str) -> NpuFigures | Ended:
    """Returns what Vela estimates for the file that a model is written as, or how it ended where it makes none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        tflite.save(model, file)
        options = ["--accelerator-config", accelerator, "--output-dir", folder]
        done = run_apart([sys.executable, "-m", "ethosu.vela", str(file), *options], _LONGEST_S)
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if done.status != 0 or not summaries:
            return done
        with summaries[0].open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
    flash = float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"])
    counts = {where: re.search(rf"{where} operators = (\d+)", done.text) for where in ("NPU", "CPU")}
    npu, cpu = (int(found.group(1)) if found else 0 for found in counts.values())
    sram, cycles = round(_KIB * float(row["sram_memory_used"])), round(float(row["cycles_total"]))
    return NpuFigures(accelerator, round(_KIB * flash), sram, cycles, npu, cpu)
