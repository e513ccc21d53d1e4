"""Random models of the post-processing of detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from hypothesis import strategies as st
from tests.operators.building import Case, case, random_of

from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.runtime import run_reference

CODE = "TFLite_Detection_PostProcess"


@dataclass
class Detector(Case):
    """A custom operator, whose options are a map of its own."""

    custom: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Model:
        """Returns the model, with the shapes of its outputs as the reference kernel finds them."""
        options = {"custom_options": np.frombuffer(flexbuffers.Dumps(self.custom), np.uint8)}
        inputs, outputs = (tuple(t.name for t in part) for part in (self.tensors, self.outputs))
        node = Node("CUSTOM", inputs, outputs, custom_code=CODE, extras=options)

        def build(results: list[Tensor]) -> Model:
            tensors = {t.name: t for t in (*self.tensors, *results)}
            return Model((Graph("main", tuple(self.feeds), outputs, (node,), tensors),))

        found = run_reference(build(self.outputs), self.feeds)
        return build([replace(t, shape=found[t.name].shape) for t in self.outputs])


@case(CODE, forms=("float32",))
def _detector(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    random, count, classes = random_of(draw), draw(st.integers(1, 60)), draw(st.integers(1, 5))
    regular, per_detection = draw(st.booleans()), draw(st.integers(1, 3))
    background = draw(st.integers(0, 1))
    scores = random.permutation(count * (classes + background)).reshape(1, count, -1) / (count * (classes + 1))
    built = Detector(CODE)
    built.custom = {
        "max_detections": draw(st.integers(1, 12)),
        "max_classes_per_detection": 1 if regular else min(per_detection, classes),
        "detections_per_class": draw(st.integers(1, 20)),
        "use_regular_nms": regular,
        "nms_score_threshold": draw(st.sampled_from((0.0, 0.3))) if regular else 0.0,
        "nms_iou_threshold": draw(st.sampled_from((0.3, 0.5, 0.6))),
        "num_classes": classes,
    } | {f"{name}_scale": scale for name, scale in zip("yxhw", (10.0, 10.0, 5.0, 5.0), strict=True)}
    # Constants: with other values, the fast variant would find another number of boxes.
    built.constant("boxes", random.normal(0, 2, (1, count, 4)).astype(np.float32))
    built.constant("scores", scores.astype(np.float32))
    built.constant("anchors", random.uniform(0.1, 0.9, (count, 4)).astype(np.float32))
    built.gives("float32", None, 4)
    if not regular:  # LiteRT leaves places behind the last detection as they are
        found = run_reference(built.model(), built.feeds)
        built.custom["max_detections"] = int(found["y3"][0])
    return built
