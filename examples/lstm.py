# # A recurrent net
#
# An LSTM reads an image row by row. A Keras LSTM can be lowered as one fused operator, as a loop, or step by step; and
# whether `dynamic` or `int8` is the better file is measured, not assumed.

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
x_train, y_train = images.x_train[:count, ..., 0], images.y_train[:count]
x_test, y_test = images.x_test[: count // 2, ..., 0], images.y_test[: count // 2]

rows = keras.Input((28, 28), name="rows")
states = keras.layers.LSTM(32 if SMALL else 64, name="reader")(rows)
model = keras.Model(rows, keras.layers.Dense(10, "softmax", name="classes")(states))
model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=64, epochs=1 if SMALL else 8, verbose=0)
# -

# ## Forms of the same net

# +
samples = x_train[:100]
made = {
    "float32": fw.load(model),
    "dynamic": fw.quantize(model, "dynamic", progress=False),
    "int8, fused": fw.quantize(model, "int8", calibration=samples, recurrent="fused", progress=False),
    "int16x8, fused": fw.quantize(model, "int16x8", calibration=samples, recurrent="fused", progress=False),
}
before = fw.evaluate(made["float32"], (x_test, y_test))
times = {row.name: row.ratio for row in fw.benchmark(made, runs=20 if SMALL else 200)}
for name, one in made.items():
    difference = fw.paired_difference(fw.evaluate(one, (x_test, y_test)), before)
    file_bytes = fw.save(one, f"lstm_{name.split(',')[0]}.tflite")
    print(
        f"{name:15} {difference.value:+.3f} ± {difference.standard_error:.3f}  {file_bytes / 1000:6.1f} kB  "
        f"{times[name]:.2f} of the time"
    )
