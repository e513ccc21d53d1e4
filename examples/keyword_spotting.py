# # Keyword spotting on a microcontroller
#
# The network is MLPerf Tiny's DS-CNN (Banbury et al., 2106.07597), the data are made here: spectrograms of 49 frames by
# 10 coefficients, in which each word is a sweep of its own. Put your own in place of `spoken`.

# +
from __future__ import annotations

import sys

import keras
import numpy as np

import featherweight as fw

SMALL = "--small" in sys.argv
WORDS = 12
keras.utils.set_random_seed(0)


def spoken(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectrograms float32 (count, 49, 10, 1) and words int64 (count,)."""
    random = np.random.default_rng(seed)
    words = random.integers(0, WORDS, count)
    frames, bands = np.arange(49)[:, None], np.arange(10)[None]
    made = []
    for word in words:
        start, slope = (word % 4) * 2.0 + 1, (word // 4 - 1) * 0.12
        centre = start + slope * (frames - random.uniform(5, 15)) + random.normal(0, 0.2)
        made.append(8 * np.exp(-((bands - centre) ** 2)) + random.normal(0, 1.2, (49, 10)))
    return np.stack(made)[..., None].astype(np.float32), words


x_train, y_train = spoken(600 if SMALL else 12000, seed=1)
x_test, y_test = spoken(200 if SMALL else 2000, seed=2)
# -

# ## The network

# +
sound = keras.Input((49, 10, 1), name="spectrogram")
x = keras.layers.Conv2D(64, (10, 4), 2, "same", use_bias=False, name="stem")(sound)
x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
for number in range(2 if SMALL else 4):
    for layer in (
        keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise_{number}"),
        keras.layers.Conv2D(64, 1, use_bias=False, name=f"pointwise_{number}"),
    ):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(layer(x)))
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(sound, keras.layers.Dense(WORDS, "softmax", name="words")(x))
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=64, epochs=1 if SMALL else 8, verbose=0)
# -

# ## For the device
#
# `strict` refuses a file of which anything but its borders would stay float.

# +
q = fw.quantize(
    model, "int8", target="tflm", strict=True, calibration=x_train[:200], improve=["bias-correction"], progress=False
)
q.save("keywords.tflite")
print(q.report)
assert not fw.check(q, "tflm")
difference = fw.paired_difference(fw.evaluate(q, (x_test, y_test)), fw.evaluate(model, (x_test, y_test)))
print(f"accuracy {difference.value:+.4f} ± {difference.standard_error:.4f}")
