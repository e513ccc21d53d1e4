"""Detectors of three families for drawn scenes: one output each, of boxes beside scores, as people's networks have it.

`pixels`: centre and size in pixels and sigmoid scores, (n, B, 4 + C), of one level. `distances`: YOLOv8's head, four
distances from the cell as means over 16 bins, two levels, pixels and scores transposed, (n, 4 + C, B). `anchors`:
BlazeFace's, raw offsets in pixels and logits of two anchors in each cell of two levels, (n, B, 4 + C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.scenes import CLASSES, SIDE, Scene, scenes

_BINS = 16
# Objects from this size on belong to the coarser of two levels.
_LARGE = 17.0
_TRAINING_SCENES, _BATCH = 3000, 32
_SHARE_OF_BOXES, _SHARE_OF_SCORES = 1 / 1024, 1 / 32


@dataclass(frozen=True)
class Family:
    """One way to say where boxes are.

    Attributes:
        strides: of its levels.
        anchors: in each cell; of two, the second is for what is higher than wide.
        head: from the features of each level to the output.
        decoded: from the output to centre, size and scores (n, B, 4 + C), in pixels.
        about: what `fw.Boxes` takes.
    """

    strides: tuple[int, ...]
    anchors: int
    head: Callable[[list[Any]], Any]
    decoded: Callable[[Any], Any]
    about: Callable[[], Mapping[str, Any]]


def slots(strides: tuple[int, ...], anchors: int) -> np.ndarray:
    """Returns centre x, centre y and stride of each box, float32 (B, 3), level by level, row by row."""
    found = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in strides
        for row in range(SIDE // stride)
        for column in range(SIDE // stride)
        for _ in range(anchors)
    ]
    return np.array(found, np.float32)


def targets(made: Scene, family: Family) -> np.ndarray:
    """Returns centre, size, whether there is an object, and its class, for each box, float32 (B, 5 + C)."""
    places = slots(family.strides, family.anchors)
    found = np.zeros((len(places), 5 + CLASSES), np.float32)
    for box, kind in zip(made.boxes, made.classes, strict=True):
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        stride = family.strides[-1 if size.max() >= _LARGE else 0]
        near = np.flatnonzero((places[:, 2] == stride) & (np.abs(places[:, :2] - centre) <= stride / 2).all(axis=1))
        slot = near[min(family.anchors - 1, int(size[1] > size[0]))]
        found[slot, :5] = *centre, *size, 1
        found[slot, 5:] = 0
        found[slot, 5 + kind] = 1
    return found


def network(family: Family) -> Any:
    """Returns a detector of a family: depthwise blocks with ReLU6 and residual sums, one level or two."""
    import keras
    from keras import layers

    def activated(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    def block(x: Any, filters: int, stride: int) -> Any:
        y = activated(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        y = activated(layers.Conv2D(filters, 1, use_bias=False)(y))
        return layers.Add()([x, y]) if stride == 1 and x.shape[-1] == filters else y

    inputs = keras.Input((SIDE, SIDE, 3))
    x = activated(layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    for filters, stride in ((24, 2), (32, 1), (48, 2), (64, 1), (64, 1), (64, 1)):
        x = block(x, filters, stride)
    levels = [x]
    if len(family.strides) > 1:
        coarse = block(block(x, 96, 2), 96, 1)
        fine = block(layers.Concatenate()([layers.UpSampling2D(2)(coarse), x]), 64, 1)
        levels = [fine, coarse]
    return keras.Model(inputs, family.head(levels))


def trained(family: Family, steps: int) -> Any:
    """Returns the detector, trained on 3,000 scenes."""
    import keras
    from keras import ops

    keras.utils.set_random_seed(0)
    model, made = network(family), scenes(_TRAINING_SCENES, 1)

    def loss(wanted: Any, output: Any) -> Any:
        found = family.decoded(output)
        boxes = ops.sum(wanted[..., 4:5] * ops.abs(found[..., :4] - wanted[..., :4]))
        p, is_one = ops.clip(found[..., 4:], 1e-5, 1 - 1e-5), wanted[..., 5:]
        focal = -(4 * is_one * (1 - p) ** 2 * ops.log(p) + (1 - is_one) * p**2 * ops.log(1 - p))
        return boxes * _SHARE_OF_BOXES + ops.sum(focal) * _SHARE_OF_SCORES

    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    x, y = np.stack([s.image for s in made]), np.stack([targets(s, family) for s in made])
    model.fit(x, y, batch_size=_BATCH, epochs=max(1, steps * _BATCH // len(made)), verbose=0)
    return model


def enlarged(model: Any, factor: float) -> Any:
    """Returns a trained detector of pixels whose boxes are so many times as large."""
    large = network(_pixels(factor))
    large.set_weights(model.get_weights())
    return large


def _convolution(filters: int, bias: float = 0.0) -> Any:
    import keras

    return keras.layers.Conv2D(filters, 1, bias_initializer=keras.initializers.Constant(bias))


def _rows(x: Any, columns: int) -> Any:
    from keras import ops

    return ops.reshape(x, (-1, x.shape[1] * x.shape[2] * (x.shape[3] // columns), columns))


def _pixels(factor: float = 1.0) -> Family:
    def head(levels: list[Any]) -> Any:
        from keras import ops

        (x,) = levels
        box, scores = _convolution(4)(x), _convolution(CLASSES, -3.0)(x)
        cells = slots((8,), 1)[:, :2].reshape(1, SIDE // 8, SIDE // 8, 2)
        centre = (box[..., :2] * 8 + cells) * factor
        size = ops.exp(ops.clip(box[..., 2:], -4.0, 2.0)) * (16.0 * factor)
        return ops.concatenate([_rows(part, part.shape[3]) for part in (centre, size, ops.sigmoid(scores))], axis=-1)

    return Family((8,), 1, head, lambda y: y, lambda: {"layout": "joined"})


def _distances() -> Family:
    strides = (8, 16)

    def head(levels: list[Any]) -> Any:
        from keras import ops

        places = slots(strides, 1)
        bins = ops.concatenate([_rows(_convolution(4 * _BINS)(x), 4 * _BINS) for x in levels], axis=1)
        scores = ops.concatenate([_rows(_convolution(CLASSES, -3.0)(x), CLASSES) for x in levels], axis=1)
        shares = ops.softmax(ops.reshape(bins, (-1, len(places), 4, _BINS)), axis=-1)
        means = ops.matmul(shares, np.arange(_BINS, dtype=np.float32).reshape(_BINS, 1))
        sides = ops.reshape(means, (-1, len(places), 4))
        cells = places[:, :2] / places[:, 2:]
        first, last = ops.subtract(cells, sides[..., :2]), sides[..., 2:] + cells
        boxes = ops.concatenate([(first + last) / 2, last - first], axis=-1) * places[:, 2:]
        return ops.transpose(ops.concatenate([boxes, ops.sigmoid(scores)], axis=-1), (0, 2, 1))

    def decoded(y: Any) -> Any:
        from keras import ops

        return ops.transpose(y, (0, 2, 1))

    return Family(strides, 1, head, decoded, lambda: {"layout": "transposed"})


def _anchors() -> Family:
    strides, count = (8, 16), 2

    def head(levels: list[Any]) -> Any:
        from keras import ops

        boxes = [_rows(_convolution(4 * count)(x), 4) for x in levels]
        scores = [_rows(_convolution(CLASSES * count, -3.0)(x), CLASSES) for x in levels]
        return ops.concatenate([ops.concatenate(boxes, axis=1), ops.concatenate(scores, axis=1)], axis=-1)

    def decoded(y: Any) -> Any:
        from keras import ops

        centres = slots(strides, count)[:, :2]
        return ops.concatenate([y[..., :2] + centres, y[..., 2:4], ops.sigmoid(y[..., 4:])], axis=-1)

    def about() -> Mapping[str, Any]:
        places = slots(strides, count)
        anchors = np.concatenate([places[:, :2] / SIDE, np.ones((len(places), 2))], axis=1)
        how = {"sizes": "linear", "anchor_scales": (SIDE,) * 4, "activation": "sigmoid"}
        return {"layout": "joined", "order": "cxcywh", "anchors": anchors, **how}

    return Family(strides, count, head, decoded, about)


FAMILIES: Mapping[str, Family] = {"pixels": _pixels(), "distances": _distances(), "anchors": _anchors()}
