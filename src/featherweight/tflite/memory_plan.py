"""A file's plan of where tensors lie in TFLite Micro's arena: it names tensors by number, and fits one graph only."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from featherweight.graph import Model

# Metadata that TFLite Micro takes offsets of tensors from (micro_allocation_info.cc); it believes them.
PLAN = "OfflineMemoryAllocation"
# Where `Model.extras` says what a plan that was read was made for.
_FITS = "memory_plan_of"


def fitted(model: Model) -> Model:
    """Returns a model with a note of the tensors and operators that its plan is made for: those that it has."""
    if PLAN not in model.metadata:
        return model
    return replace(model, extras={**model.extras, _FITS: _layout(model)})


def without_stale_plan(model: Model) -> Model:
    """Returns the model without a plan that was made for other tensors or operators; without a note, it stays."""
    if PLAN not in model.metadata or model.extras.get(_FITS, layout := _layout(model)) == layout:
        return model
    return replace(model, metadata={name: content for name, content in model.metadata.items() if name != PLAN})


def _layout(model: Model) -> str:
    """Returns a hash of what decides when tensors live, and how large they are."""
    digest = hashlib.sha256()
    for graph in model.graphs:
        for tensor in graph.tensors.values():
            digest.update(repr((tensor.name, tensor.dtype, tensor.shape, tensor.is_constant)).encode())
        for node in graph.nodes:
            digest.update(repr((node.op, node.inputs, node.outputs)).encode())
    return digest.hexdigest()
