"""The rows of training in integers: exactness, where it starts, what a step costs, and what it brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.measuring import FILES, Figure, JobError, Options, cell, figure_of, run_job, say, wait_until_calm

_BACKENDS = ("jax", "tensorflow", "torch")
_EXACT = ("mobilenet_v2_035", "efficientnet_lite0", "resnet8", "ds_cnn", "lstm", "transformer")
_TIMED = ("resnet8", "ds_cnn", "mobilenet_v1_025", "mobilenet_v2_035")
_TFMOT_NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025")
SEEDS = range(5)
FLOAT_STEPS, _STEPS = 1500, 900
_FOUR_BITS = {"steps": 1500, "learning_rate": 5e-4, "labels": True}

_CHIP_STEPS = 150
# Target → the profile that its files are scored in.
_CHIPS = {
    "litert": "",
    "tflm": "tflm",
    "int8-per-tensor": "integer_multiplier",
    "esp32-s3": "power_of_two",
    "esp32-p4": "power_of_two_even",
}


def training_exact(options: Options) -> list[Figure]:
    """Integers of the trained model against LiteRT, all tensors; before the first step, outputs against `quantize`."""
    figures = []
    FILES.mkdir(parents=True, exist_ok=True)
    for network in _EXACT:
        graph = FILES / f"{network}_unrolled.tflite"
        run_job("lower_network", network=network, out=graph)
        for backend in _BACKENDS:
            say(f"{network}, {backend}")
            found = run_job("training_exact", backend=backend, network=network, graph=graph)
            note = f"of {found['elements']:,}; {found['moved']} outputs moved in training"
            note += "; " * bool(found["worst"]) + found["worst"]
            figures.append(
                Figure(f"{network}, {backend}: differing integers", found["differing"], at_most=0, note=note)
            )
            what = f"{network}, {backend}: outputs that differ from post-training int8 before the first step"
            figures.append(Figure(what, found["start"], at_most=0))
    return figures


def training_step(options: Options) -> list[Figure]:
    """A training step, int8, batch 16, against the original float Keras model's own, in turns in one process."""
    figures = []
    for network in _TIMED:
        for backend in _BACKENDS:
            wait_until_calm()
            say(f"{network}, {backend}")
            found = run_job("training_step", backend=backend, network=network)
            bound = None if backend == "torch" else 1.2
            figures.append(step_ratio(f"{network}, {backend}: step, integer / float", found, "integer", bound))
            first = found["integer first"] / found["float first"]
            note = f"{found['integer first']:.1f} s and {found['float first']:.1f} s"
            what = f"{network}, {backend}: first step, integer / float"
            figures.append(Figure(what, first, "x", at_most=None if backend == "torch" else 1.5, note=note))
            what = f"{network}, {backend}: making the model, beyond quantizing"
            figures.append(Figure(what, found["make"], "s", at_most=2))
        if network in _TFMOT_NETWORKS:
            figures += _tfmot_step(network)
    return figures


def _tfmot_step(network: str) -> list[Figure]:
    wait_until_calm()
    say(f"{network}, TFMOT")
    found = run_job("tfmot_step", tfmot=True, network=network)
    first = found["quantized first"] / found["float first"]
    return [
        step_ratio(f"{network}, TFMOT: step, quantized / float", found, "quantized"),
        Figure(f"{network}, TFMOT: first step, quantized / float", first, "x"),
        Figure(f"{network}, TFMOT: making the model", found["make"], "s"),
    ]


def step_ratio(what: str, found: dict[str, Any], name: str, bound: float | None = None) -> Figure:
    ratios = [a / b for a, b in zip(found[name], found["float"], strict=True)]
    return figure_of(
        what, ratios, "x", at_most=bound, note=f"{found[f'{name} median']:.1f} ms and {found['float median']:.1f} ms"
    )


def training_accuracy(options: Options) -> list[Figure]:
    """Fashion-MNIST, a depthwise net, five seeds: the cost of quantization, and training (w4a8: labels and teacher)."""
    scores = [_trained(seed) for seed in SEEDS]
    correct = {name: np.array([score[name] for score in scores], float) for name in scores[0]}
    figures = [Figure("float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(scores)} seeds")]
    figures += [_difference(name, correct, "float") for name in correct if name != "float"]
    lost = correct["w4a8_post"].mean() - correct["float"].mean()
    regained = correct["w4a8_trained"].mean() - correct["w4a8_post"].mean()
    figures.append(Figure("w4a8: regained of what was lost", 100 * regained / -lost, "%", at_least=90))
    figures.append(
        Figure(
            "power-of-two, rescaled channels: trained minus float",
            100 * (correct["pot_trained"].mean() - correct["float"].mean()),
            "points",
            at_least=-1,
        )
    )
    if "tfmot" in correct:
        mean, error = paired_over_seeds(correct["int8_trained"], correct["tfmot"])
        note = f"± {error:.2f}; the bound is two standard errors below zero"
        what = "int8, equal steps and data: ours minus TFMOT"
        figures.append(Figure(what, mean, "points", at_least=min(0.0, -2 * error), note=note))
    return figures


def float_net(seed: int, name: str = "fashion") -> str:
    """Returns the path of a float net for Fashion-MNIST, less its suffix; trained on first use."""
    path = FILES / f"{name}_{seed}"
    if not path.with_suffix(".tflite").is_file():
        FILES.mkdir(parents=True, exist_ok=True)
        say(f"seed {seed}: float")
        run_job("train_float", out=path, seed=seed, steps=FLOAT_STEPS, name=name)
    return str(path)


def _trained(seed: int) -> dict[str, Any]:
    """Trains one seed's models, and returns which test images each gets right."""
    name = float_net(seed)
    say(f"seed {seed}: w4a8, int8, powers of two")
    run_job("rescale_channels", source=f"{name}.keras", out=f"{name}_rescaled.keras", seed=seed)
    plain = {"source": f"{name}.keras", "seed": seed, "steps": _STEPS}
    learned = plain | {"distil": True, "train_ranges": "learned"}
    run_job("train_integers", **(learned | _FOUR_BITS), out=f"{name}_w4a8", recipe="w4a8")
    run_job("train_integers", **plain, out=f"{name}_int8", recipe="int8", learning_rate=1e-4)
    rescaled = learned | {"source": f"{name}_rescaled.keras", "target": "power-of-two", "equalize": True}
    run_job("train_integers", **rescaled, out=f"{name}_pot", recipe="int8", learning_rate=3e-4)
    files = {"float": f"{name}.tflite"}
    files |= {
        f"{kind}_{end}": f"{name}_{kind}_{end}.tflite"
        for kind in ("w4a8", "int8", "pot")
        for end in ("post", "start", "trained")
        if end != "start" or kind == "pot"
    }
    try:
        say(f"seed {seed}: TFMOT")
        weights = {"weights": f"{name}.npz", "seed": seed, "steps": _STEPS, "learning_rate": 1e-4}
        run_job("tfmot_train_quantized", tfmot=True, **weights, out=f"{name}_tfmot.tflite")
        files["tfmot"] = f"{name}_tfmot.tflite"
    except JobError as error:
        say(f"without TFMOT: {error}")
    profiles = {f"pot_{end}": "power_of_two" for end in ("post", "start", "trained")}
    scores = run_job("fashion_scores", files=files, profiles=profiles)
    return {name: scores[name] for name in files}


def chips(options: Options) -> list[Figure]:
    """Fashion-MNIST, a depthwise net: one set of weights for five chips against weights trained for each alone."""
    scores = [_on_chips(seed) for seed in SEEDS]
    correct = {name: np.array([score[name] for score in scores], float) for name in scores[0]}
    figures = [Figure("float, accuracy", 100 * correct["float"].mean(), "%", note=f"{len(scores)} seeds")]
    for chip in _CHIPS:
        figures.append(_difference(f"{chip}_shared", correct, "float"))
        mean, error = paired_over_seeds(correct[f"{chip}_shared"], correct[f"{chip}_alone"])
        what = f"{chip}: shared weights minus its own"
        figures.append(Figure(what, mean, "points", at_least=-0.2, note=f"± {error:.2f} over {len(scores)} seeds"))
    return figures


def _on_chips(seed: int) -> dict[str, list[bool]]:
    """Returns which test images each chip gets right, by weights of its own and by those that five share."""
    name, found = float_net(seed), dict[str, list[bool]]()
    for kind, chosen in {"shared": list(_CHIPS), **{chip: [chip] for chip in _CHIPS}}.items():

        def made(kind: str = kind, chosen: list[str] = chosen) -> dict[str, Any]:
            out = f"{name}_chips_{'shared' if kind == 'shared' else 'alone'}"
            arguments = {"seed": seed, "steps": _CHIP_STEPS, "learning_rate": 1e-4, "chips": chosen}
            run_job("train_for_chips", source=f"{name}.keras", out=out, **arguments)
            files = {f"{chip}_{'shared' if kind == 'shared' else 'alone'}": f"{out}_{chip}.tflite" for chip in chosen}
            profiles = {file: _CHIPS[file.rpartition("_")[0]] for file in files}
            files |= {"float": f"{name}.tflite"} if kind == "shared" else {}
            scored = run_job("fashion_scores", files=files, profiles=profiles)
            return {file: scored[file] for file in files}

        found |= cell(f"chips_{seed}_{kind}", made)
    return found


def _difference(name: str, correct: dict[str, np.ndarray], baseline: str) -> Figure:
    mean, error = paired_over_seeds(correct[name], correct[baseline])
    return Figure(f"{name} minus {baseline}", mean, "points", note=f"± {error:.2f} over {len(correct[name])} seeds")


def paired_over_seeds(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Returns mean and standard error over seeds of the difference in accuracy, in points; shapes (seeds, images)."""
    differences: Sequence[float] = 100 * (first.mean(axis=1) - second.mean(axis=1))
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
