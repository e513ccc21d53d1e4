"""The exact choice: one form for each part, by integer programming (HiGHS, which SciPy brings)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError

_STDOUT = 1
Costs = Mapping[str, Mapping[str, float]]
"""Part → form → what it costs there."""


def chosen_forms(minimized: Costs, limited: Costs, limit: float) -> dict[str, str] | None:
    """Returns part → form with the least sum of one cost among those whose sum of another is within a limit.

    It is a knapsack with multiple choice (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11), solved to
    the proven optimum. None where no choice is within the limit.

    Args:
        minimized: has every part, with the forms that it can take.
        limited: the other cost of the same parts and forms.
        limit: of its sum.

    Raises:
        FeatherweightError: if the solver is not installed.

    >>> chosen_forms({"a": {"x": 1, "y": 5}, "b": {"x": 1, "y": 2}}, {"a": {"x": 9, "y": 0}, "b": {"x": 2, "y": 0}}, 3)
    {'a': 'y', 'b': 'x'}
    """
    optimize = _solver()
    pairs = [(part, form) for part, forms in minimized.items() for form in forms]
    gain, cost = (np.array([costs[p][f] for p, f in pairs], np.float64) for costs in (minimized, limited))
    # Numbers near one keep the solver's tolerances meaningful.
    gain_unit, cost_unit = (float(np.abs(each).max(initial=0)) or 1.0 for each in (gain, cost))
    one_each = np.array([[name == part for name, _ in pairs] for part in minimized], np.float64)
    with _quiet_stdout():
        found = optimize.milp(
            gain / gain_unit,
            integrality=np.ones(len(pairs)),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(one_each, 1, 1),
                optimize.LinearConstraint(cost[np.newaxis] / cost_unit, -np.inf, limit / cost_unit),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if found.x is None:
        return None
    return {part: form for (part, form), value in zip(pairs, np.round(found.x), strict=True) if value}


@contextlib.contextmanager
def _quiet_stdout() -> Generator[None]:
    """Keeps what the solver's native code prints now and then, whatever its options, off stdout, where JSON goes."""
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # there is none
        yield
        return
    with contextlib.suppress(AttributeError, OSError, ValueError):  # none, closed, or a reader that is gone
        sys.stdout.flush()
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), _STDOUT)
        yield
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _solver() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise FeatherweightError(
            "search needs SciPy's solver HiGHS, which is not installed: pip install 'featherweight[search]'."
        ) from error
    return optimize
