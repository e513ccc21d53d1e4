"""Searches for the smallest mixed file, and the rules of thumb and the program that it is held against; run as jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mct, tiny_tasks

FORMS = ("int8", "w4a8")
OTHERS = ("dynamic", "weights4")
# Shares of parts that the rule by sensitivity leaves in int8, and of bytes that the program is limited to.
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BUDGETS = tuple(np.linspace(0.5, 1.0, 21))


def mixed_forms(
    max_drop: float, folder: str, images: dict[str, Any] | None = None, sounds: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns bytes, drop and seconds of the smallest file within a drop of the metric, by the search and by rules.

    One half of the test examples decides; drops on the other half are reported besides. All rules use the same
    candidates, and are given the same right to look at the metric: what is reported of each is its smallest file that
    keeps the drop.

    Args:
        max_drop: of the metric.
        folder: where scores are kept, and what rules have measured.
        images: arguments of `_images`, or
        sounds: of `_sounds`.
    """
    import featherweight as fw
    from featherweight.choosing.bench import drop_of
    from featherweight.choosing.solve import chosen_forms
    from featherweight.tasks.choose import bench_of

    source, samples, unseen, labels, metric = _images(**images) if images else _sounds(**(sounds or {}))
    order = np.random.default_rng(0).permutation(len(unseen))
    unseen, labels, half = unseen[order], labels[order], len(unseen) // 2
    deciding, reporting = (unseen[:half], labels[:half]), (unseen[half:], labels[half:])

    start, started = time.perf_counter(), time.process_time()
    asked = {
        "calibration": samples,
        "forms": [*FORMS, *OTHERS, "float32"],
        "folder": folder,
        "metric": metric,
        "progress": False,
    }
    found = fw.search(source, deciding, max_drop=max_drop, **asked)
    seconds, processor = time.perf_counter() - start, time.process_time() - started
    start = time.perf_counter()
    fw.search(source, deciding, max_drop=max_drop / 2 + 0.01, **asked)
    again = time.perf_counter() - start

    bench = bench_of(source, deciding, samples, metric, "litert", None, None, progress=False)
    before = bench.task.evaluate(source)
    parts = [part.name for part in bench.parts]
    size = {part: {FORMS[0]: 0.0} for part in parts}
    noise: dict[str, dict[str, float]] = {part: {} for part in parts}
    for row in found.scores.rows:
        if not row.kept_float and row.noise < 1e6:
            size[row.part][row.form] = -float(row.saved_bytes)
            noise[row.part][row.form] = row.noise
    noise = {part: costs or {FORMS[0]: 0.0} for part, costs in noise.items()}
    size = {part: {form: size[part].get(form, 0.0) for form in costs} for part, costs in noise.items()}

    kept = Path(folder, "rules.json")
    made: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}

    def smallest(choices: list[Mapping[str, str]]) -> dict[str, Any]:
        """Returns the first file that keeps the drop, from the smallest on."""
        for choice in sorted(choices, key=lambda choice: sum(size[part].get(choice[part], 0.0) for part in parts)):
            key = " ".join(choice[part] for part in parts)
            if key not in made:
                model = bench.file(bench.candidate(choice))
                drop, error = drop_of(bench.task.evaluate(model), before)
                made[key] = {"bytes": len(fw.write(model)), "drop": drop, "error": error}
                kept.write_text(json.dumps(made))
            if made[key]["drop"] <= max_drop:
                return made[key]
        return {}

    weighted = [part.name for part in bench.parts if part.weight_elements]
    narrow = {part: FORMS[1] if FORMS[1] in size[part] else FORMS[0] for part in parts}
    wide = dict.fromkeys(parts, FORMS[0])
    ranked = sorted(weighted, key=lambda part: -noise[part].get(FORMS[0], 0.0))
    shares = [{**narrow, **dict.fromkeys(ranked[: round(share * len(ranked))], FORMS[0])} for share in _SHARES]
    total = {form: sum(costs.get(form, costs[FORMS[0]]) for costs in size.values()) for form in (FORMS[0],)}
    least = sum(min(costs.values()) for costs in size.values())
    limits = [least + share * (total[FORMS[0]] - least) for share in np.linspace(0, 1, len(_BUDGETS))]
    programs = [choice for limit in limits if (choice := chosen_forms(noise, size, limit)) is not None]
    above = {part: {form: cost - min(costs.values()) for form, cost in costs.items()} for part, costs in size.items()}
    by_mct = mct.choices(noise, above, [limit - least for limit in limits])
    rules: dict[str, list[Mapping[str, str]]] = {
        "int8": [wide],
        "w4a8": [narrow],
        "dynamic": [{part: OTHERS[0] if OTHERS[0] in costs else FORMS[0] for part, costs in size.items()}],
        "first and last int8": [{**narrow, weighted[0]: FORMS[0], weighted[-1]: FORMS[0]}],
        "the most sensitive in int8": shares,
        "program under limits of bytes": programs,
    }
    if by_mct is not None:
        rules["MCT's program"] = by_mct
    results = {name: smallest(choices) for name, choices in rules.items()}
    best = found.best
    results["search"] = {"bytes": best.file_bytes, "drop": best.drop, "error": best.drop_error, "fits": best.fits}
    levels = -10 * np.log10(bench.noise(found.model))
    drops: dict[str, tuple[float, float]] = {}
    for judged in dict.fromkeys((metric, "accuracy") if metric == "probability" else (metric,)):
        unseen_before = fw.evaluate(source, reporting, judged, progress=False)
        after = fw.evaluate(found.model, reporting, judged, progress=False)
        drops[getattr(judged, "__name__", judged)] = drop_of(after, unseen_before)
    drop, error = next(iter(drops.values()))
    return {
        "rules": results,
        "seconds": seconds,
        "another_seconds": again,
        "predicted_db": best.predicted_db,
        "measured_db": best.sqnr_db,
        "measured_error_db": float(levels.std(ddof=1) / np.sqrt(len(levels))),
        "unseen": {"drop": drop, "error": error, "examples": len(reporting[1]), "drops": drops},
        "processor_seconds": processor,
        "metric": next(iter(drops)),
        "forms": {form: list(best.choice.values()).count(form) for form in set(best.choice.values())},
        "tried": len(found.tried),
        "float_bytes": len(fw.write(source)),
        "examples": half,
    }


def _images(
    model: str, fed: str, test: str, side: int, scale: float, labelled: bool = False, metric: str = "accuracy"
) -> tuple[Any, list[np.ndarray], np.ndarray, np.ndarray, Any]:
    """Returns model, samples, crops with their labels, and the metric of a network that looks at images.

    Labels are those of the photographs, or without `labelled` the float model's class where it is sure of it.

    Args:
        model: a float model, as a path.
        fed: the calibration crops that `image_data` wrote.
        test: its test crops.
        side: the model's images are so large.
        scale: of pixels from 0 to 255 (side 224: as the crops are).
        labelled: the crops' labels are the model's classes.
        metric: that decides.
    """
    import featherweight as fw
    from benchmarks.ranges_jobs import resized
    from featherweight.analysis.evaluation import predict

    with np.load(test) as arrays:
        x, y = resized(arrays["x"], side, scale), arrays["y"]
    source = fw.load(model)
    if not labelled:
        given = next(iter(predict(source, x).values())).reshape(len(x), -1)
        is_sure = given.max(-1) >= tiny_tasks.SURE
        x, y = x[is_sure], given[is_sure].argmax(-1)
    return source, [x[np.newaxis] for x in resized(np.load(fed)[:, 0], side, scale)], x, y, metric


def _sounds(models: str, name: str) -> tuple[Any, list[np.ndarray], np.ndarray, np.ndarray, Any]:
    """Returns the same of one of MLPerf Tiny's networks that listen: made inputs, and the float network's decisions."""
    source = tiny_tasks.float_model(Path(models), name)
    assert source is not None
    is_unsupervised = name == "ad"  # whose decisions differ by more from file to file
    make, metric = (tiny_tasks.machines, tiny_tasks.decisions) if is_unsupervised else (tiny_tasks.heard, "accuracy")
    count = 4000 if is_unsupervised else 1000
    x, y = make(source, count, 0)
    return source, [each[np.newaxis] for each in make(source, 100, 1)[0]], x, y, metric


def wide_parts(images: dict[str, Any], runs: int = 100) -> dict[str, Any]:
    """Returns what int16 activations bring in the parts that int8 costs most, against int8 in all: dB, time, bytes.

    Args:
        images: arguments of `_images`.
        runs: of each file, in turns with the int8 one.
    """
    import featherweight as fw
    from featherweight.runtime.benchmark import benchmark
    from featherweight.tasks.choose import bench_of

    source, samples, x, y, metric = _images(**images)
    bench = bench_of(source, (x, y), samples, metric, "litert", None, None, progress=False)
    scores = fw.sensitivity(source, calibration=samples, forms=[FORMS[0], "int16x8"], progress=False)
    gains = {
        row.part: row.noise - wide.noise
        for row in scores.rows
        if row.form == FORMS[0] and (wide := scores.find(row.part, "int16x8")) is not None and wide.is_possible
    }
    everything = {part.name: FORMS[0] for part in bench.parts}
    narrow = bench.file(bench.candidate(everything))
    levels = bench.judge.levels(narrow)
    rows: list[dict[str, Any]] = []
    ranked = sorted(gains, key=lambda part: -gains[part])
    for count in (1, 2, 4):
        chosen = ranked[:count]
        model = bench.file(bench.candidate({**everything, **dict.fromkeys(chosen, "int16x8")}))
        differences = bench.judge.levels(model) - levels
        timed = benchmark({"int8": narrow, "wide": model}, runs=runs, progress=False)
        rows.append(
            {
                "parts": chosen,
                "gain_db": float(differences.mean()),
                "error_db": float(differences.std(ddof=1) / np.sqrt(len(differences))),
                "latency": timed[1].ratio,
                "bytes": len(fw.write(model)) / len(fw.write(narrow)),
            }
        )
    return {"rows": rows, "int8_db": float(levels.mean())}
