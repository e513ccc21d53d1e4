"""Dense layers and matrix products in float. Weights as in the file: (out, in)."""

from __future__ import annotations

from featherweight.operators.call import Array
from featherweight.training.float.conv import biased
from featherweight.training.graph.registry import Step, function, ops


@function("FULLY_CONNECTED")
def fully_connected(step: Step) -> tuple[Array, ...]:
    """Dense layer: x (…, in), weight (out, in), bias (out)."""
    x, weight = step.array(0), step.array(1)
    return (
        step.clamp(biased(multiplied(x, weight, keep=bool(step.node.attrs.get("keep_num_dims"))), step.optional(2))),
    )


def multiplied(x: Array, weight: Array, *, keep: bool) -> Array:
    """Returns x (…, in) times the transposed weight (out, in): (…, out), or (rows, out) unless `keep`."""
    depth = weight.shape[1]
    if x.shape[-1] != depth or not (keep or len(x.shape) == 2):
        x = ops.reshape(x, (-1, depth))
    return ops.matmul(x, ops.transpose(weight))


@function("BATCH_MATMUL")
def batch_matmul(step: Step) -> tuple[Array, ...]:
    """Product of the last two axes: x (…, a, b), z (…, b, c)."""
    x, z = step.array(0), step.array(1)
    if step.node.attrs.get("adj_x"):
        x = ops.swapaxes(x, -1, -2)
    if step.node.attrs.get("adj_y"):
        z = ops.swapaxes(z, -1, -2)
    return (ops.matmul(x, z),)


@function("EMBEDDING_LOOKUP")
def embedding_lookup(step: Step) -> tuple[Array, ...]:
    """Rows of a table (entries, …) by their numbers."""
    return (step.xp.take(step.array(1), step.array(0), axis=0),)
