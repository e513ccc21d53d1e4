# # Quantization-aware training in a loop of one's own
#
# A quantized model is a Keras model like any other: its stateless call goes into a loop in JAX. After each epoch the
# integers of the file are asked what they do.

# +
from __future__ import annotations

import sys

import jax
import keras
import numpy as np

import featherweight as fw
from featherweight.demo import dataset

SMALL = "--small" in sys.argv
keras.utils.set_random_seed(0)
images = dataset.load(full=False)
count = 512 if SMALL else 6000
x_train, y_train = images.x_train[:count], images.y_train[:count]
x_test, y_test = images.x_test[:500], images.y_test[:500]

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(16, 3, 2, activation="relu"),
        keras.layers.Conv2D(32, 3, 2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(2e-3), loss)
model.fit(x_train, y_train, batch_size=64, epochs=1 if SMALL else 10, verbose=0)
# -

# ## The loop

# +
qat = fw.quantize_aware(model, "w4a8", calibration=x_train[:100])
optimizer = keras.optimizers.Adam(1e-4)
optimizer.build(qat.trainable_variables)


def loss_of(weights, others, x, y):
    """The loss of a batch, and the state after it."""
    logits, others = qat.stateless_call(weights, others, x, training=True)
    return loss(y, logits), others


@jax.jit
def step(weights, others, state, x, y):
    """One step of the optimizer."""
    (value, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, others, x, y)
    weights, state = optimizer.stateless_apply(state, gradients, weights)
    return weights, others, state, value


groups = (qat.trainable_variables, qat.non_trainable_variables, optimizer.variables)
values = [[variable.value for variable in group] for group in groups]
for epoch in range(1 if SMALL else 3):
    for start in range(0, count - 63, 64):
        *values, value = step(*values, x_train[start : start + 64], y_train[start : start + 64])
    for group, news in zip(groups, values, strict=True):
        for variable, new in zip(group, news, strict=True):
            variable.assign(new)
    q = fw.finalize(qat)
    print(epoch, float(value), fw.evaluate(q, (x_test, y_test)))
# -

# ## What was trained is what runs

# +
q.save("loop_w4a8.tflite")
assert np.array_equal(qat.predict(x_test, verbose=0), fw.run(q, x_test))
