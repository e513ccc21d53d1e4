"""A detector whose boxes and scores are one output, trained on drawn scenes: mean average precision, float and int8.

``python -m benchmarks.detector`` trains it (a minute on an idle core) and prints one line for each file. Boxes are in
pixels of the picture, or of one ten times as large; the last rows scale its channels by 2^[-3, 3], function kept, for a
target with one scale for a whole weight.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np

SIDE, CELL, CLASSES = 64, 8, 2
GRID = SIDE // CELL


class Scene(NamedTuple):
    """A picture with the boxes (x0, y0, x1, y1) and classes of what is on it: rectangles and ellipses."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def scene(random: np.random.Generator) -> Scene:
    """Draws up to three objects on noise; no two have their centres in neighbouring cells."""
    light = np.linspace(random.uniform(0.5, 1), random.uniform(0.5, 1), SIDE)[np.newaxis, :, np.newaxis]
    image = random.normal(0.5, 0.08, (SIDE, SIDE, 3)) * light
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    boxes: list[tuple[float, float, float, float]] = []
    classes: list[int] = []
    for _ in range(random.integers(1, 4)):
        w, h = random.uniform(8, 30, 2)
        x, y = random.uniform(0, SIDE - w), random.uniform(0, SIDE - h)
        kind, colour = int(random.integers(0, CLASSES)), random.uniform(0, 1, 3)
        centre = np.array([x + w / 2, y + h / 2])
        if any(np.abs(centre - (np.array(b[:2]) + b[2:]) / 2).max() < 1.6 * CELL for b in boxes):
            continue
        across, down = (columns - centre[0]) / (w / 2), (rows - centre[1]) / (h / 2)
        inside = (np.maximum(np.abs(across), np.abs(down)) if kind == 0 else across**2 + down**2) < 1
        image[inside] = image[inside] * 0.2 + colour * 0.8
        boxes.append((x, y, x + w, y + h))
        classes.append(kind)
    return Scene(image.astype(np.float32), np.array(boxes, np.float32), np.array(classes))


def scenes(count: int, seed: int) -> list[Scene]:
    """Returns scenes of a seed."""
    random = np.random.default_rng(seed)
    return [scene(random) for _ in range(count)]


def targets(made: Scene) -> np.ndarray:
    """Returns (rows, columns, centre, size, whether there is an object, its class) of each cell."""
    found = np.zeros((GRID, GRID, 5 + CLASSES), np.float32)
    for box, kind in zip(made.boxes, made.classes, strict=True):
        centre = (box[:2] + box[2:]) / 2
        column, row = np.minimum(centre // CELL, GRID - 1).astype(int)
        found[row, column, :5] = *centre, *(box[2:] - box[:2]), 1
        found[row, column, 5 + kind] = 1
    return found


def network(factor: float = 1.0) -> Any:
    """Returns the detector: (cells, centre, size, scores), lengths in pixels times a factor."""
    import keras
    from keras import layers, ops

    def activated(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    inputs = keras.Input((SIDE, SIDE, 3))
    x = activated(layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    for filters, stride in ((24, 2), (32, 1), (48, 2), (64, 1), (64, 1), (64, 1)):
        y = activated(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        y = activated(layers.Conv2D(filters, 1, use_bias=False)(y))
        x = layers.Add()([x, y]) if stride == 1 and x.shape[-1] == filters else y
    box = layers.Conv2D(4, 1)(x)
    scores = layers.Conv2D(CLASSES, 1, bias_initializer=keras.initializers.Constant(-3.0))(x)
    cells = (np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1)[np.newaxis] + 0.5) * CELL
    centre = (box[..., :2] * CELL + cells.astype(np.float32)) * factor
    size = ops.exp(ops.clip(box[..., 2:], -4.0, 2.0)) * (16.0 * factor)
    parts = [centre, size, ops.sigmoid(scores)]
    return keras.Model(inputs, ops.concatenate([ops.reshape(p, (-1, GRID**2, p.shape[-1])) for p in parts], axis=-1))


def trained(steps: int) -> Any:
    """Returns the detector, trained on 3,000 scenes."""
    import keras
    from keras import ops

    keras.utils.set_random_seed(0)
    model, made = network(), scenes(3000, 1)

    def loss(wanted: Any, found: Any) -> Any:
        found = ops.reshape(found, (-1, GRID, GRID, 4 + CLASSES))
        boxes = ops.sum(wanted[..., 4:5] * ops.abs(found[..., :4] - wanted[..., :4])) / CELL
        p, is_one = ops.clip(found[..., 4:], 1e-5, 1 - 1e-5), wanted[..., 5:]
        focal = -(4 * is_one * (1 - p) ** 2 * ops.log(p) + (1 - is_one) * p**2 * ops.log(1 - p))
        return boxes / 128 + ops.sum(focal) / 32

    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    x, y = np.stack([s.image for s in made]), np.stack([targets(s) for s in made])
    model.fit(x, y, batch_size=32, epochs=max(1, steps * 32 // len(made)), verbose=0)
    return model


def rescaled(model: Any) -> Any:
    """Returns a lowered model with channels scaled by 2^[-3, 3], and its function."""
    from featherweight.repair.factors.commuting import freedom
    from featherweight.repair.factors.scaling import scaled

    free = freedom(model.main)
    factors = np.where(free.is_free, 2.0 ** np.random.default_rng(0).uniform(-3, 3, free.count), 1.0)
    return scaled(model, free, factors)


def main() -> None:
    """Trains the detector and prints the rows."""
    import featherweight as fw

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=160)
    asked = parser.parse_args()
    made, calibration = scenes(asked.scenes, 99), [s.image[np.newaxis] for s in scenes(64, 7)]
    small, large = trained(asked.steps), network(10.0)
    large.set_weights(small.get_weights())

    images = [s.image for s in made]
    about = fw.Boxes(layout="joined", unit="pixels", most_overlap=0.5, least_score=0.05)
    floats: list[fw.Evaluation] = []

    def row(name: str, model: Any, factor: float = 1.0) -> None:
        truth = [{"boxes": s.boxes * factor, "classes": s.classes} for s in made]
        found = fw.evaluate(model, (images, truth), about, progress=False)
        if name.endswith("float"):
            floats.append(found)
        lost = fw.paired_difference(found, floats[-1])
        said = f"{100 * lost.value:+6.2f} ± {100 * lost.standard_error:.2f}"
        print(f"{name:44s} mAP {100 * found.value:5.1f} ± {100 * found.standard_error:.1f}, {said}", flush=True)

    def quantized(model: Any, **more: Any) -> Any:
        return fw.quantize(model, calibration=calibration, io="float32", progress=False, **more)

    for name, model, factor in (
        ("boxes in pixels", fw.load(small), 1.0),
        ("boxes ten times as large", fw.load(large), 10.0),
    ):
        row(f"{name}, float", model, factor)
        row(f"{name}, int8", quantized(model), factor)
        row(f"{name}, int8, joined in integers", quantized(model, integers=True), factor)
    model = rescaled(fw.load(small))
    row("channels rescaled, float", model)
    row("channels rescaled, int8-per-tensor", quantized(model, target="int8-per-tensor"))
    row("the same, equalized", quantized(model, target="int8-per-tensor", improve="equalize"))


if __name__ == "__main__":
    main()
