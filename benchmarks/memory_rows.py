"""The row of operator orders: the peak of live tensors, beside what no order can be below, and the arena."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figure, Options, say

# Up to so many operators, the optimum is to be proven.
_SMALL = 60


def operator_order(options: Options) -> list[Figure]:
    """Peak of live tensors on branched nets, int8, beside its bound, and the arena in TFLite Micro."""
    from tests import branched

    import featherweight as fw
    from featherweight.device_code.arena import micro_run
    from featherweight.memory.ordering import ordered

    nets = {
        "Inception, 3 cells": branched.inception(3),
        "Inception, 9 cells": branched.inception(9, side=64),
        "NASNet, 1 cell": branched.nasnet(1),
        "NASNet, 4 cells": branched.nasnet(4),
        "NASNet, 12 cells": branched.nasnet(12),
        **{f"random wiring, 13 nodes, seed {seed}": branched.random_wiring(13, seed) for seed in range(3)},
        **{f"random wiring, 60 nodes, seed {seed}": branched.random_wiring(60, seed) for seed in range(3)},
    }
    figures: list[Figure] = []
    for name, net in nets.items():
        say(name)
        shape = net.main.tensors["x"].shape
        samples = [np.random.default_rng(i).uniform(-1, 1, shape).astype(np.float32) for i in range(2)]
        given = fw.quantize(
            net, calibration=samples, target="tflm", keep_order=True, verify=False, progress=False
        ).model
        found = ordered(given)
        (peak,) = found.peaks
        feeds = [[np.random.default_rng(i).integers(-128, 128, shape, np.int8)] for i in range(2)]
        runs = []
        for model in (given, found.model):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "model.tflite")
                fw.save(model, path)
                runs.append(micro_run(path, feeds, 1))
        differing = sum(int((a[0] != b[0]).sum()) for a, b in zip(runs[0].outputs, runs[1].outputs, strict=True))
        note = f"{peak.operators} operators, {peak.before:,} → {peak.after:,} bytes, bound {peak.bound:,}"
        at_most = 1.0 if peak.operators <= _SMALL else 1.05
        arenas = [run.arena.tensors for run in runs]
        arena_note = f"{arenas[0]:,} → {arenas[1]:,} bytes of tensors in the arena"
        figures += [
            Figure(f"{name}: peak / bound", peak.after / peak.bound, "x", at_most=at_most, note=note),
            Figure(f"{name}: arena after / before", arenas[1] / arenas[0], "x", at_most=1.0, note=arena_note),
            Figure(f"{name}: integers that differ in the interpreter", differing, at_most=0),
        ]
    return figures
