# # Anomaly detection: a score that is an error itself
#
# MLPerf Tiny's autoencoder learns what a machine sounds like, and its reconstruction error is the score. Rounding adds
# an error of its own to every score; what counts is whether broken machines still score higher. The sounds are made
# here: harmonics whose amplitudes change when the machine breaks.

# +
from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np

import featherweight as fw

SMALL = "--small" in sys.argv
keras.utils.set_random_seed(0)


def heard(count: int, seed: int, *, is_broken: bool = False) -> np.ndarray:
    """Five frames of 128 log energies, float32 (count, 640)."""
    random = np.random.default_rng(seed)
    bands = np.arange(128)
    tone = random.uniform(9, 11, (count, 1, 1)) * (1 + 0.02 * random.normal(size=(count, 5, 1)))
    phase = bands / tone
    sound = np.cos(2 * np.pi * phase) * np.exp(-bands / 60) + (0.25 * np.cos(3 * np.pi * phase) if is_broken else 0)
    return (sound + random.normal(0, 0.15, sound.shape)).reshape(count, 640).astype(np.float32)


normal = heard(500 if SMALL else 8000, seed=1)
tested = np.concatenate([heard(200, seed=2), heard(200, seed=3, is_broken=True)])
broken = np.repeat([False, True], 200)
# -

# +
sound = keras.Input((640,), name="sound")
x = sound
for width in (128, 128, 8, 128, 128):
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Dense(width)(x)))
model = keras.Model(sound, keras.layers.Dense(640, name="again")(x))
model.compile(keras.optimizers.Adam(2e-3), "mse")
model.fit(normal, normal, batch_size=64, epochs=2 if SMALL else 20, verbose=0)
# -

# ## Does the score still tell broken from sound?


# +
def area(made: Any) -> float:
    """The area under the curve of true over false alarms."""
    score = np.mean((fw.run(made, tested) - tested) ** 2, axis=1)
    return float(np.mean(score[broken][:, None] > score[~broken][None]))


print(f"float32 {area(fw.load(model)):.3f}")
for recipe in ("dynamic", "int8", "w4a8"):
    q = fw.quantize(model, recipe, calibration=None if recipe == "dynamic" else normal[:200], progress=False)
    print(f"{recipe:8}{area(q):.3f}  {q.save(f'anomaly_{recipe}.tflite') / 1000:.0f} kB")
