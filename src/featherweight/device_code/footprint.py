"""What a file takes on its device, as the device's own tools say it, where they are installed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from featherweight import tflite
from featherweight.device_code.arena import has_micro, micro_run
from featherweight.device_code.vela import USUAL, has_vela, npu_figures
from featherweight.errors import FeatherweightError
from featherweight.graph import Model, io_names
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.samples import input_tensors
from featherweight.targets.target import Target

_MICRO = "tflm"


@dataclass(frozen=True)
class Footprint:
    """What one model takes on a device.

    Attributes:
        tool: what says so.
        memory_bytes: the smallest arena that TFLite Micro loads the file in, or the SRAM that Vela plans.
        flash_bytes: of constants and commands once Vela has compiled the file; None where flash holds the file.
        cycles: of the NPU for one inference; None without one.
        npu_operators, cpu_operators: how many run where; None without an NPU.
    """

    tool: str
    memory_bytes: int
    flash_bytes: int | None = None
    cycles: int | None = None
    npu_operators: int | None = None
    cpu_operators: int | None = None

    def __str__(self) -> str:
        if self.flash_bytes is None:
            return f"{self.tool}: the smallest arena that loads it takes {self.memory_bytes:,} bytes"
        return (
            f"{self.tool}: {self.flash_bytes:,} bytes of flash, {self.memory_bytes:,} of SRAM, {self.cycles:,} cycles; "
            f"{self.npu_operators} operators on the NPU, {self.cpu_operators} on the CPU"
        )


def is_compiled(target: Target) -> bool:
    """Returns whether Vela compiles a target's files, and is installed."""
    return target.name in USUAL and has_vela()


def footprint(model: Model, target: Target) -> Footprint | None:
    """Returns what a model takes on a target; None where no tool on this machine says so.

    Raises:
        FeatherweightError: if the tool fails on the file; the message ends with its own.
    """
    if is_compiled(target):
        found = npu_figures(model, USUAL[target.name])
        sizes = found.sram_bytes, found.flash_bytes, found.cycles, found.npu_operators, found.cpu_operators
        return Footprint(f"Vela for {found.accelerator}", *sizes)
    if target.profile != _MICRO or not has_micro() or not input_tensors(model):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        tflite.save(model, path)
        run = micro_run(path, [tuple(random_inputs(input_tensors(model)).values())], len(io_names(model)[1]))
    return Footprint("TFLite Micro", run.arena.total)


def compiled_text(model: Model, target: Target) -> str | None:
    """Returns what Vela says of a model in words, or why it fails; None where it is not what compiles for a target."""
    if not is_compiled(target):
        return None
    try:
        return str(footprint(model, target))
    except FeatherweightError as error:
        return str(error)
