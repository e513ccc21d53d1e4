"""The rows of the table: each measures one promise beside the peers, and returns its figures."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.architectures.row import architectures
from benchmarks.choosing_rows import mixed_forms, wide_parts
from benchmarks.cluster_rows import cluster_zip, clusters
from benchmarks.detector_rows import detectors
from benchmarks.device_rows import arena, proof
from benchmarks.flash_rows import flash
from benchmarks.flow_rows import flow, recorder, workers
from benchmarks.kernel_rows import kernel_speed, kernels
from benchmarks.measuring import (
    FILES,
    ROOT,
    TINY,
    Figure,
    Options,
    column,
    figure_of,
    float_file,
    int8_files,
    interleaved,
    paired,
    quantize_job,
    ratio_of,
    run_job,
    say,
    wait_until_calm,
)
from benchmarks.media_rows import media
from benchmarks.memory_rows import operator_order
from benchmarks.pruning_rows import (
    oneshot,
    oneshot_transformer,
    pruning_accuracy,
    pruning_step,
    pruning_zip,
    sparse_stack,
)
from benchmarks.ranges_rows import ranges
from benchmarks.recovery_rows import recovery
from benchmarks.report_rows import report
from benchmarks.structured_rows import channels, packs, smaller
from benchmarks.training_rows import chips, training_accuracy, training_exact, training_step
from benchmarks.voice_rows import voice
from benchmarks.wide_rows import float_activations, sentence_encoder

_OURS_INTEGER = "featherweight, int8 inputs and outputs"
_OURS, _AEQ, _TF = "featherweight", "ai-edge-quantizer", "TensorFlow converter"


def bit_equality(options: Options) -> list[Figure]:
    """int8 weights and biases, given the TensorFlow converter's ranges."""
    sources = {name: float_file(name).with_suffix(".keras") for name in ("mobilenet_v2", *TINY)}
    if options.models:
        sources |= {path.name: path.resolve() for path in sorted(options.models.glob("*.h5"))}
    figures = []
    for name, source in sources.items():
        say(name)
        files = FILES / f"{name}_converter_float.tflite", FILES / f"{name}_converter_int8.tflite"
        run_job(
            "convert_tensorflow",
            backend="tensorflow",
            keras_file=source,
            out=files[0],
            out_int8=files[1],
            samples=10,
        )
        counts = run_job("compare_integers", model=files[0], converted=files[1])
        differing = sum(counts[kind]["differing"] for kind in ("weights", "biases", "scales"))
        of = ", ".join(f"{counts[kind]['of']} {kind}" for kind in ("weights", "biases", "scales"))
        note = f"of {of}" + (f"; {counts['ignored']} given ranges not used" if counts["ignored"] else "")
        figures.append(Figure(f"{name}: differing integers", differing, at_most=0, note=note))
    return figures


def calibration(options: Options) -> list[Figure]:
    """Calibration of MobileNetV2 224 over 100 samples."""
    job = partial(run_job, model=float_file("mobilenet_v2"), samples=100)
    results = interleaved(
        {
            _OURS: partial(job, "calibrate_featherweight"),
            "histograms": partial(job, "calibrate_featherweight", histograms=True),
            _AEQ: partial(job, "calibrate_ai_edge_quantizer"),
            "fastest": partial(job, "calibrate_ai_edge_quantizer", fastest=True),
            _TF: partial(job, "calibrate_tensorflow"),
            "inference": partial(job, "infer"),
        },
        options.rounds,
    )
    seconds = {name: column(rounds, "seconds") for name, rounds in results.items()}
    peaks = {name: column(rounds, "peak_mb") for name, rounds in results.items()}
    ours = seconds[_OURS]
    names = {"histograms": f"{_OURS}, with histograms", "fastest": f"{_AEQ}, profiler-based mode"}
    names["inference"] = "plain inference"
    figures = [figure_of(f"{names.get(n, n)}: time", values, "s") for n, values in seconds.items()]
    figures += [figure_of(f"{names.get(n, n)}: peak memory", values, "MB") for n, values in peaks.items()]
    figures += [
        ratio_of(f"{_AEQ} / ours: time", seconds[_AEQ], ours, at_least=5),
        ratio_of(f"{_AEQ}, profiler-based mode / ours: time", seconds["fastest"], ours),
        ratio_of(f"{_TF} / ours: time", seconds[_TF], ours, at_least=8),
        ratio_of(f"ours / {_AEQ}: peak memory", peaks[_OURS], peaks[_AEQ], at_most=1),
        ratio_of(f"ours with histograms / {_AEQ}: peak memory", peaks["histograms"], peaks[_AEQ], at_most=1),
    ]
    for name in ("mobilenet_v2", "efficientnet_lite0"):
        model = float_file(name)
        wait_until_calm()
        say(f"{name} against plain inference")
        times = run_job("calibration_against_inference", model=model, samples=100, rounds=2 * options.rounds + 1)
        plain = times["inference"]
        figures += [
            ratio_of(f"{name}: min/max / plain inference", times["minmax"], plain, at_most=1.6),
            ratio_of(f"{name}: histograms / plain inference", times["histograms"], plain, at_most=2.5),
        ]
    return figures


def planning(options: Options) -> list[Figure]:
    """Planning and rewriting MobileNetV2 after calibration."""
    wait_until_calm()
    times = run_job("plan_and_rewrite", model=float_file("mobilenet_v2"), rounds=2 * options.rounds + 3)
    both = [a + b for a, b in zip(times["plan"], times["rewrite"], strict=True)]
    return [
        Figure("plan + rewrite, the first time", both[0], "s", at_most=0.3),
        figure_of("plan + rewrite, later", both[1:], "s", at_most=0.3),
        figure_of("plan alone", times["plan"][1:], "s"),
        figure_of("rewrite alone", times["rewrite"][1:], "s"),
        figure_of("write to bytes (not in the bound)", times["write"][1:], "s"),
    ]


def dense_stack(options: Options) -> list[Figure]:
    """A dense stack of 400 MB to int8, from reading to the saved file."""
    model = float_file("dense_stack")
    size_mb = model.stat().st_size / 1e6
    out = FILES / "dense_stack_out.tflite"
    figures = [Figure("input file", size_mb, "MB")]
    for recipe, samples in (("dynamic", 0), ("int8", 4)):
        job = partial(run_job, model=model, out=out, recipe=recipe, samples=samples)
        results = interleaved(
            {
                _OURS: partial(job, "dense_featherweight"),
                "pipeline": partial(job, "dense_pipeline"),
                _AEQ: partial(job, "dense_ai_edge_quantizer"),
            },
            options.rounds,
        )
        ours, theirs, whole = results[_OURS], results[_AEQ], results["pipeline"]
        label = f"{recipe}, {samples} samples" if samples else recipe
        steps = {step: [row["steps"][step] for row in ours] for step in ours[0]["steps"]}
        note = ", ".join(f"{step} {statistics.median(values):.2f} s" for step, values in steps.items())
        peaks = ours[-1]["peaks_mb"]
        peaks_note = ", ".join(f"{step} {value:.0f}" for step, value in peaks.items())
        figures += [
            figure_of(f"{label}: {_OURS}, time", column(ours, "seconds"), "s", note=note),
            figure_of(f"{label}: {_AEQ}, time", column(theirs, "seconds"), "s"),
            ratio_of(f"{label}: ours / {_AEQ}, time", column(ours, "seconds"), column(theirs, "seconds"), at_most=1),
            figure_of(f"{label}: {_OURS}, peak memory", column(ours, "peak_mb"), "MB", note=peaks_note),
            figure_of(f"{label}: {_AEQ}, peak memory", column(theirs, "peak_mb"), "MB"),
            figure_of(
                f"{label}: ours, peak memory / input file",
                [peak / size_mb for peak in column(ours, "peak_mb")],
                "x",
                at_most=1.3,
            ),
        ]
        figures += [
            ratio_of(
                f"{label}: ours with the report / {_AEQ}, time",
                column(whole, "seconds"),
                column(theirs, "seconds"),
            ),
            figure_of(
                f"{label}: ours with the report, peak memory / input file",
                [peak / size_mb for peak in column(whole, "peak_mb")],
                "x",
                at_most=1.3,
            ),
        ]
        if samples:
            without = [[row["seconds"] - row["steps"]["calibrate"] for row in rows] for rows in (ours, theirs)]
            figures.append(ratio_of(f"{label}: ours / {_AEQ}, time without calibration", *without))
            figures.append(
                figure_of(f"{label}: {_AEQ}, calibration", [row["steps"]["calibrate"] for row in theirs], "s")
            )
        out.unlink(missing_ok=True)
    return figures


def latency(options: Options) -> list[Figure]:
    """Latency of int8 files of the same float file, one thread."""
    figures = []
    for name in ("mobilenet_v2", "resnet8"):
        files = int8_files(name)
        wait_until_calm()
        say(name)
        order = {"TensorFlow converter": files["tensorflow"], _OURS: files["featherweight"]}
        # ai-edge-quantizer's files take and give integers, the converter's floats: each against our like.
        integer = FILES / f"{name}_featherweight_int8_io.tflite"
        run_job("quantize_featherweight", model=float_file(name), out=integer, samples=20, io="int8")
        order |= {_AEQ: files["ai_edge_quantizer"], _OURS_INTEGER: integer, "float": float_file(name)}
        runs = 100 if name == "mobilenet_v2" else 400
        rows = []
        for _ in range(options.rounds):
            wait_until_calm()
            rows.append(run_job("latency", files=order, runs=runs))
        figures += [figure_of(f"{name}: {tool}", [row[tool][0] for row in rows], "ms") for tool in order]
        ours = [row[_OURS][3] for row in rows]
        integer_io, theirs = ([row[tool][3] for row in rows] for tool in (_OURS_INTEGER, _AEQ))
        figures.append(figure_of(f"{name}: ours / {_TF}", ours, "x", at_most=1.02))
        figures.append(ratio_of(f"{name}: ours / {_AEQ}", integer_io, theirs, at_most=1.02))
    return figures


def clients(options: Options) -> list[Figure]:
    """The files in the tools that read them: Vela, OpenVINO, TFLite Micro."""
    from tests import clients as readers

    figures = []
    source = float_file("mobilenet_v2")
    for accelerator in ("ethos-u55-256", "ethos-u65-256", "ethos-u85-256"):
        device = accelerator[: len("ethos-u55")]
        file = FILES / f"mobilenet_v2_{device}_int8.tflite"
        run_job("quantize_featherweight", model=source, out=file, samples=4, target=device)
        made = readers.vela(file, accelerator)
        note = f"{made.npu_ops} operators on the NPU, {made.cpu_ops} on the CPU, {made.npu_macs} MACs"
        figures.append(
            Figure(f"Vela {accelerator}, MobileNetV2", 100 * made.npu_fraction, "%", at_least=100, note=note)
        )
    jobs = {"openvino": ("mobilenet_v2", *TINY), "tflm": TINY}
    for client, names in jobs.items():
        figures += [_loads_and_runs(client, name) for name in names]
    return figures


def _loads_and_runs(client: str, name: str) -> Figure:
    """Runs one int8 file in a client and compares its integers with LiteRT's reference kernels."""
    from tests import clients as readers

    from featherweight import tflite
    from featherweight.graph import Model

    target = "tflm" if client == "tflm" else "litert"
    file = FILES / f"{name}_{client}_int8.tflite"
    run_job("quantize_featherweight", model=float_file(name), out=file, samples=20, target=target, io="int8")
    model: Model = tflite.read(file)
    shape = model.main.tensors[model.main.inputs[0]].shape
    given = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    run = readers.tflm_run if client == "tflm" else readers.openvino_run
    what = f"{client}, {name}: loads and runs"
    try:
        theirs = run(file, given)[0]
    except readers.ClientError as error:
        return Figure(what, 0, at_least=1, note=str(error).splitlines()[0])
    resolver = "auto" if client == "openvino" else "ref"
    ours = readers.litert_run(file, given, resolver)[0]
    difference = int(np.abs(theirs.astype(int) - ours.astype(int)).max())
    note = f"largest difference from LiteRT: {difference} units ({len(np.unique(ours))} distinct outputs)"
    return Figure(what, 1, at_least=1, note=note)


def accuracy(options: Options, draws: int = 3) -> list[Figure]:
    """Accuracy of int8 minus float, paired, from the same calibration samples."""
    figures: list[Figure] = []
    if not (FILES / "demo.tflite").is_file():
        say("training the demo's network")
        run_job("demo_data", out=FILES, draws=draws, samples=500)
    say("cropping images")
    run_job("image_data", out=FILES, draws=draws, calibration=100, crops=30)
    tests = {
        "demo net": (FILES / "demo.tflite", "demo_calibration_{}.npy", "demo_test.npz"),
        "EfficientNet-Lite0": (
            float_file("efficientnet_lite0"),
            "images_calibration_{}.npy",
            "images_test_{}.npz",
        ),
    }
    for name, (source, fed, test) in tests.items():
        drawn = []
        for draw in range(draws):
            say(f"{name}, draw {draw + 1} of {draws}")
            files = {"float": source}
            for tool in ("featherweight", "tensorflow", "ai_edge_quantizer"):
                files[tool] = FILES / f"accuracy_{tool}.tflite"
                quantize_job(tool, source, files[tool], FILES / fed.format(draw))
            drawn.append(run_job("scores", files=files, test=FILES / test.format(draw)))
        figures += _accuracy_figures(name, drawn)
    return figures


def _accuracy_figures(name: str, drawn: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Returns accuracy, differences from float and from the converter, agreement, KL and SQNR over all draws."""

    def values(tool: str, key: str) -> np.ndarray:
        return np.concatenate([np.array(row[tool][key], float) for row in drawn])

    groups = np.concatenate([np.array(row["group"]) for row in drawn])
    correct = {tool: values(tool, "correct") for tool in ("float", "featherweight", "tensorflow", "ai_edge_quantizer")}
    figures = [Figure(f"{name}: float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(drawn)} draws")]
    for tool in list(correct)[1:]:
        mean, error = paired(correct[tool] - correct["float"], groups)
        sqnr = statistics.mean(row[tool]["sqnr_db"] for row in drawn)
        note = f"± {100 * error:.2f}; agrees with float on {100 * values(tool, 'agrees').mean():.2f} %"
        note += f", KL {values(tool, 'kl').mean():.2g} nats, SQNR {sqnr:.1f} dB"
        label = {"featherweight": _OURS, "tensorflow": _TF, "ai_edge_quantizer": _AEQ}[tool]
        figures.append(Figure(f"{name}: {label} minus float", 100 * mean, "points", note=note))
    mean, error = paired(correct["featherweight"] - correct["tensorflow"], groups)
    note = f"± {100 * error:.2f}; the bound is two standard errors below zero"
    figures.append(
        Figure(f"{name}: ours minus {_TF}", 100 * mean, "points", at_least=min(0.0, -200 * error), note=note)
    )
    kl_mean, kl_error = paired(values("featherweight", "kl") - values("tensorflow", "kl"), groups)
    figures.append(
        Figure(f"{name}: KL, ours minus {_TF}", kl_mean, "nats", at_most=2 * kl_error, note=f"± {kl_error:.2g}")
    )
    return figures


def lowering(options: Options) -> list[Figure]:
    """Keras's MobileNetV2 lowered, in fresh processes, imports included."""
    file = float_file("mobilenet_v2").with_suffix(".keras")
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "file": partial(_timed_job, "lower_keras_file", path=file),
        "live": partial(_timed_job, "lower_live_mobilenet_v2"),
    }
    results = interleaved(runs, options.rounds)
    live = results["live"]
    parts = {part: statistics.median(column(live, part)) for part in ("import", "build", "lower")}
    note = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items())
    without = [row["wall"] - row["build"] for row in live]
    return [
        figure_of("a .keras file, whole process", column(results["file"], "wall"), "s", at_most=5),
        figure_of("a live model, whole process without building it in Keras", without, "s", at_most=5, note=note),
        figure_of("a live model, whole process", column(live, "wall"), "s"),
        figure_of("peak memory", column(results["file"], "peak_mb"), "MB"),
    ]


def _timed_job(name: str, **arguments: Any) -> dict[str, Any]:
    start = time.perf_counter()
    result = run_job(name, **arguments)
    return result | {"wall": time.perf_counter() - start}


def startup(options: Options) -> list[Figure]:
    """Importing and the command line's help, in fresh processes."""
    program = Path(sys.executable).with_name("featherweight")
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import featherweight"],
        "help": [str(program), "--help"],
    }
    for command in commands.values():  # byte code and file caches
        subprocess.run(command, capture_output=True, check=True)
    wait_until_calm()
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5 * options.rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            walls[name].append(time.perf_counter() - start)
    heavy = "keras|jax|tensorflow|torch|litert_converter|ai_edge_litert"
    loaded = 0
    for arguments in (["-c", "import featherweight"], ["-m", "featherweight.cli", "--help"]):
        command = [sys.executable, "-X", "importtime", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        loaded += len(re.findall(rf"\|\s+({heavy})$", done.stderr, re.MULTILINE))
    return [
        figure_of("python -c pass (in both)", walls["python"], "s"),
        figure_of("import featherweight", walls["import"], "s", at_most=0.4),
        figure_of("featherweight --help", walls["help"], "s", at_most=0.5),
        Figure("of keras, jax, tensorflow, torch, converters and runtime imported", loaded, at_most=0),
    ]


ROWS: Mapping[str, Callable[[Options], list[Figure]]] = {
    "bit_equality": bit_equality,
    "kernels": kernels,
    "kernel_speed": kernel_speed,
    "calibration": calibration,
    "planning": planning,
    "dense_stack": dense_stack,
    "latency": latency,
    "clients": clients,
    "architectures": architectures,
    "accuracy": accuracy,
    "ranges": ranges,
    "mixed_forms": mixed_forms,
    "wide_parts": wide_parts,
    "flash": flash,
    "clusters": clusters,
    "cluster_zip": cluster_zip,
    "float_activations": float_activations,
    "recovery": recovery,
    "detectors": detectors,
    "workers": workers,
    "recorder": recorder,
    "flow": flow,
    "sentence_encoder": sentence_encoder,
    "media": media,
    "voice": voice,
    "lowering": lowering,
    "startup": startup,
    "channels": channels,
    "packs": packs,
    "smaller": smaller,
    "training_exact": training_exact,
    "training_step": training_step,
    "training_accuracy": training_accuracy,
    "chips": chips,
    "pruning_step": pruning_step,
    "pruning_accuracy": pruning_accuracy,
    "pruning_zip": pruning_zip,
    "oneshot": oneshot,
    "oneshot_transformer": oneshot_transformer,
    "sparse_stack": sparse_stack,
    "operator_order": operator_order,
    "arena": arena,
    "proof": proof,
    "report": report,
}
