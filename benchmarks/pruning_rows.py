"""The rows of pruning: what a step costs, what accuracy is left, pruning without training, sparse files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import FILES, Figure, Options, figure_of, float_file, paired, run_job, say, wait_until_calm
from benchmarks.training_rows import SEEDS, float_net, paired_over_seeds, step_ratio

_BACKENDS = ("jax", "tensorflow", "torch")
_SPARSITIES = (0.5, 0.75, 0.875, 0.95)
_STEPS, _RATE = 600, 1e-3
_METHODS = ("magnitude", "wanda", "sparsegpt")
# Up to here each method that looks at more is to be better; beyond it, what they give is shown.
_BOUND_SPARSITY = 0.5


def pruning_step(options: Options) -> list[Figure]:
    """A training step with pruning, batch 16, masks updated every 100th, against the same float network's, in turns."""
    figures = []
    for network in ("resnet8", "autoencoder"):
        for backend in _BACKENDS:
            wait_until_calm()
            say(f"{network}, {backend}")
            found = run_job("pruning_step", backend=backend, network=network)
            is_bound = backend != "torch"
            what = f"{network}, {backend}: step, pruned / float"
            figures.append(step_ratio(what, found, "pruned", 1.1 if is_bound else None))
            first = found["pruned first"] / found["float first"]
            note = f"{found['pruned first']:.1f} s and {found['float first']:.1f} s"
            what = f"{network}, {backend}: first step, pruned / float"
            figures.append(Figure(what, first, "x", at_most=1.5 if is_bound else None, note=note))
        figures.append(Figure(f"{network}: masks / parameters, bytes", found["memory"], "x", at_most=0.25))
        wait_until_calm()
        say(f"{network}, TFMOT")
        found = run_job("tfmot_step", tfmot=True, network=network)
        figures.append(step_ratio(f"{network}, TFMOT: step, pruned / float", found, "pruned"))
        first = found["pruned first"] / found["float first"]
        figures.append(Figure(f"{network}, TFMOT: first step, pruned / float", first, "x"))
    return figures


def pruning_accuracy(options: Options) -> list[Figure]:
    """Fashion-MNIST, a depthwise net whose pointwise kernels are pruned in 600 steps, five float nets, beside TFMOT."""
    scores: list[dict[str, Any]] = []
    wrong = 0
    for seed in SEEDS:
        net = float_net(seed)
        say(f"seed {seed}: ours")
        job = partial(run_job, seed=seed, steps=_STEPS, learning_rate=_RATE)
        ours = partial(job, "prune_in_training", source=f"{net}.keras")
        made = [
            ours(out=f"{net}_pruned", sparsities=_SPARSITIES, pattern="unstructured"),
            ours(out=f"{net}_24", sparsities=[0.5], pattern="2:4"),
        ]
        wrong += sum(a != b for one in made for pairs in one["reached"].values() for a, b in pairs)
        say(f"seed {seed}: TFMOT")
        job("tfmot_prune", tfmot=True, weights=f"{net}.npz", out=f"{net}_tfmot", sparsities=_SPARSITIES)
        files = {"float": f"{net}.tflite", "2:4": f"{net}_24_0.5.tflite", "2:4 once": f"{net}_24_0.5_oneshot.tflite"}
        for sparsity in _SPARSITIES:
            files |= {
                f"ours {sparsity}": f"{net}_pruned_{sparsity}.tflite",
                f"once {sparsity}": f"{net}_pruned_{sparsity}_oneshot.tflite",
                f"TFMOT {sparsity}": f"{net}_tfmot_{sparsity}.tflite",
            }
        found = run_job("fashion_scores", files=files)
        scores.append({name: found[name] for name in files})
    correct = {name: np.array([score[name] for score in scores], float) for name in scores[0]}
    figures = [
        Figure("kernels whose zeros are not exactly as many as asked for", wrong, at_most=0),
        Figure("float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(scores)} seeds"),
    ]
    for sparsity in _SPARSITIES:
        for kind in ("once", "ours", "TFMOT"):
            mean, error = paired_over_seeds(correct[f"{kind} {sparsity}"], correct["float"])
            label = {"once": "one-shot magnitude", "ours": "ours", "TFMOT": "TFMOT"}[kind]
            figures.append(Figure(f"{100 * sparsity:g} %: {label} minus float", mean, "points", note=f"± {error:.2f}"))
        mean, error = paired_over_seeds(correct[f"ours {sparsity}"], correct[f"TFMOT {sparsity}"])
        note = f"± {error:.2f}; the bound is two standard errors below zero"
        what = f"{100 * sparsity:g} %: ours minus TFMOT"
        figures.append(Figure(what, mean, "points", at_least=min(0.0, -2 * error), note=note))
    lost = [correct["float"].mean() - correct[name].mean() for name in ("2:4", "2:4 once")]
    note = f"{100 * lost[0]:.2f} and {100 * lost[1]:.2f} points"
    figures.append(Figure("2:4: loss when trained / one-shot", lost[0] / lost[1], "x", at_most=0.5, note=note))
    return figures


def pruning_zip(options: Options) -> list[Figure]:
    """Fashion-MNIST, a CNN of 42k parameters, pruned 70 % in 600 steps, then trained in int8 for 600, beside TFMOT."""
    scores: list[dict[str, Any]] = []
    sizes: dict[str, list[float]] = {"ours": [], "TFMOT": []}
    zeros: dict[str, list[float]] = {"ours": [], "TFMOT": []}
    for seed in SEEDS:
        net = float_net(seed, "fashion_cnn")
        say(f"seed {seed}: ours")
        files = {"float": f"{net}.tflite", "ours": f"{net}_ours.tflite", "TFMOT": f"{net}_tfmot.tflite"}
        job = partial(run_job, seed=seed, steps=_STEPS, learning_rates=(_RATE, _RATE / 10), sparsity=0.7)
        job("prune_quantize", source=f"{net}.keras", out=files["ours"])
        say(f"seed {seed}: TFMOT")
        job("tfmot_prune_quantize", tfmot=True, weights=f"{net}.npz", out=files["TFMOT"])
        found = run_job("fashion_scores", files=files)
        scores.append({name: found[name] for name in files})
        for tool in sizes:
            sizes[tool].append(zip_bytes(files[tool]) / 1000)
            zeros[tool].append(run_job("kernel_zeros", model=files[tool])["fraction"])
    correct = {name: np.array([score[name] for score in scores], float) for name in scores[0]}
    figures = [Figure("float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(scores)} seeds")]
    for tool in sizes:
        note = f"{100 * min(zeros[tool]):.2f} % to {100 * max(zeros[tool]):.2f} % of the weights are zero"
        figures.append(figure_of(f"{tool}: zip", sizes[tool], "kB", note=note))
        mean, error = paired_over_seeds(correct[tool], correct["float"])
        figures.append(Figure(f"{tool} minus float, accuracy", mean, "points", note=f"± {error:.2f}"))
    ratios = [a / b for a, b in zip(sizes["ours"], sizes["TFMOT"], strict=True)]
    figures.append(figure_of("ours / TFMOT: zip", ratios, "x", at_most=1))
    mean, error = paired_over_seeds(correct["ours"], correct["TFMOT"])
    note = f"± {error:.2f}; the bound is two standard errors below zero"
    what = "ours minus TFMOT, accuracy"
    return [*figures, Figure(what, mean, "points", at_least=min(0.0, -2 * error), note=note)]


def zip_bytes(path: str) -> int:
    """Returns the size of a zip archive (deflate) that holds the file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.write(path, "model.tflite")
    return len(archive.getvalue())


def oneshot(options: Options, draws: int = 3) -> list[Figure]:
    """Pruning without training, EfficientNet-Lite0, 50 %: agreement with the float network on crops of photographs."""
    model = float_file("efficientnet_lite0")
    run_job("image_data", out=FILES, draws=draws, calibration=100, crops=15)
    fed = [FILES / f"images_calibration_{draw}.npy" for draw in range(draws)]
    tests = [FILES / f"images_test_{draw}.npz" for draw in range(draws)]
    patterns = ("unstructured", "2:4")
    return [figure for pattern in patterns for figure in _pruned_once(pattern, model, fed, 32, tests, 0.5, pattern)]


def oneshot_transformer(options: Options, draws: int = 3) -> list[Figure]:
    """Pruning without training, a transformer on Fashion-MNIST: agreement with the float network on the test split."""
    out = FILES / "fashion_transformer"
    model = out.with_suffix(".tflite")
    if not model.is_file():
        FILES.mkdir(parents=True, exist_ok=True)
        say("training the transformer")
        run_job("train_transformer", out=out, seed=0, steps=1500, draws=draws, calibration=128)
    fed = [FILES / f"fashion_transformer_calibration_{draw}.npy" for draw in range(draws)]
    tests = [FILES / "fashion_transformer_test.npz"] * draws
    figures: list[Figure] = []
    for sparsity, pattern in ((0.5, "unstructured"), (0.5, "2:4"), (0.7, "unstructured")):
        what = f"{100 * sparsity:g} %, {pattern}"
        figures += _pruned_once(what, model, fed, 128, tests, sparsity, pattern)
    return figures


def _pruned_once(
    what: str, model: Path, fed: Sequence[Path], samples: int, tests: Sequence[Path], sparsity: float, pattern: str
) -> list[Figure]:
    """Agreement with float by method, and differences between methods, paired by example; one draw for each test set.

    Crops of one photograph, and what several draws say of one image, count as one for the standard errors.
    """
    rows: list[dict[str, Any]] = []
    for draw, (drawn, test) in enumerate(zip(fed, tests, strict=True)):
        say(f"{what}, draw {draw + 1} of {len(fed)}")
        out = FILES / f"once_{draw}"
        job = partial(run_job, "prune_once", model=model, out=out, calibration=drawn, samples=samples)
        job(sparsity=sparsity, pattern=pattern, methods=_METHODS)
        files = {"float": model} | {method: f"{out}_{method}.tflite" for method in _METHODS}
        rows.append(run_job("scores", files=files, test=test))
    groups = np.concatenate([row["group"] for row in rows])
    agrees = {m: np.concatenate([row[m]["agrees"] for row in rows]).astype(float) for m in _METHODS}
    correct = {m: 100 * np.mean([row[m]["correct"] for row in rows]) for m in ("float", *_METHODS)}
    figures = []
    for method in _METHODS:
        kl = np.mean([np.mean(row[method]["kl"]) for row in rows])
        each = ", ".join(f"{100 * np.mean(row[method]['agrees']):.1f}" for row in rows)
        note = f"KL {kl:.3g} nats; draws {each}; accuracy {correct[method]:.1f} % (float: {correct['float']:.1f} %)"
        figures.append(Figure(f"{what}: {method}, agreement with float", 100 * agrees[method].mean(), "%", note=note))
    for better, worse in (("wanda", "magnitude"), ("sparsegpt", "wanda"), ("sparsegpt", "magnitude")):
        mean, error = paired(agrees[better] - agrees[worse], groups)
        gains = [100 * (np.mean(row[better]["agrees"]) - np.mean(row[worse]["agrees"])) for row in rows]
        note = f"± {100 * error:.2f}; draws {', '.join(f'{gain:+.1f}' for gain in gains)}"
        bound = {"at_least": 0} if sparsity <= _BOUND_SPARSITY else {}
        figures.append(Figure(f"{what}: {better} minus {worse}", 100 * mean, "points", note=note, **bound))
    return figures


def sparse_stack(options: Options) -> list[Figure]:
    """Six dense layers of 1024 x 1024, 90 % zeros, batch 1, one thread, LiteRT as it comes: sparse against dense."""
    FILES.mkdir(parents=True, exist_ok=True)
    out = FILES / "stack"
    sizes = run_job("sparse_stack_files", out=out, sparsity=0.9)
    figures = []
    for kind in ("float", "hybrid", "int8"):
        files = {end: f"{out}_{kind}_{end}.tflite" for end in ("dense", "sparse")}
        rounds = []
        for _ in range(options.rounds):
            wait_until_calm()
            rounds.append(run_job("latency", files=files, runs=200))
        speed = [row["dense"][0] / row["sparse"][0] for row in rounds]
        bound = {"at_least": 4} if kind == "float" else {}
        note = (
            f"{np.median([r['dense'][0] for r in rounds]):.3f} and {np.median([r['sparse'][0] for r in rounds]):.3f} ms"
        )
        if kind != "float":
            note += "; XNNPACK's dense kernel has 8-bit dot products, LiteRT's own sparse one does not"
        figures.append(figure_of(f"{kind}: dense / sparse, latency", speed, "x", note=note, **bound))
        (dense, dense_zip), (sparse, sparse_zip) = sizes[f"{kind}_dense"], sizes[f"{kind}_sparse"]
        note = f"{sparse:,} of {dense:,} bytes; compressed {sparse_zip:,} of {dense_zip:,}"
        figures.append(Figure(f"{kind}: sparse / dense, file", sparse / dense, "x", note=note))
    return figures
