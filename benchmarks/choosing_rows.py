"""The row of mixed forms: the smallest file within half a point, by the search, by rules of thumb, by a program."""

from __future__ import annotations

import math
import shutil
from typing import Any

from benchmarks.measuring import FILES, Figure, Options, float_file, run_job, say
from benchmarks.tiny_tasks import float_model

_MOST_DROP = 0.005
# Networks of MLPerf Tiny that take images, in `--models`: file, side, scale of pixels.
_IMAGE_NETWORKS = (("vww_96_float.tflite", 96, 1 / 255), ("pretrainedResnet.tflite", 32, 1.0))
# And those that listen.
_SOUND_NETWORKS = ("kws", "str_ww", "ad")


def mixed_forms(options: Options) -> list[Figure]:
    """Smallest file within half a point of the label's probability (sounds: accuracy): search, rules, MCT's solver."""
    say("cropping images")
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("image_data", out=FILES, draws=1, calibration=100, crops=60)
    # Few crops decide: the class's probability on them says more than how often it is the largest.
    crops = {"fed": FILES / "images_calibration_0.npy", "test": FILES / "images_test_0.npz", "metric": "probability"}
    lite0 = {**crops, "model": float_file("efficientnet_lite0"), "side": 224, "scale": 1.0, "labelled": True}
    networks: dict[str, dict[str, Any]] = {"EfficientNet-Lite0": {"images": lite0}}
    for name, side, scale in _IMAGE_NETWORKS if options.models else ():
        path = options.models.resolve() / name if options.models else None
        if path is not None and path.is_file():
            networks[path.stem] = {"images": {**crops, "model": path, "side": side, "scale": scale}}
    for name in _SOUND_NETWORKS if options.models else ():
        if options.models is not None and float_model(options.models, name) is not None:
            networks[name] = {"sounds": {"models": options.models.resolve(), "name": name}}
    figures: list[Figure] = []
    for name, about in networks.items():
        say(name)
        folder = FILES / f"search_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        figures += figures_of(name, run_job("mixed_forms", max_drop=_MOST_DROP, folder=folder, **about))
    return figures


def wide_parts(options: Options) -> list[Figure]:
    """The parts that int8 costs most in int16x8, against int8 in all: decibels at the outputs, and time."""
    say("cropping images")
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("image_data", out=FILES, draws=1, calibration=100, crops=30)
    crops = {"fed": FILES / "images_calibration_0.npy", "test": FILES / "images_test_0.npz"}
    figures: list[Figure] = []
    for name, side, scale in _IMAGE_NETWORKS if options.models else ():
        path = options.models.resolve() / name if options.models else None
        if path is None or not path.is_file():
            continue
        say(path.stem)
        row = run_job("wide_parts", images={**crops, "model": path, "side": side, "scale": scale})
        for each in row["rows"]:
            label = f"{path.stem}: {len(each['parts'])} parts in int16x8"
            note = f"± {each['error_db']:.2f} dB; int8 alone {row['int8_db']:.1f} dB; {each['bytes']:.2f} of its bytes"
            figures.append(Figure(f"{label}, minus int8", each["gain_db"], "dB", at_least=3, note=note))
            figures.append(Figure(f"{label} / int8: time", each["latency"], "x", at_most=1.1))
    return figures


def figures_of(name: str, row: dict) -> list[Figure]:
    """Returns the figures of one network."""
    rules = dict(row["rules"])
    ours = rules.pop("search")
    unseen = row["unseen"]
    note = f"{row['forms']}, {row['tried']} files; drop {ours['drop']:.4f} ± {ours['error']:.4f} of {row['examples']}, "
    note += "on unseen ones " + ", ".join(f"{d:.4f} ± {e:.4f} ({metric})" for metric, (d, e) in unseen["drops"].items())
    note += f"; float {row['float_bytes']:,} bytes"
    figures = [Figure(f"{name}: search", ours["bytes"], "bytes", note=note)]
    for rule, found in rules.items():
        if not found:
            figures.append(Figure(f"{name}: {rule} keeps the drop", 0))
            continue
        note = f"{found['bytes']:,} bytes, drop {found['drop']:.4f} ± {found['error']:.4f}"
        figures.append(Figure(f"{name}: search / {rule}", ours["bytes"] / found["bytes"], "x", at_most=1, note=note))
    distance, moved = abs(row["predicted_db"] - row["measured_db"]), abs(unseen["drop"] - ours["drop"])
    error = math.hypot(unseen["error"], ours["error"])
    figures += [
        Figure(f"{name}: outputs, predicted against measured", distance, "dB", at_most=2 * row["measured_error_db"]),
        Figure(f"{name}: drop, on unseen examples against those that decided", moved, at_most=2 * error),
        Figure(
            f"{name}: from nothing",
            row["seconds"],
            "s",
            at_most=600,
            note=f"{row['processor_seconds']:.0f} s of the processor",
        ),
        Figure(f"{name}: another budget on the same scores", row["another_seconds"], "s", at_most=5),
    ]
    return figures
