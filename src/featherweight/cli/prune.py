"""The commands that make weights zero, or few: prune, cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from featherweight.cli.harness import (
    InputShape,
    check_outputs,
    command,
    open_data,
    open_lowered,
    print_json,
    print_table,
    refuse_idle,
    say,
    working,
)
from featherweight.cli.quantize import Output, Source, print_encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featherweight.encoded_files.records import Encoded
    from featherweight.graph import Model
    from featherweight.lower import Lowered
    from featherweight.sparse_files.store import Stored
    from featherweight.tasks.cluster import ClusteredKernel
    from featherweight.tasks.prune import Pruned


Number = TypeVar("Number", int, float)


class Store(StrEnum):
    """How zeros are written."""

    dense = "dense"
    sparse = "sparse"
    fast = "fast"
    decode = "decode"


_EXAMPLE = "featherweight prune model.keras -o pruned.tflite --sparsity 0.5 --method sparsegpt --calibration train.npz"


def _rule(text: str, kind: type[Number], example: str) -> tuple[str, Number]:
    pattern, equals, number = text.rpartition("=")
    try:
        if equals and pattern:
            return pattern, kind(number)
    except ValueError:
        pass
    raise typer.BadParameter(f"'{text}' is no {example}.", param_hint="--rule")


@command(_EXAMPLE)
def prune(
    context: typer.Context,
    model: Source,
    output: Output,
    sparsity: Annotated[float, typer.Option(metavar="S", help="The fraction of weights to set to zero, in [0, 1).")],
    pattern: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="unstructured, blocks as 1x4, 2:4, auto (what --target names), or channel: these are taken out.",
        ),
    ] = "unstructured",
    method: Annotated[str, typer.Option(metavar="NAME", help="magnitude, wanda or sparsegpt.")] = "magnitude",
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Samples of the training split, for wanda and sparsegpt: .npz, .npy, folder of images, or "
            "pkg.module:function.",
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "--limit", min=1, help="Use at most so many samples.")] = 128,
    allocation: Annotated[str, typer.Option(metavar="NAME", help="uniform, erk or global.")] = "uniform",
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Kernels that stay dense; may be given several times.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=S", help="Kernels with a sparsity of their own; may be given several times."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Whose pattern --pattern auto takes, and whose conditions --store sparse meets.",
        ),
    ] = None,
    store: Annotated[
        Store,
        typer.Option(
            help="sparse: leave the zeros out, where kernels take that; fast: where that is faster, too; decode: "
            "encode weights, for targets that decode (default: tflm)."
        ),
    ] = Store.dense,
    input_shape: InputShape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Prune a float model without training it.

    Each kernel ends with exactly the fraction of zeros that was asked for; the first convolution, the last kernel and
    depthwise convolutions stay dense unless a rule names them.
    """
    from featherweight.encoded_files.store import check_decodes, store_encoded
    from featherweight.targets import target as targets
    from featherweight.tasks.prune import prune as prune_model

    rules = [_rule(text, float, "PATTERN=SPARSITY, such as 'block_1/*=0.75'") for text in rule or ()]
    if calibration is None:
        refuse_idle(context, "without --calibration", "samples", "preprocess")
    if method == "magnitude":
        refuse_idle(context, "on --method magnitude, which looks at weights alone", "calibration")
    if pattern != "auto" and store is Store.dense:
        refuse_idle(context, "but for --pattern auto and --store", "target")
    check_outputs(output, sources=[model])
    device = targets.load(target or "tflm")
    if store is Store.decode:
        check_decodes(device)
    if pattern == "channel":
        if rules or calibration or method != "magnitude" or allocation != "uniform" or store is not Store.dense:
            raise typer.BadParameter(
                "channels go by magnitude, a fraction of each group: --rule, --calibration, --method, --allocation and "
                "--store have no effect. From Python, remove_channels can do more.",
                param_hint="--pattern",
            )
        _remove(open_lowered(model, input_shape), output, sparsity, exclude or (), as_json=as_json)
        return
    lowered = open_lowered(model, input_shape, calibration)
    data = None if calibration is None else open_data(calibration, lowered.model, preprocess=preprocess).samples
    result = prune_model(
        lowered,
        sparsity,
        pattern=pattern,
        method=method,
        calibration=data,
        allocation=allocation,
        exclude=exclude or (),
        rules=rules,
        target=target,
        limit=samples,
    )
    stored = encoded = None
    if store is Store.decode:
        with working("Trying the encoded file"):
            encoded = store_encoded(result.model, target=device)
    elif store is not Store.dense:
        from featherweight.sparse_files.store import store_sparse

        with working("Trying the sparse file"):
            stored = store_sparse(result.model, prefer="speed" if store is Store.fast else "size", target=target)
    (encoded or stored or result).save(output)
    _print(output, result, stored, encoded, lowered.model, as_json=as_json)


@command("featherweight cluster model.keras -o clustered.tflite --clusters 16 --calibration train.npz")
def cluster(
    context: typer.Context,
    model: Source,
    output: Output,
    clusters: Annotated[int, typer.Option(min=4, max=128, help="Values in a kernel.")] = 16,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Samples of the training split: weights make up for each other's errors."),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="SCALE,OFFSET", help="For folders of images: input = pixel × scale + offset."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "--limit", min=1, help="Use at most so many samples.")] = 128,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Kernels that stay; may be given several times.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=VALUES", help="Values of the kernels that match, 0 for none; several times."),
    ] = None,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="For targets with one scale for a whole weight.")
    ] = False,
    input_shape: InputShape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Give weights few values, without training.

    quantize makes as many integers of them, the same in all channels: what encodes or compresses weights makes them
    small. The first convolution, the last kernel, depthwise convolutions and small kernels stay, unless a rule names
    them.
    """
    from featherweight.tasks.cluster import cluster as cluster_model

    if calibration is None:
        refuse_idle(context, "without --calibration", "samples", "preprocess")
    check_outputs(output, sources=[model])
    lowered = open_lowered(model, input_shape, calibration)
    data = None if calibration is None else open_data(calibration, lowered.model, preprocess=preprocess).samples
    rules = [_rule(text, int, "PATTERN=VALUES, such as 'block_1/*=32'") for text in rule or ()]
    per_channel, excluded = not per_tensor, exclude or ()
    result = cluster_model(
        lowered, clusters, calibration=data, exclude=excluded, rules=rules, per_channel=per_channel, limit=samples
    )
    size = result.save(output)
    if as_json:
        print_json({"file": str(output), "file_bytes": size, "kernels": [vars(kernel) for kernel in result.kernels]})
        return
    rows = [(k.name, k.op, f"{k.elements:,}", *_clustered_columns(k), k.reason) for k in result.kernels]
    headings = ("kernel", "operator", "weights", "values", "error", "DECODE bytes", "zip bytes", "why it stays")
    print_table("Kernels", headings, rows, right=(2, 3, 4, 5, 6))
    say(f"{output}: {size:,} bytes, in float. `quantize --store decode` makes it small for TFLite Micro, zip for apps.")


def _clustered_columns(kernel: ClusteredKernel) -> tuple[str, str, str, str]:
    if not kernel.levels:
        return "", "", "", ""
    sizes = f"{kernel.decode_bytes:,}", f"{kernel.zip_bytes:,}"
    return (str(len(kernel.levels)), f"{100 * kernel.relative_error:.1f} %", *sizes)


def _remove(lowered: Lowered, output: Path, fraction: float, exclude: Sequence[str], *, as_json: bool) -> None:
    """Takes channels out, and prints what is left of each group."""
    from featherweight.tasks.remove_channels import remove_channels

    result = remove_channels(lowered, fraction, exclude=exclude)
    size = result.save(output)
    groups = [vars(group) for group in result.groups]
    if as_json:
        sizes = {"file_bytes": size, "macs": result.macs, "weight_bytes": result.weight_bytes}
        print_json({"file": str(output), **sizes, "groups": groups})
        return
    rows = [(", ".join(g.kernels), f"{g.before:,}", f"{g.after:,}", g.reason) for g in result.groups]
    print_table("Channels", ("made by", "before", "after", "why all stay"), rows, right=(1, 2))
    before, after = result.macs
    say(f"{output}: {size:,} bytes; {after:,} of {before:,} multiply-accumulates are left.")


def _print(
    output: Path, result: Pruned, stored: Stored | None, encoded: Encoded | None, before: Model, *, as_json: bool
) -> None:
    from featherweight.runtime.sizes import sizes_bytes

    raw, compressed = sizes_bytes(output)
    _, dense = sizes_bytes(before)
    weights = {row.name: row for row in stored.tensors} if stored else {}
    if as_json:
        kernels = [{**vars(kernel), "sparsity": kernel.sparsity} for kernel in result.kernels]
        sizes = {"file_bytes": raw, "compressed_bytes": compressed, "compressed_bytes_before": dense}
        if stored:
            sizes |= {"dense_file_bytes": stored.file_bytes[0], "dense_compressed_bytes": stored.compressed_bytes[0]}
        rows = [vars(row) for row in (encoded.tensors if encoded else weights.values())]
        sizes |= {"notes": encoded.notes} if encoded else {}
        found = {"stored": rows, "violations": stored.violations if stored else ()}
        print_json({"file": str(output), "sparsity": result.sparsity, **sizes, "kernels": kernels, **found})
        return
    rows = [
        (k.name, k.op, f"{k.elements:,}", f"{100 * k.sparsity:.1f} %", k.pattern or "dense", k.method, k.reason)
        for k in result.kernels
    ]
    headings = ("kernel", "operator", "weights", "zeros", "pattern", "method", "why")
    print_table("Kernels", headings, rows, right=(2, 3))
    if stored:
        kinds = [
            (
                r.name,
                r.form,
                f"{r.dense_bytes:,}",
                f"{r.stored_bytes:,}",
                f"1x{r.block}" if r.block else "dense",
                r.reason,
            )
            for r in weights.values()
        ]
        print_table("Storage", ("kernel", "form", "bytes", "stored", "blocks", "why"), kinds, right=(2, 3))
        files, compressed_files = (
            " → ".join(f"{size:,}" for size in sizes) for sizes in (stored.file_bytes, stored.compressed_bytes)
        )
        say(f"The whole file, zeros stored → left out: {files} bytes; compressed: {compressed_files} bytes.")
        if stored.violations:
            missed = [(v.op, v.node, v.message) for v in stored.violations]
            print_table("Conditions of the target that are missed", ("operator", "name", "what"), missed)
    if encoded:
        print_encoded(encoded)
        for note in encoded.notes:
            say(f"Note: {note}")
    say(
        f"{output}: {100 * result.sparsity:.1f} % of all weights are zero; {raw:,} bytes, {compressed or 0:,} when "
        f"compressed (dense: {dense or 0:,})."
    )
