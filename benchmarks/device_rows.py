"""The rows of the device: the arena that is known before it runs, and proof that every runtime computes the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Figure, Options, float_file, say

_NETWORKS = ("ds_cnn", "resnet8", "mobilenet_v1_025", "mobilenet_v2_035", "autoencoder")
_RECIPES = ("int8", "int16x8", "w4a8")


def arena(options: Options) -> list[Figure]:
    """The arena's tensors as predicted and as TFLite Micro takes them, and what a plan of places in the file brings."""
    import featherweight as fw
    from featherweight.device_code.arena import micro_run
    from featherweight.device_code.places import with_places
    from featherweight.memory.placing import arena_bytes

    figures: list[Figure] = []
    for name, model in _models("tflm"):
        say(name)
        given = model.main.tensors[model.main.inputs[0]]
        feeds = [[np.random.default_rng(seed).integers(-99, 99, given.shape).astype(given.dtype)] for seed in (0, 1)]
        found = []
        for made in (model, with_places(model)):
            if made is not None:
                with tempfile.TemporaryDirectory() as folder:
                    fw.save(made, Path(folder, "model.tflite"))
                    found.append(micro_run(Path(folder, "model.tflite"), feeds, len(model.main.outputs)))
        measured = found[0].arena.tensors
        note = f"{arena_bytes(model):,} bytes predicted, {measured:,} measured"
        figures.append(
            Figure(f"{name}: |predicted - measured|", abs(arena_bytes(model) - measured), "bytes", at_most=0, note=note)
        )
        if len(found) > 1:
            pairs = zip(found[0].outputs, found[1].outputs, strict=True)
            differing = sum(int((a != b).sum()) for one, two in pairs for a, b in zip(one, two, strict=True))
            after = found[1].arena.tensors
            note = f"{measured:,} → {after:,} bytes, {differing} integers differ"
            ratio = after / measured if not differing else float("nan")
            figures.append(Figure(f"{name}: with a plan of places / without", ratio, "x", at_most=1.0, note=note))
    return figures


def proof(options: Options) -> list[Figure]:
    """`prove` over networks, recipes and targets: elements that differ in runtimes whose arithmetic is claimed."""
    import featherweight as fw

    figures: list[Figure] = []
    for target in ("litert", "tflm"):
        for name, model in _models(target):
            say(f"{name}, {target}")
            sheet = fw.prove(model, target=target, vectors=4, progress=False)
            claimed = [row for row in sheet.rows if row.is_claimed and row.status in ("equal", "differs")]
            differing = sum(each.differing for row in claimed for each in (*row.outputs, *row.tensors))
            compared = sum(each.elements for row in claimed for each in (*row.outputs, *row.tensors))
            others = ", ".join(f"{row.runtime} {row.status}" for row in sheet.rows[1:] if row not in claimed)
            note = f"{compared:,} compared in {len(claimed)} runtimes; {others}"
            # Where a file holds floats, no runtime is claimed.
            at_most = 0 if claimed else None
            figures.append(Figure(f"{name}, {target}: elements that differ", differing, at_most=at_most, note=note))
    return figures


def _models(target: str) -> Iterator[tuple[str, Any]]:
    """Yields networks of seeded weights in each recipe, and one with branches."""
    from tests import branched

    import featherweight as fw

    sources = {name: fw.load(float_file(name)) for name in _NETWORKS} | {"Inception, 3 cells": branched.inception(3)}
    for name, source in sources.items():
        shape = [max(size, 1) for size in source.main.tensors[source.main.inputs[0]].shape]
        samples = [np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32) for seed in range(4)]
        for recipe in _RECIPES:
            given = {"calibration": samples, "target": target, "io": "int8" if recipe != "int16x8" else None}
            yield f"{name}, {recipe}", fw.quantize(source, recipe, verify=False, progress=False, **given).model
