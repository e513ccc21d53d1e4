"""This package: quantized after training, repaired, or trained in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import featherweight as fw
from benchmarks.leaderboard.record import Inputs, Made

_ = fw.quantize, fw.run  # loaded before the clock starts


def make(
    inputs: Inputs,
    samples: np.ndarray,
    out: Path,
    recipe: str,
    improve: str | None = None,
    target: str = "litert",
    train: dict[str, Any] | None = None,
) -> Made:
    """Writes a file by a recipe for a target; `train` has steps, learning rate and options of `quantize_aware`."""
    if train is not None:
        return _trained(inputs, samples, out, recipe, **train)
    fed = None if recipe in ("dynamic", "float16") else list(samples)
    made = fw.quantize(
        inputs.model,
        recipe,
        calibration=fed,
        target=target,
        improve=improve,
        io="float32",
        verify=False,
        progress=False,
    )
    made.save(out)

    def simulate(x: np.ndarray) -> np.ndarray:
        parts = np.array_split(x, max(len(x) // 25, 1))
        return np.concatenate([_first(fw.run(out, part, runtime="reference")) for part in parts])

    notes = tuple(note for note in made.plan.notes if note.startswith("improve") or " dB above" in note)
    # What computes in float is not held bit for bit, and what comes after it is rounded otherwise now and then.
    is_integer = not made.plan.kept_float and not any(f.startswith("float32") for f in made.plan.forms.values())
    return Made(simulate if target == "litert" and is_integer else None, notes=notes)


def _trained(
    inputs: Inputs, samples: np.ndarray, out: Path, recipe: str, steps: int, learning_rate: float, **options: Any
) -> Made:
    import keras

    from benchmarks import fashion

    labels = options.pop("labels", True)
    network = keras.models.load_model(inputs.keras)
    model: Any = fw.quantize_aware(network, recipe, calibration=list(samples), progress=False, **options)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = "sparse_categorical_crossentropy" if labels else None
    model.compile(keras.optimizers.Adam(schedule), loss=loss, scaled=False)
    model.fit(fashion.batches(fashion.data(), steps, inputs.seed), steps_per_epoch=steps, verbose=0)
    fw.finalize(model).save(out)
    return Made(lambda x: np.asarray(model.predict(x, verbose=0)))


def _first(outputs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
