"""Every option of every command with every wrong value: exit 0, 1 or 2, and never a traceback, nor half a file."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.cli.calling import files
from typer.testing import CliRunner

from featherweight.cli import app
from featherweight.cli.choose import asked

PROGRAM: Any = typer.main.get_command(app)  # made once: a call of the app makes all commands anew
COMMANDS: dict[str, Any] = PROGRAM.commands
WORKING = {
    "inspect": ["model.tflite"],
    "lower": ["model.keras", "-o", "out.tflite"],
    "quantize": ["model.tflite", "-o", "out.tflite", "--calibration", "data.npz"],
    "train": ["model.tflite", "-o", "out.tflite", "--data", "missing.npz"],
    "prune": ["model.tflite", "-o", "out.tflite", "--sparsity", "0.5"],
    "cluster": ["model.tflite", "-o", "out.tflite", "--clusters", "4"],
    "compare": ["model.tflite", "model.tflite", "--data", "data.npz"],
    "evaluate": ["model.tflite", "--data", "data.npz"],
    "benchmark": ["model.tflite", "--runs", "1"],
    "check": ["model.tflite", "--target", "litert"],
    "curve": ["model.tflite", "--data", "data.npz", "--sparsities", "0.5"],
    "diagnose": ["model.tflite", "--data", "data.npz"],
    "sensitivity": ["model.tflite", "--calibration", "data.npz"],
    "search": ["model.tflite", "-o", "out.tflite", "--calibration", "data.npz", "--min-sqnr", "5", "--forms", "int8"],
    "optimize": ["model.tflite", "-o", "out.tflite", "--calibration", "data.npz", "--min-sqnr", "5"],
    "deploy": ["model.tflite", "-o", "out", "--target", "ethos-u65"],  # which ends before the interpreter runs
    "encode": ["model.tflite", "-o", "out.tflite", "--target", "ethos-u65"],  # which ends before the interpreter runs
    "prove": ["model.tflite", "--runtimes", "builtin", "--vectors", "1"],
    "recipes": [],
    "targets": [],
    "schema": ["search"],
}
WRONG = (
    "", " ", "nonsense", "-1", "nan", "1e30", "99999999999999999999", "missing.npz", "folder", "empty.tflite",
    "wrong.tflite", "wrong.keras", "wrong.npz", "wrong.toml", "none/out.tflite", "a,b", "x=1,y", "math:sin", "\udce4",
)  # fmt: skip
# Of what names a file or folder that is written, one of each kind.
PLACED = ("output", "plan_out", "report", "resume")
PLACES = ("", " ", "-1", "folder", "wrong.tflite", "none/out.tflite", "\udce4")
# These say on stdout what is missed, and exit with 1.
JUDGING = ("check", "search", "optimize")


@pytest.fixture
def full(folder: Path) -> Path:
    """The folder of the commands, with files that are something else."""
    Path("folder").mkdir()
    Path("empty.tflite").write_bytes(b"")
    for name in ("wrong.tflite", "wrong.keras", "wrong.npz", "wrong.npy", "wrong.toml", "wrong.json", "text.txt"):
        Path(name).write_text("no such thing: 5")
    return folder


def _run(*args: str) -> Any:
    runner = CliRunner()
    with runner.isolation() as (stdout, stderr, _):
        try:
            PROGRAM.main(list(args), "featherweight", standalone_mode=True)
            code, error = 0, None
        except SystemExit as stop:
            code, error = stop.code or 0, None
        except BaseException as raised:
            code, error = 3, raised
        return code, stdout.getvalue().decode("utf-8", "replace"), stderr.getvalue().decode("utf-8", "replace"), error


@pytest.mark.parametrize("command", WORKING)
def test_wrong_values_are_told_in_a_paragraph(command: str, full: Path) -> None:
    before, wrong = files(full), list[str]()
    for parameter in COMMANDS[command].params:
        is_argument = parameter.param_type_name == "argument"
        if getattr(parameter, "is_flag", False) or parameter.name == "help":
            continue
        is_place = not is_argument and parameter.name in PLACED
        for value in WRONG[2:3] if getattr(parameter, "hidden", False) else PLACES if is_place else WRONG:
            given = list(WORKING[command])
            if is_argument:
                given[0] = value
            else:
                given += [parameter.opts[0], value]
            code, _, said, error = _run(command, *given)
            if error is not None or code not in (0, 1, 2) or "unexpected error" in said or "Traceback" in said:
                wrong.append(f"{parameter.name} = {value!r}: {code} {error!r} {said[-300:]}")
            if code == 1 and len(said.strip().splitlines()) != 1 and command not in JUDGING:
                wrong.append(f"{parameter.name} = {value!r}: {said!r}")
            if code and command not in JUDGING and (left := sorted({*files(full)} - {*before})):
                wrong.append(f"{parameter.name} = {value!r} fails and leaves {left}")
            for name in {*files(full)} - {*before}:
                path = full / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not wrong, "\n".join([f"{len(wrong)} of {command}", *wrong])


def test_every_command_is_tried() -> None:
    assert {*WORKING, "demo"} == {*COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str) -> None:
    for parameter in COMMANDS[command].params:
        assert getattr(parameter, "hidden", False) or len(getattr(parameter, "help", None) or "") > 10, parameter.name


def test_every_parameter_of_a_command_is_read() -> None:
    for name, command in COMMANDS.items():
        source = inspect.getsource(inspect.unwrap(command.callback))
        source += inspect.getsource(asked) if f"{asked.__name__}(context)" in source else ""
        for parameter in command.params:
            hidden = getattr(parameter, "hidden", False)
            assert hidden or source.count(parameter.name) > 1, f"{name}: {parameter.name}"
