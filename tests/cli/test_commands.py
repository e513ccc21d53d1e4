"""Every command in this process, on small models: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.cli.calling import call, files, ok, paragraph

from featherweight import tflite

COMMANDS = (
    "demo",
    "inspect",
    "lower",
    "quantize",
    "train",
    "prune",
    "cluster",
    "compare",
    "diagnose",
    "evaluate",
    "benchmark",
    "check",
    "curve",
    "sensitivity",
    "search",
    "optimize",
    "encode",
    "deploy",
    "prove",
    "recipes",
    "targets",
    "schema",
)


def usage(result):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


# ------------------------------------------------------------------------------------------------------------ help


def test_help_lists_the_commands_in_the_order_of_use():
    text = ok("--help")
    positions = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert positions == sorted(positions)
    assert "..." not in text.split("Commands:")[1]  # every summary fits its line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = ok(name, "--help")
    assert f"Example:\n    featherweight {name}" in text


def test_version():
    assert ok("--version").startswith("featherweight ")


def test_an_unknown_command_is_a_usage_error():
    assert "No such command 'shrink'" in usage(call("shrink"))


# --------------------------------------------------------------------------------------------------------- listings


def test_recipes_and_targets():
    recipes, targets = ok("recipes"), ok("targets")
    for name in ("float16", "dynamic", "weights8", "weights4", "int8", "int16x8", "w4a8"):
        assert f"\n {name} " in recipes
    for name in (
        "litert",
        "tflm",
        "ethos-u55",
        "ethos-u65",
        "ethos-u85",
        "int8-per-tensor",
        "power-of-two",
        "litert-arm",
    ):
        assert f"\n {name} " in targets
    assert {row["name"] for row in json.loads(ok("recipes", "--json"))["recipes"]} >= {"int8", "w4a8"}
    assert all(row["description"] for row in json.loads(ok("targets", "--json"))["targets"])


# --------------------------------------------------------------------------------------------------------- quantize


def test_quantize_writes_model_plan_and_report(folder):
    text = ok(
        "quantize",
        "model.tflite",
        "-o",
        "q.tflite",
        "--calibration",
        "data.npz",
        "--plan-out",
        "p.json",
        "--report",
        "r.json",
    )
    size = os.path.getsize("q.tflite")
    assert f"q.tflite: {size:,} bytes" in text
    assert "Operators: 2 integer, 2 conversion." in text
    table = json.loads(Path("r.json").read_text())
    assert table["after"]["file_bytes"] == size
    assert {row["name"] for row in table["errors"]} >= {"scores", "hidden", "one/kernel"}
    ok("quantize", "model.tflite", "-o", "again.tflite", "--plan-in", "p.json")
    assert Path("again.tflite").read_bytes() == Path("q.tflite").read_bytes()


def test_quantize_says_what_the_file_scores_on_other_samples(folder):
    common = ("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "unlabelled.npy")
    text = ok(*common, "--data", "data.npz", "--report", "r.json")
    table = json.loads(Path("r.json").read_text())
    before, after = table["evaluations"]["float"], table["evaluations"]["int8"]
    assert after.items() <= json.loads(ok("evaluate", "q.tflite", "--data", "data.npz", "--json")).items()
    assert before["value"] == json.loads(ok("evaluate", "model.tflite", "--data", "data.npz", "--json"))["value"]
    assert table["difference"]["value"] == pytest.approx(after["value"] - before["value"])
    assert ", of the float model " in " ".join(text.split())
    assert "agreement" in ok(*common, "--data", "unlabelled.npy")
    none = usage(call(*common, "--metric", "mse"))
    assert "it has no effect without --data" in none
    assert "has no labels, which mse needs" in call(*common, "--data", "unlabelled.npy", "--metric", "mse").stderr


def test_quantize_options_reach_the_work(folder):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "unlabelled.npy", "--io", "int8", "--strict")
    graph = tflite.read("q.tflite").main
    assert graph.tensors[graph.inputs[0]].dtype == "int8"
    ok("quantize", "model.tflite", "-o", "d.tflite", "--recipe", "dynamic", "--report", "r.txt", "--seed", "3")
    assert "recipe dynamic for target litert" in Path("r.txt").read_text()
    one = ok(
        "quantize", "model.tflite", "-o", "s.tflite", "--calibration", "data.npz", "--samples", "1", "--ranges", "mse"
    )
    assert "s.tflite" in one
    assert Path("s.tflite").read_bytes() != Path("q.tflite").read_bytes()


def test_quantize_says_what_stayed_float_and_why(folder):
    Path("r.toml").write_text('base = "int8"\n[[rule]]\nmatch = "hidden"\n')
    text = ok("quantize", "model.tflite", "-o", "q.tflite", "--recipe", "r.toml", "--calibration", "data.npz")
    assert "1 operator stays float" in text
    assert "hidden" in text
    message = paragraph(
        call(
            "quantize", "model.tflite", "-o", "s.tflite", "--recipe", "r.toml", "--calibration", "data.npz", "--strict"
        )
    )
    assert "strict: " in message
    assert "hidden" in message
    assert not Path("s.tflite").exists()


def test_quantize_equalizes_where_that_is_wished(folder):
    common = ("quantize", "model.tflite", "--calibration", "data.npz", "--target", "int8-per-tensor", "--plan-out")
    ok(*common, "plain.json", "-o", "plain.tflite")
    ok(*common, "even.json", "-o", "even.tflite", "--improve", "equalize")
    notes = [note for note in json.loads(Path("even.json").read_text())["notes"] if note.startswith("equalized")]
    assert len(notes) == 1
    assert "left alone: 'scores': " in notes[0] or "is an output of the model" in notes[0]
    assert Path("plain.tflite").read_bytes() != Path("even.tflite").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], r"Recipe 'int8' measures activation ranges: pass calibration samples"),
        (["--recipe", "int3"], "Unknown recipe 'int3'. Choose one of dynamic, float16"),
        (["--target", "toaster", "--recipe", "dynamic"], "Unknown target 'toaster'. Choose one of"),
        (["--calibration", "none.npz"], "Data 'none.npz': there is no such file"),
        (["--calibration", "data.npz", "--ranges", "guess"], "guess"),
        (["--plan-in", "none.json"], "Plan 'none.json' can't be read"),
        (["--calibration", "data.npz", "--preprocess", "1,0"], "--preprocess is for folders of images"),
        (["--calibration", "no.such:thing"], "the module 'no.such' can't be imported"),
    ],
)
def test_quantize_that_fails_writes_nothing(folder, args, message):
    before = files(folder)
    assert message in paragraph(call("quantize", "model.tflite", "-o", "q.tflite", *args))
    assert files(folder) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--improve", "wizardry"], "'wizardry' is no repair (allowed: auto, none, equalize"),
        (["--improve", "magic"], "'magic' is no repair (allowed: auto, none, equalize"),
        (["--samples", "3"], "--samples: it has no effect without --calibration. Leave it out."),
        (["--recurrent", "fused"], "--recurrent: it has no effect on a .tflite file"),
        (["--io", "int4"], "Invalid value for '--io'"),
        (["--report", "r.pdf"], "the suffix '.pdf' names no form of report (allowed: .json, .txt, .html)"),
        (["--samples", "0"], "Invalid value for '--samples'"),
        (["--plan-out", "q.tflite"], "'q.tflite' is named twice as an output"),
    ],
)
def test_quantize_usage_errors(folder, args, message):
    before = files(folder)
    assert message in usage(call("quantize", "model.tflite", "-o", "q.tflite", *args))
    assert files(folder) == before


def test_quantize_does_not_write_over_its_input(folder):
    before = Path("model.tflite").read_bytes()
    assert "is an input as well" in usage(
        call("quantize", "model.tflite", "-o", "./model.tflite", "--recipe", "dynamic")
    )
    assert Path("model.tflite").read_bytes() == before


def test_outputs_are_checked_before_the_work(folder, monkeypatch):
    from featherweight.tasks import load as loading
    from featherweight.tasks import quantize as pipeline

    def never(*args, **kwargs):
        raise AssertionError("worked before it knew that it can write")

    monkeypatch.setattr(pipeline, "quantize", never)
    monkeypatch.setattr(loading, "load_with_notes", never)
    for option, path, message in [
        ("-o", "none/q.tflite", "'none/q.tflite' can't be written: there is no folder 'none'"),
        ("-o", ".", "'.' can't be written: it is a folder"),
        ("-o", "/proc/q.tflite", "'/proc/q.tflite' can't be written"),
        ("--report", "none/r.html", "'none/r.html' can't be written: there is no folder 'none'"),
        ("--plan-out", "none/p.json", "'none/p.json' can't be written: there is no folder 'none'"),
    ]:
        args = ["-o", "q.tflite", option, path] if option != "-o" else [option, path]
        assert message in paragraph(call("quantize", "model.tflite", "--recipe", "dynamic", *args))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "'other.tflite' can't be read"),
        (b"", "'other.tflite' is not a .tflite model: it is empty"),
        (b"garbage, not a model", "'other.tflite' is not a .tflite model"),
        ("truncated", "'other.tflite' is damaged or truncated"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "quantize", "evaluate", "compare", "diagnose", "benchmark", "check"])
def test_models_that_are_none(folder, command, content, message):
    if content == "truncated":
        content = Path("model.tflite").read_bytes()[:300]
    if content is not None:
        Path("other.tflite").write_bytes(content)
    rest = {
        "quantize": ["-o", "q.tflite", "--recipe", "dynamic"],
        "evaluate": ["--data", "data.npz"],
        "compare": ["model.tflite", "--data", "data.npz"],
        "diagnose": ["--data", "data.npz"],
        "check": ["--target", "litert"],
    }
    assert message in paragraph(call(command, "other.tflite", *rest.get(command, [])))
    assert not Path("q.tflite").exists()


def test_an_old_output_survives_a_failure(folder):
    Path("q.tflite").write_bytes(b"precious")
    np.savez("nan.npz", x=np.full((4, 8), np.nan, np.float32))
    message = paragraph(call("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "nan.npz"))
    assert "NaN" in message
    assert Path("q.tflite").read_bytes() == b"precious"


# ---------------------------------------------------------------------------------------------------- looking, proof


def test_inspect(folder):
    text = ok("inspect", "model.tflite")
    size = os.path.getsize("model.tflite")
    assert f"{size:,} bytes, " in text
    assert "2 float: 2 of 2 operators compute with floats" in text
    assert "FULLY_CONNECTED" in text
    assert "any×8" in text
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "data.npz", "--io", "int8")
    text = ok("inspect", "q.tflite", "--rows", "2")
    assert "2 integer: integers from end to end\n" in text
    assert "5 more rows; --rows 0 shows all" in text
    table = json.loads(ok("inspect", "q.tflite", "--json"))
    assert table["is_integer"] is True
    assert table["size_bytes"] == os.path.getsize("q.tflite")
    assert len(table["tensors"]) == 7


def test_compare(folder):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "data.npz")
    text = ok("compare", "model.tflite", "q.tflite", "--data", "data.npz")
    ok("compare", "model.tflite", "q.tflite", "--data", "data.npz", "--report", "c.html")
    assert "<h1>q.tflite against model.tflite</h1>" in Path("c.html").read_text()
    both = ("--profile", "xnnpack", "--profile", "xnnpack", "--report", "c.html")
    assert "with --profile" in usage(call("compare", "q.tflite", "--data", "data.npz", *both))
    assert "q.tflite against model.tflite, worst first" in text
    assert "SQNR dB" in text
    rows = json.loads(ok("compare", "model.tflite", "q.tflite", "--data", "data.npz", "--json", "--samples", "8"))[
        "tensors"
    ]
    assert rows[0]["sqnr_db"] == min(row["sqnr_db"] for row in rows)
    assert next(row["count"] for row in rows if row["name"] == "scores") == 8 * 6
    same = json.loads(ok("compare", "model.tflite", "model.tflite", "--data", "data.npz", "--json"))["tensors"]
    assert {row["sqnr_db"] for row in same} == {None}  # infinite


def test_diagnose(folder):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "data.npz")
    text = ok("diagnose", "model.tflite", "q.tflite", "--data", "data.npz", "--report", "d.html", "--rows", "1")
    assert "Diagnosis of a quantized model against its float one" in text
    assert "Own errors, carried to the output, worst first" in text
    assert "… and 2 more" in text
    assert "<!doctype html>" in Path("d.html").read_text("utf-8")
    table = json.loads(ok("diagnose", "model.tflite", "q.tflite", "--data", "data.npz", "--json", "--samples", "8"))
    assert (table["version"], table["examples"]) == (1, 8)
    assert [output["name"] for output in table["outputs"]] == ["scores"]
    text = ok("diagnose", "model.tflite", "--data", "data.npz", "--recipe", "dynamic")
    assert "Diagnosis of recipe dynamic for target litert" in text
    idle = usage(call("diagnose", "model.tflite", "q.tflite", "--data", "data.npz", "--recipe", "int8"))
    assert "it has no effect beside QUANTIZED" in idle
    wrong = call("diagnose", "model.tflite", "--data", "data.npz", "--report", "d.pdf")
    assert "names no form of report" in usage(wrong)


def test_compare_in_two_profiles(folder):
    options = ["--calibration", "data.npz", "--target", "power-of-two"]
    ok("quantize", "model.tflite", "-o", "q.tflite", *options)
    both = ["--profile", "integer_multiplier", "--profile", "power_of_two"]
    text = ok("compare", "q.tflite", "--data", "data.npz", *both)
    assert "q.tflite in power_of_two against q.tflite in integer_multiplier, worst first" in text
    assert "differing" in text
    rows = json.loads(ok("compare", "q.tflite", "q.tflite", "--data", "data.npz", *both, "--json"))["tensors"]
    assert all(0 <= row["differing_fraction"] <= 1 for row in rows)
    text = ok("compare", "model.tflite", "q.tflite", "--data", "data.npz", *both)
    assert "q.tflite in power_of_two against model.tflite in integer_multiplier" in text
    assert "name a second model, or two profiles" in usage(call("compare", "q.tflite", "--data", "data.npz"))
    scored = json.loads(ok("evaluate", "q.tflite", "--data", "data.npz", "--profile", "power_of_two", "--json"))
    assert scored["count"] == 64
    message = paragraph(call("compare", "q.tflite", "--data", "data.npz", "--profile", "xnnpack"))
    assert "profiles names 1 (xnnpack); two are needed" in message


def test_evaluate(folder):
    assert ok("evaluate", "model.tflite", "--data", "data.npz") == "accuracy 1 ± 0 (64 examples)\n"
    table = json.loads(ok("evaluate", "model.tflite", "--data", "data.npz", "--metric", "top5", "--json"))
    stamp = {"schema": "featherweight.evaluate", "version": 1}
    assert table == {**stamp, "metric": "top5", "value": 1.0, "standard_error": 0.0, "count": 64}
    Path("own_metric_module.py").write_text("def half(y_true, y_pred):\n    return 0.5\n")
    assert ok("evaluate", "model.tflite", "--data", "data.npz", "--metric", "own_metric_module:half").startswith(
        "own_metric_module:half 0.5"
    )
    assert "has no labels" in paragraph(call("evaluate", "model.tflite", "--data", "unlabelled.npy"))
    assert "Unknown metric 'f1'" in paragraph(call("evaluate", "model.tflite", "--data", "data.npz", "--metric", "f1"))
    assert "Missing option '--data'" in usage(call("evaluate", "model.tflite"))


def test_benchmark(folder):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--recipe", "dynamic")
    text = ok("benchmark", "model.tflite", "q.tflite", "--runs", "3")
    assert "Latency in ms, 3 rounds, threads: 1" in text
    rows = json.loads(ok("benchmark", "model.tflite", "q.tflite", "--runs", "3", "--threads", "2", "--json"))["models"]
    assert [row["name"] for row in rows] == ["model.tflite", "q.tflite"]
    assert rows[0]["ratio"] == 1.0
    assert {row["threads"] for row in rows} == {2}


def test_check(folder):
    ok("quantize", "model.tflite", "-o", "q.tflite", "--calibration", "data.npz", "--io", "int8")
    assert "q.tflite runs on tflm: no violations." in ok("check", "q.tflite", "--target", "tflm")
    result = call("check", "model.tflite", "--target", "ethos-u55")
    assert result.exit_code == 1
    assert "violations of ethos-u55" in result.stdout
    assert "hidden" in result.stdout
    result = call("check", "model.tflite", "--target", "ethos-u55", "--json")
    assert result.exit_code == 1
    table = json.loads(result.stdout)
    assert table["target"] == "ethos-u55"
    assert {row["node"] for row in table["violations"]} == {"hidden", "logits"}
    assert "Unknown target 'toaster'" in paragraph(call("check", "model.tflite", "--target", "toaster"))


def test_lower_takes_no_tflite_file(folder):
    assert "is a .tflite file already" in usage(call("lower", "model.tflite", "-o", "out.tflite"))
    assert not Path("out.tflite").exists()


def test_lower_of_a_file_that_is_not_there(folder):
    assert "there is no such file" in paragraph(call("lower", "none.keras", "-o", "out.tflite"))
    assert files(folder) == ["data.npz", "model.tflite", "unlabelled.npy"]


# -------------------------------------------------------------------------------------------------------- accidents


def test_unexpected_errors_are_a_paragraph_too(folder, monkeypatch):
    from featherweight.tasks import quantize as pipeline

    def broken(*args, **kwargs):
        raise KeyError("inner\nworkings")

    monkeypatch.setattr(pipeline, "quantize", broken)
    message = paragraph(call("quantize", "model.tflite", "-o", "q.tflite", "--recipe", "dynamic"))
    assert message.startswith("featherweight: unexpected error: KeyError: ")
    assert "FEATHERWEIGHT_DEBUG=1" in message
    monkeypatch.setenv("FEATHERWEIGHT_DEBUG", "1")
    assert isinstance(call("quantize", "model.tflite", "-o", "q.tflite", "--recipe", "dynamic").exception, KeyError)


def test_a_missing_package_is_named(folder, monkeypatch):
    from featherweight.tasks import load as loading

    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'keras'", name="keras")

    monkeypatch.setattr(loading, "load_with_notes", missing)
    message = paragraph(call("lower", "model.keras", "-o", "q.tflite"))
    assert "the package 'keras' is not installed" in message


def test_interrupt(folder, monkeypatch):
    from featherweight.tasks import quantize as pipeline

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "quantize", interrupted)
    before = files(folder)
    message = paragraph(call("quantize", "model.tflite", "-o", "q.tflite", "--recipe", "dynamic"), code=130)
    assert message == "featherweight: interrupted. No file was left half-written."
    assert files(folder) == before


def test_demo_passes_its_options_on(folder, monkeypatch):
    from featherweight import demo

    monkeypatch.setattr(demo, "run", lambda out, seed: f"a table in {out} from seed {seed}")
    printed = ok("demo", "--out", "there", "--seed", "7")
    assert printed.startswith("a table in there from seed 7\n")
    assert printed.endswith("HTML and JSON: there\n")


def test_lower_takes_the_shapes_of_inputs_that_leave_sizes_free(folder):
    keras = pytest.importorskip("keras")
    x = keras.Input((None, 4), name="x")
    keras.Model(x, keras.layers.Dense(2)(x)).save("texts.keras")
    assert "--input-shape x=1,64" in paragraph(call("lower", "texts.keras", "-o", "t.tflite"))
    ok("lower", "texts.keras", "-o", "t.tflite", "--input-shape", "x=?,6,4")
    (tensor,) = (tflite.read("t.tflite").main.tensors[name] for name in tflite.read("t.tflite").main.inputs)
    assert (tensor.shape, tensor.shape_signature) == ((1, 6, 4), (-1, 6, 4))
    assert "FULLY_CONNECTED" in ok("inspect", "texts.keras", "--input-shape", "x=1,6,4")
    for wrong in ("6,4", "x=6,many", "x=0,4"):
        message = usage(call("lower", "texts.keras", "-o", "t.tflite", "--input-shape", wrong))
        assert "is no shape (allowed: NAME=SIZE,SIZE" in message
    message = paragraph(call("check", "model.tflite", "--target", "litert", "--input-shape", "x=1,4"))
    assert "input_shapes has no effect on 'model.tflite', which says its shapes" in message


def test_sizes_that_a_model_leaves_free_are_those_of_the_data(folder):
    keras = pytest.importorskip("keras")
    x = keras.Input((None, 4), name="x")
    keras.Model(x, keras.layers.Dense(2)(x)).save("texts.keras")
    np.save("texts.npy", np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32))
    printed = ok("quantize", "texts.keras", "-o", "q.tflite", "--calibration", "texts.npy")
    assert "Input 'x' leaves sizes free" in " ".join(printed.split())
    model = tflite.read("q.tflite")
    assert model.main.tensors[model.main.inputs[0]].shape_signature == (-1, 6, 4)
    ok("compare", "texts.keras", "q.tflite", "--data", "texts.npy")
    ok("prune", "texts.keras", "-o", "p.tflite", "--sparsity", "0.5", "--method", "wanda", "--calibration", "texts.npy")
    ok("quantize", "texts.keras", "-o", "q.tflite", "--calibration", "texts.npy", "--input-shape", "x=1,6,4")
    assert "--input-shape x=1,64" in paragraph(call("quantize", "texts.keras", "-o", "q.tflite", "--recipe", "dynamic"))


def test_search_writes_what_fits_and_exits_with_1_where_nothing_does(folder):
    common = ("search", "model.tflite", "-o", "chosen.tflite", "--calibration", "data.npz", "--min-sqnr")
    ok(*common, "10", "--plan-out", "chosen.json")
    assert Path("chosen.tflite").stat().st_size <= Path("model.tflite").stat().st_size
    result = call(*common, "20", "--max-bytes", "100", "--json")
    assert result.exit_code == 1
    assert "max_bytes" in {miss["limit"] for miss in json.loads(result.stdout)["best"]["misses"]}


def test_labelled_samples_to_decide_by_have_two_names(folder):
    common = ("sensitivity", "model.tflite", "--calibration", "data.npz", "--forms", "int8", "--json")
    first, second = (ok(*common, name, "data.npz") for name in ("--data", "--validation"))
    assert first == second


def test_for_an_ethos_u_vela_says_what_it_takes(folder):
    printed = ok("quantize", "model.tflite", "-o", "npu.tflite", "--target", "ethos-u55", "--calibration", "data.npz")
    assert "Vela for ethos-u55-128: " in " ".join(printed.split())
    assert "bytes of flash" in " ".join(printed.split())
    assert "cycles" in " ".join(ok("check", "npu.tflite", "--target", "ethos-u55").split())
