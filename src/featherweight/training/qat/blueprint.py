"""What stands between a plan and the Keras model that is trained by it: one value, which one can look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from featherweight.clustering.few_values import clusters_of, in_channels
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.editor import with_zeros
from featherweight.operators import lookup
from featherweight.operators.profiles import Profile, find
from featherweight.pruning.criteria import as_rows
from featherweight.pruning.prunable import stored_layout
from featherweight.training.graph.exposed import Exposed, exposed_from_config, packed, unpacked
from featherweight.training.integer.exact_sums import chunks_of
from featherweight.training.qat.dropout import Noise
from featherweight.training.qat.provenance import Origin, loaded, saved
from featherweight.training.qat.settings import Oscillations, RangeTraining


@dataclass(frozen=True, eq=False)
class Blueprint:
    """All that a `QuantizedModel` is made of.

    Attributes:
        exposed: the float graph, whose constants are trained.
        integer: what the rewriter made of it.
        plan: the plan, as JSON.
        origin: the target that it was made for.
        sources: constant of the integer graph → constant of the float graph that it was made of.
        chunks: node → into how many parts its input channels are cut so that sums stay exact, where more than one.
        sparse: constants of the float graph whose zeros stay zeros.
        clustered: weight of the integer graph whose values stay few → how many clusters it has.
        ranges: how activation ranges move. Weight scales stay at their ratio to the largest weight, or are learned too.
        approximate: train by classic fake quantization, which is not what the file computes.
        oscillations: what to do about weights that jump to and fro.
        noises: dropout and noise of training steps.
        teacher: a float graph; the distance to it is a loss of every training step (see `distillation`).
    """

    exposed: Exposed
    integer: Model
    plan: str
    origin: Origin
    sources: Mapping[str, str]
    chunks: Mapping[str, int]
    sparse: tuple[str, ...]
    ranges: RangeTraining
    approximate: bool
    oscillations: Oscillations | None
    noises: tuple[Noise, ...]
    teacher: Exposed | None
    clustered: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def profile(self) -> Profile:
        """The arithmetic that the target computes in."""
        return find(self.origin.target.profile)

    def to_config(self) -> dict[str, Any]:
        """Returns plain values, which are those of `exposed` too; weights are left out, for Keras stores them."""
        stored = {n for n, t in self.integer.main.tensors.items() if t.is_constant and t.quant is not None}
        config = {
            **self.exposed.to_config(),
            "integer": packed(with_zeros(self.integer, stored)),
            "plan": self.plan,
            "sources": dict(self.sources),
            "chunks": dict(self.chunks),
            "sparse": list(self.sparse),
            "clustered": dict(self.clustered),
            "ranges": self.ranges.to_json(),
            "approximate": self.approximate,
            "oscillations": None if self.oscillations is None else asdict(self.oscillations),
            "noises": [asdict(noise) for noise in self.noises],
            "teacher": None if self.teacher is None else self.teacher.to_config(),
        }
        return saved(self.origin, config)


def draw_blueprint(
    exposed: Exposed,
    integer: Model,
    plan: str,
    origin: Origin,
    *,
    ranges: RangeTraining,
    keep_zeros: bool,
    keep_clusters: bool,
    approximate: bool,
    oscillations: Oscillations | None,
    noises: tuple[Noise, ...],
    teacher: Exposed | None,
) -> Blueprint:
    """Returns the blueprint of a model that begins with the weights that both graphs hold.

    The arguments are fields of `Blueprint`; with `keep_zeros`, zeros of weights stay zeros; with `keep_clusters`,
    weights of few values keep as many.
    """
    sources = _sources(exposed.model.main, integer.main)
    chunks = chunks_of(integer, zero_points_move=ranges.observes)
    weights = {sources[tensor.name] for _, tensor, role in weights_and_biases(integer) if role == "weight"}
    trained = sorted(weights & exposed.trained) if keep_zeros else []
    sparse = tuple(name for name in trained if not exposed.real(name).all())
    found = {
        tensor.name: clusters(exposed, tensor, sources[tensor.name])
        for _, tensor, role in weights_and_biases(integer)
        if role == "weight" and keep_clusters and sources[tensor.name] in exposed.trained
    }
    clustered = {name: int(members.max()) + 1 for name, members in found.items() if members is not None}
    settings = sparse, ranges, approximate, oscillations, noises, teacher, clustered
    return Blueprint(exposed, integer, plan, origin, sources, chunks, *settings)


def clusters(exposed: Exposed, weight: Tensor, source: str) -> np.ndarray | None:
    """Returns the cluster of each element of an int8 weight that has few values, or None."""
    quant = weight.quant
    if weight.dtype != "int8" or quant is None or quant.block_size is not None:
        return None
    scale = np.asarray(quant.scale, np.float64)
    if quant.axis is not None:
        scale = scale.reshape([-1 if axis == quant.axis else 1 for axis in range(len(weight.shape))])
    return clusters_of(exposed.real(source).reshape(weight.shape), scale)


def dissolving(exposed: Exposed, integer: Model) -> tuple[str, ...]:
    """Returns a note for each weight of few values that training can't keep, since a target has no scale for them."""
    sources, notes = _sources(exposed.model.main, integer.main), list[str]()
    for node, tensor, role in weights_and_biases(integer):
        source = sources[tensor.name]
        if role != "weight" or tensor.dtype != "int8" or source not in exposed.trained:
            continue
        layout = stored_layout(lookup(node.op), tensor.shape)
        found = in_channels(as_rows(exposed.real(source).reshape(tensor.shape), layout))
        if found is not None and clusters(exposed, tensor, source) is None:
            notes.append(
                f"{node.op} '{node.name}': the {int(found.max()) + 1} values of its channels are not kept in training: "
                "here all channels have one scale. Cluster with per_channel=False."
            )
    return tuple(notes)


def blueprint_from_config(config: Mapping[str, Any]) -> tuple[Blueprint, dict[str, Any]]:
    """Returns what `Blueprint.to_config` told of, without its weights, and the other settings.

    Raises:
        RecipeError: if the package or the target is another one now.
        FormatError: if the graph, the plan or the target was changed in the file.
    """
    origin, others = loaded(config)
    exposed, others = exposed_from_config(others)
    oscillations, teacher = others.pop("oscillations"), others.pop("teacher")
    clustered = others.pop("clustered", {})
    blueprint = Blueprint(
        exposed,
        unpacked(others.pop("integer")),
        others.pop("plan"),
        origin,
        others.pop("sources"),
        others.pop("chunks"),
        tuple(others.pop("sparse")),
        RangeTraining.of(others.pop("ranges")),
        others.pop("approximate"),
        None if oscillations is None else Oscillations(**oscillations),
        tuple(Noise.from_json(noise) for noise in others.pop("noises")),
        None if teacher is None else exposed_from_config(teacher)[0],
        clustered,
    )
    return blueprint, others


def weights_and_biases(model: Model) -> Iterator[tuple[Node, Tensor, str]]:
    """Yields (node, constant, ``weight`` or ``bias``) of all operators that have integer weights."""
    for node in model.main.nodes:
        op = lookup(node.op)
        roles = {0: "weight"} if op.unpacks else {op.weight: "weight", op.bias: "bias"}
        for position, role in roles.items():
            if position is not None and position < len(node.inputs) and node.inputs[position]:
                tensor = model.main.tensors[node.inputs[position]]
                if tensor.is_constant and tensor.quant is not None:
                    yield node, tensor, role


def _sources(graph: Graph, integer: Graph) -> dict[str, str]:
    """Returns constant of the integer graph → float constant that it was made of."""
    nodes = {node.name: node for node in graph.nodes}
    found = {
        name: name for name, t in integer.tensors.items() if t.is_constant and t.is_float and name in graph.tensors
    }
    for node in integer.nodes:
        for position, name in enumerate(node.inputs):
            tensor = integer.tensors.get(name)
            if tensor is None or not tensor.is_constant or tensor.quant is None:
                continue
            if node.name in nodes:
                found[name] = nodes[node.name].inputs[position]
            elif name in graph.tensors:
                found[name] = name
    return found
