"""Files are written whole or not at all; what was there before stays."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.tflite.files import dense_model, plain

from featherweight.errors import FeatherweightError, FormatError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.tflite import read, save, write, write_atomically

OLD = b"the file that was there"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path at which a file lies already."""
    path = tmp_path / "model.tflite"
    path.write_bytes(OLD)
    return path


def test_what_is_saved_is_what_write_returns(path: Path) -> None:
    model = dense_model()
    assert save(model, path) == path.stat().st_size
    assert path.read_bytes() == write(model)
    assert plain(read(path)) == plain(read(write(model)))
    assert os.listdir(path.parent) == ["model.tflite"]


def test_a_path_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(dense_model(), "model.tflite")
    assert (tmp_path / "model.tflite").is_file()


def test_constants_after_the_flatbuffer(path: Path) -> None:
    save(dense_model(), path, inline_limit_bytes=0)
    assert path.read_bytes() == write(dense_model(), inline_limit_bytes=0)


def test_constants_without_elements_are_saved(path: Path) -> None:
    empty = constant("w", np.zeros((0, 3), np.float32))
    save(Model((Graph("main", (), ("w",), (), {"w": empty}),)), path)
    assert read(path).main.tensors["w"].shape == (0, 3)


def test_permissions_are_those_of_a_new_file(path: Path) -> None:
    umask = os.umask(0o027)
    try:
        save(dense_model(), path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def chunks_that_fail(error: BaseException) -> Iterator[bytes]:
    yield b"x" * 1_000_000
    raise error


def test_a_full_disk(path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = (
        rf"^'{path}' can't be written: No space left on device\. Nothing was changed; choose another path or make room"
    )
    with pytest.raises(FeatherweightError, match=message):
        write_atomically(path, chunks_that_fail(error))
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["model.tflite"]


def test_a_full_disk_is_noticed_when_the_file_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FeatherweightError, match="can't be written: No space left on device"):
        save(dense_model(), path)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["model.tflite"]


def test_the_file_is_synced_before_it_takes_the_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names))[1])
    save(dense_model(), path)
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), FormatError("model")])
def test_other_failures_leave_the_old_file_too(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_atomically(path, chunks_that_fail(error))
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["model.tflite"]


def test_a_model_that_can_not_be_written(path: Path) -> None:
    graph = Graph("main", (), (), (Node("NEG", ("x",), ("y",)),), {"y": Tensor("y", (1,), "float32")})
    with pytest.raises(FormatError, match="refers to the tensor 'x'"):
        save(Model((graph,)), path)
    assert path.read_bytes() == OLD
    assert os.listdir(path.parent) == ["model.tflite"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(FeatherweightError, match=r"can't be written: Is a directory\. Nothing was changed"):
        save(dense_model(), tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.tflite"
    with pytest.raises(
        FeatherweightError, match=rf"^'{path}' can't be written: No such file or directory\. Nothing was"
    ):
        save(dense_model(), path)
    assert not (tmp_path / "missing").exists()


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(FeatherweightError, match="can't be written: Permission denied"):
            save(dense_model(), path)
        assert path.read_bytes() == OLD
    finally:
        path.parent.chmod(0o700)


def test_a_refused_temporary_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkstemp(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", mkstemp)
    with pytest.raises(
        FeatherweightError, match=rf"^'{path}' can't be written: Permission denied\. Nothing was changed"
    ):
        save(dense_model(), path)
    assert path.read_bytes() == OLD


def test_a_special_file_can_not_be_replaced() -> None:
    with pytest.raises(FeatherweightError, match="can't be written"):
        save(dense_model(), "/proc/model.tflite")


def test_a_killed_run_leaves_the_old_file(path: Path) -> None:
    code = """
import sys, time
from featherweight.tflite import write_atomically
def chunks():
    yield b"x" * 1000
    print("writing", flush=True)
    time.sleep(60)
write_atomically(sys.argv[1], chunks())
"""
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == OLD


def test_readers_see_the_old_file_or_the_new_one(path: Path) -> None:
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        yield b"new"
        seen.append(path.read_bytes())
        yield b" file"

    write_atomically(path, chunks())
    assert seen == [OLD]
    assert path.read_bytes() == b"new file"
