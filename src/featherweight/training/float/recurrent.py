"""Fused recurrent layers in float."""

from __future__ import annotations

from collections.abc import Callable

import keras

from featherweight.operators.call import Array
from featherweight.operators.families.recurrent import LSTM
from featherweight.training.graph.registry import Step, function, ops

_HIDDEN, _CELL = 18, 19
# Operands of forms that are not supported: peepholes, projections, layer norms.
_UNSUPPORTED = (9, 10, 11, 16, 17, 20, 21, 22, 23)


@function(LSTM)
def lstm(step: Step) -> tuple[Array, ...]:
    """LSTM over x (n, steps, features), or (steps, n, features) if `time_major`; returns all hidden states.

    Kernels (units, features), recurrent kernels (units, units) and biases (units) of the input, forget, cell and output
    gate, one after the other. Source: LiteRT lstm_eval.cc (LstmStepFloat).
    """
    _check(step)
    x = step.array(0)
    x = x if step.node.attrs.get("time_major") else ops.swapaxes(x, 0, 1)
    kernel, recurrent = (ops.concatenate([step.array(first + at) for at in range(4)], axis=0) for first in (1, 5))
    bias = ops.concatenate([step.array(12 + at) for at in range(4)], axis=0)
    given = ops.add(ops.matmul(x, ops.transpose(kernel)), bias)
    turned, clip = ops.transpose(recurrent), float(step.node.attrs.get("cell_clip", 0.0) or 0.0)

    def following(state: tuple[Array, Array], at: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = state
        into, forget, new, out = ops.split(ops.add(at, ops.matmul(hidden, turned)), 4, axis=-1)
        cell = ops.add(ops.sigmoid(forget) * cell, ops.sigmoid(into) * ops.tanh(new))
        cell = ops.clip(cell, -clip, clip) if clip else cell
        hidden = ops.sigmoid(out) * ops.tanh(cell)
        return (hidden, cell), hidden

    # States made for the file's own batch become those of every example.
    nothing = ops.zeros_like(given[0, :, : recurrent.shape[1]])
    initial = ops.add(nothing, step.array(_HIDDEN)), ops.add(nothing, step.array(_CELL))
    states = _scanned(following, initial, given)
    return (states if step.node.attrs.get("time_major") else ops.swapaxes(states, 0, 1),)


def _scanned(
    following: Callable[[tuple[Array, Array], Array], tuple[tuple[Array, Array], Array]],
    state: tuple[Array, Array],
    given: Array,
) -> Array:
    """Returns the outputs of all steps; only JAX compiles a loop as fast as it runs what is written out."""
    if keras.backend.backend() == "jax":
        return ops.scan(following, state, given)[1]
    outputs: list[Array] = []
    for at in ops.unstack(given, given.shape[0], axis=0):
        state, output = following(state, at)
        outputs.append(output)
    return ops.stack(outputs, axis=0)


def _check(step: Step) -> None:
    """Raises for forms other than the plain one."""
    if any(step.optional(position) is not None for position in _UNSUPPORTED) or step.optional(1) is None:
        raise step.unsupported("peepholes, projections, layer norms and coupled gates are not supported")
    activation = str(step.node.attrs.get("fused_activation_function", "TANH"))
    if activation != "TANH":
        raise step.unsupported(f"activation {activation} is not supported (supported: TANH)")
