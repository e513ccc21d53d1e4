"""A file is mapped, not copied: neither reading nor writing may take memory for the constants."""

from __future__ import annotations

import mmap
import re
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.tflite import outside, read, release_pages, save, write

MIB = 1 << 20
LAYERS, WIDTH = 25, 1024  # 100 MiB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of dense layers with 100 MiB of weights, which share one array only while the file is built."""
    path = tmp_path_factory.mktemp("large") / "large.tflite"
    tensors = {f"x{i}": Tensor(f"x{i}", (1, WIDTH), "float32") for i in range(LAYERS + 1)}
    nodes = []
    for i in range(LAYERS):
        weight = np.full((WIDTH, WIDTH), i, np.float32)
        tensors[f"w{i}"] = constant(f"w{i}", weight)
        nodes.append(Node("FULLY_CONNECTED", (f"x{i}", f"w{i}"), (f"x{i + 1}",)))
    save(Model((Graph("main", ("x0",), (f"x{LAYERS}",), tuple(nodes), tensors),)), path)
    assert path.stat().st_size > LAYERS * 4 * MIB
    yield path
    path.unlink()


def owner(array: np.ndarray) -> object:
    """Returns the object whose memory an array shows."""
    found: object = array
    while found is not None and not isinstance(found, mmap.mmap):
        found = found.obj if isinstance(found, memoryview) else getattr(found, "base", None)
    return found


def test_constants_show_the_mapped_file(large: Path) -> None:
    model = read(large)
    for i in range(LAYERS):
        tensor = model.main.tensors[f"w{i}"]
        assert tensor.data is not None
        assert isinstance(owner(tensor.data), mmap.mmap)
        assert isinstance(owner(tensor.array), mmap.mmap)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="read-only"):
            tensor.data[0] = 1


def test_reading_allocates_next_to_nothing(large: Path) -> None:
    tracemalloc.start()
    try:
        model = read(large)
        assert model.main.tensors["w3"].array[0, 0] == 3  # type: ignore[index]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_reading_loads_next_to_nothing(large: Path) -> None:
    code = """
import resource, sys
from featherweight import tflite
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = tflite.read(sys.argv[1])
print(len(model.main.nodes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(large)], capture_output=True, text=True, check=True)
    nodes, grown = map(int, done.stdout.split())
    assert nodes == LAYERS
    assert grown * (1 if sys.platform == "darwin" else 1024) < 20 * MIB


def test_saving_does_not_copy_the_constants(large: Path, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        save(read(large), tmp_path / "copy.tflite")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert (tmp_path / "copy.tflite").stat().st_size == large.stat().st_size
    assert (tmp_path / "copy.tflite").read_bytes() == large.read_bytes()


def test_a_file_may_be_replaced_by_what_was_read_from_it(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "model.tflite"
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    save(Model((Graph("main", (), ("w",), (), {"w": constant("w", weight)}),)), path)
    model = read(path)
    save(model, path)
    for source in (model, read(path)):
        np.testing.assert_array_equal(source.main.tensors["w"].array, weight)


def test_released_pages_come_back_unchanged(large: Path) -> None:
    model = read(large)
    tensor = model.main.tensors["w7"]
    release_pages(tensor.data)
    assert tensor.array is not None
    assert (tensor.array == 7).all()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what is mapped")
def test_writing_leaves_no_constant_of_a_mapped_file_in_memory(large: Path) -> None:
    model = read(large)
    assert all(np.asarray(model.main.tensors[f"w{i}"].array).any() for i in range(1, LAYERS))
    assert resident_bytes(large) > 90 * MIB
    assert len(write(model)) > 100 * MIB
    assert resident_bytes(large) < MIB


def resident_bytes(path: Path) -> int:
    """Returns how much of a mapped file is in memory."""
    mapped = rf"^\S+ .*{re.escape(path.name)}\n(?:\S+: .*\n)*?Rss: +(\d+) kB"
    return 1024 * sum(map(int, re.findall(mapped, Path("/proc/self/smaps").read_text(), re.MULTILINE)))


def test_an_array_outside_is_the_same_and_its_pages_can_be_released() -> None:
    array = np.arange(MIB, dtype=np.float32).reshape(1024, 1024)
    kept = outside(array)
    release_pages(kept)
    np.testing.assert_array_equal(kept, array)
    assert isinstance(owner(kept), mmap.mmap)
    small = np.zeros(3, np.float32)
    assert outside(small) is small


def test_releasing_what_is_not_mapped_does_nothing() -> None:
    release_pages(None)
    array = np.ones(10_000, np.uint8)
    release_pages(array)
    assert array.all()
    model = read(write(Model((Graph("main", (), ("w",), (), {"w": constant("w", np.ones(9999, np.float32))}),))))
    release_pages(model.main.tensors["w"].data)
    assert (model.main.tensors["w"].array == 1).all()  # type: ignore[union-attr]


def test_page_sizes_are_what_release_pages_expects() -> None:
    assert resource.getpagesize() == mmap.PAGESIZE
