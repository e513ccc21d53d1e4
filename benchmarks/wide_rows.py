"""Rows of models whose activations, or whose most delicate operators, are float: small weights, wide places."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.measuring import FILES, Figure, Options, cell, figure_of, float_file, run_job, say, wait_until_calm

# Sentences to calibrate with, and sets of those that are not seen: neighbours are looked for within a set.
_CALIBRATION, _SETS, _SET = 256, 5, 300


def float_activations(options: Options, draws: int = 3) -> list[Figure]:
    """EfficientNet-Lite0 with integer weights beside float activations, without data, against the converter's file."""
    source = float_file("efficientnet_lite0")
    run_job("image_data", out=FILES, draws=draws, calibration=100, crops=30)
    files = {"float": source, "converter": FILES / "lite0_converter_dynamic.tflite"}
    run_job("convert_tensorflow_dynamic", backend="tensorflow", model=source, out=files["converter"])
    for recipe in ("dynamic", "weights8", "weights4"):
        files[recipe] = FILES / f"lite0_{recipe}.tflite"
        run_job("quantize_without_data", model=source, out=files[recipe], recipe=recipe)
    rows = [run_job("scores", files=files, test=FILES / f"images_test_{draw}.npz") for draw in range(draws)]
    figures: list[Figure] = []
    level = {name: statistics.mean(row[name]["sqnr_db"] for row in rows) for name in list(files)[1:]}
    size = {name: file.stat().st_size for name, file in files.items()}
    for name, db in level.items():
        agrees = 100 * statistics.mean(statistics.mean(row[name]["agrees"]) for row in rows)
        note = f"agrees with float on {agrees:.2f} %, {size[name]:,} bytes"
        bound = level["converter"] if name == "dynamic" else None
        figures.append(Figure(f"EfficientNet-Lite0, {name}: SQNR", db, "dB", at_least=bound, note=note))
    ratio = size["dynamic"] / size["converter"]
    return [*figures, Figure("EfficientNet-Lite0, dynamic: bytes / converter", ratio, "x", at_most=1)]


def sentence_encoder(options: Options) -> list[Figure]:
    """all-MiniLM-L6-v2: int8 with improve=auto and weights4 with GPTQ on sentences that calibration has not seen."""
    source, sentences = FILES / "minilm.tflite", FILES / "minilm.npz"
    if not source.is_file():
        say("lowering the sentence encoder")
        run_job("encoder_data", out=source, sentences=sentences, calibration=_CALIBRATION, unseen=_SETS * _SET)
    files, made = {"float": source}, dict[str, Any]()
    wishes = {
        "dynamic": ("dynamic", []),
        "int8": ("int8", []),
        "int8, improve=auto": ("int8", ["auto"]),
        "weights4": ("weights4", []),
        "weights4, GPTQ": ("weights4", ["eight-bits", "gptq", "weight-scales"]),
    }
    for name, (recipe, improve) in wishes.items():
        say(name)
        files[name] = FILES / f"minilm_{name.replace(', ', '_').replace(' ', '_')}.tflite"
        taken = {"model": source, "sentences": sentences, "calibration": _CALIBRATION}
        taken |= {"out": files[name], "recipe": recipe, "improve": improve}
        made[name] = cell(files[name].stem, partial(run_job, "quantize_encoder", **taken))
    found = run_job("encoder_scores", files=files, sentences=sentences, skipped=_CALIBRATION, size=_SET)
    bounds = {"int8, improve=auto": ("sqnr_db", 19.5, 0.92, 24e6), "weights4, GPTQ": ("cosine", 0.985, 0.87, 13.5e6)}
    figures: list[Figure] = []
    for name in made:
        row = found[name]
        key, least, neighbours, largest = bounds.get(name, ("", None, None, None))
        what, size = f"all-MiniLM-L6-v2, {name}", made[name]["bytes"]
        note = "; ".join(made[name]["notes"])
        at_least = {key: least}
        alike, spread = statistics.mean(row["neighbours"]), statistics.stdev(row["neighbours"])
        sets = f"± {spread / _SETS**0.5:.3f} over {_SETS} sets of {_SET} sentences"
        figures += [
            Figure(f"{what}: SQNR", row["sqnr_db"], "dB", at_least=at_least.get("sqnr_db"), note=note),
            Figure(f"{what}: cosine", row["cosine"], at_least=at_least.get("cosine")),
            Figure(f"{what}: nearest neighbour as in float", alike, at_least=neighbours, note=sets),
            Figure(f"{what}: size", size / 1e6, "MB", at_most=largest and largest / 1e6),
            Figure(f"{what}: time", made[name]["seconds"], "s"),
        ]
    timed = {name: files[name] for name in ("dynamic", "int8", "int8, improve=auto")}
    rounds = []
    for _ in range(options.rounds):
        wait_until_calm()
        rounds.append(run_job("latency", files=timed, runs=40))
    what = "all-MiniLM-L6-v2, int8, improve=auto: latency / dynamic"
    return [*figures, figure_of(what, [row["int8, improve=auto"][3] for row in rounds], "x", at_most=1.8)]
