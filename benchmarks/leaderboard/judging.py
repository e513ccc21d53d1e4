"""Judges one file against the float one: `python -m benchmarks.leaderboard.judging ARGUMENTS RESULT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.making import RAN, SIMULATED
from benchmarks.processes import answer

# Floats that are apart by less of the largest value are the same: sums in another order.
_ROUNDING = 1e-5


def judge(model: str, out: str, test: str, judged: str, reference: str) -> dict[str, Any]:
    """Returns what is to be said of a file on all test examples.

    Args:
        model: the float `.tflite`.
        out: the file; a `.tflite` runs on LiteRT, of another its outputs lie beside it.
        test: `.npz` with ``x``, and ``y`` for labels.
        judged: ``labels``, ``agreement`` or ``levels``.
        reference: where the float outputs are kept.

    Returns:
        ``sqnr_db`` per output; ``right``: the examples whose class is the label's, or the float network's, as bits in
        hexadecimal, with their number, and ``groups`` of examples of one image; ``exact``, where the tool has a
        simulation: what differs of it.
    """
    with np.load(test) as arrays:
        x = arrays["x"]
        labels = arrays["y"] if judged == "labels" else None
        groups = runs(arrays["group"]) if "group" in arrays else None
    wanted = _reference(model, x, Path(reference))
    got = _stored(Path(out + RAN)) if Path(out + RAN).is_file() else _run(out, x)
    result: dict[str, Any] = {"sqnr_db": [decibels(a, b) for a, b in zip(wanted, got, strict=True)]}
    if judged != "levels":
        classes = got[0].reshape(len(x), -1).argmax(-1)
        floats = wanted[0].reshape(len(x), -1).argmax(-1)
        right = classes == (floats if labels is None else labels.reshape(-1))
        result |= {"right": bits(right), "examples": len(x), "agrees": float((classes == floats).mean())}
        result |= {} if groups is None else {"groups": groups}
    if Path(out + SIMULATED).is_file():
        (simulated,) = _stored(Path(out + SIMULATED))
        result["exact"] = compared(simulated, got[0][: len(simulated)], _grid(out))
    return result


def decibels(wanted: np.ndarray, got: np.ndarray) -> float | None:
    """Returns signal over error in dB; None for no error.

    Raises:
        ValueError: the outputs are no numbers.
    """
    signal = float(np.square(wanted.astype(np.float64)).sum())
    error = float(np.square(wanted.astype(np.float64) - got.reshape(wanted.shape)).sum())
    if not np.isfinite(error):
        raise ValueError(f"its outputs hold {int((~np.isfinite(got)).sum())} values that are no finite numbers")
    return 10 * float(np.log10(signal / error)) if error and signal else None


def bits(flags: np.ndarray) -> str:
    """Returns booleans as hexadecimal.

    >>> bits(np.array([True, False, False, False, True, False, False, False, True]))
    '8880'
    """
    return np.packbits(flags).tobytes().hex()


def flags(text: str, count: int) -> np.ndarray:
    """Returns the booleans of `bits`.

    >>> flags("8880", 9).astype(int).tolist()
    [1, 0, 0, 0, 1, 0, 0, 0, 1]
    """
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count].astype(bool)


def runs(groups: np.ndarray) -> list[list[int]]:
    """Returns groups in order as [group, how often in a row].

    >>> runs(np.array([4, 4, 7]))
    [[4, 2], [7, 1]]
    """
    found: list[list[int]] = []
    for group in groups.tolist():
        if found and found[-1][0] == group:
            found[-1][1] += 1
        else:
            found.append([group, 1])
    return found


def compared(simulated: np.ndarray, ran: np.ndarray, grid: tuple[float, int] | None) -> dict[str, Any]:
    """Counts what differs between a tool's simulation and its file: integers on the output's grid, else values."""
    a, b = simulated.astype(np.float64).reshape(ran.shape), ran.astype(np.float64)
    if grid is None:
        apart = np.abs(a - b) / max(float(np.abs(b).max()), 1e-30)
        differing = int((apart > _ROUNDING).sum())
        return {"what": "values", "differing": differing, "of": b.size, "largest": float(apart.max())}
    steps = np.abs(np.rint(a / grid[0]) - np.rint(b / grid[0]))
    return {"what": "integers", "differing": int((steps > 0).sum()), "of": b.size, "largest": int(steps.max())}


def _grid(out: str) -> tuple[float, int] | None:
    """Returns scale and zero point of the first output's integers; None where it is computed in float."""
    if not out.endswith(".tflite"):
        return None
    from featherweight import tflite
    from featherweight.graph import producers

    graph = tflite.read(out).main
    name = graph.outputs[0]
    node = producers(graph).get(name)
    if graph.tensors[name].quant is None and node is not None and node.op == "DEQUANTIZE":
        name = node.inputs[0]
    quant = graph.tensors[name].quant
    return (float(quant.scale[0]), int(quant.zero_point[0])) if quant is not None else None


def _reference(model: str, x: np.ndarray, kept: Path) -> list[np.ndarray]:
    if kept.is_file():
        return _stored(kept)
    outputs = _run(model, x)
    partial = kept.with_suffix(".partial.npz")
    np.savez(partial, *outputs)
    partial.replace(kept)
    return outputs


def _run(file: str, x: np.ndarray) -> list[np.ndarray]:
    from featherweight import tflite
    from featherweight.analysis.evaluation import predict

    return [np.asarray(output, np.float32) for output in predict(tflite.read(file), x).values()]


def _stored(path: Path) -> list[np.ndarray]:
    with np.load(path) as arrays:
        found: Sequence[np.ndarray] = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    return list(found)


if __name__ == "__main__":
    answer(lambda: judge(**json.loads(sys.argv[1])), sys.argv[2])
