"""What an exported file must keep, what was measured of one, and by how much it misses which limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from featherweight.device_code.vela import NpuFigures, accelerator_of, require_vela
from featherweight.errors import RecipeError, listed

OBJECTIVES = ("bytes", "latency", "cycles", "accuracy")


@dataclass(frozen=True)
class Budget:
    """What the exported file must keep; None: no limit.

    Attributes:
        max_drop: of the metric below the float model's; without a metric, see `min_sqnr_db`.
        confidence: the drop counts with so many standard errors on top of it.
        max_bytes: of the file.
        max_compressed_bytes: of the file, deflated.
        max_latency: the median on this machine, as a fraction of the float model's.
        min_sqnr_db: of the outputs, the mean over examples.
        max_flash_bytes, max_sram_bytes, max_cycles: as Vela estimates them for an Ethos-U.
    """

    max_drop: float | None = None
    confidence: float = 0.0
    max_bytes: int | None = None
    max_compressed_bytes: int | None = None
    max_latency: float | None = None
    min_sqnr_db: float | None = None
    max_flash_bytes: int | None = None
    max_sram_bytes: int | None = None
    max_cycles: int | None = None

    @property
    def needs_latency(self) -> bool:
        """Whether a file must be timed."""
        return self.max_latency is not None

    @property
    def needs_npu(self) -> bool:
        """Whether a file must be compiled for an NPU."""
        return (self.max_flash_bytes, self.max_sram_bytes, self.max_cycles) != (None, None, None)


@dataclass(frozen=True)
class Miss:
    """One limit that a file does not keep.

    Attributes:
        limit: the name of that field of `Budget`.
        excess: by how much, in its unit.
        share: of what counts as one there (the limit itself; of a drop 0.01, of decibels 3): misses add up in it.
    """

    limit: str
    excess: float
    share: float

    @property
    def is_size(self) -> bool:
        """Whether fewer bits help: the limit is of bytes or time, not of accuracy."""
        return not _LIMITS[self.limit].is_accuracy

    def __str__(self) -> str:
        return _LIMITS[self.limit].text.format(self.excess)


@dataclass(frozen=True)
class Tried:
    """One file that was made and measured.

    Attributes:
        choice: part → form.
        predicted_db: what the scores add up to, as a ratio at the outputs.
        sqnr_db: what was measured: the mean over examples, as `predicted_db`.
        value: the metric, with its standard error; None without one.
        drop: how much worse that is than in float, with the standard error of the paired difference.
        latency: the median as a fraction of the float model's; None where it was not asked for.
        npu: what Vela says of the file; None where it was not asked.
        repairs: of its weights that it has, in order; `is_repaired` says whether any were tried.
        misses: the limits of the budget that it does not keep.
    """

    choice: Mapping[str, str]
    file_bytes: int
    compressed_bytes: int
    predicted_db: float
    sqnr_db: float
    value: float | None = None
    standard_error: float | None = None
    drop: float | None = None
    drop_error: float | None = None
    latency: float | None = None
    npu: NpuFigures | None = None
    repairs: tuple[str, ...] = ()
    is_repaired: bool = False
    misses: tuple[Miss, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it keeps the budget."""
        return not self.misses

    @property
    def is_accurate(self) -> bool:
        """Whether it keeps the limits of accuracy, whatever its size."""
        return all(miss.is_size for miss in self.misses)

    @property
    def is_small(self) -> bool:
        """Whether it keeps the limits of bytes and time, however inaccurate it is."""
        return not any(miss.is_size for miss in self.misses)

    @property
    def kept_bytes(self) -> int:
        """What a device keeps of it: flash as Vela counts it, or the file."""
        return self.file_bytes if self.npu is None else self.npu.flash_bytes

    @property
    def loss(self) -> float:
        """What is lost: the drop of the metric, or without one the noise at the outputs, dB."""
        return self.drop if self.drop is not None else -self.sqnr_db


class _Limit(NamedTuple):
    """How a limit is spoken of, and what counts as one of it (None: itself)."""

    text: str
    is_accuracy: bool = False
    unit: float | None = None


_LIMITS: Mapping[str, _Limit] = {
    "max_drop": _Limit("the metric drops by {:.4g} more than allowed", is_accuracy=True, unit=0.01),
    "min_sqnr_db": _Limit("the outputs are {:.2f} dB too noisy", is_accuracy=True, unit=3.0),
    "max_bytes": _Limit("the file has {:,.0f} bytes too many"),
    "max_compressed_bytes": _Limit("the deflated file has {:,.0f} bytes too many"),
    "max_latency": _Limit("latency is {:.3f} of the float model's above the limit"),
    "max_flash_bytes": _Limit("Vela puts {:,.0f} bytes too many into flash"),
    "max_sram_bytes": _Limit("Vela needs {:,.0f} bytes too many of SRAM"),
    "max_cycles": _Limit("Vela estimates {:,.0f} cycles too many"),
}


def misses(row: Tried, budget: Budget) -> tuple[Miss, ...]:
    """Returns the limits that a file does not keep."""
    npu = row.npu
    measured = {
        "max_drop": (_confident_drop(row, budget), budget.max_drop),
        "min_sqnr_db": (-row.sqnr_db, None if budget.min_sqnr_db is None else -budget.min_sqnr_db),
        "max_bytes": (row.file_bytes, budget.max_bytes),
        "max_compressed_bytes": (row.compressed_bytes, budget.max_compressed_bytes),
        "max_latency": (row.latency, budget.max_latency),
        "max_flash_bytes": (npu and npu.flash_bytes, budget.max_flash_bytes),
        "max_sram_bytes": (npu and npu.sram_bytes, budget.max_sram_bytes),
        "max_cycles": (npu and npu.cycles, budget.max_cycles),
    }
    return tuple(
        Miss(name, value - limit, (value - limit) / (_LIMITS[name].unit or limit or 1.0))
        for name, (value, limit) in measured.items()
        if value is not None and limit is not None and value > limit
    )


def shortfall(row: Tried) -> float:
    """Returns by how much a file misses its budget, each limit in its own units; 0 where it fits."""
    return sum(miss.share for miss in row.misses)


def _confident_drop(row: Tried, budget: Budget) -> float | None:
    if row.drop is None:
        return None
    error = row.drop_error if row.drop_error is not None and math.isfinite(row.drop_error) else 0.0
    return row.drop + budget.confidence * error


def goal(row: Tried, objective: str) -> float:
    """Returns what an objective makes least."""
    npu_cycles = math.inf if row.npu is None else float(row.npu.cycles)
    latency = math.inf if row.latency is None else row.latency
    return {"bytes": float(row.file_bytes), "latency": latency, "cycles": npu_cycles, "accuracy": row.loss}[objective]


def check_budget(budget: Budget, objective: str, *, has_metric: bool) -> None:
    """Raises RecipeError for a budget that says nothing, or what nothing here can measure."""
    if objective not in OBJECTIVES:
        raise RecipeError(f"search: objective '{objective}' is unknown (allowed: {listed(OBJECTIVES)}).")
    if budget.max_drop is not None and not has_metric:
        raise RecipeError(
            "search: max_drop is about a metric, which needs labelled data: the pair (samples, labels). Without "
            "labels, say how far the outputs must be above their error: min_sqnr_db."
        )
    is_limited = {name: getattr(budget, name) is not None for name in _LIMITS}
    if objective == "accuracy" and not any(is_limited[name] for name in _LIMITS if not _LIMITS[name].is_accuracy):
        raise RecipeError("search: the most accurate model is the float one. Give max_bytes, or another limit of size.")
    if objective != "accuracy" and not any(is_limited[name] for name in _LIMITS if _LIMITS[name].is_accuracy):
        raise RecipeError(
            f"search: nothing says what accuracy to keep, and the model of least {objective} would be noise. Give "
            "max_drop (with labels) or min_sqnr_db; or ask for the most accurate one within limits of size: "
            "objective='accuracy'."
        )


def compiler_of(budget: Budget, objective: str, target: str, accelerator: str | None) -> str:
    """Returns what Vela is to compile files for, or "" where nothing is asked of it.

    Raises:
        RecipeError: for an accelerator that there is not, or that nothing asks for.
        FeatherweightError: if Vela is needed, and not installed.
    """
    if not budget.needs_npu and objective != "cycles":
        if accelerator is not None:
            raise RecipeError(
                "search: accelerator has no effect without limits of flash, SRAM or cycles, or the objective cycles. "
                "Leave it out."
            )
        return ""
    found = accelerator_of(target, accelerator)
    require_vela()
    return found
