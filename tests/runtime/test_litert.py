from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.runtime import tiny

import featherweight as fw
from featherweight import tflite
from featherweight.errors import DataError, FeatherweightError, FormatError, RecipeError, UnsupportedOp
from featherweight.runtime import Session, run

X = np.array([[1, -2, 3]], np.float32)
Z = [[[1, 0], [3, 7]]]


@pytest.mark.parametrize("form", ["model", "bytes", "path", "str"])
def test_a_model_its_bytes_and_its_path_run_alike(form, tmp_path):
    model, path = tiny.dense(), tmp_path / "m.tflite"
    tflite.save(model, path)
    source = {"model": model, "bytes": path.read_bytes(), "path": path, "str": str(path)}[form]
    assert run(source, X).tolist() == Z


@pytest.mark.parametrize("resolver", ["auto", "no_delegate", "reference"])
def test_resolvers(resolver):
    assert run(tiny.dense(), X, resolver=resolver, threads=1).tolist() == Z


def test_several_outputs_come_by_name_in_the_models_order():
    a, b = np.array([[1, 2]], np.float32), np.array([[5, 7]], np.float32)
    for inputs in ((a, b), {"b": b, "a": a}, [a[0], b[0]]):
        outputs = fw.run(tiny.two_inputs(), inputs)
        assert list(outputs) == ["s", "p"]
        assert outputs["s"].tolist() == [[4, 5]]
        assert outputs["p"].tolist() == [[5, 14]]
    assert list(fw.run(tiny.two_inputs(signature=True), (a, b))) == ["out_s", "out_p"]


def test_free_batch_resizes_only_when_the_shape_changes():
    with Session(tiny.dense(free=True)) as session:
        allocations = []
        allocate = session._interpreter.allocate_tensors
        session._interpreter.allocate_tensors = lambda: (allocations.append(1), allocate())
        for batch in (1, 3, 3, 3, 2):
            assert session.run(np.repeat(X, batch, axis=0))["z"].tolist() == Z * batch
    assert len(allocations) == 2


def test_fixed_batch_runs_larger_ones_in_parts_and_refuses_what_does_not_divide():
    assert run(tiny.dense(2), np.repeat(X, 4, axis=0)).tolist() == Z * 4
    with pytest.raises(DataError, match="a batch of 3 does not fit the model's fixed batch of 2; give a multiple"):
        run(tiny.dense(2), np.repeat(X, 3, axis=0))


def test_integer_inputs_stay_integers():
    y = run(tiny.integers("int32"), np.array([1, 2, 3]))
    assert (y.dtype, y.tolist()) == (np.int32, [[2, 4, 6]])


def test_loops_and_outputs_of_dynamic_size():
    assert run(tiny.loop(), np.array([3], np.float32)).tolist() == [192]
    with Session(tiny.dynamic()) as session:
        assert session.run(np.array([0, 1, 0, 1], np.float32))["where"].tolist() == [[1], [3]]
        assert session.run(np.zeros(4, np.float32))["where"].shape == (0, 1)
        assert session.run(np.ones(4, np.float32))["where"].shape == (4, 1)


def test_other_tensors_as_outputs_and_views():
    with Session(tiny.dense(signature=True), outputs=["y"]) as session:
        assert session.run({"in_x": X})["y"].tolist() == [[1, 0, 3, 7]]
        view = session.view("y")
        assert view.tolist() == [[1, 0, 3, 7]]
        del view
        session.invoke({"in_x": -X})
        assert session.read("y").tolist() == [[0, 2, 0, 0]]
    with pytest.raises(RecipeError, match="tensor 'nothing' is not computed by the model's main graph"):
        Session(tiny.dense(), outputs=["nothing"])


def test_run_lets_infinity_pass_because_masks_need_it():
    assert run(tiny.two_inputs(), (np.full((1, 2), np.inf), np.ones((1, 2))))["p"].tolist() == [[np.inf] * 2]


def test_errors_name_what_failed(tmp_path):
    whole = tiny.unary("NEG")
    broken = replace(whole, graphs=(replace(whole.main, nodes=()),))
    custom = tiny.unary("CUSTOM")
    object.__setattr__(custom.main.nodes[0], "custom_code", "Unheard")
    with pytest.raises(FeatherweightError, match=r"LiteRT can't load the model: .*Unheard"):
        Session(custom)
    with pytest.raises(FormatError, match="it is empty"):
        Session(b"")
    with pytest.raises(FormatError, match=r"can't be read: No such file"):
        Session(tmp_path / "none.tflite")
    truncated = tflite.write(tiny.dense())[:200]
    with pytest.raises(FormatError, match="damaged or truncated"):
        Session(truncated)
    with pytest.raises(
        RecipeError, match=re.escape("resolver 'fast' is unknown (allowed: auto, no_delegate, reference)")
    ):
        Session(broken, resolver="fast")
    with pytest.raises(RecipeError, match="threads is 0; it must be at least 1"):
        Session(broken, threads=0)
    with pytest.raises(RecipeError, match="runtime 'tpu' is unknown"):
        run(broken, X, runtime="tpu")
    with Session(tiny.dense()) as session:
        pass
    with pytest.raises(FeatherweightError, match="the session is closed"):
        session.run(X)


def test_a_failed_resize_is_reported_and_forgotten():
    fixed_inside = tiny.dense(free=True)
    shape = fixed_inside.main.tensors["shape"]
    fixed = np.frombuffer(np.array([1, 2, 2], np.int32).tobytes(), np.uint8)
    object.__setattr__(shape, "data", fixed)
    with Session(fixed_inside) as session:
        with pytest.raises(
            FeatherweightError, match=r"LiteRT can't resize the inputs to x: \[3, 3\]: .*failed to reshape"
        ):
            session.run(np.repeat(X, 3, axis=0))
        assert session.run(X)["z"].tolist() == Z


def test_the_reference_softmax_that_aborts_is_refused():
    model = tiny.unary("SOFTMAX", (1, 512), beta=1.0)
    for tensor in model.main.tensors.values():
        object.__setattr__(tensor, "dtype", "int8")
    with pytest.raises(UnsupportedOp, match="SOFTMAX 'y': LiteRT's int8 reference kernel can abort the process"):
        Session(model, resolver="reference")


def test_nothing_but_real_messages_reaches_the_terminal(tmp_path):
    path = tmp_path / "m.tflite"
    tflite.save(tiny.dense(), path)
    script = (
        "import sys, os, numpy as np; from featherweight.runtime import run, litert\n"
        "with litert._without_notice(): os.write(2, b'a real message\\n')\n"
        f"run({str(path)!r}, np.zeros((1, 3), np.float32)); print('after', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines() == ["a real message", "after"]
