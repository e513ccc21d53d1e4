# # A transformer
#
# Attention over the patches of an image. Normalizations and the residual stream are where transformers lose in
# integers: `wide-places` finds the few that have to stay wide.

# +
from __future__ import annotations

import sys

import keras

import featherweight as fw
from featherweight.demo import dataset

SMALL = "--small" in sys.argv
WIDTH, BLOCKS = (16, 1) if SMALL else (64, 3)
keras.utils.set_random_seed(0)
images = dataset.load(full=False)
count = 500 if SMALL else 6000

image = keras.Input((28, 28, 1), name="image")
patches = keras.layers.Reshape((16, WIDTH))(keras.layers.Conv2D(WIDTH, 7, 7, name="patches")(image))
x = keras.layers.Add()([patches, keras.layers.Embedding(16, WIDTH, name="places")(keras.ops.arange(16))[None]])
for number in range(BLOCKS):
    y = keras.layers.LayerNormalization(name=f"norm_{number}")(x)
    x = x + keras.layers.MultiHeadAttention(4, WIDTH // 4, name=f"attention_{number}")(y, y)
    y = keras.layers.Dense(2 * WIDTH, "gelu", name=f"wide_{number}")(keras.layers.LayerNormalization()(x))
    x = x + keras.layers.Dense(WIDTH, name=f"narrow_{number}")(y)
x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
model = keras.Model(image, keras.layers.Dense(10, "softmax", name="classes")(x))
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
model.fit(images.x_train[:count], images.y_train[:count], batch_size=64, epochs=1 if SMALL else 10, verbose=0)
# -

# ## Plain, with wide places, and dynamic

# +
samples, test = images.x_train[:100], (images.x_test[: count // 2], images.y_test[: count // 2])
made = {
    "dynamic": fw.quantize(model, "dynamic", calibration=samples, progress=False),  # samples only measure it
    "int8": fw.quantize(model, "int8", calibration=samples, progress=False),
    "int8, wide places": fw.quantize(model, "int8", calibration=samples, improve="wide-places", progress=False),
}
fw.save(made["int8, wide places"], "transformer_int8.tflite")
before = fw.evaluate(model, test)
for name, one in made.items():
    difference = fw.paired_difference(fw.evaluate(one, test), before)
    worst = min(error.sqnr_db for error in one.report.outputs)
    print(f"{name:18} {difference.value:+.3f} ± {difference.standard_error:.3f}  {worst:5.1f} dB at the output")
