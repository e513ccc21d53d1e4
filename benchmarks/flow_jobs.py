"""Workers, the recorder and the whole flow, each held against what is had without it; run as jobs."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tiny_tasks
from benchmarks.jobs import random_samples
from featherweight.runtime.litert import THREADS_VARIABLE


def scores_by(model: str, out: str, workers: int, engine: str, threads: int = 0, samples: int = 256) -> dict[str, Any]:
    """Measures what each part costs in three forms, on random inputs, and writes the scores.

    No input repeats another: those that do would not judge. A Ray cluster is there before the clock starts.

    Args:
        model: a float model, as a path.
        out: the file of scores.
        workers: how many.
        engine: of them.
        threads: of each worker's runtime; 0: its share of the processors.
        samples: how many.
    """
    import featherweight as fw

    os.environ |= {THREADS_VARIABLE: str(threads)} if threads else {}
    fed = list(random_samples(model, samples, distinct=samples))
    if engine == "ray":
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    forms = ["int8", "w4a8", "dynamic"]
    start = time.perf_counter()
    scores = fw.sensitivity(model, calibration=fed, forms=forms, jobs=workers, engine=engine, progress=False)
    seconds = time.perf_counter() - start
    scores.save(out)
    if workers > 1 and engine == "processes":  # what children have used is known once they have ended
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(each.ru_utime + each.ru_stime for each in used)
    return {"seconds": seconds, "processor_seconds": processor, "parts": len(scores.parts)}


def recorded(model: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Runs a model plainly and through a recorder, in turns; returns the ratios of time, and how recording ended."""
    import featherweight as fw
    from featherweight.runtime.litert import Session

    fed = list(random_samples(model, 64, distinct=64))
    ratios: list[float] = []
    with fw.Recorder(model, overhead=0.02, threads=1) as recorder, Session(model, threads=1) as session:
        name = next(iter(session.inputs))

        def plain(x: np.ndarray) -> None:
            session.run({name: x})

        count = max(64, int(seconds / _time(plain, fed, 64) * 64))
        _time(recorder.run, fed, 64)  # the first inference is recorded in any case
        for _ in range(rounds):
            first, second = _time(plain, fed, count), _time(recorder.run, fed, count)
            third, fourth = _time(recorder.run, fed, count), _time(plain, fed, count)
            ratios.append((second + third) / (first + fourth))
    return {"ratios": ratios, "count": count, "recorded": recorder.recorded, "converged": recorder.has_converged}


def _time(run: Any, fed: list[np.ndarray], count: int) -> float:
    start = time.perf_counter()
    for index in range(count):
        run(fed[index % len(fed)])
    return time.perf_counter() - start


def flow(
    max_drop: float, folder: str, kind: str = "", seed: int = 0, models: str = "", stop: str = "first"
) -> dict[str, Any]:
    """Lets `optimize` choose, and makes every recipe besides.

    Args:
        max_drop: of accuracy.
        folder: where it keeps what it measures.
        kind: ``convnet`` or ``lstm``, a small net that is trained on Fashion-MNIST; or ``kws``.
        seed: of that training.
        models: MLPerf Tiny's, for ``kws``.
        stop: as `optimize` takes it.

    Returns, for each file, bytes and the drop on the data that decided, and the name of the step that was chosen.
    """
    import featherweight as fw

    if kind == "kws":
        network = tiny_tasks.float_model(Path(models), kind)
        x, y = tiny_tasks.heard(network, 1000, 0)
        samples = [each[np.newaxis] for each in tiny_tasks.heard(network, 200, 1)[0]]
    else:
        network, x, y, samples = _trained(kind, seed)
    start = time.perf_counter()
    asked = {"calibration": samples, "max_drop": max_drop, "folder": Path(folder, "steps"), "progress": False}
    found = fw.optimize(network, (x, y), stop=stop, **asked)
    seconds = time.perf_counter() - start
    before = fw.evaluate(network, (x, y), progress=False)
    table: dict[str, Any] = {}
    for recipe in ("float16", "dynamic", "weights4", "int8", "w4a8", "int16x8"):
        given = None if recipe in ("float16", "dynamic", "weights4") else samples
        made = fw.quantize(network, recipe, calibration=given, verify=False, progress=False)
        drop = -fw.paired_difference(fw.evaluate(made, (x, y), progress=False), before).value
        table[recipe] = {"bytes": made.report.after.file_bytes, "drop": drop}
    best = found.best
    return {
        "chosen": found.name,
        "fits": found.fits,
        "bytes": best.file_bytes,
        "drop": best.drop,
        "seconds": seconds,
        "table": table,
        "steps": [(step.name, step.reason) for step in found.steps],
    }


def _trained(kind: str, seed: int) -> tuple[Any, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns a small net trained on Fashion-MNIST, its test set, and calibration samples."""
    from featherweight.demo import dataset, training

    images = dataset.load(full=False)
    if kind == "lstm":
        network, shape = _reader(images, seed), (28, 28)
    else:
        network, shape = training.train(images, seed, steps=800, progress=False), (28, 28, 1)
    samples = list(images.x_train[:200].reshape(-1, 1, *shape))
    return network, images.x_test.reshape(-1, *shape), images.y_test, samples


def _reader(images: Any, seed: int) -> Any:
    """An LSTM that reads an image row by row, trained."""
    import keras

    keras.utils.set_random_seed(seed)
    rows = keras.Input((28, 28), name="rows")
    states = keras.layers.LSTM(64, name="reader")(rows)
    network = keras.Model(rows, keras.layers.Dense(10, "softmax", name="classes")(states))
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    network.fit(images.x_train[..., 0], images.y_train, batch_size=64, epochs=5, verbose=0)
    return network
