"""Rows of workers, the recorder and the whole flow."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from typing import Any

from benchmarks.measuring import (
    FILES,
    Figure,
    Options,
    column,
    figure_of,
    float_file,
    interleaved,
    ratio_of,
    run_job,
    say,
    wait_until_calm,
)
from benchmarks.tiny_tasks import float_model


def workers(options: Options) -> list[Figure]:
    """What each part of EfficientNet-Lite0 costs in three forms: two workers of one thread against one of one."""
    source = float_file("efficientnet_lite0")
    kinds = {
        "one": {"workers": 1, "engine": "processes", "threads": 1},
        "two": {"workers": 2, "engine": "processes", "threads": 1},
    }
    if importlib.util.find_spec("ray") is not None:
        kinds["two of Ray's"] = {"workers": 2, "engine": "ray", "threads": 1}
    files = {kind: FILES / f"scores_{number}.json" for number, kind in enumerate(kinds)}
    jobs = {kind: partial(run_job, "scores_by", model=source, out=files[kind], **kinds[kind]) for kind in kinds}
    results = interleaved(jobs, 1)  # of a minute each
    seconds = {kind: column(rows, "seconds") for kind, rows in results.items()}
    figures = [figure_of(f"{kind}: time", values, "s") for kind, values in seconds.items()]
    figures += [
        ratio_of(f"one worker of one thread / {kind}: time", seconds["one"], seconds[kind], at_least=1.7)
        for kind in list(kinds)[1:]
    ]
    used = {kind: column(rows, "processor_seconds") for kind, rows in results.items()}
    figures.append(ratio_of("two / one: processor time, start included", used["two"], used["one"]))
    different = len({file.read_bytes() for file in files.values()}) - 1
    return [*figures, Figure("files that differ", float(different), at_most=0)]


def recorder(options: Options) -> list[Figure]:
    """Inference through a recorder against plain inference, dynamic files, one thread, in turns."""
    figures: list[Figure] = []
    for name in ("fashion", "mobilenet_v2"):
        out = FILES / f"recorder_{name}.tflite"
        run_job("quantize_without_data", model=float_file(name), out=out, recipe="dynamic")
        wait_until_calm()
        row = run_job("recorded", model=out, seconds=10, rounds=options.rounds)
        note = f"{row['count']} inferences a round, {row['recorded']} recorded"
        note += ", until it had converged" if row["converged"] else ""
        figures.append(figure_of(f"{name}: recorded / plain", row["ratios"], "x", at_most=1.02, note=note))
    return figures


def flow(options: Options) -> list[Figure]:
    """What `optimize` picks at a drop of a point at most, beside every recipe: a convnet, an LSTM, KWS."""
    figures: list[Figure] = []
    kinds: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in ("convnet", "lstm")}
    if options.models and float_model(options.models, "kws") is not None:
        kinds["kws"] = {"kind": "kws", "models": options.models.resolve()}
    kinds |= {f"{kind}, to the best": {**about, "stop": "best"} for kind, about in kinds.items()}
    for kind, about in kinds.items():
        say(kind)
        folder = FILES / f"flow_{kind.replace(', ', '_')}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        row = run_job("flow", max_drop=0.01, folder=folder, **about)
        fitting = {name: one["bytes"] for name, one in row["table"].items() if one["drop"] <= 0.01}
        smallest = min(fitting, key=lambda name: fitting[name], default="")
        note = f"'{row['chosen']}', {row['bytes']:,} bytes, drop {row['drop']:.4f}, {row['seconds']:.0f} s; smallest "
        note += f"recipe within a point: {smallest}, {fitting.get(smallest, 0):,} bytes"
        ratio = row["bytes"] / fitting[smallest] if smallest else 0.0
        figures.append(Figure(f"{kind}: chosen / smallest recipe that fits, bytes", ratio, "x", at_most=1, note=note))
    return figures
