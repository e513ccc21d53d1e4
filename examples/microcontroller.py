# # From training to firmware
#
# A convnet is pruned while it is trained, becomes integers, and then C sources with a test by which the device proves
# that it computes the same.

# +
from __future__ import annotations

import sys

import keras

import featherweight as fw
from featherweight.demo import dataset

SMALL = "--small" in sys.argv
keras.utils.set_random_seed(0)
images = dataset.load(full=False)
count = 500 if SMALL else 6000
x_train, y_train = images.x_train[:count], images.y_train[:count]
epochs = 2 if SMALL else 12
steps = epochs * -(-count // 64)

image = keras.Input((28, 28, 1), name="image")
x = keras.layers.Conv2D(16, 3, 2, "same", activation="relu", name="stem")(image)
for number, filters in enumerate((32, 64)):
    x = keras.layers.DepthwiseConv2D(3, 1 + number, "same", activation="relu", name=f"depthwise_{number}")(x)
    x = keras.layers.Conv2D(filters, 1, activation="relu", name=f"pointwise_{number}")(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(image, keras.layers.Dense(10, "softmax", name="classes")(x))
# -

# ## Pruned while it is trained

# +
schedule = fw.schedules.polynomial_decay(0.0, 0.75, begin=steps // 6, end=steps // 2)
optimizer = fw.SparseOptimizer(keras.optimizers.Adam(3e-3), schedule, frequency=2, rules={"pointwise*": 0.75, "*": 0.0})
model.compile(optimizer, "sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=64, epochs=epochs, verbose=0)
print(optimizer.sparsities())
# -

# ## Integers for TFLite Micro

# +
q = fw.quantize(model, "int8", target="tflm", strict=True, calibration=x_train[:100], progress=False)
print(f"{q.report.after.file_bytes} bytes, {q.report.after.compressed_bytes} compressed")
test = (images.x_test[:500], images.y_test[:500])
print(fw.paired_difference(fw.evaluate(q, test), fw.evaluate(model, test)))
# -

# ## C sources

# +
deployed = fw.deploy(q, "firmware", target="tflm", name="clothes", samples=x_train[:4])
print(deployed.arena)
for path in deployed.files:
    print(path)
