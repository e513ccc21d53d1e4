"""`make conformance`: every operator against LiteRT at length, and the table of what came out.

`python -m tests.operators.conformance [KIND …]` draws random one-operator models of every kind and form that the tests
know until so many output elements are compared in each profile, and writes docs/conformance.md. With kinds named it
only prints. It ends with 1 where anything differs that no reason below explains.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.operators.building import CASES
from tests.operators.checking import FLOAT_ULPS, Finding, compared, example, further_feeds
from tests.operators.oracle import RESOLVERS, Oracle
from tests.operators.ratio_conformance import KINDS, Ratios, measure_ratios, ratio_lines

from featherweight.runtime import default_threads
from featherweight.runtime.progress import track
from featherweight.tflite import write

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
MODELS_PER_ROUND = 50
ELEMENTS_PER_MODEL = 2500  # small outputs are computed from several feeds
MOST_FEEDS = 32
MOST_MODELS = 1000  # of kinds whose outputs are a few numbers, like shapes

# Why a row is not zero, by kind and form: with the source that it was traced to.
REASONS: dict[tuple[str, str], str] = {}

Kind = tuple[str, str]


@dataclass
class Row:
    """What the examples of one kind and form came to, by profile."""

    kind: Kind
    elements: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESOLVERS, 0))
    mismatches: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESOLVERS, 0))
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESOLVERS, 0.0))
    lacking: set[str] = field(default_factory=set[str])
    models: int = 0
    refused: int = 0
    first: str = ""  # what was wrong at first

    def add(self, profile: str, found: Finding) -> None:
        self.elements[profile] += found.elements
        # An error of LiteRT's counts as one mismatch.
        self.mismatches[profile] += found.mismatches or bool(found.broken)
        self.worst[profile] = max(self.worst[profile], found.worst)
        self.first = self.first or found.broken
        if found.lacking:
            self.lacking.add(profile)

    def reached(self) -> int:
        """Returns the elements of the profile that has the fewest, of those in which examples run at all."""
        is_young = self.models < MODELS_PER_ROUND
        counts = (count for name, count in self.elements.items() if name not in self.lacking and (count or is_young))
        return min(counts, default=0)

    def is_done(self, elements: int) -> bool:
        """True with so many elements in every profile, or with as many models as are ever drawn."""
        return self.reached() >= elements or self.models >= MOST_MODELS


def measure(kind: Kind, elements: int, seconds: float) -> Row:
    """Compares examples of one kind until each profile has so many elements, or there are enough models, or no time."""
    row, oracle, start, number = Row(kind), Oracle(), time.monotonic(), 0
    try:
        while not row.is_done(elements) and time.monotonic() - start < seconds:
            before = row.models
            _round(row, oracle, number, elements, start + seconds)
            number += 1
            if row.models == before or len(row.lacking) == len(RESOLVERS):
                break  # everything is refused, or nothing has a kernel
    finally:
        oracle.close()
    return row


def _round(row: Row, oracle: Oracle, number: int, elements: int, deadline: float) -> None:
    """Draws some models: the same ones for the same kind and number, on every run."""
    name, form = row.kind

    @seed(zlib.crc32(f"{name} {form} {number}".encode()))
    @settings(
        max_examples=MODELS_PER_ROUND,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        case = CASES[name, form](data.draw)
        if row.is_done(elements) or time.monotonic() > deadline:
            return
        model = example(case, name, form)
        if isinstance(model, str):
            row.refused += 1
            return
        size = sum(int(np.prod(model.main.tensors[output].shape)) for output in model.main.outputs)
        count = max(1, min(MOST_FEEDS, ELEMENTS_PER_MODEL // max(size, 1)))
        feeds = further_feeds(case, count, np.random.default_rng(zlib.crc32(f"{number} {row.models}".encode())))
        content, refused = write(model), False
        row.models += 1
        for profile in RESOLVERS:
            if profile not in row.lacking:
                found = compared(name, form, model, content, feeds, oracle, profile)
                row.add(profile, found)
                refused |= bool(found.refused)
        row.refused += refused

    draw()


def page(rows: Sequence[Row], elements: int, ratios: Sequence[Ratios] = ()) -> str:
    """Returns the page, in Markdown."""
    profiles = list(RESOLVERS)
    total = sum(sum(row.elements.values()) for row in rows)
    wrong = sum(sum(row.mismatches.values()) for row in rows)
    lines = [
        "# Conformance of the reference kernels",
        "",
        "Written by `make conformance`: random one-operator models (shapes, strides, paddings, dilations, ranks,",
        "broadcasting, scales, zero points, fused activations) run on LiteRT, each in a process of its own, and on the",
        "reference kernels in the same profile; every output element is compared. All must be equal, but the floats of",
        f"float32 forms: these within {FLOAT_ULPS:g} ulps of the largest output; of sums of products, which may",
        "cancel, of the largest sum of their terms' magnitudes. The note has the largest distance found.",
        "",
        f"- {total:,} elements compared, {wrong:,} differ; at least {elements:,} per operator, form and profile, or",
        f"  {MOST_MODELS:,} models where outputs are small.",
        f"- Runtime: ai-edge-litert {importlib.metadata.version('ai-edge-litert')}, one thread.",
        f"- Platform: {platform.system()} {platform.machine()}, {_instructions()}; Python {platform.python_version()}, "
        f"NumPy {np.__version__}.",
        f"- {datetime.datetime.now(datetime.UTC).date().isoformat()}; the same models on every run:",
        "  `make conformance`, or some rows only: `make conformance KINDS='CONV_2D ADD'`.",
        "",
        "A cell is *mismatches / elements*; a dash: LiteRT has no such kernel. *Refused* counts models that the",
        "reference kernels refuse with an error because LiteRT's arithmetic is not specified there.",
        "",
        f"| operator | form | models | {' | '.join(profiles)} | refused | note |",
        f"|---|---|---:|{'---:|' * len(profiles)}---:|---|",
    ]
    lines += [_line(row, profiles, elements) for row in rows]
    return "\n".join(lines + (ratio_lines(list(ratios)) if ratios else [])) + "\n"


def _line(row: Row, profiles: Iterable[str], elements: int) -> str:
    cells = ["–" if p in row.lacking else f"{row.mismatches[p]:,} / {row.elements[p]:,}" for p in profiles]
    cells = ["refused" if cell == "0 / 0" else cell for cell in cells]
    ends = (f"{row.models:,}", *cells, f"{row.refused:,}", note(row, elements))
    return f"| {' | '.join((*row.kind, *ends))} |"


def note(row: Row, elements: int) -> str:
    """Returns what is to be said about a row: what is lacking, short, off, and why."""
    parts = [f"LiteRT has no kernel: {', '.join(sorted(row.lacking))}"] if row.lacking else []
    if not row.is_done(elements) and len(row.lacking) < len(RESOLVERS):
        parts.append("fewer elements: the time was up")
    if any(row.worst.values()):
        parts.append(f"largest distance {max(row.worst.values()):.2g} ulps")
    if row.kind in REASONS:
        parts.append(REASONS[row.kind])
    elif row.first:
        parts.append(f"not explained: {row.first}")
    return "; ".join(parts)


def _instructions() -> str:
    """Returns the widest instructions of the processor, on which the runtime's choice of kernels depends."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return "instruction set unknown"
    known = {
        "avx512_vnni": "AVX512-VNNI",
        "avx512f": "AVX512",
        "avx_vnni": "AVX-VNNI",
        "avx2": "AVX2",
        "sse4_1": "SSE4.1",
    }
    return next((label for flag, label in known.items() if flag in flags), "no vector instructions that are known here")


def main() -> int:
    """Measures, writes the page; 1 where something differs without a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.operators.conformance", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="operators, or whole kinds in quotes; default: all")
    parser.add_argument("--elements", type=int, default=200_000, help="per operator, form and profile (200000)")
    parser.add_argument("--seconds", type=float, default=300, help="at most, per operator and form (300)")
    parser.add_argument("--models", type=int, default=400, help="at any ratios of scales, per operator and form (400)")
    parser.add_argument("--jobs", type=int, default=default_threads(), help="processes (all processors)")
    arguments = parser.parse_args()
    wanted = set(arguments.kinds)
    kinds = sorted(kind for kind in CASES if not wanted or {kind[0], kind[0].split()[0]} & wanted)
    unknown = wanted - {name for kind in CASES for name in (kind[0], kind[0].split()[0])}
    if unknown or not kinds:
        parser.error(f"unknown: {', '.join(sorted(unknown))} (known: {', '.join(sorted({k[0] for k in CASES}))})")
    work = partial(measure, elements=arguments.elements, seconds=arguments.seconds)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = list(track(pool.map(work, kinds), "Comparing", total=len(kinds)))
        over = [kind for kind in kinds if kind in KINDS]
        ratios = list(
            track(pool.map(partial(measure_ratios, models=arguments.models), over), "Ratios", total=len(over))
        )
    content = page(rows, arguments.elements, ratios)
    if wanted:
        print(content)
    else:
        PAGE.write_text(content, encoding="utf-8")
        print(f"{len(rows)} rows in {PAGE}")
    unexplained = [row for row in rows if any(row.mismatches.values()) and row.kind not in REASONS]
    for row in unexplained:
        print(f"{' '.join(row.kind)}: {sum(row.mismatches.values())} mismatches; {row.first}", file=sys.stderr)
    wrong = [row for row in ratios if row.first]
    for row in wrong:
        print(f"{' '.join(row.kind)}: {row.first}", file=sys.stderr)
    return int(bool(unexplained or wrong))


if __name__ == "__main__":
    sys.exit(main())
