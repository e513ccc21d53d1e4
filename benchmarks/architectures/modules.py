"""Torch modules as sources: seeds, batch norms of the inputs' statistics, one output tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.architectures.record import Built

# Shift of batch norms. With none, half of what a random net computes is cut by each activation, and 50 layers of it
# amplify any error beyond the signal (Yang et al., 1902.08129): weights in int8 alone leave 9 dB of MobileNetV2's
# outputs, and 28 dB with a shift of 1.
NORM_SHIFT = 1.0
# As large as embeddings are.
_DRAWN_STD = 0.2
# The operators go with this object.
_LIBRARIES: list[Any] = []


def seeded(seed: int = 0) -> Any:
    """Returns torch, seeded, and such that torchvision can be imported, which timm and transformers do on their own.

    torchvision's wheel does not fit the CPU build of torch: two of its operators have to be declared beforehand.
    """
    import torch

    if not _LIBRARIES:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
    torch.manual_seed(seed)
    return torch


def built(
    module: Any,
    samples: Sequence[np.ndarray | tuple[np.ndarray, ...]],
    norm_inputs: Any = None,
    has_drawn_zeros: bool = True,
) -> Built:
    """Returns a module in evaluation mode with its samples.

    Args:
        module: with its first weights.
        samples: one example each.
        norm_inputs: one batch to estimate batch norms with.
        has_drawn_zeros: weights that begin at zero, and that training moves, are drawn: heads, tokens, positions.
    """
    module.eval()
    if has_drawn_zeros:
        _draw_zeros(module)
    if norm_inputs is not None:
        estimate_batch_norms(module, norm_inputs)
    return Built(module, samples, lambda sample: outputs(module, sample))


def _draw_zeros(module: Any) -> None:
    import torch

    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=_DRAWN_STD)


def outputs(module: Any, sample: Any) -> list[np.ndarray]:
    """Returns all output tensors of a module on one sample, in order."""
    import torch
    from torch.utils import _pytree

    arrays = sample if isinstance(sample, tuple) else (sample,)
    with torch.no_grad():
        found = module(*[_tensor(array) for array in arrays])
    return [value.numpy() for value in _pytree.tree_flatten(found)[0]]


def _tensor(array: np.ndarray) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def estimate_batch_norms(module: Any, batch: np.ndarray) -> None:
    """Sets the statistics of all batch norms by one pass over a batch in which they normalize by the batch itself.

    Their shifts become `NORM_SHIFT` first.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        if norm.bias is not None:
            torch.nn.init.constant_(norm.bias, NORM_SHIFT)
        norm.train()
    with torch.no_grad():
        module(torch.from_numpy(batch))
    module.eval()
