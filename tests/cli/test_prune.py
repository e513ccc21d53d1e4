"""`featherweight prune`: what it writes and prints, and how it fails."""

from __future__ import annotations

import json

import numpy as np
from tests.cli.calling import call, ok, paragraph

from featherweight import tflite


def test_zeros_are_written_and_counted(folder) -> None:
    said = ok("prune", "model.tflite", "-o", "pruned.tflite", "--sparsity", "0.5", "--rule", "*=0.5")
    assert "of all weights are zero" in said
    found = json.loads(
        ok("prune", "model.tflite", "-o", "p.tflite", "--sparsity", "0.5", "--method", "sparsegpt",
           "--calibration", "unlabelled.npy", "--json")
    )  # fmt: skip
    graph = tflite.read("p.tflite").main
    assert {row["method"] for row in found["kernels"]} <= {"", "sparsegpt"}
    for row in found["kernels"]:
        assert np.count_nonzero(graph.tensors[row["name"]].array == 0) == row["zeros"]
    assert found["file_bytes"] == (folder / "p.tflite").stat().st_size


def test_zeros_are_left_out_of_the_file(folder) -> None:
    call_ = ("prune", "model.tflite", "--sparsity", "0.9", "--rule", "*=0.9", "--json")
    dense = json.loads(ok(*call_, "-o", "dense.tflite"))
    sparse = json.loads(ok(*call_, "-o", "sparse.tflite", "--store", "sparse"))
    assert {row["name"] for row in sparse["stored"]} >= {row["name"] for row in sparse["kernels"]}
    assert sparse["file_bytes"] <= dense["file_bytes"]
    before = sparse["dense_file_bytes"], sparse["dense_compressed_bytes"]
    assert before == (dense["file_bytes"], dense["compressed_bytes"])
    fast = json.loads(ok(*call_, "-o", "fast.tflite", "--store", "fast"))
    assert all(bool(row["block"]) == (row["milliseconds"] is not None and not row["reason"]) for row in fast["stored"])
    said = " ".join(ok(*call_[:-1], "-o", "sparse.tflite", "--store", "sparse").split())
    assert f"The whole file, zeros stored → left out: {before[0]:,} → {sparse['file_bytes']:,} bytes" in said
    assert f"compressed: {before[1]:,} → {sparse['compressed_bytes']:,} bytes." in said
    ok("inspect", "sparse.tflite")


def test_the_conditions_of_a_target_are_met_or_named(folder) -> None:
    from tests import models

    tflite.save(models.lowered("depthwise"), "net.tflite")
    command = ("prune", "net.tflite", "-o", "arm.tflite", "--store", "sparse", "--target", "litert-arm", "--sparsity")
    ok(*command, "0.8")
    assert "runs on litert-arm: no violations." in ok("check", "arm.tflite", "--target", "litert-arm")
    (found,) = json.loads(ok(*command, "0.6", "--json"))["violations"]
    assert "weights of the 1×1 convolutions are 0" in found["message"]
    assert "Conditions of the target that are missed" in ok(*command, "0.6")
    result = call("check", "net.tflite", "--target", "litert-arm")
    assert result.exit_code == 1
    assert "its padding is SAME with stride 2×2" in " ".join(result.stdout.split())


def test_channels_are_taken_out(folder) -> None:
    from tests import models

    tflite.save(models.lowered("convnet"), "convnet.tflite")
    command = ("prune", "convnet.tflite", "-o", "small.tflite", "--sparsity", "0.5", "--pattern", "channel")
    assert "multiply-accumulates are left" in ok(*command)
    found = json.loads(ok(*command, "--json"))
    assert found["file_bytes"] == (folder / "small.tflite").stat().st_size < (folder / "convnet.tflite").stat().st_size
    assert found["macs"][1] < found["macs"][0]
    assert any(group["after"] < group["before"] for group in found["groups"])
    result = call(*command, "--method", "wanda")
    assert result.exit_code == 2
    assert "channels go by magnitude" in " ".join(result.stderr.split())


def test_failures(folder) -> None:
    out = ("-o", "p.tflite")
    assert "a fraction of zeros in [0, 1), not 2" in paragraph(call("prune", "model.tflite", *out, "--sparsity", "2"))
    said = paragraph(call("prune", "model.tflite", *out, "--sparsity", "0.5", "--method", "wanda"))
    assert "pass calibration samples" in said
    result = call("prune", "model.tflite", *out, "--sparsity", "0.5", "--rule", "dense")
    assert result.exit_code == 2
    assert "'dense' is no PATTERN=SPARSITY" in " ".join(result.stderr.split())
    assert not (folder / "p.tflite").exists()


def test_rules_give_kernels_their_own_number_of_values(folder) -> None:
    command = ("cluster", "model.tflite", "-o", "c.tflite", "--clusters", "4")
    kernels = json.loads(ok(*command, "--json"))["kernels"]
    name = next(row["name"] for row in kernels if row["levels"])
    found = {row["name"]: row for row in json.loads(ok(*command, "--rule", f"{name}=6", "--json"))["kernels"]}
    assert len(found[name]["levels"]) == 6
    result = call(*command, "--rule", f"{name}=few")
    assert result.exit_code == 2
    assert "is no PATTERN=VALUES, such as" in " ".join(result.stderr.split())
    assert "rules is" in paragraph(call(*command, "--rule", f"{name}=3"))
