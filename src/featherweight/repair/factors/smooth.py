"""Smoothing: channels of large values before a dense layer are divided, and its weights multiplied by as much.

A few channels of a transformer's values are much larger than the others, and one scale for all leaves these little.
``s_c = max|x_c|^α / max|w_c|^(1−α)`` moves part of that into the weights (SmoothQuant, Xiao et al., 2211.10438,
equation 4). A normalization before takes the factors up in its own, where nothing else reads its result; where the
residual branch does, the normalization's last factors are applied twice, once for the dense layers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from featherweight.graph import Graph, Model, Node, consumers, producers, replace_graph
from featherweight.graph.editor import Editor, is_plain
from featherweight.operators import lookup
from featherweight.repair.candidate import Arrays, Candidate, Repair, Setting, integer_model, planned
from featherweight.repair.factors.balance import Exponents
from featherweight.repair.factors.commuting import freedom
from featherweight.repair.factors.equalize import Equalized, equalize_graph
from featherweight.repair.judge import Judge

# α of the paper: one half, and what it takes for models with larger outliers.
_ALPHAS = (0.5, 0.7, 0.85)
_JUDGED = 8
# Of a normalization: the factor, which may be one with that of the row, their product, and the offset.
_LONGEST_CHAIN = 3
# A gain that is worth operators that are computed twice, in dB.
_LEAST_FOR_TWINS = 0.5


def smooth_graph(
    model: Model,
    samples: Sequence[Arrays],
    *,
    alpha: float = 0.5,
    is_per_channel: bool = True,
    twins: bool = True,
) -> tuple[Equalized, int]:
    """Returns the smoothed model, and how many operators it has more.

    Outputs change by rounding of float32 only.

    Args:
        model: a float model.
        samples: feeds that show how large values become.
        alpha: how much of the difference between channels goes into the weights, 0 to 1.
        is_per_channel: whether weights have a scale for each output channel.
        twins: compute the last factors of a normalization twice, where other operators than dense layers read them.

    Raises:
        FormatError: if the model is quantized.
        DataError: if the samples bring values that are not finite.
    """
    graph = twinned(model.main, set(model.tensors)) if twins else model.main
    exponents = Exponents(0.0, alpha, 1 - alpha)
    found = equalize_graph(
        replace_graph(model, 0, graph), samples, caps="fixed", exponents=exponents, is_per_channel=is_per_channel
    )
    return found, len(graph.nodes) - len(model.main.nodes)


def twinned(graph: Graph, taken: set[str]) -> Graph:
    """Returns the graph with a second result of each constant factor, and what is added, that only weights read."""
    made, read, edit = producers(graph), consumers(graph), Editor(graph, set(taken))
    twins: dict[tuple[str, str], str] = {}
    added: dict[str, list[Node]] = {}
    for node in graph.nodes:
        readers = read.get(node.name, ())
        for_weights = [reader for reader in readers if _is_weighted(graph, reader, node.name, read)]
        is_shared = len(for_weights) < len(readers) or node.name in graph.outputs
        chain = _chain(graph, node, made) if for_weights and is_shared else []
        second: dict[str, str] = {}
        for link in chain:
            result = edit.add(replace(graph.tensors[link.name], name=f"{link.name}/smooth", file_name=None))
            inputs = tuple(second.get(name, name) for name in link.inputs)
            second[link.name] = result
            added.setdefault(node.name, []).append(replace(link, inputs=inputs, outputs=(result,)))
        twins |= {(reader.name, node.name): second[node.name] for reader in for_weights if chain}
    for node in graph.nodes:
        inputs = tuple(twins.get((node.name, name), name) for name in node.inputs)
        edit.nodes += [replace(node, inputs=inputs), *added.get(node.name, [])]
    return edit.result()


def _chain(graph: Graph, node: Node | None, made: Mapping[str, Node], length: int = _LONGEST_CHAIN) -> list[Node]:
    """Returns the operators that end in a node, from a constant factor for each channel on; none without one."""
    if node is None or not length or not is_plain(node, node.op) or len(node.inputs) != 2:
        return []
    op, tensors = lookup(node.op), [graph.tensors[name] for name in node.inputs]
    constants = [tensor for tensor in tensors if tensor.is_constant]
    if op.divisor is not None or not (op.is_product or (op.is_joint and constants)) or len(constants) == 2:
        return []
    if op.is_product and any(t.shape[-1:] == graph.tensors[node.name].shape[-1:] for t in constants):
        return [node]
    before = (_chain(graph, made.get(t.name), made, length - 1) for t in tensors if not t.is_constant)
    return next(([*chain, node] for chain in before if chain), [])


def _is_weighted(graph: Graph, node: Node, name: str, read: Mapping[str, tuple[Node, ...]]) -> bool:
    """True for an operator that multiplies a tensor by a constant matrix, or hands it on to such ones alone."""
    op = lookup(node.op)
    if op.axes == "reshape":
        behind = read.get(node.name, ())
        is_last = node.name in graph.outputs
        return bool(behind) and not is_last and all(_is_weighted(graph, other, node.name, read) for other in behind)
    if op.axes == "product":
        return node.inputs[0] == name and graph.tensors[node.inputs[1]].is_constant
    return op.weight_kind in ("dense", "conv") and node.inputs[op.activation] == name


def _reads_free_channels(graph: Graph) -> bool:
    """True where a dense layer reads channels whose factors may be chosen, bounds left as they are."""
    free = freedom(graph)
    chosen = free.is_free
    for cap in free.caps:
        chosen[cap.labels] = False
    return any(
        (lookup(weight.node.op).weight_kind == "dense" or lookup(weight.node.op).axes == "product")
        and bool(chosen[weight.reads].any())
        for weight in free.weights
    )


def _apply(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Tries how much to move, and whether to compute factors twice, on the samples."""
    if not candidate.recipe.needs_ranges or not setting.samples:
        return "values are not in integers, or there are no samples"
    graph = candidate.model.main
    if not any(_reads_free_channels(each) for each in (graph, twinned(graph, set(candidate.model.tensors)))):
        return "no dense layer reads channels that an operator before could scale"
    judge = Judge(candidate.model, setting.samples[:_JUDGED])
    best: tuple[float, str, Candidate] | None = None
    has_twins = twinned(graph, set(candidate.model.tensors)) is not graph
    for twins in (False, True) if has_twins else (False,):
        for alpha in _ALPHAS:
            found, more = smooth_graph(
                candidate.model,
                setting.samples,
                alpha=alpha,
                is_per_channel=setting.target.is_per_channel,
                twins=twins,
            )
            done = sum(not row.reason for row in found.tensors)
            if not done:
                continue
            new = planned(setting, found.model, candidate.recipe)
            level = float(judge.levels(integer_model(new)).mean()) - (_LEAST_FOR_TWINS if twins else 0.0)
            if best is None or level > best[0]:
                twice = f"; {more} operators are computed a second time for it" if more else ""
                best = level, f"smooth: the channels of {done} tensors before weights, by {alpha}{twice}", new
    return "no channels could be scaled" if best is None else best[2].with_note(best[1])


SMOOTH = Repair("smooth", "moves outliers of values into the weights that read them", _apply, costs=2)
