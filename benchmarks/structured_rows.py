"""The row of structured pruning: channels removed from networks, and what that brings on LiteRT and the Ethos-U."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.measuring import (
    FILES,
    Figure,
    Options,
    cell,
    figure_of,
    float_file,
    quantize_job,
    run_job,
    say,
    wait_until_calm,
)
from benchmarks.training_rows import SEEDS, paired_over_seeds

_SHARE = 0.5
# Network → steps of the training of the whole one, and of the smaller one behind it.
_STEPS = {"resnet8": 600, "inverted": 1000}
_RUNS = {"mobilenet_v2": 100, "resnet8": 400}
# Of the time of convolutions, so much that a whole run takes less than 1 / 1.6.
_TIMES = {"mobilenet_v2": 0.48, "resnet8": 0.38}


def channels(options: Options) -> list[Figure]:
    """Half of the multiply-accumulates removed with channels: latency before / after, one thread, float and int8."""
    from tests import clients

    figures: list[Figure] = []
    for name, runs in _RUNS.items():
        say(name)
        source, smaller = float_file(name), FILES / f"{name}_channels.tflite"
        made = run_job("remove_channels", model=source, out=smaller, macs=_SHARE)
        files = {"float": (smaller, source)}
        files["int8"] = FILES / f"{name}_channels_int8.tflite", FILES / f"{name}_featherweight_int8.tflite"
        for before, after in zip((smaller, source), files["int8"], strict=True):
            quantize_job("featherweight", before, after, 20)
        whole, left = made["macs"]
        note = f"{whole / 1e6:.1f} to {left / 1e6:.1f} million; in {made['seconds']:.2f} s"
        figures.append(Figure(f"{name}: MACs removed", 1 - left / whole, at_least=_SHARE, note=note))
        whole, left = made["weight_bytes"]
        figures.append(Figure(f"{name}: bytes of float weights", whole / left, "x", note=f"{whole:,} to {left:,}"))
        for kind, (after, before) in files.items():
            rows = []
            for _ in range(options.rounds):
                wait_until_calm()
                rows.append(run_job("latency", files={"after": after, "before": before}, runs=runs))
            figures += [
                figure_of(f"{name}, {kind}: {state}", [row[state][0] for row in rows], "ms")
                for state in ("before", "after")
            ]
            ratios = [row["before"][3] for row in rows]
            figures.append(figure_of(f"{name}, {kind}: before / after", ratios, "x", at_least=1.6))
        compiled = FILES / f"{name}_channels_ethos_int8.tflite"
        run_job("quantize_featherweight", model=smaller, out=compiled, samples=4, target="ethos-u55")
        made = clients.vela(compiled, "ethos-u55-256")
        note = f"{made.npu_ops} operators on the NPU, {made.cpu_ops} on the CPU, {made.npu_macs} MACs"
        what = f"{name}, int8 after: accepted by Vela, on the NPU"
        figures.append(Figure(what, 100 * made.npu_fraction, "%", at_least=100, note=note))
    return figures


def smaller(options: Options) -> list[Figure]:
    """Fashion-MNIST, half of the multiply-accumulates removed with channels, then trained on: accuracy of int8."""
    figures: list[Figure] = []
    for name, steps in _STEPS.items():
        scores = [_smaller(name, seed, steps) for seed in SEEDS]
        correct = {kind: np.array([row[kind] for row in scores], float) for kind in ("whole", "cut", "trained on")}
        whole, left = (sum(row["macs"][side] for row in scores) for side in (0, 1))
        figures.append(Figure(f"{name}: MACs removed", 1 - left / whole, at_least=_SHARE))
        note = f"{len(scores)} seeds, {scores[0]['whole bytes']:,} bytes"
        figures.append(Figure(f"{name}, whole: accuracy of int8", 100 * correct["whole"].mean(), "%", note=note))
        for kind in ("cut", "trained on"):
            mean, error = paired_over_seeds(correct[kind], correct["whole"])
            note = f"± {error:.2f}; {scores[0][f'{kind} bytes']:,} bytes"
            figures.append(Figure(f"{name}, {kind}: int8 against the whole one", mean, "points", note=note))
    return figures


def _smaller(name: str, seed: int, steps: int) -> dict[str, Any]:
    source = FILES / f"smaller_{name}_{seed}.keras"
    cell(
        f"smaller_{name}_{seed}_whole",
        lambda: run_job("train_whole", name=name, out=source, seed=seed, steps=steps),
    )
    arguments = {"seed": seed, "steps": steps, "learning_rate": 2e-3, "macs": _SHARE}
    return cell(f"smaller_{name}_{seed}", lambda: run_job("train_smaller", source=source, **arguments))


def packs(options: Options) -> list[Figure]:
    """Packs of channels measured here, and int8 latency before / after: half the MACs, and a share of the time."""
    found = run_job("measured_packs")
    figures = [
        Figure(f"pack of {dtype}, measured", pack, "channels")
        for dtype, pack in found.items()
        if dtype in ("int8", "float32")
    ]
    for name, runs in _RUNS.items():
        say(name)
        files = {"before": FILES / f"{name}_whole_int8.tflite"}
        quantize_job("featherweight", float_file(name), files["before"], 20)
        for multiple in (8, None, "measured"):
            label = {None: "the target's", "measured": "measured"}.get(multiple, str(multiple))
            smaller = FILES / f"{name}_packs.tflite"
            run_job("remove_channels", model=float_file(name), out=smaller, macs=_SHARE, multiple=multiple)
            files[label] = FILES / f"{name}_packs_{len(files)}_int8.tflite"
            quantize_job("featherweight", smaller, files[label], 20)
        made = run_job("remove_channels", model=float_file(name), out=smaller, latency=_TIMES[name])
        files["by time"] = FILES / f"{name}_packs_{len(files)}_int8.tflite"
        quantize_job("featherweight", smaller, files["by time"], 20)
        whole, left = made["macs"]
        note = f"in {made['seconds']:.1f} s"
        figures.append(Figure(f"{name}, by time: MACs removed", 1 - left / whole, at_least=_SHARE, note=note))
        rows = [run_job("latency", files=files, runs=runs) for _ in range(options.rounds)]
        for label in list(files)[1:]:
            ratios = [row["before"][0] / row[label][0] for row in rows]
            bound = {"at_least": 1.6} if label == "by time" else {}
            figures.append(figure_of(f"{name}, int8, {label}: before / after", ratios, "x", **bound))
    return figures
