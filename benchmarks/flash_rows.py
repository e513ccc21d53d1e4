"""The row of what flash holds: encoded files of TFLite Micro, and what Vela makes of them for an Ethos-U55."""

from __future__ import annotations

from benchmarks.measuring import FILES, Figure, Options, figure_of, run_job, say

_MOST_BYTES = {"75 % pruned": 0.5, "16 clusters": 0.6}
_MOST_FLASH = {"75 % pruned": 0.55, "4-bit grid": 0.6}
_LEAST_CHANGE = {"16 clusters": -0.3}


def flash(options: Options, seeds: int = 3) -> list[Figure]:
    """The demo's network pruned, clustered and on a 4-bit grid: bytes of encoded files, Vela's flash, accuracy."""
    found = []
    for seed in range(seeds):
        say(f"training {seed}")
        if not (FILES / f"flash_{seed}_pruned.keras").is_file():
            run_job("train_for_flash", out=FILES, seed=seed)
        found.append(run_job("flash_sizes", folder=FILES, seed=seed))
    figures = []
    for name in (name for name in found[0] if name not in ("int8", "peak_mb")):
        rows = [(row[name], row["int8"]) for row in found]
        note = "equal to the plain file in TFLite Micro" if all(row["is_equal"] for row, _ in rows) else "NOT EQUAL"
        ratios = [row["bytes"] / base["bytes"] for row, base in rows]
        figures.append(figure_of(f"{name}, encoded: bytes", ratios, "x", at_most=_MOST_BYTES.get(name), note=note))
        ratios = [row["flash_bytes"] / base["flash_bytes"] for row, base in rows]
        figures.append(figure_of(f"{name}: Vela's flash, U55-128", ratios, "x", at_most=_MOST_FLASH.get(name)))
        figures.append(figure_of(f"{name}: Vela's cycles", [row["cycles"] / base["cycles"] for row, base in rows], "x"))
        changes = [100 * (row["accuracy"] - base["accuracy"]) for row, base in rows]
        least = _LEAST_CHANGE.get(name)
        figures.append(figure_of(f"{name}: accuracy against int8", changes, "points", at_least=least))
    return figures
