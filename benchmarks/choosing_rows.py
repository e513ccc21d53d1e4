"""The row of mixed forms: the smallest file within half a point, by the search, by rules of thumb, by a program."""

from __future__ import annotations

import shutil

from benchmarks.measuring import FILES, Figure, Options, float_file, run_job, say

_MOST_DROP = 0.005
# The network of this size knows the classes of the photographs.
_LABELLED_SIDE = 224
# Networks of MLPerf Tiny that take images, in `--models`: file, side, scale of pixels.
_IMAGE_NETWORKS = (("vww_96_float.tflite", 96, 1 / 255), ("pretrainedResnet.tflite", 32, 1.0))


def mixed_forms(options: Options) -> list[Figure]:
    """Smallest file that loses half a point of agreement with float at most: int8 and w4a8 mixed."""
    say("cropping images")
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("image_data", out=FILES, draws=1, calibration=100, crops=30)
    networks = {"EfficientNet-Lite0": (float_file("efficientnet_lite0"), 224, 1.0)}
    for name, side, scale in _IMAGE_NETWORKS if options.models else ():
        path = options.models.resolve() / name if options.models else None
        if path is not None and path.is_file():
            networks[path.stem] = (path, side, scale)
    figures: list[Figure] = []
    fed, test = FILES / "images_calibration_0.npy", FILES / "images_test_0.npz"
    for name, (source, side, scale) in networks.items():
        say(name)
        folder = FILES / f"search_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        asked = {"side": side, "scale": scale, "max_drop": _MOST_DROP, "labelled": side == _LABELLED_SIDE}
        row = run_job("mixed_forms", model=source, fed=fed, test=test, folder=folder, **asked)
        figures += _figures(name, row)
    return figures


def _figures(name: str, row: dict) -> list[Figure]:
    rules = dict(row["rules"])
    ours = rules.pop("search")
    unseen = row["unseen"]
    note = f"{row['forms']}, {row['tried']} files; drop {ours['drop']:.4f} ± {ours['error']:.4f}, on unseen crops "
    note += f"{unseen['drop']:.4f} ± {unseen['error']:.4f}; float {row['float_bytes']:,} bytes"
    figures = [Figure(f"{name}: search", ours["bytes"], "bytes", note=note)]
    for rule, found in rules.items():
        if not found:
            figures.append(Figure(f"{name}: {rule} keeps the drop", 0))
            continue
        note = f"{found['bytes']:,} bytes, drop {found['drop']:.4f} ± {found['error']:.4f}"
        figures.append(Figure(f"{name}: search / {rule}", ours["bytes"] / found["bytes"], "x", at_most=1, note=note))
    distance = abs(row["predicted_db"] - row["measured_db"])
    figures += [
        Figure(f"{name}: predicted against measured", distance, "dB", at_most=2 * row["measured_error_db"]),
        Figure(f"{name}: from nothing", row["seconds"], "s", at_most=600),
        Figure(f"{name}: another budget on the same scores", row["another_seconds"], "s", at_most=5),
    ]
    return figures
