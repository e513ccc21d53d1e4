# # Image classification: every recipe, measured
#
# A convnet learns to tell clothes apart, and becomes small in every way there is.

# +
from __future__ import annotations

import sys

import keras
import numpy as np

import featherweight as fw
from featherweight.demo import dataset

SMALL = "--small" in sys.argv
keras.utils.set_random_seed(0)
images = dataset.load(full=False if SMALL else None)
x_test, y_test = images.x_test[: 200 if SMALL else None], images.y_test[: 200 if SMALL else None]
# -

# ## A float model

# +
image = keras.Input((28, 28, 1), name="image")
x = image
for number, (filters, stride) in enumerate(((16, 2), (32, 2), (64, 1))):
    x = keras.layers.SeparableConv2D(filters, 3, stride, "same", use_bias=False, name=f"block_{number}")(x)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(image, keras.layers.Dense(10, "softmax", name="classes")(x))
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
count = 1000 if SMALL else len(images.x_train)
model.fit(images.x_train[:count], images.y_train[:count], batch_size=64, epochs=1 if SMALL else 15, verbose=0)
# -

# ## Every recipe
#
# Calibration samples are from the training split. `integers=True` would keep even those operators in integers that are
# faster in float.

# +
samples = images.x_train[:200]
made = {"float32": fw.load(model)}
for recipe in ("float16", "dynamic", "int8", "int16x8", "w4a8"):
    needs_samples = recipe not in ("float16", "dynamic")
    made[recipe] = fw.quantize(model, recipe, calibration=samples if needs_samples else None, progress=False)
# Four bits are where repairs pay.
made["w4a8, repaired"] = fw.quantize(
    model, "w4a8", calibration=samples, improve=["gptq", "bias-correction"], progress=False
)
# -

# ## What each costs
#
# The difference is paired: both models see the same images, so that a small difference shows.

# +
before = fw.evaluate(made["float32"], (x_test, y_test))
times = {row.name: row.ratio for row in fw.benchmark(made, runs=20 if SMALL else 200)}
for name, one in made.items():
    after = fw.evaluate(one, (x_test, y_test))
    difference = fw.paired_difference(after, before)
    file_bytes = fw.save(one, f"clothes_{name.replace(', ', '_')}.tflite")
    print(
        f"{name:16} {after.value:.3f}  {difference.value:+.3f} ± {difference.standard_error:.3f}  "
        f"{file_bytes / 1000:6.1f} kB  {times[name]:.2f} of the time"
    )
assert np.isfinite(before.value)
