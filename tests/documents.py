"""Runs the code blocks of the documents: in a folder with the files, and with the names, that documents speak of.

Blocks of one document share their names and their folder. A Python block is run as it stands; of a shell block every
command of featherweight is, in this process; what it installs or makes is checked to exist. A block after the comment
``<!--- skip: next -->`` is not run.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
# Commands that mean no to what the documents ask them, and say so.
MAY_REFUSE = {"check"}


def run_shell(example: Example) -> None:
    """Runs the featherweight commands of a block; a command of another tool has to be one that is there."""
    for command in commands(example.parsed):
        program, *arguments = shlex.split(command, comments=True) or [""]
        if program == "featherweight":
            run_command(arguments)
        else:
            assert other_command_exists(program, arguments), command


def commands(block: str) -> list[str]:
    """The commands of a shell block, a line each; a quoted text may hold several lines."""
    lines = block.replace("\\\n", " ").splitlines()
    found: list[str] = []
    for line in lines:
        if found and found[-1].count('"') % 2:
            found[-1] += "\n" + line
        elif line.strip() and not line.startswith("#"):
            found.append(line.removeprefix("$ "))
    return found


def run_command(arguments: list[str]) -> None:
    """Runs featherweight with these arguments; it has to end well."""
    from typer.testing import CliRunner

    from featherweight.cli import app

    result = CliRunner().invoke(app, arguments)
    refused = result.exit_code == 1 and arguments[0] in MAY_REFUSE
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0 or refused, f"featherweight {shlex.join(arguments)}\n{result.output}"


def other_command_exists(program: str, arguments: list[str]) -> bool:
    """Whether a target of make, or an extra of the package, is one that the repository has; cd and git always."""
    if program == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        return all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in arguments if "=" not in word)
    if program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        asked = [name for text in arguments for group in re.findall(r"\[(.*)\]", text) for name in group.split(",")]
        return set(asked) <= set(project["optional-dependencies"])
    if program == "python":
        exec(arguments[arguments.index("-c") + 1], {})
        return True
    return program in {"cd", "git"}


@functools.cache
def world() -> tuple[Path, Any]:
    """A folder with the files that documents speak of, and its model in int8; made once a process."""
    import keras
    import numpy as np

    import featherweight as fw
    from featherweight.demo import dataset

    folder = Path(tempfile.mkdtemp(prefix="world-", dir=os.environ.get("FEATHERWEIGHT_TEST_RUN")))
    images = dataset.load(full=False)
    x, y = images.x_train[:512], images.y_train[:512]
    network = small_network(keras)
    network.fit(images.x_train[:2048], images.y_train[:2048], batch_size=64, epochs=2, verbose=0)
    network.save(folder / "model.keras")
    fw.save(fw.load(network), folder / "model.tflite")
    np.savez(folder / "train.npz", x=x, y=y)
    np.savez(folder / "test.npz", x=images.x_test[:128], y=images.y_test[:128])
    np.savez(folder / "samples.npz", x=x[:64])
    quantized = fw.quantize(folder / "model.tflite", "int8", calibration=x[:64])
    quantized.save(folder / "model_int8.tflite")
    fw.quantize(folder / "model.tflite", "dynamic").save(folder / "model_dynamic.tflite")
    fw.quantize(folder / "model.tflite", "int8", calibration=x[:64], target="tflm").save(folder / "micro.tflite")
    for name in ("device_1", "device_2", "last_year"):
        fw.calibrate(folder / "model.tflite", x[:16]).save(folder / f"{name}.json")
    (folder / "demo-output").mkdir()
    shutil.copy(folder / "model.tflite", folder / "demo-output" / "float32.tflite")
    shutil.copy(folder / "model.tflite", folder / "encoder.tflite")
    return folder, quantized


def small_network(keras: Any) -> Any:
    """A convnet of three layers that classifies the demo's images, compiled."""
    keras.utils.set_random_seed(0)
    given = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Conv2D(16, 3, 2, "same", use_bias=False, name="stem")(given)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="stem_norm")(x))
    x = keras.layers.DepthwiseConv2D(3, 2, "same", activation="relu", name="depthwise")(x)
    x = keras.layers.Conv2D(64, 1, activation="relu", name="body")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    network = keras.Model(given, keras.layers.Dense(10, activation="softmax", name="head")(x))
    network.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def set_up(namespace: dict[str, Any]) -> None:
    """Gives a document a folder of its own with the files of the world, and the names that its blocks start from."""
    import keras
    import numpy as np

    import featherweight as fw

    left = Path.cwd()
    files, quantized = world()
    folder = Path(tempfile.mkdtemp(prefix="document-", dir=files.parent))
    shutil.copytree(files, folder, dirs_exist_ok=True)
    os.chdir(folder)
    train, test = dict(np.load("train.npz")), dict(np.load("test.npz"))
    network = keras.saving.load_model("model.keras")
    leave: Callable[[], None] = functools.partial(os.chdir, left)
    namespace.update(
        leave=leave,
        folder=folder,
        fw=fw,
        np=np,
        keras=keras,
        model=network,
        keras_model=network,
        q=quantized,
        samples=train["x"][:64],
        x=train["x"],
        y=train["y"],
        x_train=train["x"],
        y_train=train["y"],
        x_test=test["x"],
        y_test=test["y"],
        batches=[(train["x"][:32], train["y"][:32])] * 2,
        traffic=list(train["x"][:16, None]),
        paths=["device_1.json", "device_2.json"],
    )


def tear_down(namespace: dict[str, Any]) -> None:
    """Leaves the document's folder, and removes it."""
    namespace["leave"]()
    shutil.rmtree(namespace["folder"], ignore_errors=True)


SYBIL = Sybil(
    parsers=[
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser(language="sh", evaluator=run_shell),
        CodeBlockParser(language="bash", evaluator=run_shell),
    ],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    # Made by `make docs` from what the commands say, and from the sources.
    excludes=["docs/reference/commands.md", "docs/reference/messages.md"],
    path=str(ROOT),
    setup=set_up,
    teardown=tear_down,
)
