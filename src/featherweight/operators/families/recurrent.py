"""Fused recurrent layers."""

from __future__ import annotations

from featherweight.graph import Graph, Node
from featherweight.operators.call import Call
from featherweight.operators.limits import refused_gates
from featherweight.operators.record import Op, WeightRole, lookup, register
from featherweight.operators.scratch import for_gates

# Positions of the two states, variable tensors of (batch, units).
HIDDEN, CELL = 18, 19
_GATES = ("input", "forget", "cell", "output")
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


def _lstm_macs(node: Node, graph: Graph) -> int:
    kernels = sum(graph.tensors[node.inputs[role.weight]].elements for role in lookup(LSTM).weights)
    batch, steps, *_ = graph.tensors[node.inputs[0]].shape
    return batch * steps * kernels


def _refused_lstm(call: Call) -> str | None:
    return refused_gates(call, [(role.activation, role.weight) for role in lookup(LSTM).weights])


# Weights 1 to 4 are for the input, 5 to 8 for the hidden state, biases 12 to 15: input, forget, cell, output gate.
# Versions: LiteRT op_version.cc (3: the hybrid form with inputs quantized asymmetrically).
register(
    Op(
        LSTM,
        "UnidirectionalSequenceLSTMOptions",
        axes="recurrent",
        weight=1,
        weight_axes=(0, 1),
        weight_kind="recurrent",
        bias=12,
        more_weights=(
            *(WeightRole(1 + gate, 12 + gate, 0) for gate in (1, 2, 3)),
            *(WeightRole(5 + gate, None, HIDDEN) for gate in range(4)),
        ),
        trained={
            **{1 + at: f"{gate}_kernel" for at, gate in enumerate(_GATES)},
            **{5 + at: f"{gate}_recurrent_kernel" for at, gate in enumerate(_GATES)},
            **{12 + at: f"{gate}_bias" for at, gate in enumerate(_GATES)},
        },
        versions={"float32*int8": 3, "int8*int8": 1},
        refused=_refused_lstm,
        macs=_lstm_macs,
        scratch=for_gates,
    )
)
