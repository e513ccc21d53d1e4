# # A detector with boxes: mean average precision, float and int8
#
# Boxes and scores leave this detector in one output, as those of YOLO do. With one scale for both, int8 has a step of a
# quarter of a pixel for boxes, and of a quarter for scores: nothing is found. Here nobody has to name a tensor. The
# pictures are made here: rectangles and ellipses on noise.

# +
from __future__ import annotations

import sys

import keras
import numpy as np
from keras import layers, ops

import featherweight as fw

SMALL = "--small" in sys.argv
SIDE, STRIDE, CLASSES = (32 if SMALL else 64), 8, 2
CELLS = SIDE // STRIDE
keras.utils.set_random_seed(0)


def drawn(count: int, seed: int) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Pictures float32 (count, side, side, 3), and what is on each: boxes as x0, y0, x1, y1, and classes."""
    random = np.random.default_rng(seed)
    images = random.normal(0.5, 0.08, (count, SIDE, SIDE, 3)).astype(np.float32)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    labels = []
    for image in images:
        boxes, classes = [], []
        for _ in range(random.integers(1, 3)):
            size, kind = random.uniform(8, SIDE / 2.2, 2), int(random.integers(CLASSES))
            centre = random.uniform(size / 2, SIDE - size / 2)
            if boxes and np.abs(np.mean(boxes, axis=0).reshape(2, 2).mean(axis=0) - centre).max() < 2 * STRIDE:
                continue  # each cell finds one object
            x, y = (columns - centre[0]) / size[0] * 2, (rows - centre[1]) / size[1] * 2
            inside = np.maximum(abs(x), abs(y)) < 1 if kind == 0 else x**2 + y**2 < 1
            image[inside] = image[inside] * 0.2 + random.uniform(0, 1, 3) * 0.8
            boxes.append([*(centre - size / 2), *(centre + size / 2)])
            classes.append(kind)
        labels.append({"boxes": np.array(boxes), "classes": np.array(classes)})
    return images, labels


def wanted(labels: list[dict[str, np.ndarray]]) -> np.ndarray:
    """What each cell should say: centre, size, whether there is an object, its class."""
    found = np.zeros((len(labels), CELLS**2, 5 + CLASSES), np.float32)
    for cells, one in zip(found, labels, strict=True):
        for box, kind in zip(one["boxes"], one["classes"], strict=True):
            centre = (box[:2] + box[2:]) / 2
            column, row = (centre // STRIDE).astype(int)
            cells[row * CELLS + column, :5] = *centre, *(box[2:] - box[:2]), 1
            cells[row * CELLS + column, 5 + kind] = 1
    return found


x_train, trained_on = drawn(128 if SMALL else 4000, seed=1)
x_test, truth = drawn(32 if SMALL else 400, seed=2)
# -

# ## The network
#
# One output (cells, 4 + classes): centre and size in pixels, and scores from 0 to 1.

# +
image = keras.Input((SIDE, SIDE, 3), name="image")
x = image
for filters, stride in ((16, 2), (32, 2), (48, 2), (64, 1), (64, 1)):
    x = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
corner = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(1, CELLS**2, 2).astype(np.float32)
place = layers.Reshape((CELLS**2, 2))(layers.Conv2D(2, 1, name="centres")(x))
size = layers.Reshape((CELLS**2, 2))(layers.Conv2D(2, 1, name="sizes")(x))
scores = layers.Conv2D(CLASSES, 1, activation="sigmoid", bias_initializer=keras.initializers.Constant(-3.0))(x)
scores = layers.Reshape((CELLS**2, CLASSES), name="scores")(scores)
boxes = [(ops.sigmoid(place) + corner) * STRIDE, ops.exp(ops.clip(size, -3.0, 2.0)) * 2.0 * STRIDE]
model = keras.Model(image, ops.concatenate([*boxes, scores], axis=-1))


def loss(y: object, found: object) -> object:
    """Distances where there is an object, and a focal loss of the scores (Lin et al., 1708.02002)."""
    distances = ops.sum(y[..., 4:5] * ops.abs(found[..., :4] - y[..., :4])) / STRIDE
    p, is_one = ops.clip(found[..., 4:], 1e-5, 1 - 1e-5), y[..., 5:]
    focal = -ops.sum(4 * is_one * (1 - p) ** 2 * ops.log(p) + (1 - is_one) * p**2 * ops.log(1 - p))
    return distances / 128 + focal / 32


epochs = 1 if SMALL else 16
rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(x_train) // 32)
model.compile(keras.optimizers.Adam(rate), loss=loss)
model.fit(x_train, wanted(trained_on), batch_size=32, epochs=epochs, verbose=0)
# -

# ## In integers
#
# `Boxes` says how the output becomes boxes. The difference is paired: the same draws of pictures for both.

# +
about = fw.Boxes(layout="joined", unit="pixels", most_overlap=0.5)
lowered = fw.load(model)
before = fw.evaluate(lowered, (x_test, truth), about)
print(f"{'float32':24}mAP {before.value:.3f} ± {before.standard_error:.3f}")
made = {
    "int8": fw.quantize(lowered, "int8", calibration=x_train[:64], progress=False),
    "int8, one scale": fw.quantize(lowered, "int8", calibration=x_train[:64], integers=True, progress=False),
}
for name, q in made.items():
    difference = fw.paired_difference(fw.evaluate(q, (x_test, truth), about), before)
    print(
        f"{name:24}{difference.value:+.3f} ± {difference.standard_error:.3f}  {q.save('detector.tflite') / 1000:.0f} kB"
    )
# -

# ## Without labels
#
# What the float model finds is what its integers should find, too.

# +
least = 0.01 if SMALL else 0.3  # a float score from which on an object is there
own = fw.Boxes(layout="joined", unit="pixels", most_overlap=0.5, teacher=lowered, teacher_score=least)
agreement = fw.evaluate(made["int8"], x_test, own)
print(f"agreement with float {agreement.value:.3f}")
made["int8"].save("detector.tflite")
