"""The commands that go to a device: encode, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.harness import check_outputs, command, open_data, print_json, say, working
from featherweight.cli.quantize import Output, Source, print_encoded


@command("featherweight encode model_int8.tflite -o model_encoded.tflite --target tflm")
def encode(
    model: Source,
    output: Output,
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")] = "tflm",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Encode weights, for runtimes that decode them.

    Each weight takes the coding of fewest bytes (a lookup table, Huffman codes, a bit mask of what is not zero), where
    that makes the file smaller. Less flash for more RAM, and for the time to decode in every inference.
    """
    from featherweight.tasks.front import store_encoded

    check_outputs(output, sources=[model])
    with working("Trying the encoded file"):
        encoded = store_encoded(model, target=target)
    size = encoded.save(output)
    if as_json:
        costs = {"scratch_bytes": encoded.scratch_bytes, "decoded_bytes": encoded.decoded_bytes}
        arenas = None if encoded.arena is None else [vars(arena) for arena in encoded.arena]
        found = {"file_bytes": size, "plain_file_bytes": encoded.file_bytes[0], **costs, "arena": arenas}
        rows = [vars(row) for row in encoded.tensors]
        print_json({"file": str(output), **found, "unverified": encoded.unverified, "tensors": rows})
        return
    print_encoded(encoded)
    for note in encoded.notes:
        say(f"Note: {note}")
    say(f"{output}: {size:,} bytes.")


@command("featherweight deploy model_int8.tflite --target tflm -o firmware/model --data test.npz")
def deploy(
    model: Source,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder for the sources.")],
    target: Annotated[str, typer.Option(metavar="NAME|FILE.toml", help="See `featherweight targets`.")] = "tflm",
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the model in C.")] = "model",
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Inputs of the golden tests; random ones without.")
    ] = None,
    tests: Annotated[int, typer.Option(min=1, max=100, help="How many of them.")] = 3,
    max_arena: Annotated[int | None, typer.Option(min=1, metavar="BYTES", help="What there is for the arena.")] = None,
    keep_order: Annotated[
        bool,
        typer.Option("--keep-order", help="Leave operators and tensors as they came, if others need less RAM, too."),
    ] = False,
    signature: Annotated[
        str | None, typer.Option(metavar="KEY", help="What the device runs of a file of several signatures.")
    ] = None,
) -> None:
    """Write C sources for TFLite Micro, with a self-test.

    A model as an aligned array, its operators, the arena from a real run, conversions of inputs and outputs, and a test
    by which the device proves that it computes the same integers.
    """
    from featherweight import tflite
    from featherweight.operators.entries import entry_of, with_main
    from featherweight.tasks.device.deploy import deploy as write

    graph = tflite.read(model)
    entered = with_main(graph, entry_of(graph, signature, "--signature"))
    samples = None if data is None else open_data(data, entered).samples
    done = write(
        model,
        output,
        target=target,
        name=name,
        samples=samples,
        tests=tests,
        max_arena=max_arena,
        keep_order=keep_order,
        signature=signature,
    )
    for file in done.files:
        say(f"{file}: {file.stat().st_size:,} bytes")
    say(
        f"Flash: {done.file_bytes:,} bytes of model. Arena: {done.arena.total:,} bytes, {done.arena.tensors:,} of them "
        f"tensors, {done.arena.structures:,} structures (on a 64-bit host)."
    )
    for note in done.notes:
        say(f"Note: {note}.")
    say(f"Operators: {', '.join(done.operators)}.")
