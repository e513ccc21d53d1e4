"""Rows of workers, the recorder and the whole flow."""

from __future__ import annotations

import shutil

from benchmarks.measuring import FILES, Figure, Options, figure_of, float_file, run_job, say, wait_until_calm


def workers(options: Options) -> list[Figure]:
    """What each part of EfficientNet-Lite0 costs in int8 and w4a8: one worker against two."""
    source = float_file("efficientnet_lite0")
    ratios, files = [], [FILES / f"scores_{count}.json" for count in (1, 2)]
    for number in range(min(options.rounds, 2)):
        seconds = {}
        for count, file in sorted(zip((1, 2), files, strict=True), reverse=bool(number % 2)):
            say(f"{count} workers")
            wait_until_calm()
            row = run_job("scores_by", model=source, out=file, workers=count, engine="processes")
            seconds[count] = row["seconds"]
        ratios.append(seconds[1] / seconds[2])
    same = files[0].read_bytes() == files[1].read_bytes()
    return [
        figure_of("one worker / two: time", ratios, "x", at_least=1.7, note=f"{seconds[1]:.0f} s with one"),
        Figure("files that differ", float(not same), at_most=0),
    ]


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
    """What `optimize` picks at a drop of a point at most, beside every recipe: Fashion-MNIST, a convnet and an LSTM."""
    figures: list[Figure] = []
    for kind in ("convnet", "lstm"):
        say(kind)
        folder = FILES / f"flow_{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        row = run_job("flow", kind=kind, seed=0, max_drop=0.01, folder=folder)
        fitting = {name: one["bytes"] for name, one in row["table"].items() if one["drop"] <= 0.01}
        smallest = min(fitting, key=lambda name: fitting[name], default="")
        note = f"'{row['chosen']}', {row['bytes']:,} bytes, drop {row['drop']:.4f}, {row['seconds']:.0f} s; smallest "
        note += f"recipe within a point: {smallest}, {fitting.get(smallest, 0):,} bytes"
        ratio = row["bytes"] / fitting[smallest] if smallest else 0.0
        figures.append(Figure(f"{kind}: chosen / smallest recipe that fits, bytes", ratio, "x", at_most=1, note=note))
    return figures
