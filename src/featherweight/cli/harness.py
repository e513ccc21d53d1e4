"""What all commands share: how they fail, what they print, and what they check before they work."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from featherweight.arguments import path as path_of
from featherweight.cli.process import noting_interrupts
from featherweight.errors import FeatherweightError

if TYPE_CHECKING:
    from featherweight.analysis.datasets import Dataset
    from featherweight.graph import Model
    from featherweight.lower import Lowered

# Without a terminal there is no width to fit into: lines stay whole for grep and logs.
_WIDE = 220

# Of all that is printed with --json: it grows when a field changes its meaning, or goes.
JSON_VERSION = 1
_running: ContextVar[str] = ContextVar("command")

_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="featherweight",
    help="Makes neural networks small and fast: Keras 3 or float .tflite in, integer .tflite out, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from featherweight import __version__

        typer.echo(f"featherweight {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] (typer calls it)
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def command(example: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to the command line under its name, with an example, and turns its errors into messages."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            _running.set(name or function.__name__)
            interrupts: list[int] = []
            try:
                with noting_interrupts(interrupts):
                    function(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
                raise
            except KeyboardInterrupt as interrupt:
                _stop(str(interrupt) or "interrupted. No file was left half-written.", 130)
            except Exception as error:
                if interrupts:  # what libraries made of it, such as an ImportError from within an import
                    _stop("interrupted. No file was left half-written.", 130)
                if os.environ.get("FEATHERWEIGHT_DEBUG"):
                    raise
                _stop(_paragraph(error), 1)

        examples = "\n\n".join(f"\b\n{line}" for line in ("Example:\n  " + example).split("\n\n"))
        app.command(name, epilog=examples)(guarded)
        return function

    return add


def _paragraph(error: Exception) -> str:
    if isinstance(error, FeatherweightError):
        return f"error: {' '.join(str(error).split())}"
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"error: the package '{error.name}' is not installed, which this command needs. Install it first."
    if isinstance(error, MemoryError):
        return f"error: there is not enough memory ({text}). Use a smaller model, or fewer samples."
    if isinstance(error, OSError) and error.errno in _OUT_OF_ROOM:
        where = f" '{error.filename}'" if error.filename else ""
        return f"error: what was to be written could not be{where}: {error.strerror}. Make room, and run it again."
    return (
        f"unexpected error: {type(error).__name__}: {text}. This is a defect of featherweight or of a library that it "
        "uses; set FEATHERWEIGHT_DEBUG=1 to see the traceback."
    )


def _stop(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    typer.echo(_printable(f"featherweight: {message}"), err=True)
    raise typer.Exit(code)


# ---------------------------------------------------------------------------------------------------------- output


def schema_name(name: str) -> str:
    """Returns what a command's JSON calls its schema."""
    return f"featherweight.{name}"


def print_json(value: Any) -> None:
    """Prints a record as strict JSON on stdout, with the name and version of its schema (`cli.json_shapes`) first.

    Infinite and unknown numbers become null.
    """
    from featherweight.report import to_plain

    stamp = {"schema": schema_name(_running.get()), "version": JSON_VERSION}
    say(json.dumps({**stamp, **to_plain(value)}, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()
) -> None:
    """Prints a table on stdout, in colour on terminals only; columns in `right` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False, emoji=False)
    table = Table(
        title=_printable(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold"
    )
    for index, header in enumerate(headers):
        is_right = index in right
        table.add_column(header, justify="right" if is_right else "left", no_wrap=is_right, overflow="fold")
    for row in rows:
        table.add_row(*(_printable(str(cell)) for cell in row))
    console.print(table)


def say(message: str) -> None:
    """Prints a line on stdout."""
    typer.echo(_printable(message))


def _printable(text: str) -> str:
    """Returns a text that every stream takes: bytes of paths that are no UTF-8 are shown as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def working(what: str) -> Generator[None]:
    """Shows on a terminal (stderr) that something without a measurable progress is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


# -------------------------------------------------------------------------------------------------- before the work


def check_outputs(*outputs: Path | None, sources: Sequence[Path] = ()) -> None:
    """Checks that files can be written before hours are spent on what shall go into them.

    Raises:
        FeatherweightError: if a path can't be written to.
        typer.BadParameter: if two outputs are one file, or an output is also an input.
    """
    given = [path_of(path, "an output") for path in outputs if path is not None]
    for index, path in enumerate(given):
        if path.resolve() in {other.resolve() for other in given[:index]}:
            raise typer.BadParameter(f"'{path}' is named twice as an output.")
        if any(path.resolve() == source.resolve() for source in sources):
            raise typer.BadParameter(f"'{path}' is an input as well; writing it would destroy it. Choose another.")
        if path.is_dir():
            raise FeatherweightError(f"'{path}' can't be written: it is a folder. Give the path of a file.")
        if not path.parent.is_dir():
            raise FeatherweightError(
                f"'{path}' can't be written: there is no folder '{path.parent}'. Create it, or choose another path."
            )
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
        except OSError as error:
            raise FeatherweightError(
                f"'{path}' can't be written: {error.strerror or error}. Choose another path, or make room."
            ) from error


def refuse_idle(context: typer.Context, reason: str, *names: str) -> None:
    """Raises typer.BadParameter for options that were given and would do nothing."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"it has no effect {reason}. Leave it out.", param_hint=parameter.opts[0])


def retired(name: str) -> Callable[[Any], Any]:
    """Returns the callback of a hidden option that does nothing any more: it is still taken, and says so."""

    def note(value: Any) -> Any:
        if value is not None:
            typer.echo(f"featherweight: {name} has no effect, and goes with the next version. Leave it out.", err=True)
        return value

    return note


def check_report(path: Path | None) -> None:
    """Raises typer.BadParameter if a report's suffix names no form of report."""
    from featherweight.report import check_suffix

    if path is not None:
        try:
            check_suffix(path)
        except FeatherweightError as error:
            raise typer.BadParameter(str(error), param_hint="--report") from None


# An option of every command that has a page to show.
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="R.html|R.json|R.txt", help="Write a report in the form of its suffix."),
]

# An option of every command that lowers.
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1,128",
        help="Shape of an input of a .keras or .h5 file that leaves sizes free, batch first ('?': free); repeatable.",
    ),
]


def open_model(path: Path, input_shape: Sequence[str] | None = None, data: str | None = None) -> Model:
    """Returns the graph of a .tflite, .keras or .h5 file; frameworks are lowered, which takes a few seconds."""
    return open_lowered(path, input_shape, data).model


def open_lowered(
    path: Path,
    input_shape: Sequence[str] | None = None,
    data: str | None = None,
    *,
    unroll: bool = False,
    fuse: bool = False,
) -> Lowered:
    """Returns the graph of a .tflite, .keras or .h5 file with what lowering noted.

    Sizes that the file leaves free and `input_shape` does not say are those of the first sample of DATA.
    """
    from featherweight.analysis import datasets
    from featherweight.lower.source import FreeSizesError
    from featherweight.tasks import load as loading

    shapes = dict(_shape(text) for text in input_shape or ()) or None
    if path.suffix.lower() == ".tflite":
        return loading.load_with_notes(path, input_shapes=shapes)
    with working(f"Lowering {path.name}"):
        try:
            return loading.load_with_notes(path, unroll=unroll, fuse=fuse, input_shapes=shapes)
        except FreeSizesError:
            sample = None if data is None else datasets.example(data)
            if sample is None:
                raise
            return loading.load_with_notes(path, unroll=unroll, fuse=fuse, input_shapes=shapes, samples=[sample])


def _shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Reads NAME=1,128."""
    name, _, sizes = text.rpartition("=")
    parts = [part.strip() for part in sizes.split(",")]
    if not name or not all(part == "?" or (part.isdecimal() and int(part)) for part in parts):
        raise typer.BadParameter(
            f"'{text}' is no shape (allowed: NAME=SIZE,SIZE …; a size is a whole number from 1 on, or '?', free).",
            param_hint="--input-shape",
        )
    return name, tuple(None if part == "?" else int(part) for part in parts)


def open_calibration(given: Sequence[str], model: Model, *, preprocess: str | None = None) -> Any:
    """Returns the samples of DATA, or of several NAME=DATA a dict of them by the signature that each names.

    Raises:
        typer.BadParameter: if there are several, and one names no signature of the model.
    """
    from featherweight.operators.entries import entries, with_main

    graphs = {key: index for index, key in entries(model).items() if key}
    named = [text.partition("=") for text in given]
    if len(given) == 1 and named[0][0] not in graphs:
        return open_data(given[0], model, preprocess=preprocess).samples
    for name, _, data in named:
        if name not in graphs or not data:
            raise typer.BadParameter(
                f"'{name}' is no signature of the model; give NAME=DATA once for each (its signatures: "
                f"{', '.join(graphs) or 'none'}).",
                param_hint="--calibration",
            )
    return {
        name: open_data(data, with_main(model, graphs[name]), preprocess=preprocess).samples for name, _, data in named
    }


def open_data(data: str, model: Model, *, preprocess: str | None = None, labels: bool = False) -> Dataset:
    """Returns the samples that DATA names for a model's inputs."""
    from featherweight.analysis import datasets
    from featherweight.graph import io_names

    tensors = model.main.tensors
    inputs = {
        name: tensors[tensor].shape_signature or tensors[tensor].shape for name, tensor in io_names(model)[0].items()
    }
    return datasets.load(data, inputs, preprocess=preprocess, labels=labels)
