"""Figures of operators as node data of Model Explorer, one file for each figure, to be laid over a model's graph.

The format is that of `model_explorer.node_data_builder` (ai-edge-model-explorer 0.1): graph → results by the name of an
operator's output tensor, which Netron shows as well; an operator whose output has no name in the file goes by its place
in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.analysis.comparison import TensorError
from featherweight.analysis.inspection import is_weight, zero_count
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model, Node, Tensor, io_names
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.runtime.operator_times import OperatorTimes
from featherweight.tflite import write_atomically

# From the least value to the largest: colours that people tell apart who see no red or green.
_RISING = ("#f7f7f7", "#1f6aa5")
_FALLING = ("#b3362a", "#f7f7f7")
_FLOAT_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


def save_node_data(
    folder: str | Path, model: Model, errors: Sequence[TensorError] = (), *, times: OperatorTimes | None = None
) -> list[Path]:
    """Writes `bits.json`, `sparsity.json`, `error.json` and `time.json` into a folder, and returns the paths.

    Bits are those of an operator's weight, else of its output; sparsity is the fraction of zeros (0..1) of its weights;
    errors are signal to noise in dB, where there is any error; times are microseconds in one run.

    Args:
        folder: is made where it is not there.
        model: the model that is looked at.
        errors: of its tensors, as `compare` gives them.
        times: of its operators, as `operator_times` gives them.

    Raises:
        FeatherweightError: if a file can't be written.
    """
    by_tensor = {row.name: row.sqnr_db for row in errors if row.kind != "weight" and math.isfinite(row.sqnr_db)}
    by_tensor |= {tensor: by_tensor[name] for name, tensor in io_names(model)[1].items() if name in by_tensor}
    figures: dict[str, tuple[Callable[[Node, Graph], float | None], Sequence[str]]] = {
        "bits": (_bits, _RISING),
        "sparsity": (_sparsity, _RISING),
    }
    if errors:
        figures["error"] = (
            lambda node, _: next((by_tensor[n] for n in node.outputs if n in by_tensor), None),
            _FALLING,
        )
    if times is not None:
        by_name = {row.name: row.time_us for row in times.rows}
        figures["time"] = (lambda node, _: by_name.get(node.name), _RISING)
    found: list[Path] = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatherweightError(
            f"'{folder}' can't be made: {error.strerror or error}. Name another folder."
        ) from error
    for name, (figure, colours) in figures.items():
        content = {graph_id: data for graph_id, data in _graphs(model, name, figure, colours) if data["results"]}
        if content:
            found.append(Path(folder) / f"{name}.json")
            write_atomically(found[-1], [f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode()])
    return found


def _graphs(model: Model, name: str, figure: Callable[[Node, Graph], float | None], colours: Sequence[str]) -> Any:
    titles = {"bits": "bits", "sparsity": "fraction of zeros", "error": "signal to noise, dB", "time": "time, µs"}
    for index, graph in enumerate(model.graphs):
        results: dict[str, Mapping[str, float]] = {}
        for place, node in enumerate(graph.nodes):
            value = figure(node, graph)
            if value is not None:
                results[_key(node, graph, place)] = {"value": round(value, 4)}
        gradient = [{"stop": stop, "bgColor": colour} for stop, colour in zip((0, 1), colours, strict=True)]
        yield graph.name or f"subgraph_{index}", {"results": results, "name": titles[name], "gradient": gradient}


def _key(node: Node, graph: Graph, place: int) -> str:
    """Returns the name of an operator's output as the file has it; without one, the operator's place."""
    tensor = graph.tensors[node.outputs[0]] if node.outputs else None
    name = "" if tensor is None else tensor.name if tensor.file_name is None else tensor.file_name
    return name or str(place)


def _weights(node: Node, graph: Graph) -> list[Tensor]:
    return [graph.tensors[name] for name in node.inputs if name and is_weight(graph.tensors[name])]


def _bits(node: Node, graph: Graph) -> float | None:
    outputs = [graph.tensors[name] for name in node.outputs if name]
    known = INTEGER_BITS | _FLOAT_BITS
    return next((known[t.dtype] for t in (*_weights(node, graph), *outputs) if t.dtype in known), None)


def _sparsity(node: Node, graph: Graph) -> float | None:
    found = [tensor for tensor in _weights(node, graph) if tensor.elements]
    return sum(map(zero_count, found)) / sum(t.elements for t in found) if found else None
