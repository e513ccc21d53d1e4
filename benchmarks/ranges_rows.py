"""The row of range methods: what each brings at the output, on images that calibration has not seen."""

from __future__ import annotations

import statistics

from benchmarks.measuring import FILES, Figure, Options, figure_of, float_file, run_job, say

_METHODS = ("minmax", "mse", "entropy", "percentile", "percentile:99.9", "auto")
# Networks of MLPerf Tiny that take images, in `--models`: file, side, scale of pixels.
_IMAGE_NETWORKS = (("vww_96.h5", 96, 1 / 255), ("pretrainedResnet.h5", 32, 1.0))


def ranges(options: Options, draws: int = 3) -> list[Figure]:
    """SQNR of int8 at the output by range method, on 300 unseen crops, over 3 draws of 100 calibration crops."""
    say("cropping images")
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("image_data", out=FILES, draws=draws, calibration=100, crops=30)
    networks = {"EfficientNet-Lite0": (float_file("efficientnet_lite0"), 224, 1.0)}
    for name, side, scale in _IMAGE_NETWORKS if options.models else ():
        path = options.models.resolve() / name if options.models else None
        if path is not None and path.is_file():
            networks[path.stem] = (path, side, scale)
    figures: list[Figure] = []
    for name, (source, side, scale) in networks.items():
        drawn = []
        for draw in range(draws):
            say(f"{name}, draw {draw + 1} of {draws}")
            fed, test = FILES / f"images_calibration_{draw}.npy", FILES / f"images_test_{draw}.npz"
            drawn.append(
                run_job("range_methods", model=source, fed=fed, test=test, methods=_METHODS, side=side, scale=scale)
            )
        for method in _METHODS:
            levels = [row[method]["sqnr_db"] for row in drawn]
            gains = [row[method]["sqnr_db"] - row["minmax"]["sqnr_db"] for row in drawn]
            seconds = statistics.median(row[method]["seconds"] for row in drawn)
            note = f"{', '.join(f'{gain:+.2f}' for gain in gains)} dB against minmax; {seconds:.1f} s"
            warned = sum(any("do worse" in note for note in row[method]["notes"]) for row in drawn)
            note += f"; warned in {warned} of {draws} draws" if warned else ""
            figures.append(figure_of(f"{name}: {method}", levels, "dB", note=note))
        worst = min(row["auto"]["sqnr_db"] - row["minmax"]["sqnr_db"] for row in drawn)
        figures.append(Figure(f"{name}: auto minus minmax, the worst draw", worst, "dB", at_least=-0.3))
    return figures
