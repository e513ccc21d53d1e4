"""The arena of LiteRT for Microcontrollers, from a real run of its interpreter in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherweight.errors import FeatherweightError
from featherweight.processes.apart import run_apart

_TIMEOUT_S = 600
# More than any microcontroller has; the run says how much of it was used.
_ARENA_BYTES = 256 << 20
_ALIGNMENT = 16
_USED = re.compile(r"Arena allocation (head|tail) (\d+) bytes")
# What it says before it ends where it has no kernel of an operator (tflite-micro, micro_allocation_info, micro_graph).
_LACKS_OPERATOR = "Failed to get registration"
_TRIED = re.compile(r"^(\d+) (tried|loaded)$", re.MULTILINE)


@dataclass(frozen=True)
class Arena:
    """Memory that the interpreter needs beside the file, in bytes.

    Attributes:
        tensors: of activations: what lies in the arena's head while operators run. It is the same on every device.
        structures: all else in the smallest arena that the interpreter loads the file in: its own records, variables,
            and what it takes for a while as it prepares operators and plans memory, which its own count of used bytes
            leaves out. On a 64-bit host; about half of it with pointers of 32 bits.
    """

    tensors: int
    structures: int

    @property
    def total(self) -> int:
        """Both together: enough on any device with pointers of up to 64 bits."""
        return self.tensors + self.structures


@dataclass(frozen=True, eq=False)
class MicroRun:
    """What the interpreter computed of some inputs, and the arena that it took.

    Attributes:
        outputs: for each set of inputs, the output arrays in the model's order.
    """

    arena: Arena
    outputs: tuple[tuple[np.ndarray, ...], ...]


def has_micro() -> bool:
    """True where TFLite Micro's interpreter is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def micro_run(path: Path, feeds: Sequence[Sequence[np.ndarray]], outputs: int) -> MicroRun:
    """Runs a file in TFLite Micro's wheel, in a child process: an abort there is an error here.

    Args:
        path: of the file.
        feeds: sets of inputs, in the order of the model's.
        outputs: how many outputs it has.

    Raises:
        FeatherweightError: if the wheel is not installed, or does not run the model.
    """
    folder = path.parent
    given, taken = folder / "feeds.npz", folder / "taken.npz"
    np.savez(given, *[array for feed in feeds for array in feed])
    command = [sys.executable, __file__, str(path), str(given), str(taken), json.dumps([len(feeds), outputs])]
    done = run_apart(command, _TIMEOUT_S)
    if done.status != 0:
        if "No module named 'tflite_micro'" in done.text:
            raise FeatherweightError(
                "The model is run in TFLite Micro, which is not installed: pip install 'featherweight[clients]'."
            )
        way = "`featherweight check MODEL --target tflm` says which operators it lacks."
        lacks = f" {way}" if _LACKS_OPERATOR in done.text else ""
        raise FeatherweightError(f"TFLite Micro does not run the model: {str(done).rstrip('.')}.{lacks}")
    used = {part: int(size) for part, size in _USED.findall(done.text)}
    size = _least(path, used["head"] + used["tail"])
    with np.load(taken) as arrays:
        found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    rows = tuple(tuple(found[i : i + outputs]) for i in range(0, len(found), outputs))
    return MicroRun(Arena(used["head"], size - used["head"]), rows)


def _least(path: Path, used: int) -> int:
    """Returns the smallest arena, in steps of 16 bytes, that the interpreter loads a file in; `used` is what it counts.

    Where too little is left, it says no or ends its process: what was tried and not loaded was too small.
    """
    low, high = used // _ALIGNMENT * _ALIGNMENT - _ALIGNMENT, _ARENA_BYTES
    while high - low > _ALIGNMENT:
        command = [sys.executable, __file__, str(path), str(low), str(high)]
        done = run_apart(command, _TIMEOUT_S)
        found = [(int(size), verdict) for size, verdict in _TRIED.findall(done.text)]
        if not found:
            raise FeatherweightError(f"TFLite Micro does not load '{path.name}' again: {done}")
        high = min([high, *(size for size, verdict in found if verdict == "loaded")])
        low = max([low, *(size for size, verdict in found if verdict == "tried" and size < high)])
    return high


def _probe(path: str, least: str, most: str) -> None:
    """Prints the sizes of arenas that are tried between two, and which of them the file is loaded in."""
    from tflite_micro.python.tflite_micro import runtime

    low, high = int(least), int(most)
    size = low + _ALIGNMENT
    while low < size < high:
        print(size, "tried", flush=True)
        try:
            runtime.Interpreter.from_file(path, arena_size=size)
        except RuntimeError:
            # Far off at first, ever nearer: nearly always what is counted is nearly enough.
            low, size = size, size + (size - int(least)) if high == int(most) else (size + high) // 2
        else:
            print(size, "loaded", flush=True)
            high, size = size, (low + size) // 2
        size = min(size // _ALIGNMENT * _ALIGNMENT, high)


def _main(path: str, given: str, taken: str, shape: str) -> None:
    from tflite_micro.python.tflite_micro import runtime

    sets, outputs = json.loads(shape)
    with np.load(given) as arrays:
        feeds = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    interpreter = runtime.Interpreter.from_file(path, arena_size=_ARENA_BYTES)
    results: list[np.ndarray] = []
    each = len(feeds) // sets
    for start in range(sets):
        for position, array in enumerate(feeds[start * each : (start + 1) * each]):
            interpreter.set_input(array, position)
        interpreter.invoke()
        results += [np.array(interpreter.get_output(position)) for position in range(outputs)]
    interpreter.print_allocations()
    np.savez(taken, *results)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _probe(*sys.argv[1:])
    else:
        _main(*sys.argv[1:])
