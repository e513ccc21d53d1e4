"""Jobs that train in integers: what is computed, against LiteRT, and how long a step takes beside the float model's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import featherweight as fw

# Kinds of layers whose networks the tests build.
_TEST_NETWORKS = ("lstm", "transformer")


def _network(name: str) -> Any:
    from tests import models

    from benchmarks import networks

    return models.build(name) if name in _TEST_NETWORKS else networks.build(name)


def _examples(network: Any, count: int, seed: int) -> dict[str, np.ndarray]:
    """Returns random examples by input name: small integers for tokens, else numbers with some structure."""
    random, found = np.random.default_rng(seed), {}
    for tensor in network.inputs:
        shape = (count, *tensor.shape[1:])
        if "int" in str(tensor.dtype):
            found[tensor.name] = random.integers(0, 16, shape).astype(np.int32)
        else:
            means = random.normal(0, 1, (count, *(1,) * (len(shape) - 1)))
            found[tensor.name] = (0.5 * random.normal(0, 1, shape) + means).astype(np.float32)
    return found


def _quantized(network: Any) -> Any:
    return fw.quantize_aware(network, calibration=_calibration(network), progress=False)


def lower_network(network: str, out: str) -> dict[str, Any]:
    """Writes the float graph of a network, which every backend then trains."""
    fw.save(fw.load(_network(network), unroll=True), out)
    return {}


def _calibration(network: Any, count: int = 8) -> list[Any]:
    """Returns single examples: in the order of the inputs, whose names backends do not agree about."""
    samples = _examples(network, count, 1)
    return [tuple(array[i : i + 1] for array in samples.values()) for i in range(count)]


def training_exact(network: str, graph: str, steps: int = 3, batch: int = 4) -> dict[str, Any]:
    """Trains for some steps of Adam, and counts the values of all tensors of the file in which model and LiteRT differ.

    `graph` is the file that `lower_network` wrote.

    ``start`` counts outputs of the untrained model that differ from those of `quantize`.
    """
    import keras
    from keras import ops

    source = _network(network)
    model = fw.quantize_aware(graph, calibration=_calibration(source), progress=False)
    examples = _examples(source, batch, 2)
    inputs: Any = next(iter(examples.values())) if len(examples) == 1 else examples
    first = model.predict(inputs, verbose=0)
    untrained = fw.finalize(model)
    quantized = fw.run(untrained.model, inputs, threads=1)
    start = _differing(first, quantized)
    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
    targets = {name: np.zeros_like(array) + 0.1 for name, array in _by_name(first).items()}
    model.fit(inputs, targets if isinstance(first, dict) else targets[""], batch, epochs=steps, verbose=0)
    finished = fw.finalize(model)
    expected: Any = fw.run(finished.model, inputs, tensors="all", threads=1)
    found = model.tensors(inputs, list(expected))
    elements, differing, worst = 0, 0, ""
    for name, array in expected.items():
        quant = finished.model.main.tensors[name].quant
        zero_point = quant.zero_point[0] if quant is not None and quant.zero_point else 0
        wrong = int((ops.convert_to_numpy(found[name]) + zero_point != array).sum())
        elements, differing = elements + array.size, differing + wrong
        worst = worst or (f"first {wrong} of {array.size} of '{name}'" if wrong else "")
    moved = _differing(model.predict(inputs, verbose=0), first)
    return {"elements": elements, "differing": differing, "worst": worst, "start": start, "moved": moved}


def _by_name(outputs: Any) -> Mapping[str, np.ndarray]:
    return outputs if isinstance(outputs, dict) else {"": outputs}


def _differing(found: Any, expected: Any) -> int:
    pairs = zip(_by_name(found).values(), _by_name(expected).values(), strict=True)
    return sum(int((a != b).sum()) for a, b in pairs)


def training_step(network: str, batch: int = 16, steps: int = 8, rounds: int = 9) -> dict[str, Any]:
    """Returns milliseconds of a step, in turns, of the float network and of its integer form.

    Besides: seconds to make the latter, and of the first step of each, with its compilation.
    """
    source = _network(network)
    timed: dict[str, Any] = {"make": _making_times(source)}
    models = {"float": source, "integer": _quantized(source)}
    return timed | _step_times(models, _examples(source, batch * steps, 3), batch, rounds)


def pruning_step(network: str, batch: int = 16, steps: int = 8, rounds: int = 9) -> dict[str, Any]:
    """Returns milliseconds of a step, in turns, of a network with and without pruning, and what masks weigh.

    Masks are updated every 100th step, the default of both tools.
    """
    import keras

    source = _network(network)
    pruned = keras.models.clone_model(source)
    schedule = fw.schedules.polynomial_decay(0.0, 0.8, begin=0, end=10_000)
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(1e-4), schedule)
    pruned.compile(optimizer, "mse")
    times = _step_times({"float": source, "pruned": pruned}, _examples(source, batch * steps, 3), batch, rounds)
    parameters = sum(int(np.prod(variable.shape)) for variable in pruned.trainable_variables)
    masks = sum(np.asarray(variable.value).nbytes for variable in optimizer.variables if "mask" in variable.path)
    return times | {"memory": masks / (4 * parameters)}


def _making_times(source: Any) -> float:
    """Returns the seconds that the model takes beyond lowering, calibration and planning, which `quantize` does too."""
    graph, calibration = fw.load(source), _calibration(source)
    start = time.perf_counter()
    fw.quantize(graph, calibration=calibration, progress=False)
    middle = time.perf_counter()
    fw.quantize_aware(graph, calibration=calibration, progress=False)
    return (time.perf_counter() - middle) - (middle - start)


def _step_times(models: Mapping[str, Any], inputs: Mapping[str, np.ndarray], batch: int, rounds: int) -> dict[str, Any]:
    """Times models of the same inputs; those that are not compiled yet get SGD and a squared error."""
    import keras

    outputs = models["float"].output_shape[1:]
    y = np.random.default_rng(4).random((len(next(iter(inputs.values()))), *outputs)).astype(np.float32)
    found: dict[str, Any] = {}
    fits: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        if not model.compiled:
            model.compile(keras.optimizers.SGD(1e-4), loss="mse")
        x: Any = next(iter(inputs.values())) if len(inputs) == 1 else dict(inputs)
        fits[name] = lambda model=model, x=x: model.fit(x, y, batch, verbose=0, shuffle=False)
        start = time.perf_counter()
        model.fit(*(_first(part, batch) for part in (x, y)), batch, verbose=0)
        found[f"{name} first"] = time.perf_counter() - start
        fits[name]()
    steps, times = len(y) // batch, {name: list[float]() for name in models}
    for _ in range(rounds):
        for name, fit in fits.items():
            start = time.perf_counter()
            fit()
            times[name].append(1000 * (time.perf_counter() - start) / steps)
    return found | times | {f"{name} median": statistics.median(values) for name, values in times.items()}


def _first(part: Any, count: int) -> Any:
    return {name: array[:count] for name, array in part.items()} if isinstance(part, dict) else part[:count]
