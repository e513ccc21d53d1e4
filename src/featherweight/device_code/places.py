"""A plan of where tensors lie in the arena, as metadata of the file, which TFLite Micro's interpreter keeps to.

Source: tflite-micro, tensorflow/lite/micro/docs/memory_management.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.graph import Model
from featherweight.memory.packing import packed
from featherweight.memory.placing import buffers_of, by_size, height, placed
from featherweight.tflite.memory_plan import PLAN, fitted

_VERSION, _GRAPH, _ANYWHERE = 1, 0, -1


def with_places(model: Model) -> Model | None:
    """Returns the model with a plan of places that needs less than the interpreter's own, or None where none is found.

    Models of several graphs get none: the interpreter reads one list of places for all of them.
    """
    if len(model.graphs) > 1:
        return None
    buffers = buffers_of(model)
    places = packed(buffers)
    if height(buffers, places) >= height(buffers, placed(buffers, by_size(buffers))):
        return None
    computed = iter(places)
    offsets = [
        _ANYWHERE if tensor.is_constant or tensor.is_variable else next(computed)
        for tensor in model.main.tensors.values()
    ]
    plan = np.array([_VERSION, _GRAPH, len(offsets), *offsets], np.int32)
    return fitted(replace(model, metadata={**model.metadata, PLAN: plan.tobytes()}))
