"""The rows of the reference kernels: whole networks against LiteRT, value by value, and how fast they run."""

from __future__ import annotations

from benchmarks.measuring import (
    TINY,
    Figure,
    Options,
    column,
    figure_of,
    float_file,
    ratio_of,
    run_job,
    say,
    wait_until_calm,
)

# Of the tests: a style network with instance norms, an SSD with its post-processing ...
_TEST_NETWORKS = ("style", "detector", "lstm", "gru", "transformer")


def kernels(options: Options) -> list[Figure]:
    """The reference kernels against LiteRT: every computed tensor of whole networks, in three profiles."""
    networks = {name: float_file(name) for name in ("mobilenet_v2", "efficientnet_lite0", *TINY)}
    if options.models:
        networks |= {path.name: path.resolve() for path in sorted(options.models.glob("*.h5"))}
    jobs = [(name, path, recipe) for name, path in networks.items() for recipe in ("int8", "int16x8")]
    jobs += [(name, None, recipe) for name in _TEST_NETWORKS for recipe in ("int8", "int16x8")]
    figures = []
    for name, path, recipe in jobs:
        say(f"{name}, {recipe}")
        counts = run_job("compare_kernels", network=name, model=path, recipe=recipe)
        for profile in ("xnnpack", "tflite_opt", "tflite_ref"):
            found = counts[profile]
            note = f"of {found['elements']:,} in {found['tensors']} tensors" + ("; " * bool(found["first"]))
            what = f"{name}, {recipe}, {profile}: differing values"
            figures.append(Figure(what, found["differing"], at_most=0, note=note + found["first"]))
    return figures


def kernel_speed(options: Options) -> list[Figure]:
    """The reference kernels on MobileNetV2 0.35 at 96 px, int8, batch 32, beside LiteRT in the same arithmetic."""
    rounds = []
    for number in range(options.rounds):
        wait_until_calm()
        say(f"round {number + 1} of {options.rounds}")
        rounds.append(run_job("time_kernels", model=float_file("mobilenet_v2_035"), images=32))
    figures = [
        figure_of(
            f"{profile}: ours", column(rounds, profile), "images/s", at_least=20 if profile == "xnnpack" else None
        )
        for profile in ("xnnpack", "tflite_opt", "tflite_ref")
    ]
    figures += [
        figure_of(f"{profile}: LiteRT", column(rounds, f"litert {profile}"), "images/s")
        for profile in ("xnnpack", "tflite_opt", "tflite_ref")
    ]
    reference = column(rounds, "litert tflite_ref")
    figures += [
        ratio_of(f"LiteRT's reference / ours in {profile}: speed", reference, column(rounds, profile), at_most=1.5)
        for profile in ("xnnpack", "tflite_opt", "tflite_ref")
    ]
    return figures
