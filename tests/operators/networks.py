"""Networks that `tests.models` has no like of: instance norms, and a detector with its post-processing."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from tests import models

from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant, io_names
from featherweight.tasks.load import load

CLASSES, DETECTIONS = 3, 6


@functools.cache
def style(size: int = 16) -> Model:
    """Convolutions with instance norms, a residual, upsampling, tanh: what turns a picture into another."""
    keras = models.import_keras()
    layers = keras.layers

    def block(x: Any, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides, padding="same")(x)
        return layers.ReLU()(layers.GroupNormalization(groups=-1)(x))

    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, 3), name="image")
    x = block(block(image, 8), 12, 2)
    x = layers.Add()([x, block(x, 12)])
    x = block(layers.UpSampling2D(2, interpolation="nearest")(x), 8)
    picture = layers.Conv2D(3, 3, padding="same", activation="tanh")(x)
    return load(keras.Model(image, picture, name="style"))


@functools.cache
def detector(size: int = 24) -> Model:
    """An SSD: a backbone, heads for boxes and scores at two sizes, and TFLite_Detection_PostProcess behind them."""
    keras = models.import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, 3), batch_size=1, name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    boxes, scores, anchors = [], [], []
    for filters in (12, 16):
        x = layers.DepthwiseConv2D(3, 2, padding="same", activation="relu")(x)
        x = layers.Conv2D(filters, 1, activation="relu")(x)
        boxes.append(layers.Reshape((-1, 4))(layers.Conv2D(4, 1)(x)))
        scores.append(layers.Reshape((-1, CLASSES + 1))(layers.Conv2D(CLASSES + 1, 3, padding="same")(x)))
        cells = x.shape[1]
        centres = (np.indices((cells, cells)).reshape(2, -1).T + 0.5) / cells
        anchors.append(np.concatenate([centres, np.full_like(centres, 1 / cells)], axis=1))
    outputs = {
        "boxes": layers.Concatenate(axis=1, name="boxes")(boxes),
        "scores": layers.Activation("sigmoid", name="scores")(layers.Concatenate(axis=1)(scores)),
    }
    return _with_detections(load(keras.Model(image, outputs, name="detector")), np.concatenate(anchors))


def _with_detections(model: Model, anchors: np.ndarray) -> Model:
    """Puts the post-processing behind a model's outputs `boxes` and `scores`."""
    options: dict[str, Any] = {
        "max_detections": DETECTIONS,
        "max_classes_per_detection": 1,
        "detections_per_class": DETECTIONS,
        "use_regular_nms": True,
        "nms_score_threshold": 0.4,
        "nms_iou_threshold": 0.5,
        "num_classes": CLASSES,
    } | {f"{name}_scale": scale for name, scale in zip("yxhw", (10.0, 10.0, 5.0, 5.0), strict=True)}
    outputs, graph = io_names(model)[1], model.main
    shapes = {"detected_boxes": (1, DETECTIONS, 4), "detected_classes": (1, DETECTIONS)}
    shapes |= {"detected_scores": (1, DETECTIONS), "detected_count": (1,)}
    tensors = [constant("anchors", anchors.astype(np.float32))]
    tensors += [Tensor(name, shape, "float32") for name, shape in shapes.items()]
    node = Node(
        "CUSTOM",
        (outputs["boxes"], outputs["scores"], "anchors"),
        tuple(shapes),
        custom_code="TFLite_Detection_PostProcess",
        extras={"custom_options": np.frombuffer(flexbuffers.Dumps(options), np.uint8)},
    )
    found = {**graph.tensors, **{tensor.name: tensor for tensor in tensors}}
    whole = Graph(graph.name, graph.inputs, node.outputs, (*graph.nodes, node), found)
    inputs = tuple(io_names(model)[0].items())
    signature = Signature("serving_default", inputs, tuple((name, name) for name in shapes))
    return replace(model, graphs=(whole, *model.graphs[1:]), signatures=(signature,))
