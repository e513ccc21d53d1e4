"""Proof sheets: every runtime against the reference kernels, and what happens where one differs, refuses or aborts."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests import building, models

import featherweight as fw
from featherweight.processes.apart import last_words
from featherweight.proof import proving, running
from featherweight.proof.rows import mismatch
from featherweight.runtime import reference


@pytest.fixture(scope="module")
def model():
    return fw.quantize(
        models.lowered("convnet"), calibration=models.samples("convnet"), io="int8", progress=False
    ).model


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("proof") / "net.tflite"
    fw.save(model, file)
    return file


@pytest.fixture(scope="module")
def sheet(path):
    return fw.prove(path, samples=models.samples("convnet", 3), vectors=3)


def row(sheet, name):
    (found,) = [each for each in sheet.rows if each.runtime == name]
    return found


def test_every_runtime_computes_what_the_reference_kernels_do(sheet, path):
    assert sheet.is_proven, str(sheet)
    for name in ("xnnpack", "builtin", "reference", "tflm"):
        assert row(sheet, name).status == "equal"
        assert [each.elements for each in row(sheet, name).outputs] == [30]
        assert row(sheet, name).from_target is not None
    for name in ("builtin", "reference", "tflm"):
        assert len(row(sheet, name).tensors) == 12
    assert row(sheet, "xnnpack").is_target
    assert row(sheet, "vela").status == "accepted"
    assert not row(sheet, "openvino").is_claimed
    assert sheet.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sheet.file_bytes == path.stat().st_size


def test_vectors_are_what_the_samples_say(sheet, path):
    again = fw.prove(path, samples=models.samples("convnet", 3), vectors=3, runtimes=["builtin"])
    assert again.vectors_sha256 == sheet.vectors_sha256
    other = fw.prove(path, vectors=3, runtimes=["builtin"])
    assert (other.vectors, other.file_sha256) == (3, sheet.file_sha256)
    assert other.vectors_sha256 != sheet.vectors_sha256


def test_a_wrong_integer_is_found_where_it_arises(model, monkeypatch):
    """The reference kernels are made wrong in one tensor's values, as a runtime's kernel would be."""
    wrong = model.main.nodes[3].outputs[0]
    right = reference.run_reference

    def off_by_one(*arguments, **options):
        found = right(*arguments, **options)
        return {name: array + (name == wrong) * np.int8(1) for name, array in found.items()}

    monkeypatch.setattr(proving, "run_reference", off_by_one)
    sheet = fw.prove(model, vectors=2, runtimes=["builtin"], target="tflm")
    builtin = row(sheet, "builtin")
    assert builtin.status == "differs"
    assert builtin.is_failure
    assert builtin.first.name == wrong
    assert (builtin.first.differing, builtin.first.largest) == (builtin.first.elements, 1)
    assert not sheet.is_equal
    assert wrong in sheet.verdict
    assert wrong in str(sheet)


def test_a_runtime_that_aborts_is_a_row_that_says_so(model, monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import os, sys\nprint('last words', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(running.worker, "__file__", str(worker))
    sheet = fw.prove(model, vectors=1, runtimes=["xnnpack", "tflm"])
    for name in ("xnnpack", "tflm"):
        assert row(sheet, name).status == "aborted"
        assert "SIGABRT. last words" in row(sheet, name).said
    assert row(sheet, "xnnpack").is_failure
    assert not row(sheet, "tflm").is_failure
    assert "aborted" in sheet.verdict


def test_what_is_not_installed_is_said_and_proves_nothing(model, monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import sys\nprint(\"No module named 'x'\", file=sys.stderr)\nsys.exit(64)\n")
    monkeypatch.setattr(running.worker, "__file__", str(worker))
    sheet = fw.prove(model, vectors=1, runtimes=["xnnpack"])
    assert row(sheet, "xnnpack").status == "not installed"
    assert sheet.is_equal
    assert not sheet.is_proven
    assert "not installed" in sheet.verdict


def test_a_runtime_that_leaves_outputs_out_is_a_row_that_says_so():
    """OpenVINO gives no output that is a constant; the others do."""
    computed = [building.unary("RELU", "x", "y", (1, 4))]
    net = building.net({"x": (1, 4)}, {"c": np.float32([[1, 2]])}, computed, ["c", "y"])
    sheet = fw.prove(net, vectors=1, runtimes=["builtin", "tflm", "openvino"])
    assert [row(sheet, name).status for name in ("builtin", "tflm")] == ["equal", "equal"]
    assert row(sheet, "openvino").status == "refused"
    assert "it gives 1 outputs of 2" in row(sheet, "openvino").said


def test_a_model_that_a_runtime_refuses(tmp_path):
    """TFLite Micro has no ATAN2: its refusal counts where it is the target's runtime only."""
    net = building.model_of("ATAN2", {"x": (1, 4), "y": (1, 4)}, {"z": (1, 4)})
    sheet = fw.prove(net, vectors=1, runtimes=["builtin", "tflm"])
    assert row(sheet, "tflm").status == "refused"
    assert "ATAN2" in row(sheet, "tflm").said
    assert sheet.is_equal
    assert not fw.prove(net, vectors=1, runtimes=["tflm"], target="tflm").is_equal


@pytest.mark.skipif(
    shutil.which("tosa_reference_model") is None,
    reason="needs tosa-converter-for-tflite and tosa-tools, in an environment of their own, on the PATH",
)
def test_arms_reference_model_of_tosa_computes_the_same(tmp_path):
    """What comes from Keras, with a note of its converter, too."""
    made = fw.quantize(models.lowered("convnet"), calibration=models.samples("convnet"), target="tflm", progress=False)
    noted = replace(made.model, metadata={"keep_stablehlo_constant": b"true"})
    sheet = fw.prove(noted, vectors=2, runtimes=["tosa"], target="tflm")
    assert [each.differing for each in row(sheet, "tosa").outputs] == [0], str(sheet)


def test_what_vela_said_is_said_whole():
    """A HARD_SWISH in floats is refused, and int4 kills it."""
    swish = building.model_of("HARD_SWISH", {"x": (1, 4)}, {"y": (1, 4)})
    refused = row(fw.prove(swish, vectors=1, runtimes=["vela"], target="ethos-u55"), "vela")
    assert (refused.status, refused.is_failure) == ("refused", True)
    assert "IFM type=FLOAT32" in refused.said
    assert refused.said.startswith("RuntimeError: Compilation failed")


def test_floats_are_compared_for_information():
    sheet = fw.prove(models.lowered("convnet"), vectors=1, runtimes=["xnnpack"])
    assert not row(sheet, "xnnpack").is_claimed
    assert row(sheet, "xnnpack").is_target
    assert not sheet.is_proven
    assert any("floats are computed by" in note for note in sheet.notes)
    assert "of 1 runtimes computed the reference kernels' outputs, for information" in sheet.verdict
    assert sheet.is_equal


def test_state_begins_anew_with_every_vector(tmp_path):
    handle = fw.Tensor("h", (), "resource")
    value = fw.Tensor("v", (1, 4), "int32")
    layers = [
        building.layer("VAR_HANDLE", (), {"h": handle}, container=b"", shared_name=b"s"),
        building.layer("CALL_ONCE", (), {}, init_subgraph_index=1),
        building.layer("READ_VARIABLE", ("h",), {"v": value}),
        building.layer("ADD", ("v", "x"), {"y": fw.Tensor("y", (1, 4), "int32")}, fused_activation_function="NONE"),
        building.layer("ASSIGN_VARIABLE", ("h", "y"), {}),
    ]
    init = [
        building.layer("VAR_HANDLE", (), {"g": fw.Tensor("g", (), "resource")}, container=b"", shared_name=b"s"),
        building.layer("ASSIGN_VARIABLE", ("g", "c"), {}),
    ]
    main = building.net({"x": fw.Tensor("x", (1, 4), "int32")}, {}, layers, ("y",))
    first = building.net({}, {"c": np.full((1, 4), 5, np.int32)}, init, ())
    sheet = fw.prove(building.of_graphs(main=main, first=first), vectors=3, runtimes=["builtin", "tflm"], target="tflm")
    assert [each.status for each in sheet.rows] == ["ran", "equal", "equal"], str(sheet)
    assert not any("signatures" in note for note in sheet.notes)


def test_signatures_that_are_not_run_are_said(tmp_path):
    one, other = (
        building.net({n: (1, 4)}, {}, [building.unary("ABS", n, f"{n}/y", (1, 4))], (f"{n}/y",)) for n in "xz"
    )
    signatures = [
        fw.Signature(key, ((n, n),), (("y", f"{n}/y"),), graph)
        for graph, (key, n) in enumerate((("run", "x"), ("more", "z")))
    ]
    model = replace(building.of_graphs(main=one, more=other), signatures=tuple(signatures))
    assert "other signatures were not run: more" in fw.prove(model, vectors=1, runtimes=["builtin"]).notes
    (note,) = fw.deploy(model, tmp_path, tests=1).notes
    assert note.startswith("TFLite Micro runs the first graph only: without signatures more, ")


def test_the_sheet_is_written_in_three_forms(sheet, tmp_path):
    for suffix in ("json", "txt", "html"):
        sheet.save(tmp_path / f"proof.{suffix}")
    said = json.loads((tmp_path / "proof.json").read_text())
    assert said == json.loads(json.dumps(sheet.to_json()))
    assert said["is_proven"] is True
    page = (tmp_path / "proof.html").read_text()
    assert sheet.file_sha256 in page
    assert sheet.file_sha256 in (tmp_path / "proof.txt").read_text()
    with pytest.raises(fw.FeatherweightError, match="suffix"):
        sheet.save(tmp_path / "proof.pdf")


@pytest.mark.parametrize("runtimes", [["nonsense"], []])
def test_runtimes_that_there_are_not(model, runtimes):
    with pytest.raises(fw.RecipeError, match=r"prove: runtimes is (nonsense|empty) .allowed: xnnpack"):
        fw.prove(model, runtimes=runtimes)


@pytest.mark.parametrize(
    ("found", "wanted", "differing", "largest"),
    [
        (np.int8([1, 2]), np.int8([1, 2]), 0, 0),
        (np.int8([-128, 2]), np.int8([127, 2]), 1, 255),
        (np.float32([np.nan, 1]), np.float32([np.nan, 1]), 0, 0),
        (np.float32([np.nan, 1]), np.float32([0, 1]), 1, np.inf),
        (np.int16([1, 2]), np.int8([1, 2]), 2, 0),
        (np.int8([[1, 2]]), np.int8([1, 2]), 0, 0),
        (np.int8([1]), np.int8([1, 2]), 2, 0),
    ],
)
def test_what_counts_as_a_mismatch(found, wanted, differing, largest):
    row = mismatch("t", [found], [wanted])
    assert (row.elements, row.differing, row.largest) == (wanted.size, differing, largest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Traceback (most recent call last):\n  File 'x'\nValueError: no\nmore of it\n", "ValueError: no more of it"),
        ("INFO: hello\n\nERROR: bad op\n", "ERROR: bad op"),
        ("", ""),
    ],
)
def test_last_words_are_what_was_raised(text, words):
    assert last_words(text) == words


def test_worker_says_what_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    np.savez(tmp_path / "given.npz", np.zeros(1))
    wish = json.dumps({"sets": 1, "outputs": 1, "tensors": []})
    given, taken = str(tmp_path / "given.npz"), str(tmp_path / "taken.npz")
    assert running.worker.main("openvino", "m.tflite", given, taken, wish) == running.worker.NOT_INSTALLED
