"""Jobs on Fashion-MNIST: a float net for each seed, what quantization costs it, and what training brings back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import featherweight as fw
from benchmarks import fashion, networks


def train_float(out: str, seed: int, steps: int, name: str = "fashion") -> dict[str, Any]:
    """Trains a float net and writes it as `OUT.keras`, its weights in Keras's order as `OUT.npz`."""
    import keras

    from featherweight.demo.training import quick_depthwise

    keras.utils.set_random_seed(seed)
    trained = networks.fashion(quick_depthwise(keras)) if name == "fashion" else networks.NETWORKS[name]()
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    trained.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3), loss="sparse_categorical_crossentropy")
    trained.fit(fashion.batches(fashion.data(), steps, seed), steps_per_epoch=steps, verbose=0)
    network = networks.NETWORKS[name]()
    network.set_weights(trained.get_weights())
    network.save(f"{out}.keras")
    np.savez(f"{out}.npz", **{f"{number:03}": array for number, array in enumerate(network.get_weights())})
    fw.save(fw.load(network), f"{out}.tflite")
    return {}


def train_transformer(out: str, seed: int, steps: int, draws: int, calibration: int) -> dict[str, Any]:
    """Trains a transformer; writes it as `OUT.tflite`, the test split, and draws of images from the training split."""
    import keras

    keras.utils.set_random_seed(seed)
    network, data = networks.fashion_transformer(), fashion.data()
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - 100, warmup_target=1.5e-3, warmup_steps=100)
    network.compile(keras.optimizers.AdamW(rate, weight_decay=0.05), loss="sparse_categorical_crossentropy")
    network.fit(fashion.mirrored(fashion.batches(data, steps, seed), seed), steps_per_epoch=steps, verbose=0)
    fw.save(fw.load(network), f"{out}.tflite")
    np.savez(f"{out}_test.npz", x=data.x_test, y=data.y_test)
    for draw in range(draws):
        chosen = np.random.default_rng(draw).choice(len(data.x_train), calibration, replace=False)
        np.save(f"{out}_calibration_{draw}.npy", data.x_train[chosen][:, np.newaxis])
    return {"source": data.source}


def rescale_channels(source: str, out: str, seed: int) -> dict[str, Any]:
    """Multiplies each channel behind a ReLU by a power of two in [1/8, 8], and divides the weights that read it.

    The function stays the same; scales for whole tensors then fit no channel (ALGORITHMS: the stress test).
    """
    import keras

    network, random = keras.models.load_model(source), np.random.default_rng(seed)
    reading = None
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            factors = 2.0 ** random.integers(-3, 4, layer.gamma.shape[0])
            layer.gamma.assign(np.asarray(layer.gamma) * factors)
            layer.beta.assign(np.asarray(layer.beta) * factors)
            reading = factors
        elif reading is not None and layer.weights:
            kernel = np.asarray(layer.kernel)
            axis = kernel.ndim - 2
            layer.kernel.assign(kernel / np.expand_dims(reading, [a for a in range(kernel.ndim) if a != axis]))
            reading = None
    network.save(out)
    return {}


def train_integers(
    source: str, out: str, recipe: str, seed: int, steps: int, learning_rate: float, **options: Any
) -> dict[str, Any]:
    """Writes the net as `quantize` makes it, `OUT_post.tflite`, before the first step, `OUT_start.tflite`, and trained.

    ``equalize`` evens out the channels of what is trained; ``distil`` trains by the float net instead of by labels, or
    besides them (``labels``).
    """
    import keras

    data = fashion.data()
    network, distil = keras.models.load_model(source), options.pop("distil", False)
    labels = options.pop("labels", not distil)
    shared = {
        "calibration": fashion.calibration(data, seed),
        "target": options.pop("target", "litert"),
        "progress": False,
    }
    fw.quantize(network, recipe, io="float32", **shared).save(f"{out}_post.tflite")
    started = fw.equalize(network).model if options.pop("equalize", False) else network
    model = fw.quantize_aware(started, recipe, teacher=distil, **shared, **options)
    fw.finalize(model).save(f"{out}_start.tflite")
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = "sparse_categorical_crossentropy" if labels else None
    model.compile(keras.optimizers.Adam(schedule), loss=loss, scaled=False)  # the rates are chosen for real numbers
    model.fit(fashion.batches(data, steps, seed), steps_per_epoch=steps, verbose=0)
    fw.finalize(model).save(f"{out}_trained.tflite")
    return {}


def train_for_chips(
    source: str, out: str, seed: int, steps: int, learning_rate: float, chips: list[str]
) -> dict[str, Any]:
    """Writes `OUT_CHIP.tflite` for each chip: one set of weights, trained by distillation, so many steps for each."""
    import keras

    data = fashion.data()
    network, calibration = keras.models.load_model(source), fashion.calibration(data, seed)
    count = steps * fashion.BATCH
    images = data.x_train[np.random.default_rng(seed).permutation(len(data.x_train))[:count]]
    epochs = max(round(count / len(images)), 1)
    model: Any = fw.quantize_aware(network, calibration=calibration, targets=chips, teacher=True, progress=False)
    model.compile(keras.optimizers.Adam(learning_rate))
    model.fit(images, epochs=epochs * len(chips), batch_size=fashion.BATCH, seed=seed)
    for chip, result in fw.finalize(model).items():
        result.save(f"{out}_{chip}.tflite")
    return {}


def fashion_scores(files: dict[str, str], profiles: dict[str, str] | None = None) -> dict[str, Any]:
    """Returns which test images each file gets right, on LiteRT or in the profile that is named for it."""
    data, found = fashion.data(), {}
    for name, file in files.items():
        profile = (profiles or {}).get(name)
        how: dict[str, Any] = {"runtime": "reference", "profile": profile} if profile else {}
        outputs = np.concatenate(
            [np.asarray(fw.run(Path(file), part, **how)) for part in np.array_split(data.x_test, 20)]
        )
        found[name] = (outputs.argmax(axis=1) == data.y_test).tolist()
    return found
