"""The report: what was done to a model, with the evidence, as one frozen record."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from featherweight.analysis.comparison import TensorError
from featherweight.analysis.evaluation import Difference, Evaluation, paired_difference
from featherweight.analysis.inspection import constant_bytes, node_counts, op_name, quantization_text
from featherweight.analysis.noise import OutputError
from featherweight.device_code.footprint import Footprint
from featherweight.errors import FeatherweightError
from featherweight.graph import Model, producers
from featherweight.graph.numerics import QuantParams
from featherweight.pages import Distribution
from featherweight.ptq.plan import Plan
from featherweight.report.distributions import held_range
from featherweight.report.weights import weight_rows
from featherweight.runtime.benchmark import Latency
from featherweight.runtime.operator_times import OperatorTimes
from featherweight.runtime.sizes import sizes_bytes
from featherweight.targets.target import Violation
from featherweight.tflite import write_atomically

SUFFIXES = (".json", ".txt", ".html")
JSON_VERSION = 1
"""The number in a report's JSON: it grows when a field changes its meaning or goes."""

_PAIR = 2
_VERSIONED = ("featherweight", "ai-edge-litert", "numpy", "ml_dtypes", "flatbuffers")


@dataclass(frozen=True, eq=False)
class FileSize:
    """How large a model is as a file, measured when first asked: packing and deflating large models takes time."""

    model: Model = field(repr=False)

    @cached_property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return sizes_bytes(self.model, compress=False)[0]

    @cached_property
    def compressed_bytes(self) -> int:
        """Bytes of the file once deflated, as in a zip."""
        return sizes_bytes(self.model)[1] or 0

    @cached_property
    def constant_bytes(self) -> Mapping[str, int]:
        """Bytes of all constants by dtype."""
        return constant_bytes(self.model)

    def to_json(self) -> dict[str, Any]:
        """Returns the three figures."""
        names = ("file_bytes", "compressed_bytes", "constant_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor that holds integers (or float16) now.

    Attributes:
        op: what writes it; empty for inputs and constants.
        quantization: its parameters in a few words.
        scales: how many it has; 0 for float16, and for scales of blocks.
        scale: the largest.
        zero_point: None where channels have different ones.
        low, high: the smallest and the largest number that its integers hold.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    quantization: str
    scales: int = 0
    scale: float | None = None
    zero_point: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class NodeNote:
    """A node and what is to be said about it: why it stays float, why it is left out."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True, eq=False)
class Report:
    """What happened to a model: wish (recipe, target), decision (tensors, kept_float, notes) and evidence.

    Attributes:
        profile: the integer arithmetic that bit-exact claims refer to.
        nodes: how many nodes compute in which arithmetic now (see `analysis.inspection.ARITHMETICS`).
        forms: how many nodes the plan gives which form.
        notes: what else the user should know: fallbacks, widened scales, clipped biases.
        outputs: the errors of the outputs, where calibration samples were at hand.
        errors: per-tensor errors, worst first, where they were measured.
        evaluations: task metrics by the name of what was evaluated, where they were measured; the first of two is of
            the model before.
        footprints: what the device takes, by the name of the model (``float``, or the recipe), where its tools say so.
        histograms: of tensors that hold integers, beside their ranges, where values were counted.
        latency: where it was measured.
        name: of the model, where one is known.
        times: of the operators, where they were measured.
    """

    recipe: str
    target: str
    profile: str
    io: str
    before: FileSize
    after: FileSize
    nodes: Mapping[str, int]
    forms: Mapping[str, int]
    tensors: tuple[QuantizedTensor, ...] = ()
    kept_float: tuple[NodeNote, ...] = ()
    dropped: tuple[NodeNote, ...] = ()
    notes: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    outputs: tuple[OutputError, ...] = ()
    errors: tuple[TensorError, ...] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    footprints: Mapping[str, Footprint] = field(default_factory=dict[str, Footprint])
    histograms: tuple[Distribution, ...] = ()
    latency: tuple[Latency, ...] = ()
    times: OperatorTimes | None = None
    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        nodes = ", ".join(f"{count} {kind}" for kind, count in self.nodes.items())
        return (
            f"Report on recipe '{self.recipe}' for target '{self.target}', profile '{self.profile}', io {self.io}\n"
            f"  operators   {nodes or 'none'}\n"
            f"  kept float  {len(self.kept_float)}\n"
            f"  left out    {len(self.dropped)}\n"
            f"  violations  {len(self.violations)}\n"
            f"  notes       {len(self.notes)}\n"
            "  print() shows all of it"
        )

    def __str__(self) -> str:
        from featherweight.report.text import render

        return render(self)

    @property
    def difference(self) -> Difference | None:
        """By how much the metric of the second evaluation is above the first one's, on the same examples."""
        if len(self.evaluations) != _PAIR:
            return None
        before, after = self.evaluations.values()
        return paired_difference(after, before)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain lists, dicts, strings, numbers and None (also for infinite numbers)."""
        more = {"difference": self.difference, "weights": weight_rows(self.after.model)}
        return {"version": JSON_VERSION, **to_plain(self), **to_plain(more)}

    def text(self, path: str | Path) -> None:
        """Writes the report as plain text.

        Raises:
            FeatherweightError: if the file can't be written; one that was there stays.
        """
        write_atomically(path, [f"{self}\n".encode("utf-8", "replace")])

    def json(self, path: str | Path) -> None:
        """Writes the report as JSON.

        Raises:
            FeatherweightError: if the file can't be written; one that was there stays.
        """
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, [f"{content}\n".encode("utf-8", "replace")])

    def html(self, path: str | Path) -> None:
        """Writes the report as one HTML file that needs nothing else.

        Raises:
            FeatherweightError: if the file can't be written; one that was there stays.
        """
        from featherweight.report.quantized_page import page

        write_atomically(path, [page(self).html().encode("utf-8", "replace")])

    def save(self, path: str | Path) -> None:
        """Writes the report in the form that the path's suffix says: .json, .txt or .html.

        Raises:
            FeatherweightError: for another suffix, or if the file can't be written; one that was there stays.
        """
        suffix = check_suffix(path)
        {".json": self.json, ".txt": self.text, ".html": self.html}[suffix](path)


def check_suffix(path: str | Path) -> str:
    """Returns the report form that a path asks for.

    Raises:
        FeatherweightError: if there is none of that suffix.

    >>> check_suffix("out/report.HTML")
    '.html'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise FeatherweightError(
            f"Report '{path}': the suffix '{suffix}' names no form of report (allowed: {', '.join(SUFFIXES)})."
        )
    return suffix


def make_report(before: Model, after: Model, plan: Plan, violations: Iterable[Violation] = ()) -> Report:
    """Returns the report on a quantized model, as far as it follows from the two graphs and the plan.

    Sizes are measured when first read. Measured evidence is added with
    ``dataclasses.replace(report, errors=..., evaluations=..., latency=...)``.
    """
    ops = {node.name: op_name(node) for graph in before.graphs for node in graph.nodes}
    return Report(
        recipe=plan.recipe,
        target=plan.target,
        profile=plan.profile,
        io=plan.io,
        before=FileSize(before),
        after=FileSize(after),
        nodes=node_counts(after),
        forms=dict(Counter(plan.forms.values()).most_common()),
        tensors=tuple(_quantized_tensors(after)),
        kept_float=tuple(NodeNote(n, ops.get(n, ""), reason) for n, reason in plan.kept_float.items()),
        dropped=tuple(NodeNote(n, ops.get(n, ""), reason) for n, reason in plan.dropped.items()),
        notes=tuple(plan.notes),
        violations=tuple(violations),
        environment=environment(),
    )


def _quantized_tensors(model: Model) -> Iterable[QuantizedTensor]:
    for graph in model.graphs:
        written = producers(graph)
        for tensor in graph.tensors.values():
            text = quantization_text(tensor.quant)
            if text is not None:
                op = op_name(written[tensor.name]) if tensor.name in written else ""
                yield QuantizedTensor(tensor.name, op, tensor.shape, tensor.dtype, text, *_held(tensor.quant))


def _held(params: QuantParams | None) -> tuple[Any, ...]:
    held = held_range(params)
    if params is None or held is None:
        return ()
    zero_points = set(params.zero_point)
    return len(params.scale), max(params.scale), zero_points.pop() if len(zero_points) == 1 else None, *held


def to_plain(value: Any) -> Any:
    """Returns records, mappings and sequences as dicts and lists fit for strict JSON; infinities become None.

    >>> to_plain({"sqnr_db": math.inf, "shape": (1, 2)})
    {'sqnr_db': None, 'shape': [1, 2]}
    """
    if isinstance(value, (FileSize, Evaluation)):
        value = value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def environment() -> dict[str, str]:
    """Returns the versions of what computed: Python, platform, and the packages that matter."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
