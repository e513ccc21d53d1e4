"""Lowers a Keras model in another process, on the backend that its converter wants.

Keras fixes its backend when it is imported. A model that lives on another one is saved, loaded there and lowered
there. Run as ``python -m featherweight.lower.worker FOLDER``; the folder holds the request and takes the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError, LoweringError
from featherweight.lower.checking import Check, Lowered
from featherweight.lower.source import first_samples


def lower_live(
    model: Any, *, unroll: bool, fuse: bool, samples: Sequence[Any] | None, input_shapes: Any, route: str
) -> Lowered:
    """Lowers a live model of another backend than JAX, and verifies the result against the live model itself.

    A model with classes that only this process knows falls back on its own backend's converter (route ``auto``).

    Raises:
        LoweringError: if no route works; the message names them.
    """
    from featherweight.lower import keras as keras_models

    source = keras_models.read_live(model, samples, input_shapes)
    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            lowered = lower_file(path, unroll=unroll, fuse=fuse, samples=samples, input_shapes=input_shapes)
        except Exception as error:  # Keras raises several types when it can't serialize.
            if route == "jax":
                raise _as_lowering_error(error) from error
            options: dict[str, Any] = {"unroll": unroll, "fuse": fuse, "samples": samples, "input_shapes": input_shapes}
            return _on_own_backend(model, error, **options)
    names = [name for name, _ in lowered.model.signatures[0].outputs]
    given = first_samples(samples, source.inputs)
    check = Check(source.title, source.inputs, names, lambda arrays, _: list(source.call(*arrays)), samples=given)
    if all(not item.has_free_batch for item in source.inputs) or lowered.notes:
        check.at_fixed_batch(lowered.model)
    else:
        check.at_free_batch(lowered.model)
    return lowered


def lower_file(
    path: Path,
    *,
    unroll: bool,
    fuse: bool,
    samples: Sequence[Any] | None,
    input_shapes: Any,
    route: str = "jax",
) -> Lowered:
    """Lowers a saved model in a process whose Keras runs on the backend of `route`: ``jax`` or ``tensorflow``.

    Raises:
        LoweringError: as `lower` there.
    """
    from featherweight.tflite import read

    with tempfile.TemporaryDirectory(prefix="featherweight-") as folder:
        answer = Path(folder) / "answer.json"
        arrays, kind = _flat(samples)
        np.savez(Path(folder) / "samples.npz", allow_pickle=False, **arrays)
        request = {"path": str(Path(path).resolve()), "samples": kind, "shapes": input_shapes, "route": route}
        (Path(folder) / "request.json").write_text(json.dumps({**request, "unroll": unroll, "fuse": fuse}))
        environment = {**os.environ, "KERAS_BACKEND": route, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "featherweight.lower.worker", folder]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not answer.is_file():
            said = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
            raise LoweringError(f"The process that lowers '{path}' on Keras's {route} backend failed: {said[0]}.")
        told = json.loads(answer.read_text())
        if told["error"]:
            raise LoweringError(told["error"])
        model = read((Path(folder) / "model.tflite").read_bytes())
        return Lowered(model, tuple(told["notes"]), tuple(told["recurrent"]))


def _on_own_backend(model: Any, why: Exception, **options: Any) -> Lowered:
    from featherweight.lower import keras as keras_models

    backend = keras_models.backend()
    try:
        if backend == "tensorflow":
            from featherweight.lower import tensorflow

            return tensorflow.lower_keras(model, **options)
        if backend == "torch":
            from featherweight.lower import torch

            return torch.lower_keras(model, **options)
    except FeatherweightError as error:
        raise LoweringError(
            f"{_as_lowering_error(why)} Neither does its own backend's converter work: {error}"
        ) from error
    raise _as_lowering_error(why) from why


def _as_lowering_error(error: Exception) -> LoweringError:
    if isinstance(error, LoweringError):
        return LoweringError(
            f"{error} (The model was saved and loaded on Keras's JAX backend to be lowered. Its own classes must be in "
            "an importable module, and registered with keras.saving.register_keras_serializable.)"
        )
    said = " ".join(str(error).split())[:300].rstrip(".")
    return LoweringError(
        f"The model can't be saved, which lowering from another Keras backend than JAX needs: {said}. "
        "Build it in a process with KERAS_BACKEND=jax instead."
    )


def _flat(samples: Sequence[Any] | None) -> tuple[dict[str, np.ndarray], Any]:
    """Samples as named arrays, and per sample what it was: a list of keys, a count, or None for a single array."""
    arrays: dict[str, np.ndarray] = {}
    kinds: list[Any] = []
    for i, sample in enumerate(samples or ()):
        is_map = isinstance(sample, Mapping)
        parts = list(sample.values()) if is_map else list(sample) if isinstance(sample, (tuple, list)) else [sample]
        arrays |= {f"{i}_{j}": np.asarray(part) for j, part in enumerate(parts)}
        kinds.append(list(sample) if is_map else len(parts) if isinstance(sample, (tuple, list)) else None)
    return arrays, kinds if samples else None


def _unflat(arrays: Mapping[str, np.ndarray], kinds: Any) -> list[Any] | None:
    samples: list[Any] = []
    for i, kind in enumerate(kinds or ()):
        count = 1 if kind is None else kind if isinstance(kind, int) else len(kind)
        parts = [arrays[f"{i}_{j}"] for j in range(count)]
        if isinstance(kind, list):
            samples.append(dict(zip(kind, parts, strict=True)))
        else:
            samples.append(parts[0] if kind is None else tuple(parts))
    return samples if kinds else None


def _main(folder: Path) -> None:
    from featherweight.lower import keras as keras_models
    from featherweight.lower import lower_with_notes
    from featherweight.tflite import save

    request = json.loads((folder / "request.json").read_text())
    told: dict[str, Any] = {"error": "", "notes": [], "recurrent": []}
    try:
        with np.load(folder / "samples.npz") as arrays:
            samples = _unflat(arrays, request["samples"])
        keras_models.backend()
        lowered = lower_with_notes(
            keras_models.load(request["path"]),
            unroll=request["unroll"],
            fuse=request["fuse"],
            samples=samples,
            input_shapes=request["shapes"],
            route=request["route"],
        )
        save(lowered.model, folder / "model.tflite")
        told |= {"notes": list(lowered.notes), "recurrent": list(lowered.recurrent)}
    except FeatherweightError as error:
        told["error"] = str(error)
    (folder / "answer.json").write_text(json.dumps(told))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
