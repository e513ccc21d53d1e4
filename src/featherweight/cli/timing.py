"""The command that times models, and their operators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featherweight.cli.compare import Json, Rows
from featherweight.cli.harness import InputShape, command, open_model, print_json, print_table, say, working

if TYPE_CHECKING:
    from featherweight.runtime.operator_times import OperatorTimes


@command("featherweight benchmark model.tflite model_int8.tflite --threads 1 --runs 50")
def benchmark(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Files; ratios are to the first.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 50,
    by_operator: Annotated[
        bool, typer.Option("--by-operator", help="Also the time of each operator, slowest first.")
    ] = False,
    rows: Rows = 40,
    node_data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the times of the last MODEL's operators for Model Explorer."),
    ] = None,
    input_shape: InputShape = None,
    as_json: Json = False,
) -> None:
    """Time models side by side, in interleaved rounds."""
    from featherweight.runtime import benchmark as run

    sources = {
        str(path): path if path.suffix.lower() == ".tflite" else open_model(path, input_shape) for path in models
    }
    found = run(sources, threads=threads, runs=runs, progress=True)
    times = _times_by_operator(sources, threads, runs) if by_operator or node_data is not None else {}
    if node_data is not None:
        from featherweight import tflite
        from featherweight.report.overlay import save_node_data

        name, last = list(sources.items())[-1]
        held = tflite.read(last) if isinstance(last, Path) else last
        for path in save_node_data(node_data, held, times=times[name]):
            typer.echo(f"Node data for Model Explorer: {path}", err=True)
    if as_json:
        print_json({"models": found, **({"operators": times} if by_operator else {})})
        return
    cells = [(r.name, f"{r.median_ms:.3f}", f"{r.low_ms:.3f}", f"{r.high_ms:.3f}", f"{r.ratio:.3f}") for r in found]
    title = f"Latency in ms, {runs} rounds, threads: {threads}"
    print_table(title, ("model", "median", "10 %", "90 %", "ratio"), cells, right=range(1, 5))
    if by_operator:
        from featherweight.report.text import TIME_HEADERS, time_rows, times_text

        for name, each in times.items():
            shown = time_rows(each)
            print_table(f"{name}: {times_text(each)}", TIME_HEADERS, shown[: rows or len(shown)], right=(2, 3))
            if 0 < rows < len(shown):
                say(f"… and {len(shown) - rows} more (--rows 0 shows all)")


def _times_by_operator(sources: Mapping[str, Any], threads: int, runs: int) -> dict[str, OperatorTimes]:
    from featherweight.runtime.operator_times import operator_times

    found: dict[str, OperatorTimes] = {}
    for name, source in sources.items():
        with working(f"Timing the operators of {name}"):
            found[name] = operator_times(source, threads=threads, runs=runs)
    return found
