"""Random models at scales of any ratio, held against LiteRT: equal to the reference kernels, or rightly refused."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.operators.building import CASES, Case
from tests.operators.checking import Finding, differences, is_lacking
from tests.operators.oracle import RESOLVERS, Feeds, Oracle
from tests.operators.ratios import at_any_scale, extremes

from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph import Model
from featherweight.runtime import run_reference
from featherweight.tflite import write

FORMS = ("int8", "int16", "int8*int4", "int16*int4", "uint8")
KINDS = sorted(kind for kind in CASES if kind[1] in FORMS)
# The arithmetic that a refused model is held against: what the device should have given.
_EXACT = "integer_multiplier"

Kind = tuple[str, str]


@dataclass
class Ratios:
    """What the examples of one kind and form came to.

    Attributes:
        equal: examples that LiteRT and the reference kernels compute alike, by profile.
        mismatches: examples that they don't, by profile.
        ended: examples that nothing refuses, and LiteRT ends with an error or ends the process at, by profile.
        refused: examples that the reference kernels refuse, by profile.
        shown: those of them that LiteRT ends at, or gives other integers for than a device should.
        reasons: why they were refused, with the numbers left out → (how often, how often shown).
        bad_data: examples whose values no kernel takes (roots of negative numbers, sums that overflow).
    """

    kind: Kind
    models: int = 0
    equal: Counter[str] = field(default_factory=Counter[str])
    mismatches: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    shown: Counter[str] = field(default_factory=Counter[str])
    lacking: set[str] = field(default_factory=set[str])
    reasons: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    bad_data: int = 0
    first: str = ""  # what was wrong at first

    def refuse(self, profile: str, reason: str, *, is_shown: bool) -> None:
        self.refused[profile] += 1
        self.shown[profile] += is_shown
        reason = re.sub(r"-?\binf\b|-?\d[\d.]*(e[+-]?\d+)?", "…", reason.partition(": ")[2])
        count, shown = self.reasons.get(reason, (0, 0))
        self.reasons[reason] = (count + 1, shown + is_shown)

    def wrong(self, counter: Counter[str], profile: str, what: str, model: Model) -> None:
        counter[profile] += 1
        scales = {t.name: (t.quant.scale[:2], t.quant.zero_point[:1]) for t in model.main.tensors.values() if t.quant}
        self.first = self.first or f"{what}; {scales} {dict(model.main.nodes[-1].attrs)}"


def measure_ratios(kind: Kind, models: int, oracle: Oracle | None = None) -> Ratios:
    """Compares so many examples of one kind: the same ones on every run."""
    row, own = Ratios(kind), oracle or Oracle()
    name, form = kind

    @seed(zlib.crc32(f"{name} {form} ratios".encode()))
    @settings(
        max_examples=models,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        case = at_any_scale(CASES[name, form](data.draw), random)
        try:
            model = case.model()
        except (UnsupportedOp, DataError):
            row.bad_data += 1
            return
        row.models += 1
        content = write(model)
        for profile in RESOLVERS:
            if is_lacking(name, form, profile):
                row.lacking.add(profile)
            else:
                _compare(row, case, model, content, profile, own, random)

    try:
        draw()
    finally:
        if oracle is None:
            own.close()
    return row


def _compare(
    row: Ratios, case: Case, model: Model, content: bytes, profile: str, oracle: Oracle, random: np.random.Generator
) -> None:
    try:
        ours = run_reference(model, case.feeds, profile)
    except DataError:
        row.bad_data += 1
        return
    except UnsupportedOp as error:
        row.refuse(profile, str(error), is_shown=_is_shown(case, model, content, profile, oracle, random))
        return
    theirs = oracle(content, [case.feeds], profile)
    if isinstance(theirs, str):
        row.wrong(row.ended, profile, f"{profile}: LiteRT: {theirs}", model)
        return
    total = Finding()
    for our, their in zip(ours.values(), theirs[0], strict=True):
        total = differences(total, our, their, 0, profile)
    if total.broken:
        row.wrong(row.mismatches, profile, total.broken, model)
    else:
        row.equal[profile] += 1


def _is_shown(
    case: Case, model: Model, content: bytes, profile: str, oracle: Oracle, random: np.random.Generator
) -> bool:
    """True where LiteRT ends at a refused model, or gives what no rounding explains."""
    feeds: list[Feeds] = [case.feeds, *(extremes(case, random) for _ in range(3))]
    theirs = oracle(content, feeds, profile)
    if isinstance(theirs, str):
        return True
    for arrays, found in zip(feeds, theirs, strict=True):
        try:
            exact = run_reference(model, arrays, _EXACT)
        except (UnsupportedOp, DataError):
            continue
        for right, their in zip(exact.values(), found, strict=True):
            apart = np.abs(right.astype(np.float64) - their.astype(np.float64)).max(initial=0)
            if apart > (0 if right.dtype == np.bool_ else 2):
                return True
    return False


def ratio_lines(rows: list[Ratios]) -> list[str]:
    """Returns the part of the page that tells of scale ratios, in Markdown."""
    profiles = list(RESOLVERS)
    total, wrong, ended = (
        sum(sum(counter.values()) for counter in counters)
        for counters in zip(*((row.equal, row.mismatches, row.ended) for row in rows), strict=True)
    )
    refused, shown = (
        sum(sum(counter.values()) for counter in counters)
        for counters in zip(*((row.refused, row.shown) for row in rows), strict=True)
    )
    lines = [
        "",
        "## Over all ratios of scales",
        "",
        "The same models with other scales: from 1.2e-38 to 1.3e+30, near each other or up to 2**160 apart, and some",
        "operands are zeros alone. What the reference kernels do not refuse, LiteRT must compute, and all integers",
        "must be equal. What they refuse, LiteRT ends with an error, ends the process at, or computes wrongly: *shown*",
        "where it does so for the values tried here. A cell is *models that differ or end / models compared*.",
        "",
        f"- {total + wrong + ended:,} runs compared, of which {wrong:,} differ and {ended:,} end; {refused:,} refused, "
        f"of which {shown:,} shown.",
        "",
        f"| operator | form | models | {' | '.join(profiles)} | refused | shown |",
        f"|---|---|---:|{'---:|' * len(profiles)}---:|---:|",
    ]
    for row in rows:
        cells = [
            "–" if p in row.lacking else f"{row.mismatches[p] + row.ended[p]:,} / {row.equal[p] + row.mismatches[p]:,}"
            for p in profiles
        ]
        ends = (f"{row.models:,}", *cells, f"{sum(row.refused.values()):,}", f"{sum(row.shown.values()):,}")
        lines.append(f"| {' | '.join((*row.kind, *ends))} |")
    reasons: dict[str, tuple[int, int]] = {}
    for row in rows:
        for reason, (count, shown) in row.reasons.items():
            before = reasons.get(reason, (0, 0))
            reasons[reason] = (before[0] + count, before[1] + shown)
    lines += ["", "| why it is refused | runs | shown |", "|---|---:|---:|"]
    lines += [f"| {reason} | {count:,} | {shown:,} |" for reason, (count, shown) in sorted(reasons.items())]
    return lines
