"""`featherweight train`: what it writes, how it goes on after a kill, and how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from tests.analysis.small_models import classifier, features, two_headed
from tests.cli import calling
from tests.cli.calling import files

from featherweight import tflite
from featherweight.runtime import run
from featherweight.training.courses import loop

TRAIN = ("train", "model.tflite", "-o", "q.tflite")
SHORT = ("--recipe", "w4a8", "--epochs", "4", "--batch-size", "16", "--learning-rate", "1e-3")


@pytest.fixture
def folder(folder):
    """The working directory, with `noise.npy` besides."""
    np.save("noise.npy", np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    return folder


def call(*args):
    return calling.call(*TRAIN, *args)


def ok(*args):
    return calling.ok(*TRAIN, *args)


def message(result, code=1):
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def distance(path):
    """Mean squared error of a file's outputs against the float model's."""
    x = features()
    return float(np.mean((run(tflite.read(path), x) - run(classifier(), x)) ** 2))


def test_distillation_needs_no_labels_and_comes_nearer(folder):
    before = files(folder)
    text = ok("--data", "unlabelled.npy", *SHORT[:2], "--epochs", 30, "--batch-size", 16, "--learning-rate", "1e-2")
    assert "Training by distillation from the float model." in text
    assert f"q.tflite: {os.path.getsize('q.tflite'):,} bytes" in text
    assert files(folder) == sorted([*before, "q.tflite"])
    calling.call("quantize", "model.tflite", "-o", "ptq.tflite", "--recipe", "w4a8", "--calibration", "unlabelled.npy")
    assert distance("q.tflite") < distance("ptq.tflite")


def test_labels_are_used_where_there_are_any(folder):
    assert "Training by labels." in ok("--data", "data.npz", *SHORT, "--report", "r.json")
    assert json.loads(Path("r.json").read_text())["recipe"] == "w4a8"
    by_labels = Path("q.tflite").read_bytes()
    assert "Training by distillation" in ok("--data", "data.npz", *SHORT, "--distil")
    assert Path("q.tflite").read_bytes() != by_labels


def test_the_report_has_errors_along_the_network_and_the_score(folder):
    ok("--data", "unlabelled.npy", *SHORT, "--validation", "data.npz", "--report", "r.json")
    table = json.loads(Path("r.json").read_text())
    assert {row["name"] for row in table["errors"]} >= {"scores", "hidden", "one/kernel"}
    assert {row["name"] for row in table["histograms"]} >= {"logits", "hidden"}
    assert [*table["evaluations"]] == ["float", "w4a8"]
    assert "--metric: it has no effect without --validation" in call("--data", "data.npz", "--metric", "mse").stderr


def test_dropout_of_a_keras_file_acts_in_training(folder):
    """The same weights with and without it: what is trained differs, and the same again is the same."""
    written = []
    for rate in (0.0, 0.5, 0.5):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,), name="features")
        hidden = keras.layers.Dropout(rate, name="noise")(keras.layers.Dense(16, "relu", name="hidden")(inputs))
        keras.Model(inputs, keras.layers.Dense(3, name="scores")(hidden)).save("dropout.keras")
        result = calling.call("train", "dropout.keras", "-o", "q.tflite", "--data", "noise.npy", *SHORT)
        assert result.exit_code == 0, result.output
        written.append(Path("q.tflite").read_bytes())
    assert written[1] == written[2] != written[0]


def test_the_seed_decides_and_the_same_seed_repeats(folder):
    written = []
    for seed in (0, 0, 1):
        ok("--data", "unlabelled.npy", *SHORT, "--seed", seed)
        written.append(Path("q.tflite").read_bytes())
    assert written[0] == written[1] != written[2]


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(folder):
    args = ("--data", "unlabelled.npy", *SHORT, "--epochs", "60")
    code = "from featherweight.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "model.tflite", "-o", "q.tflite", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    checkpoints = folder / "q.tflite.training"
    while not any(int(path.stem[6:]) >= 3 for path in checkpoints.glob("epoch-*.keras")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "q.tflite").exists()
    assert "Going on after epoch " in ok(*args)
    resumed = Path("q.tflite").read_bytes()
    assert not checkpoints.exists()
    ok(*args)
    assert Path("q.tflite").read_bytes() == resumed


def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(folder, monkeypatch):
    ok("--data", "unlabelled.npy", *SHORT)
    whole = Path("q.tflite").read_bytes()
    Path("q.tflite").write_bytes(b"precious")
    save = loop.Checkpoints.save

    def interrupted(self, model, done):
        save(self, model, done)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Checkpoints, "save", interrupted)
    stopped = message(call("--data", "unlabelled.npy", *SHORT), code=130)
    assert stopped == (
        "featherweight: interrupted. The state after the last complete epoch is in 'q.tflite.training'; run the same "
        "command again to go on."
    )
    assert Path("q.tflite").read_bytes() == b"precious"
    assert files(folder / "q.tflite.training") == ["epoch-00002.keras", "training.json"]
    monkeypatch.undo()
    monkeypatch.chdir(folder)

    other = message(call("--data", "unlabelled.npy", *SHORT, "--seed", 5))
    assert "'q.tflite.training' holds the checkpoint of another training: seed was 0 and is 5." in other
    assert "Going on after epoch 2 of 4" in ok("--data", "unlabelled.npy", *SHORT)
    assert Path("q.tflite").read_bytes() == whole


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--data", "none.npz"], "Data 'none.npz': there is no such file"),
        (["--data", "unlabelled.npy", "--recipe", "int3"], "Unknown recipe 'int3'"),
        (["--data", "unlabelled.npy", "--labels"], "Data 'unlabelled.npy' has no labels"),
        (["--data", "data.npz", "--loss", "guess"], "Keras knows no loss 'guess'. Examples: mean_squared_error"),
        (["--data", "far.npz"], r"The labels (int64, shape [64], 0 to 9) are no numbers of the output's 6 classes"),
        (["--data", "vector.npz"], r"The labels have the shape [3] for each sample, but the output [6]"),
        (["--data", "unlabelled.npy", "--checkpoint", "used"], "'used' is no folder of training checkpoints"),
        (["--data", "nan.npy"], "sample 3, input 'features': it holds NaN"),
    ],
)
def test_what_fails_writes_nothing(folder, args, text):
    x = features()
    np.savez("far.npz", x=x, y=np.arange(64) % 10)
    np.savez("vector.npz", x=x, y=np.zeros((64, 3)))
    x[3, 0] = np.nan
    np.save("nan.npy", x)
    Path("used").mkdir()
    Path("used/precious.txt").write_text("mine")
    before = files(folder)
    assert text in message(call(*args))
    assert files(folder) == before
    assert files(folder / "used") == ["precious.txt"]


def test_labels_for_two_outputs(folder):
    tflite.save(two_headed(), "model.tflite")
    x = features()
    np.savez("two.npz", left=x, right=x, y=np.zeros(64, np.int64))
    assert "The model has 2 outputs (" in message(call("--data", "two.npz"))
    assert "Training by distillation" in ok("--data", "two.npz", "--distil", "--epochs", 1)


def test_a_loss_that_is_no_number_stops(folder):
    np.savez("huge.npz", x=features(), y=np.full((64, 6), 1e30, np.float32))
    said = message(call("--data", "huge.npz", "--train-ranges", "moving_average"))
    assert "is inf: all weights and ranges are finite" in said or "holds NaN or infinite values" in said
    assert "holds the state of the epoch before, delete it to start anew" in said
    assert not Path("q.tflite").exists()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "Missing option '--data'"),
        (["--data", "unlabelled.npy", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["--data", "unlabelled.npy", "--learning-rate", "0"], "0.0 is no positive number."),
        (["--data", "unlabelled.npy", "--learning-rate", "fast"], "fast is neither a number nor auto."),
        (["--data", "unlabelled.npy", "--distil", "--loss", "mse"], "a loss is for labels"),
        (["--data", "unlabelled.npy", "--report", "r.doc"], "r.doc"),
    ],
)
def test_usage_errors(folder, args, text):
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.stderr.split())
    assert not Path("q.tflite").exists()


def test_the_rate_can_be_chosen_by_a_trial(folder):
    args = ("--data", "unlabelled.npy", "--recipe", "w4a8", "--epochs", "2", "--batch-size", "16")
    text = ok(*args, "--learning-rate", "auto")
    assert "held-out samples" in text
    assert re.search(r"^Learning rate [0-9.e-]+[.,]", text, re.MULTILINE)
