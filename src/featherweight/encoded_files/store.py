"""Weights stored encoded, for runtimes that decode them; each file is compared with the plain one, run by run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featherweight import operators, tflite
from featherweight.device_code.arena import MicroRun, has_micro, micro_run
from featherweight.encoded_files.records import Encoded, EncodedTensor
from featherweight.errors import FeatherweightError, FormatError, RecipeError, UnsupportedOp, listed
from featherweight.graph import Graph, Model, ModelLike, Node, Tensor, io_names
from featherweight.graph.editor import Editor
from featherweight.runtime.benchmark import random_inputs
from featherweight.runtime.samples import input_tensors
from featherweight.targets import target as targets
from featherweight.tflite.codings import HUFFMAN, Coded, encodings, huffman_together, obstacle
from featherweight.tflite.decode_operator import decode_node, encoded_constants, has_decode
from featherweight.tflite.lean import ZERO_POINTS

# Kinds of weights whose operators read them when they run, and not when they are prepared.
_KINDS = ("conv", "depthwise", "transposed", "dense")
_DRAWS = 4
# A weight is encoded if that makes the file smaller by such a fraction of the weight's bytes: decoding takes time.
_WORTH = 1 / 16
# So many weights in one Huffman code are tried one after the other, of more every so manieth.
_EACH = 12


def store_encoded(model: ModelLike, *, target: str | Path | targets.Target = "tflm") -> Encoded:
    """Stores weights encoded wherever that makes the file smaller; the target's runtime decodes them when it runs.

    Each weight takes the coding of fewest bytes (a lookup table, Huffman codes, a bit mask of what is not zero), and
    keeps it if the whole file is smaller with it. In TFLite Micro, where it is installed, outputs of the encoded and
    the plain file for random inputs must be equal, bit for bit.

    Args:
        model: what `load` takes, as it is to run.
        target: one whose runtime decodes.

    Raises:
        RecipeError: for a target that does not.
        FormatError: if the model has encoded weights already.
        UnsupportedOp: if the interpreter computes other outputs, or can't run the encoded file.
    """
    target, plain = targets.load(target), tflite.read(model)
    check_decodes(target)
    if has_decode(plain):
        raise FormatError("The model has encoded weights already. Give the model before that.")
    candidates, others = _candidates(plain, target)
    chosen, rows = dict[str, Coded](), list[EncodedTensor]()
    size = _bytes(_with_encoded(plain, chosen))
    for one in candidates:
        if one.coded.stored_bytes >= one.row.plain_bytes:
            break
        trial = {**chosen, **dict.fromkeys(one.names, one.coded)}
        bytes_now = _bytes(_with_encoded(plain, trial))
        if bytes_now <= size - _WORTH * one.row.plain_bytes:
            chosen, size = trial, bytes_now
    if HUFFMAN in target.codings:
        chosen, size = _with_shared_tables(plain, candidates, chosen, size)
    for one in candidates:
        coded = chosen.get(one.names[0])
        if coded is None:
            is_smaller = one.coded.stored_bytes < one.row.plain_bytes
            few = ": too little is saved for decoding it in every inference" if is_smaller else ""
            reason = f"as {one.coded.coding} it would take {one.coded.stored_bytes:,} bytes{few}"
            rows.append(replace(one.row, reason=reason))
        else:
            sharing = sum(np.array_equal(coded.ancillary, other.ancillary) for other in chosen.values())
            stored = coded.values.size + -(-coded.ancillary.size // sharing)
            rows.append(replace(one.row, coding=coded.coding, stored_bytes=stored))
    made = _with_encoded(plain, chosen) if chosen else plain
    order = {name: place for place, name in enumerate(plain.tensors)}
    sorted_rows = tuple(sorted((*rows, *others), key=lambda row: order[row.name]))
    decoded = [_decoded_bytes(node, graph, chosen) for graph in plain.graphs for node in graph.nodes]
    result = Encoded(made, sorted_rows, (_bytes(plain), _bytes(made)), max(decoded, default=0), sum(decoded))
    return _verified(result, plain) if chosen else result


def check_decodes(target: targets.Target) -> None:
    """Raises RecipeError for a target whose runtime does not decode weights."""
    if not target.codings:
        able = [name for name in targets.available() if targets.load(name).codings]
        raise RecipeError(
            f"Target '{target.name}' does not decode weights (targets that do: {listed(able)}). Store them plain, or "
            "sparsely where it runs LiteRT (`store_sparse`)."
        )


class _Candidate(NamedTuple):
    """A weight by all its names, its smallest coding, and its row."""

    names: list[str]
    tensor: Tensor
    coded: Coded
    row: EncodedTensor


def _with_shared_tables(
    plain: Model, candidates: Sequence[_Candidate], chosen: Mapping[str, Coded], size: int
) -> tuple[Mapping[str, Coded], int]:
    """Returns what is chosen, and the bytes of the file, with weights in one Huffman code where that is smaller."""
    alike = [one for one in candidates if one.tensor.dtype == candidates[0].tensor.dtype]
    best = dict(chosen)
    for count in (count for count in range(1, len(alike) + 1) if count <= _EACH or count % _EACH == 0):
        joined, trial = alike[:count], dict(chosen)
        for other, coded in zip(joined, huffman_together([other.tensor for other in joined]), strict=False):
            trial |= dict.fromkeys(other.names, coded)
        bytes_now = _bytes(_with_encoded(plain, trial))
        added = sum(other.row.plain_bytes for other in joined if other.names[0] not in best)
        if bytes_now < size and bytes_now <= size - _WORTH * added:
            best, size = trial, bytes_now
    return best, size


def _candidates(model: Model, target: targets.Target) -> tuple[list[_Candidate], list[EncodedTensor]]:
    """Returns weights that a coding has a form for, by what it saves, and rows of the others."""
    groups: dict[bytes, list[tuple[Tensor, Node]]] = {}
    for node, graph in _readers(model):
        tensor = graph.tensors[_weight_of(node)]
        assert tensor.data is not None
        groups.setdefault(tensor.data.tobytes(), []).append((tensor, node))
    read_otherwise = _read_otherwise(model)
    found, others = list[_Candidate](), list[EncodedTensor]()
    for group in groups.values():
        tensor, node = group[0]
        row = EncodedTensor(tensor.name, node.op, tensor.stored_bytes, tensor.stored_bytes)
        names = list(dict.fromkeys(one.name for one, _ in group))
        reason = next((text for one, reader in group if (text := _obstacle(one, reader))), "")
        if read_otherwise & {*names}:
            reason = reason or "it is read as something else than a weight, too"
        if not reason and len({_key(one) for one, _ in group}) > 1:
            reason = "others with scales along another axis share its bytes"
        codings = [] if reason else [coded for coded in encodings(tensor) if coded.coding in target.codings]
        best = min(codings, key=lambda coded: coded.stored_bytes, default=None)
        if best is None:
            others.append(replace(row, reason=reason or "no coding has a form for it"))
        else:
            found.append(_Candidate(names, tensor, best, row))
    return sorted(found, key=lambda one: one.coded.stored_bytes - one.row.plain_bytes), others


def _key(tensor: Tensor) -> tuple[str, tuple[int, ...], int | None, int]:
    """Returns what decoding depends on beside the bytes."""
    quant = tensor.quant
    return tensor.dtype, tensor.shape, quant and quant.axis, 0 if quant is None else len(quant.scale)


def _obstacle(tensor: Tensor, node: Node) -> str:
    if operators.lookup(node.op).weight_kind not in _KINDS:
        return f"{node.op} reads its weights before they are decoded"
    return obstacle(tensor)


def _readers(model: Model) -> Iterator[tuple[Node, Graph]]:
    """Yields the nodes that have a constant weight, with their graph."""
    for graph in model.graphs:
        for node in graph.nodes:
            tensor = graph.tensors.get(_weight_of(node))
            if tensor is not None and tensor.is_constant:
                yield node, graph


def _read_otherwise(model: Model) -> set[str]:
    """Returns the tensors that are read in another role than that of a weight, or passed out."""
    found: set[str] = set()
    for graph in model.graphs:
        found |= {*graph.outputs}
        for node in graph.nodes:
            position = operators.lookup(node.op).weight
            found |= {name for at, name in enumerate(node.inputs) if at != position}
    return found


def _weight_of(node: Node) -> str:
    op = operators.lookup(node.op)
    return op.input_of(node, op.weight)


def _bytes(model: Model) -> int:
    return len(tflite.write(model))


def _decoded_bytes(node: Node, graph: Graph, chosen: Mapping[str, Coded]) -> int:
    name = _weight_of(node)
    return graph.tensors[name].stored_bytes if name in chosen else 0


def _with_encoded(model: Model, chosen: Mapping[str, Coded]) -> Model:
    """Returns the model with these weights encoded, and decoded right before each operator that reads one.

    No runtime but TFLite Micro reads such a file, so that one zero point is enough where channels have the same.
    """
    unread = tuple(dict.fromkeys((*model.extras.get("unread", ()), ZERO_POINTS)))
    graphs, taken = list[Graph](), set(model.tensors)
    for graph in model.graphs:
        edit, stored = Editor(graph, taken), dict[str, tuple[str, str]]()
        for node in graph.nodes:
            name = _weight_of(node)
            if name not in chosen:
                edit.nodes.append(node)
                continue
            result = replace(graph.tensors[name], data=None)
            if name in stored:
                made = edit.add(result)
            else:
                first, second = encoded_constants(name, chosen[name])
                stored[name] = edit.add(first), edit.add(second)
                edit.tensors[name], made = result, name
            edit.nodes.append(decode_node([stored[name]], [made]))
            position = operators.lookup(node.op).weight
            inputs = tuple(made if at == position else one for at, one in enumerate(node.inputs))
            edit.nodes.append(replace(node, inputs=inputs))
        graphs.append(edit.result())
    return replace(model, graphs=tuple(graphs), extras={**model.extras, "unread": unread})


def _verified(encoded: Encoded, plain: Model) -> Encoded:
    """Returns the encoded model with its arena once the interpreter has computed the same of it as of the plain one."""
    if not has_micro():
        return replace(encoded, unverified="TFLite Micro is not installed (pip install 'featherweight[clients]')")
    feeds = [random_inputs(input_tensors(plain), seed) for seed in range(_DRAWS)]
    rows = [[feed[name] for name in io_names(plain)[0]] for feed in feeds]
    try:
        before = _run(plain, rows)
    except FeatherweightError as error:
        return replace(encoded, unverified=f"the plain file does not run there: {error}")
    try:
        after = _run(encoded.model, rows)
    except FeatherweightError as error:
        raise UnsupportedOp(f"TFLite Micro can't run the model with encoded weights: {error}") from error
    pairs = [
        (x, y)
        for one, other in zip(before.outputs, after.outputs, strict=True)
        for x, y in zip(one, other, strict=True)
    ]
    if wrong := sum(x.tobytes() != y.tobytes() for x, y in pairs):
        raise UnsupportedOp(
            f"TFLite Micro computes other outputs once weights are encoded ({wrong} of {len(pairs)} differ). This is a "
            "defect; please report it with the model, and store its weights plain."
        )
    return replace(encoded, arena=(before.arena, after.arena))


def _run(model: Model, feeds: list[list[np.ndarray]]) -> MicroRun:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(tflite.write(model))
        return micro_run(path, feeds, len(model.main.outputs))
