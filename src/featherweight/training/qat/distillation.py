"""Distillation: how far a quantized model's outputs are from those of a float one, as a loss that needs no labels.

Probabilities are compared by the divergence of distributions (Hinton et al., 1503.02531, section 2, at temperature 1),
computed from what goes into the softmax or sigmoid: the integer output has steps of 1/256, whose logarithm has no
gradient where it matters. Every other output is compared by its squared error, relative to the teacher's variance, so
that outputs of different units weigh the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.errors import DataError, listed
from featherweight.graph import Model, io_names, producers
from featherweight.operators import lookup
from featherweight.training.graph.exposed import Exposed
from featherweight.training.graph.graph_model import GraphModel
from featherweight.training.graph.registry import Array, ops

# A teacher whose output is constant must not divide by zero.
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class Compared:
    """One output, and the tensors by which it is compared.

    Attributes:
        output: public name in the student.
        student: tensor of the student's graph.
        teacher: tensor of the teacher's graph.
        kind: ``softmax`` or ``sigmoid`` where the tensors go into that, else ``values``.
        beta: what the softmax multiplies its inputs by.
    """

    output: str
    student: str
    teacher: str
    kind: str
    beta: float = 1.0


def teacher_of(exposed: Exposed) -> GraphModel:
    """Returns a float graph as a model that is not trained.

    It is made trainable and then frozen: what is made frozen has trainable variables on TensorFlow.
    """
    teacher = GraphModel(exposed, name="teacher", dtype="float32")
    teacher.trainable = False
    return teacher


def compared(student: Exposed, integer: Model, teacher: Exposed) -> tuple[Compared, ...]:
    """Returns how each output of a student is compared with its teacher's.

    Args:
        student: the student's float graph.
        integer: the graph that it computes.
        teacher: the teacher's float graph.

    Raises:
        DataError: if the teacher takes other inputs than the student, or gives other outputs; if all are integers.
    """
    outputs = io_names(integer)[1]
    for what, names, other_names in (
        ("inputs", student.inputs, teacher.inputs),
        ("outputs", student.outputs, teacher.outputs),
    ):
        ours, theirs = _shapes(student.model, names), _shapes(teacher.model, other_names)
        names_count = len(ours) > 1
        if sorted(ours.values()) != sorted(theirs.values()) or (names_count and ours != theirs):
            raise DataError(
                f"The teacher's {what} ({_described(theirs)}) are not those of the model ({_described(ours)}). Pass a "
                "teacher of the same inputs and outputs, or teacher=True for the model's own float graph."
            )
    found: list[Compared] = []
    for name, tensor in student.outputs.items():
        if not student.model.main.tensors[tensor].is_float:
            continue  # a class number, for example: no gradient comes from there
        other = teacher.outputs.get(name) or next(iter(teacher.outputs.values()))
        ours, kind, beta = _before_probabilities(student.model, tensor)
        theirs, other_kind, other_beta = _before_probabilities(teacher.model, other)
        if kind == other_kind and beta == other_beta and ours in integer.main.tensors:
            found.append(Compared(name, ours, theirs, kind, beta))
        else:
            found.append(Compared(name, outputs[name], other, "values"))
    if not found:
        described = _described(_shapes(student.model, student.outputs))
        raise DataError(
            f"None of the outputs ({described}) is a real number, so there is no distance to a "
            "teacher that could be trained. Cut the model before its ARG_MAX, or train it by labels."
        )
    return tuple(found)


def distance(pairs: Sequence[Compared], student: Mapping[str, Array], teacher: Mapping[str, Array]) -> Array:
    """Returns the sum over outputs of the mean distance over samples; zero where both agree.

    Args:
        pairs: what is compared.
        student: its real numbers by tensor name.
        teacher: the same; no gradient flows there.
    """
    total = ops.zeros(())
    for pair in pairs:
        given, wanted = student[pair.student], ops.stop_gradient(teacher[pair.teacher])
        total = total + _DISTANCES[pair.kind](given * pair.beta, wanted * pair.beta)
    return total


def _softmax_distance(given: Array, wanted: Array) -> Array:
    ours, theirs = ops.log_softmax(given, axis=-1), ops.log_softmax(wanted, axis=-1)
    return ops.mean(ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1))


def _sigmoid_distance(given: Array, wanted: Array) -> Array:
    probability = ops.sigmoid(wanted)
    # Cross entropy minus the teacher's own; softplus(-x) = -log(sigmoid(x)).
    difference = ops.softplus(given) - ops.softplus(wanted) - probability * (given - wanted)
    return ops.mean(difference)


def _values_distance(given: Array, wanted: Array) -> Array:
    variance = ops.mean(ops.square(wanted - ops.mean(wanted, axis=0, keepdims=True)))
    return ops.mean(ops.square(given - wanted)) / ops.maximum(variance, _LEAST_VARIANCE)


_DISTANCES = {"softmax": _softmax_distance, "sigmoid": _sigmoid_distance, "values": _values_distance}


def _before_probabilities(model: Model, output: str) -> tuple[str, str, float]:
    """Returns (tensor to compare, kind, beta) of an output."""
    node = producers(model.main).get(output)
    kind = "" if node is None else lookup(node.op).probability
    if node is None or not kind:
        return output, "values", 1.0
    return node.inputs[0], kind, float(node.attrs.get("beta", 1.0))


def _shapes(model: Model, names: Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """Returns public name → shape without batch, of inputs or outputs."""
    return {name: model.main.tensors[tensor].shape[1:] for name, tensor in names.items()}


def _described(shapes: Mapping[str, tuple[Any, ...]]) -> str:
    return listed(f"'{name}' {list(shape)}" for name, shape in shapes.items())
