"""What runs in processes of its own: `python -m benchmarks.jobs NAME ARGUMENTS_AS_JSON RESULT_FILE`.

Times leave out imports, which are done before the clock starts, and samples that are made up beforehand.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

Result = dict[str, Any]


def peak_mb() -> float:
    """Returns the largest resident memory so far, in MB; the kernel's figure for this program alone.

    `ru_maxrss` would count what the parent process held at the fork.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no VmHWM.")


def random_samples(model: str, count: int, distinct: int = 8) -> Iterator[np.ndarray]:
    """Yields `count` random inputs in [-1, 1); a few distinct ones in turn, so that they cost no memory."""
    from featherweight import tflite

    graph = tflite.read(model).main
    shape = graph.tensors[graph.inputs[0]].shape
    random = np.random.default_rng(0)
    arrays = [random.uniform(-1, 1, shape).astype(np.float32) for _ in range(min(distinct, count))]
    return islice(cycle(arrays), count)


# ------------------------------------------------------------------------------------------------------------- files


def build_network(name: str, out: str) -> Result:
    """Builds a network in Keras; writes it as `.keras` and, lowered, as `.tflite`."""
    from benchmarks.networks import build
    from featherweight import tflite
    from featherweight.tasks import load as loading

    network = build(name)
    network.save(Path(out).with_suffix(".keras"))
    tflite.save(loading.load(network), out)
    return {}


def build_dense_stack(out: str, units: int = 4096, layers: int = 6) -> Result:
    """Writes a stack of dense layers, 400 MB of float32 weights."""
    from featherweight import tflite
    from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant

    random = np.random.default_rng(0)
    tensors, nodes, last = {"x": Tensor("x", (1, units), "float32")}, [], "x"
    for i in range(layers):
        weight = random.standard_normal((units, units), np.float32) * np.float32(0.02)
        bias = random.standard_normal(units, np.float32) * np.float32(0.02)
        made = (constant(f"w{i}", weight), constant(f"b{i}", bias), Tensor(f"y{i}", (1, units), "float32"))
        tensors |= {tensor.name: tensor for tensor in made}
        attrs = {"fused_activation_function": "RELU" if i < layers - 1 else "NONE"}
        nodes.append(Node("FULLY_CONNECTED", (last, f"w{i}", f"b{i}"), (f"y{i}",), attrs))
        last = f"y{i}"
    graph = Graph("main", ("x",), (last,), tuple(nodes), tensors)
    tflite.save(Model((graph,), (Signature("serving_default", (("x", "x"),), (("y", last),)),)), out)
    return {}


def quantize_featherweight(
    model: str, out: str, samples: int | str, target: str = "litert", io: str | None = None
) -> Result:
    """Quantizes to int8 with this package; `samples` is a number of random ones, or a `.npy` file."""
    from featherweight.tasks import quantize as pipeline

    feeds = _samples(model, samples)
    quantized = pipeline.quantize(model, "int8", calibration=feeds, target=target, io=io, progress=False)
    quantized.save(out)
    return {}


def quantize_tensorflow(model: str, out: str, samples: int | str) -> Result:
    """Quantizes to int8 with TensorFlow's converter, from the `.keras` file beside the float file."""
    from benchmarks import peers

    keras_file = str(Path(model).with_suffix(".keras"))
    Path(out).write_bytes(peers.tensorflow_convert(keras_file, _samples(model, samples), is_int8=True))
    return {}


def quantize_ai_edge_quantizer(model: str, out: str, samples: int | str) -> Result:
    """Quantizes to int8 with ai-edge-quantizer."""
    from benchmarks import peers

    peers.ai_edge_int8(model, _samples(model, samples), out)
    return {}


def convert_tensorflow(keras_file: str, out: str, out_int8: str, samples: int) -> Result:
    """Runs TensorFlow's converter on a Keras model: float and int8."""
    from benchmarks import peers

    Path(out).write_bytes(peers.tensorflow_convert(keras_file, samples, is_int8=False))
    Path(out_int8).write_bytes(peers.tensorflow_convert(keras_file, samples, is_int8=True))
    return {}


def _samples(model: str, samples: int | str) -> Iterator[np.ndarray]:
    return random_samples(model, samples) if isinstance(samples, int) else iter(np.load(samples))


# ------------------------------------------------------------------------------------------------------- calibration


def calibrate_featherweight(model: str, samples: int, histograms: bool = False) -> Result:
    """Calibrates with this package."""
    from featherweight.calibration import calibrate

    _warm_up_litert()
    feeds = list(random_samples(model, samples))
    start = time.perf_counter()
    calibrate(model, feeds, histograms=histograms, progress=False)
    return {"seconds": time.perf_counter() - start}


def calibrate_ai_edge_quantizer(model: str, samples: int, fastest: bool = False) -> Result:
    """Calibrates with ai-edge-quantizer, in its default or its fastest mode."""
    from benchmarks import peers

    _warm_up_litert()
    feeds = list(random_samples(model, samples))
    start = time.perf_counter()
    peers.ai_edge_calibrate(model, feeds, fastest=fastest)
    return {"seconds": time.perf_counter() - start}


def calibrate_tensorflow(model: str, samples: int) -> Result:
    """Calibrates with the calibrator of TensorFlow's converter."""
    from benchmarks import peers

    peers.import_tensorflow()
    feeds = list(random_samples(model, samples))
    start = time.perf_counter()
    peers.tensorflow_calibrate(Path(model).read_bytes(), feeds)
    return {"seconds": time.perf_counter() - start}


def infer(model: str, samples: int) -> Result:
    """Runs plain inference over the samples: the least that calibration can cost."""
    _warm_up_litert()
    feeds = list(random_samples(model, samples))
    start = time.perf_counter()
    _infer(model, feeds)
    return {"seconds": time.perf_counter() - start}


def calibration_against_inference(model: str, samples: int, rounds: int) -> Result:
    """Times inference, calibration and calibration with histograms in turns, in one process."""
    from featherweight.calibration import calibrate

    feeds = list(random_samples(model, samples))
    ways: dict[str, Callable[[], Any]] = {
        "inference": lambda: _infer(model, feeds),
        "minmax": lambda: calibrate(model, feeds, progress=False),
        "histograms": lambda: calibrate(model, feeds, histograms=True, progress=False),
    }
    return _alternate(ways, rounds)


def _infer(model: str, feeds: list[np.ndarray]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from featherweight.runtime import default_threads

    interpreter = Interpreter(model, num_threads=default_threads())
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]
    output = interpreter.get_output_details()[0]["index"]
    for feed in feeds:
        interpreter.set_tensor(index, feed)
        interpreter.invoke()
        interpreter.get_tensor(output)


def _alternate(ways: dict[str, Callable[[], Any]], rounds: int) -> Result:
    """Returns name → seconds of each round; the first round, which warms caches up, is dropped."""
    names, seconds = list(ways), {name: [] for name in ways}
    for step in range(rounds + 1):
        for turn in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = time.perf_counter()
            ways[name]()
            if step:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _warm_up_litert() -> None:
    from ai_edge_litert import interpreter  # noqa: F401


# ------------------------------------------------------------------------------------------- planning and rewriting


def plan_and_rewrite(model: str, rounds: int) -> Result:
    """Times planning and rewriting after calibration; the first time too, when nothing is warm."""
    from featherweight import tflite
    from featherweight.calibration import calibrate
    from featherweight.ptq.planning import plan
    from featherweight.ptq.rewrite import rewrite

    graph = tflite.read(model)
    stats = calibrate(graph, random_samples(model, 4), progress=False)
    result: Result = {"plan": [], "rewrite": [], "write": []}
    for _ in range(rounds + 1):
        graph = tflite.read(model)
        times = [time.perf_counter()]
        made = plan(graph, stats, "int8")
        times.append(time.perf_counter())
        rewritten = rewrite(graph, made)
        times.append(time.perf_counter())
        tflite.write(rewritten)
        times.append(time.perf_counter())
        for key, seconds in zip(result, np.diff(times).tolist(), strict=True):
            result[key].append(seconds)
    return result


# ------------------------------------------------------------------------------------------------------- large files


def dense_featherweight(model: str, out: str, recipe: str, samples: int) -> Result:
    """Quantizes the dense stack with this package, step by step; the times of the steps."""
    from featherweight import tflite
    from featherweight.calibration import calibrate
    from featherweight.ptq.planning import plan
    from featherweight.ptq.rewrite import rewrite
    from featherweight.runtime import litert  # noqa: F401

    _warm_up_litert()
    feeds = list(random_samples(model, samples)) if samples else []
    times, memory = [time.perf_counter()], [peak_mb()]

    def passed() -> None:
        times.append(time.perf_counter())
        memory.append(peak_mb())

    graph = tflite.read(model)
    passed()
    stats = calibrate(graph, feeds, progress=False) if feeds else None
    passed()
    made = plan(graph, stats, recipe)
    passed()
    rewritten = rewrite(graph, made)
    passed()
    tflite.save(rewritten, out)
    passed()
    steps = ("read", "calibrate", "plan", "rewrite", "save")
    return {
        "seconds": times[-1] - times[0],
        "steps": dict(zip(steps, np.diff(times).tolist(), strict=True)),
        "peaks_mb": dict(zip(("start", *steps), memory, strict=True)),
    }


def dense_pipeline(model: str, out: str, recipe: str, samples: int) -> Result:
    """Quantizes the dense stack as users do: one call, the report included, and save."""
    from featherweight.tasks import quantize as pipeline

    _warm_up_litert()
    feeds = list(random_samples(model, samples)) if samples else None
    start = time.perf_counter()
    pipeline.quantize(model, recipe, calibration=feeds, progress=False).save(out)
    return {"seconds": time.perf_counter() - start}


def dense_ai_edge_quantizer(model: str, out: str, recipe: str, samples: int) -> Result:
    """Quantizes the dense stack with ai-edge-quantizer: a static or the dynamic recipe."""
    from benchmarks import peers

    _warm_up_litert()
    feeds = list(random_samples(model, samples)) if samples else []
    peers.import_ai_edge_quantizer()
    start_mb, start = peak_mb(), time.perf_counter()
    calibrate_s = peers.ai_edge_quantize(model, feeds, out, recipe)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "steps": {"calibrate": calibrate_s, "rest": seconds - calibrate_s},
        "peaks_mb": {"start": start_mb},
    }


# -------------------------------------------------------------------------------------------------- times of int8 files


def latency(files: dict[str, str], runs: int) -> Result:
    """Times files side by side, one thread; name → median and quantiles in ms, and ratio to the first."""
    from featherweight.runtime import benchmark

    rows = benchmark(files, threads=1, runs=runs, progress=False)
    return {row.name: [row.median_ms, row.low_ms, row.high_ms, row.ratio] for row in rows}


def measured_packs() -> Result:
    """Measures how many channels kernels compute together here, by type."""
    from featherweight.channels.packs import measured_pack

    return {dtype: measured_pack(dtype) for dtype in ("int8", "float32")}


def remove_channels(
    model: str, out: str, macs: float | None = None, multiple: int | str | None = None, latency: float | None = None
) -> Result:
    """Removes channels from a float file until that share of its multiply-accumulates, or of its time, is gone."""
    import featherweight as fw

    start = time.perf_counter()
    removed = fw.remove_channels(model, macs=macs, latency=latency, multiple=multiple)
    seconds = time.perf_counter() - start
    removed.save(out)
    return {"seconds": seconds, "macs": removed.macs, "weight_bytes": removed.weight_bytes}


def lower_keras_file(path: str) -> Result:
    """Loads a `.keras` file and lowers it; the caller times the whole process."""
    import featherweight as fw

    start = time.perf_counter()
    model = fw.load(path)
    return {"seconds": time.perf_counter() - start, "nodes": len(model.main.nodes)}


def lower_live_mobilenet_v2() -> Result:
    """Builds Keras's MobileNetV2 and lowers it; the times of imports, building and lowering."""
    from featherweight.lower import lower

    times = [time.perf_counter()]
    import keras

    times.append(time.perf_counter())
    network = keras.applications.MobileNetV2(weights=None)
    times.append(time.perf_counter())
    lower(network)
    times.append(time.perf_counter())
    return dict(zip(("import", "build", "lower"), np.diff(times).tolist(), strict=True))


def load_parts(name: str, arguments: str, taken: str) -> None:
    """Runs one job and writes its result with the process's peak memory."""
    result = _job(name)(**json.loads(arguments)) | {"peak_mb": peak_mb()}
    Path(taken).write_text(json.dumps(result))


def _job(name: str) -> Callable[..., Result]:
    from benchmarks import (
        accuracy_jobs,
        board_jobs,
        choosing_jobs,
        cluster_jobs,
        detector_jobs,
        equality_jobs,
        fashion_jobs,
        flash_jobs,
        flow_jobs,
        media_jobs,
        pruning_jobs,
        ranges_jobs,
        smaller_jobs,
        training_jobs,
        voice_jobs,
        wide_jobs,
    )

    homes = (
        equality_jobs,
        accuracy_jobs,
        board_jobs,
        training_jobs,
        fashion_jobs,
        flash_jobs,
        flow_jobs,
        pruning_jobs,
        wide_jobs,
        ranges_jobs,
        smaller_jobs,
        choosing_jobs,
        cluster_jobs,
        media_jobs,
        detector_jobs,
        voice_jobs,
    )
    for home in (sys.modules[__name__], *homes):
        if hasattr(home, name):
            return getattr(home, name)
    raise SystemExit(f"There is no job '{name}'.")


if __name__ == "__main__":
    load_parts(*sys.argv[1:])
