"""Outputs whose columns are of unlike range get columns of like range, which a float tail puts right again.

A detector's boxes, sizes and scores, or a landmark's x, y and z, are columns of one tensor, which has one scale in
integers: what is small there, or varies little about a large mean, is lost. Column c becomes ``z = (y − o_c) / s_c``:
the layer before takes factor and offset up in its weights and bias, exactly, and behind the conversion to floats
``y = s_c z + o_c`` is one product and one sum of the output's own size. The output keeps its name and shape.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import DataError
from featherweight.graph import Graph, Model, constant, consumers, producers, replace_graph
from featherweight.graph.editor import Editor
from featherweight.operators import lookup
from featherweight.operators.call import fused_activation
from featherweight.recipes.matching import exactly
from featherweight.recipes.recipe import Recipe, Rule
from featherweight.repair.candidate import Arrays, Candidate, Repair, Setting, planned
from featherweight.repair.factors.commuting import freedom
from featherweight.repair.factors.freedom import Freedom, Weight
from featherweight.repair.factors.scaling import scaled
from featherweight.runtime.litert import Session

# Columns of an output that are told apart: features of an embedding are many, and alike.
_MOST_COLUMNS = 4096
# A column whose deviation is less than this many steps of the grid of all is lost in it: 30 dB of rounding. Where a run
# gives one row, samples show little of a column (a class that none of them is of): only what is all but still, 20 dB.
_LEAST_STEPS, _LEAST_STEPS_OF_ONE_ROW, _STEPS = 10.0, 3.0, 255
# How much further than on the samples such a column may go, and how many deviations: beside wider ones it had room
# before, and a class that no sample shows has small scores only until one does.
_HEADROOM, _DEVIATIONS = 1.5, 6.0
_PRODUCT, _SUM = "MUL", "ADD"


@dataclass(frozen=True, eq=False)
class Columns:
    """What is done to the columns of one output.

    Attributes:
        factors, offsets: of each column; 1 and 0 where nothing is done.
        reason: why it was left alone; empty where it was not.
    """

    output: str
    factors: np.ndarray
    offsets: np.ndarray
    reason: str = ""


def evened_outputs(
    model: Model, samples: Sequence[Arrays], integers: Container[str] | None = None
) -> tuple[Model, tuple[Columns, ...]]:
    """Returns the model with evened columns, and what was done to each float output; the same if there was nothing.

    Of the outputs, those that will be `integers` are treated; None: all.

    Raises:
        DataError: if an output holds NaN or infinity on the samples.
    """
    graph, tails, reasons = model.main, dict[str, frozenset[str]](), dict[str, str]()
    for name in dict.fromkeys(graph.outputs):
        is_integer = integers is None or name in integers
        found = (
            _tail(graph, name) if is_integer else "it is computed in float, from parts that have scales of their own"
        )
        if isinstance(found, str):
            reasons[name] = found
        else:
            tails[name] = found
    free = freedom(graph, tails)
    ranges = _columns(model, list(tails), samples)
    rows = [Columns(name, np.ones(0), np.zeros(0), why) for name, why in reasons.items()]
    rows += [_chosen(free, name, tail, *ranges[name]) for name, tail in tails.items()]
    done = [row for row in rows if not row.reason]
    return (_written(model, free, done) if done else model), tuple(rows)


def _tail(graph: Graph, output: str) -> frozenset[str] | str:
    """Returns the tensors that an output's values are copied from, itself included, or why they must stay."""
    tensor = graph.tensors[output]
    if not tensor.is_float or output in graph.inputs:
        return "it is computed in no float operator"
    if len(tensor.shape) < 2 or not 1 < tensor.shape[-1] <= _MOST_COLUMNS:
        return "it has no columns"
    made, read = producers(graph), consumers(graph)
    found, waiting = {output}, [output]
    while waiting:
        node = made.get(waiting.pop())
        if node is not None and lookup(node.op).is_mover:
            new = [t.name for _, t in graph.float_inputs(node) if not t.is_constant and t.name not in found]
            found.update(new)
            waiting += new
    for name in found:
        if name != output and name in graph.outputs:
            return f"'{name}' is an output, too"
        if any(found.isdisjoint(node.outputs) for node in read.get(name, ())):
            return f"'{name}' is read by other operators, too"
    return frozenset(found)


def _columns(
    model: Model, names: list[str], samples: Sequence[Arrays]
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns output → (smallest value, largest value, deviation) of each column on the samples, float64."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    sums: dict[str, np.ndarray] = {}
    if not names:
        return {}
    with Session(model, outputs=names) as session:
        for sample in samples:
            if session.is_stateful:
                session.reset()
            for name, values in session.run(sample).items():
                rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
                if not np.isfinite(rows).all():
                    raise DataError(f"output '{name}' holds NaN or infinity on a sample. Leave that sample out.")
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
                one = np.stack(
                    [np.full(rows.shape[1], float(len(rows))), rows.sum(axis=0), np.square(rows).sum(axis=0)]
                )
                sums[name] = sums.get(name, 0.0) + one
    return {name: (*ends, _deviation(*sums[name])) for name, ends in found.items()}


def _deviation(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squares / count - np.square(total / count), 0.0))


def _chosen(
    free: Freedom, name: str, tail: frozenset[str], low: np.ndarray, high: np.ndarray, deviation: np.ndarray
) -> Columns:
    """Returns the factors and offsets of an output: its columns that are lost in the grid of all get a finer one."""
    labels, columns = free.channels[name], low.size
    outside = [found for other, found in free.channels.items() if other not in tail]
    is_own = free.is_free[labels] & ~np.isin(labels, np.concatenate([*outside, np.zeros(1, np.int64)]))
    least, most = np.full(free.count, np.inf), np.full(free.count, -np.inf)
    np.minimum.at(least, labels, low)
    np.maximum.at(most, labels, high)
    low, high = least[labels], most[labels]
    varying = np.full(free.count, np.inf)
    np.minimum.at(varying, labels, np.where(deviation > 0, deviation, np.inf))
    deviation = np.where(np.isfinite(varying[labels]), varying[labels], 0.0)
    whole = max(float(high.max()), 0.0) - min(float(low.min()), 0.0)
    spans = np.where(high > low, high - low, whole)
    unchanged = Columns(name, np.ones(columns), np.zeros(columns))
    has_rows = free.graph.tensors[name].elements > columns
    least_steps = _LEAST_STEPS if has_rows else _LEAST_STEPS_OF_ONE_ROW
    is_lost = (deviation > 0) & (deviation < least_steps * whole / _STEPS)
    if not is_lost.any():
        return replace(unchanged, reason="none of its columns is lost in the steps of all")
    if not is_own.any():
        why = next((free.fixed[label] for label in labels.tolist() if label in free.fixed), "others share its columns")
        return replace(unchanged, reason=why)
    if not (is_lost & ~is_own).any():  # else those that can be changed come to the range of those that can't
        is_own &= is_lost
    offsets = np.where(is_own & _takes_offsets(free, tail)[labels], (low + high) / 2, 0.0)
    halves = np.where(offsets == 0, np.maximum(np.abs(low), np.abs(high)), spans / 2)
    # Columns that stay say how wide the grid is; without such, the widest does.
    kept = np.maximum(np.abs(low), np.abs(high))[~is_own]
    halves = np.maximum(halves * _HEADROOM, deviation * _DEVIATIONS)
    halves = np.minimum(halves, max(whole / 2, float(np.abs([low, high]).max())))
    widest = float(kept.max()) if kept.size else float(halves.max())
    if widest <= 0:
        return replace(unchanged, reason="its columns are 0 on the samples")
    factors = np.where(is_own & (halves > 0), halves / widest, 1.0)
    return Columns(name, factors, offsets)


def _takes_offsets(free: Freedom, tail: frozenset[str]) -> np.ndarray:
    """True for labels whose weights all have a bias, and no activation behind it, (count,) bool."""
    found = np.ones(free.count, bool)
    for weight in free.weights:
        if weight.bias is None or fused_activation(weight.node) != "NONE":
            found[weight.writes] = False
    for node in free.graph.nodes:
        if not tail.isdisjoint(node.outputs) and lookup(node.op).axes in ("pad", "mirror"):
            found[np.concatenate([free.channels[name] for name in node.outputs])] = False
    written = np.zeros(free.count, bool)
    for weight in free.weights:
        written[weight.writes] = True
    return found & written


def _written(model: Model, free: Freedom, rows: Sequence[Columns]) -> Model:
    factors, offsets = np.ones(free.count), np.zeros(free.count)
    for row in rows:
        factors[free.channels[row.output]] = row.factors
        offsets[free.channels[row.output]] = row.offsets
    graph = _shifted(scaled(model, free, factors), free.weights, offsets / factors).main
    edit = Editor(graph, set(model.tensors))
    new = {row.output: edit.add(replace(graph.tensors[row.output], name=f"{row.output}/even")) for row in rows}
    for node in graph.nodes:
        inputs, outputs = (tuple(new.get(name, name) for name in names) for names in (node.inputs, node.outputs))
        edit.nodes.append(replace(node, inputs=inputs, outputs=outputs))
    for row in rows:
        result, is_shifted = new[row.output], bool(row.offsets.any())
        product = (
            edit.add(replace(graph.tensors[row.output], name=f"{row.output}/columns")) if is_shifted else row.output
        )
        edit.node(_PRODUCT, (result, edit.constant(f"{row.output}/factors", _float32(row.factors))), (product,))
        if is_shifted:
            edit.node(_SUM, (product, edit.constant(f"{row.output}/offsets", _float32(row.offsets))), (row.output,))
    return replace_graph(model, 0, edit.result())


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _shifted(model: Model, weights: Sequence[Weight], offsets: np.ndarray) -> Model:
    """Returns the model with biases that are smaller by the offset of what they write."""
    edit, changed, read = (
        Editor(model.main, set(model.tensors)),
        dict[str, tuple[int, np.ndarray]](),
        consumers(model.main),
    )
    for weight in weights:
        shift = offsets[weight.writes.ravel()]
        if weight.bias is not None and shift.any():
            changed[weight.node.name] = weight.bias, shift
    for node in model.main.nodes:
        inputs = list(node.inputs)
        if node.name in changed:
            position, shift = changed[node.name]
            tensor = model.main.tensors[inputs[position]]
            made = constant(tensor.name, _float32(np.asarray(tensor.array, np.float64) - shift))
            if len(read[tensor.name]) == 1:
                edit.tensors[tensor.name] = replace(tensor, data=made.data)
            else:
                inputs[position] = edit.add(replace(made, name=f"{node.name}/bias"))
        edit.nodes.append(replace(node, inputs=tuple(inputs)))
    return replace_graph(model, 0, edit.result())


def _float_tail(recipe: Recipe, rows: Sequence[Columns]) -> Recipe:
    """Returns the recipe with the operators behind the outputs in float."""
    rules: list[Rule] = []
    for row in rows:
        names = [f"{row.output}/columns", row.output] if row.offsets.any() else [row.output]
        rules += [Rule(exactly(name), op=op) for name, op in zip(names, (_PRODUCT, _SUM), strict=False)]
    return replace(recipe, rules=(*rules, *recipe.rules))


def _apply(setting: Setting, candidate: Candidate) -> Candidate | str:
    if candidate.plan.io != "float32" or not setting.target.is_float_allowed or setting.integers:
        return (
            f"the outputs are integers (io {candidate.plan.io}), of one scale each: columns are put right in float "
            "(io float32, on a target that runs floats), or by outputs of their own"
        )
    if not candidate.plan.params or not setting.samples:
        return "no outputs are computed in integers"
    model, rows = evened_outputs(candidate.model, setting.samples, candidate.plan.params)
    done = [row for row in rows if not row.reason]
    if not done:
        reasons: Mapping[str, str] = {row.output: row.reason for row in rows}
        return "; ".join(f"'{name}': {why}" for name, why in reasons.items()) or "the model has no outputs"
    new = planned(setting, model, _float_tail(candidate.recipe, done))
    names = ", ".join(f"'{row.output}'" for row in done)
    return new.with_note(f"split-outputs: the columns of {names} have a scale each, which a float tail puts back")


SPLIT_OUTPUTS = Repair("split-outputs", "gives the columns of an output scales of their own", _apply)
