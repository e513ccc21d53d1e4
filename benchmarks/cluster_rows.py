"""The rows of weight clustering in training: bytes and accuracy of encoded files, and of zipped ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.measuring import FILES, Figure, JobError, Options, cell, figure_of, run_job, say
from benchmarks.pruning_rows import zip_bytes
from benchmarks.training_rows import SEEDS, float_net, paired_over_seeds

# Network → (steps of the float training, of the clustered one), and what stays as it is.
_STEPS = {"demo": (2500, 600), "ds_cnn": (1000, 900)}
_KEEP = {"demo": ("first", "last", "depthwise"), "ds_cnn": ()}
_COUNTS = {"demo": (16,), "ds_cnn": (8,)}
# Network, values → kernels that have more: those that are few bytes, and whose errors do not even out.
_RULES = {("ds_cnn", 8): {"conv2d/kernel": 16, "quick*": 16}}
_ZIP_STEPS, _ZIP_RATES, _SPARSITY = 600, (1e-3, 1e-4), 0.7


def clusters(options: Options) -> list[Figure]:
    """Fashion-MNIST, clusters in training, five seeds: DECODE's bytes by those of the plain int8 file, and accuracy."""
    figures = []
    for network, counts in _COUNTS.items():
        for count in counts:
            found = [_clustered(network, seed, count) for seed in SEEDS]
            rows = [(row["clustered"], row["int8"]) for row in found]
            what = f"{network}, {count} values" + ", 16 in small kernels" * ((network, count) in _RULES)
            equal = (
                "equal to the plain file in TFLite Micro" if all(one["is_equal"] for one, _ in rows) else "NOT EQUAL"
            )
            ratios = [one["bytes"] / base["bytes"] for one, base in rows]
            note = f"{rows[0][0]['bytes']:,} of {rows[0][1]['bytes']:,} bytes; {equal}"
            figures.append(figure_of(f"{what}: bytes", ratios, "x", at_most=0.6, note=note))
            changes = [100 * (one["accuracy"] - base["accuracy"]) for one, base in rows]
            error = float(np.std(changes, ddof=1) / np.sqrt(len(changes)))
            mean = 100 * float(np.mean([base["accuracy"] for _, base in rows]))
            note = f"± {error:.2f}; each {', '.join(f'{one:+.2f}' for one in changes)}; int8 {mean:.2f} %"
            what = f"{what}: accuracy against int8"
            figures.append(Figure(what, float(np.mean(changes)), "points", at_least=-0.3, note=note))
    return figures


def _clustered(network: str, seed: int, count: int) -> dict[str, Any]:
    source = FILES / f"clusters_{network}_{seed}.keras"
    steps = _STEPS[network]
    job = partial(run_job, network=network, seed=seed)
    cell(
        f"clusters_{network}_{seed}_float",
        lambda: job("train_for_clusters", out=source, steps=steps[0]),
    )
    arguments = {"source": source, "steps": steps[1], "learning_rate": 1e-3, "keep": _KEEP[network]}
    arguments |= {"rules": _RULES.get((network, count), {})}
    return cell(
        f"clusters_{network}_{seed}_{count}",
        lambda: job("cluster_in_training", clusters=count, **arguments),
    )


def cluster_zip(options: Options) -> list[Figure]:
    """Fashion-MNIST, a CNN of 42k parameters: pruned 70 % and on few values in 600 steps, then 600 in int8; zip."""
    kinds = {"float": None, "pruned": None} | {f"pruned, {count} values": count for count in (16, 10, 8)}
    scores, sizes = list[dict[str, Any]](), {name: list[float]() for name in kinds if name != "float"}
    for seed in SEEDS:
        row: dict[str, Any] = {}
        for name, count in kinds.items():
            if name == "float":
                continue
            found = cell(f"cluster_zip_{seed}_{count}", partial(_zipped, seed, count))
            sizes[name].append(found["zip"] / 1000)
            row |= {"float": found["float"], name: found["right"]}
        scores.append(row)
    correct = {name: np.array([row[name] for row in scores], float) for name in kinds}
    figures = [Figure("float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(scores)} seeds")]
    figures += _beside_tfmot(correct["pruned, 10 values"])
    for name, values in sizes.items():
        bound = {"at_most": 16.3} if name in ("pruned, 10 values", "pruned, 8 values") else {}
        note = "TFMOT 0.8, clustering, pruning and training in int8: 16.3 kB" if bound else ""
        figures.append(figure_of(f"{name}: zip", values, "kB", note=note, **bound))
        mean, error = paired_over_seeds(correct[name], correct["float"])
        figures.append(Figure(f"{name}: accuracy minus float", mean, "points", note=f"± {error:.2f}"))
        if name != "pruned":
            mean, error = paired_over_seeds(correct[name], correct["pruned"])
            what = f"{name}: accuracy minus the pruned one's"
            figures.append(Figure(what, mean, "points", note=f"± {error:.2f}"))
    return figures


def _beside_tfmot(ours: np.ndarray) -> list[Figure]:
    """TFMOT's pruning, clustering and training in int8, with the same steps, rates and batches; where it is installed.

    Args:
        ours: which test images are right, (seeds, images).
    """
    try:
        found = [cell(f"cluster_zip_{seed}_tfmot_16", partial(_zipped_by_tfmot, seed, 16)) for seed in SEEDS]
    except JobError as error:
        say(f"without TFMOT: {error}")
        return []
    theirs = np.array([row["right"] for row in found], float)
    figures = [figure_of("TFMOT, pruned, 16 values: zip", [row["zip"] / 1000 for row in found], "kB")]
    mean, error = paired_over_seeds(ours, theirs)
    note = f"± {error:.2f}; the bound is two standard errors below zero"
    what = "pruned, 10 values: accuracy minus TFMOT's"
    return [*figures, Figure(what, mean, "points", at_least=min(0.0, -2 * error), note=note)]


def _zipped_by_tfmot(seed: int, count: int) -> dict[str, Any]:
    net = float_net(seed, "fashion_cnn")
    out = f"{net}_tfmot_clusters_{count}.tflite"
    arguments = {"steps": _ZIP_STEPS, "learning_rates": _ZIP_RATES, "sparsity": _SPARSITY, "clusters": count}
    run_job("tfmot_cluster_quantize", tfmot=True, weights=f"{net}.npz", out=out, seed=seed, **arguments)
    found = run_job("fashion_scores", files={"float": f"{net}.tflite", "right": out})
    return {"zip": zip_bytes(out), "float": found["float"], "right": found["right"]}


def _zipped(seed: int, count: int | None) -> dict[str, Any]:
    net = float_net(seed, "fashion_cnn")
    out = f"{net}_clusters_{count}.tflite"
    arguments = {"steps": _ZIP_STEPS, "learning_rates": _ZIP_RATES, "sparsity": _SPARSITY, "clusters": count}
    run_job("prune_quantize", source=f"{net}.keras", out=out, seed=seed, **arguments)
    found = run_job("fashion_scores", files={"float": f"{net}.tflite", "right": out})
    return {"zip": zip_bytes(out), "float": found["float"], "right": found["right"]}
