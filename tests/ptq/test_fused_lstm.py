"""Fused LSTM layers quantized: what is measured, planned and written, and that LiteRT and TFLM run it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import clients, models
from tests.building import weights
from tests.ptq.nets import operators, planned, sqnr_db
from tests.single_ops import lstm
from typer.testing import CliRunner

import featherweight as fw
from featherweight.calibration import Stats, TensorStats, calibrate
from featherweight.errors import DataError, RecipeError
from featherweight.graph import Model, Node, constant
from featherweight.graph.numerics import QuantParams, quantize
from featherweight.ptq.plan import from_json
from featherweight.ptq.recurrent import cell_params, choose_style
from featherweight.recipes import recipe as recipes
from featherweight.runtime.litert import RESOLVERS, Session
from featherweight.targets import target as targets
from featherweight.targets.target import check
from featherweight.tasks.load import load

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
STEPS, FEATURES = 12, 6


@pytest.fixture(scope="module")
def samples() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.normal(0, 1.5, (1, STEPS, FEATURES)).astype(np.float32) for _ in range(24)]


@pytest.fixture(scope="module")
def source() -> Any:
    """Stacked, backwards and in both directions, between dense layers."""
    layers = models.import_keras().layers
    keras = models.import_keras()
    net = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES), name="x"),
            layers.Dense(8, activation="relu"),
            layers.LSTM(12, return_sequences=True, name="first"),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True), name="both"),
            layers.LSTM(8, go_backwards=True, name="last"),
            layers.Dense(4, name="logits"),
        ],
        name="stack",
    )
    return models._seeded(net, 11)


@pytest.fixture(scope="module")
def stack(source: Any) -> Model:
    return load(source, fuse=True)


@pytest.fixture(scope="module")
def stats(stack: Model, samples: list[np.ndarray]) -> Stats:
    return calibrate(stack, samples, progress=False)


@pytest.fixture(scope="module")
def integer(stack: Model, stats: Stats) -> Any:
    return planned(stack, "int8", "tflm", stats=stats)


def layers_of(model: Model) -> list[Node]:
    return [node for node in model.main.nodes if node.op == LSTM]


def fed(model: Model, sample: np.ndarray) -> np.ndarray:
    """Returns the sample as the model's first input has it."""
    params = model.main.tensors[model.main.inputs[0]].quant
    return quantize(sample, params) if params else sample


def outputs_of(model: Model, samples: list[np.ndarray], resolver: str = "auto") -> np.ndarray:
    """Runs LiteRT twice on each sample, with another one in between, and returns the outputs as real numbers."""
    params = model.main.tensors[model.main.outputs[0]].quant
    results: list[np.ndarray] = []
    with Session(model, resolver=resolver) as session:
        (name,) = session.inputs
        for index, sample in enumerate(samples):
            pair: list[np.ndarray] = []
            for given in (sample, samples[index - 1], sample):
                session.invoke({name: fed(model, given)})
                pair.append(session.read(model.main.outputs[0]))
            assert np.array_equal(pair[0], pair[2])  # the state is set back, whatever came before
            results.append(pair[0])
    found = np.concatenate(results).astype(np.float64)
    return (found - params.zero_point[0]) * params.scale[0] if params else found


# ---------------------------------------------------------------------------------------------- what is measured


def test_the_cell_state_is_measured_over_all_steps() -> None:
    keras = models.import_keras()
    net, examples = models.build("lstm"), models.batch("lstm", 6, seed=2)["sequence"]
    layer = keras.layers.LSTM(16, return_state=True)
    layer.build(examples.shape)
    layer.set_weights(net.get_layer("lstm").get_weights())
    cells = [np.asarray(layer(examples[:, : step + 1])[2]) for step in range(models.STEPS)]
    model = load(net, fuse=True)
    (name,) = (n.inputs[19] for n in layers_of(model))
    feeds = [examples[i : i + 1] for i in range(6)]
    for options in ({}, {"histograms": True}, {"tensors": [name]}, {"tensors": [name], "histograms": True}):
        found = calibrate(model, feeds, progress=False, **options).tensors[name]
        assert found.count == 6
        assert (found.low, found.high) == pytest.approx((np.min(cells), np.max(cells)), rel=1e-5)


def test_states_are_no_activations(stack: Model, stats: Stats) -> None:
    cells = {node.inputs[19] for node in layers_of(stack)}
    assert {name for name in stats.tensors if stack.main.tensors[name].is_variable} == cells


@pytest.mark.parametrize(
    ("low", "high", "exponent"),
    [(0.0, 0.0, 0), (-0.3, 0.2, 0), (-1.0, 0.5, 0), (-0.5, 1.01, 1), (-3.9, 1.0, 2), (0.0, 33.0, 6), (-64.0, 0.0, 6)],
)
def test_the_scale_of_a_cell_is_a_power_of_two(low: float, high: float, exponent: int) -> None:
    assert cell_params(low, high, "here") == (QuantParams("int16", (2.0 ** (exponent - 15),), (0,)), [])


def test_a_cell_beyond_the_kernels_range_is_noted() -> None:
    params, notes = cell_params(-3.0, 70.5, "LSTM 'l'")
    assert params == QuantParams("int16", (2.0**-9,), (0,))
    assert notes == ["LSTM 'l': its cell state reaches 70.5; the kernel's int16 cuts it off at 64"]


def test_a_cell_that_was_not_measured() -> None:
    model = lstm()
    stats = Stats(1, {name: TensorStats(1, -1.0, 1.0) for name in ("x", "y")})
    with pytest.raises(DataError, match=r"^No range was measured for 'cell'\. Calibrate this very model again"):
        planned(model, "int8", stats=stats)


# ------------------------------------------------------------------------------------------- what is planned, written


def test_the_plan_holds_what_the_kernel_prescribes(stack: Model, integer: Any) -> None:
    plan, _ = integer
    assert plan.kept_float == {}
    for node in layers_of(stack):
        hidden, cell = node.inputs[18:20]
        assert [plan.forms[name] for name in (node.name, hidden, cell)] == ["int8*int8", "int8", "int16"]
        assert plan.params[hidden] == plan.params[node.outputs[0]]
        assert plan.params[cell].dtype == "int16"
        assert plan.params[cell].scale[0] in {2.0 ** (m - 15) for m in range(7)}
        for position in range(1, 9):
            weight = plan.params[node.inputs[position]]
            assert (weight.dtype, weight.zero_point, weight.axis) == ("int8", (0,), None)
            largest = np.abs(stack.main.tensors[node.inputs[position]].array).max()
            assert weight.scale[0] == pytest.approx(largest / 127, rel=1e-6)


def test_a_plan_survives_its_file(stack: Model, integer: Any) -> None:
    plan, written = integer
    assert from_json(plan.to_json()) == plan
    assert fw.write(fw.rewrite(stack, from_json(plan.to_json()))) == fw.write(written)


def test_the_file_holds_what_the_kernel_reads(integer: Any) -> None:
    _, model = integer
    again = fw.read(fw.write(model))
    for graph in (model.main, again.main):
        for node in (n for n in graph.nodes if n.op == LSTM):
            tensor = [graph.tensors[name] if name else None for name in node.inputs]
            scale = [t.quant.scale[0] if t is not None and t.quant else 0.0 for t in tensor]
            for gate in range(4):
                assert tensor[1 + gate].dtype == tensor[5 + gate].dtype == "int8"
                assert tensor[12 + gate].dtype == "int32"
                assert scale[12 + gate] == pytest.approx(scale[0] * scale[1 + gate], rel=1e-6)
            assert (tensor[18].dtype, tensor[19].dtype) == ("int8", "int16")
            assert tensor[18].is_variable
            assert tensor[19].is_variable
            kept = [graph.tensors[name] for name in node.extras["intermediates"]]
            assert [t.dtype for t in kept] == ["int16"] * 4 + ["int8"]
            assert [t.quant.scale for t in kept[:4]] == [(2.0**-12,)] * 4
            assert kept[4].quant == tensor[18].quant == graph.tensors[node.outputs[0]].quant
            assert node.attrs["asymmetric_quantize_inputs"] is False


def test_the_reset_writes_the_zero_point(integer: Any) -> None:
    graph = integer[1].main
    made = {name: node for node in graph.nodes for name in node.outputs}
    for node in (n for n in graph.nodes if n.op == LSTM):
        for state in node.inputs[18:20]:
            zeros = graph.tensors[made[state].inputs[0]]
            assert zeros.quant == graph.tensors[state].quant
            assert set(np.asarray(zeros.array).reshape(-1)) == {zeros.quant.zero_point[0]}


# --------------------------------------------------------------------------------------------------- how it runs


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize(("recipe", "least"), [("int8", 30), ("dynamic", 30), ("weights8", 30), ("float16", 55)])
def test_litert_runs_it_close_to_float(
    recipe: str, least: float, resolver: str, stack: Model, stats: Stats, samples: list[np.ndarray]
) -> None:
    _, model = planned(stack, recipe, "litert", stats=stats)
    found = outputs_of(model, samples[:6], resolver)
    assert sqnr_db(outputs_of(stack, samples[:6]), found) >= least


def test_tflm_computes_what_litert_computes(integer: Any, samples: list[np.ndarray], tmp_path: Path) -> None:
    _, model = integer
    path = tmp_path / "stack.tflite"
    fw.save(model, path)
    for sample in samples[:2]:
        (found,), (expected,) = (run(path, fed(model, sample)) for run in (clients.tflm_run, clients.litert_run))
        assert np.ptp(expected.astype(int)) > 20
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2


_THREE_RUNS = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime

interpreter, results = runtime.Interpreter.from_file(sys.argv[1]), []
first, other = np.load(sys.argv[2])
for x in (first, other, first):
    interpreter.set_input(x, 0)
    interpreter.invoke()
    results.append(np.array(interpreter.get_output(0)))
print(np.array_equal(results[0], results[2]), np.array_equal(results[0], results[1]))
"""


def test_tflm_starts_every_run_from_the_same_state(integer: Any, samples: list[np.ndarray], tmp_path: Path) -> None:
    _, model = integer
    fw.save(model, tmp_path / "stack.tflite")
    np.save(tmp_path / "x.npy", [fed(model, sample) for sample in samples[:2]])
    command = [sys.executable, "-c", _THREE_RUNS, str(tmp_path / "stack.tflite"), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u85-256"])
def test_vela_places_it_on_the_npu(accelerator: str, tmp_path: Path) -> None:
    target = "-".join(accelerator.split("-")[:2])
    result = fw.quantize(
        models.build("lstm"), "int8", calibration=models.samples("lstm", 8), target=target, progress=False, strict=True
    )
    assert result.report.violations == ()
    result.save(tmp_path / "lstm.tflite")
    assert clients.vela(tmp_path / "lstm.tflite", accelerator).cpu_ops == 0


def test_power_of_two_scales(stack: Model, stats: Stats, samples: list[np.ndarray]) -> None:
    plan, model = planned(stack, "int8", "power-of-two", stats=stats)
    assert plan.kept_float == {}
    assert check(model, "power-of-two") == ()
    assert sqnr_db(outputs_of(stack, samples[:4]), outputs_of(model, samples[:4])) >= 20


# ---------------------------------------------------------------------------------------- what is not integers, and why


def test_dynamic_range_is_refused_for_tflm(stack: Model) -> None:
    plan, model = planned(stack, "dynamic", "tflm")
    for node in layers_of(stack):
        reason = f"{LSTM}: target 'tflm' has no kernel for int8 weights beside float activations"
        assert plan.kept_float[node.name] == reason
        for state in node.inputs[18:20]:
            assert plan.kept_float[state] == "SLICE: it writes the state of a float layer"
    assert check(model, "tflm") == ()
    _, hybrid = planned(stack, "dynamic", "litert")
    for node in layers_of(hybrid):
        assert (node.version, node.attrs["asymmetric_quantize_inputs"]) == (3, True)
        assert {hybrid.main.tensors[name].dtype for name in node.inputs[1:9]} == {"int8"}
        assert {hybrid.main.tensors[name].dtype for name in node.inputs[18:20]} == {"float32"}
    broken = {violation.op for violation in check(hybrid, "tflm")}
    assert LSTM in broken


def test_sixteen_bit_activations_keep_it_float(stack: Model, stats: Stats, samples: list[np.ndarray]) -> None:
    plan, model = planned(stack, "int16x8", "litert", stats=stats)
    for node in layers_of(stack):
        assert plan.kept_float[node.name].startswith(f"{LSTM}: target 'litert' has no int16*int8 kernel for it")
        assert plan.kept_float[node.inputs[19]] == "SLICE: it writes the state of a float layer"
    assert sqnr_db(outputs_of(stack, samples[:3]), outputs_of(model, samples[:3])) >= 35


def test_four_bit_weights_become_eight(stack: Model, stats: Stats) -> None:
    plan, _ = planned(stack, "w4a8", "litert", stats=stats)
    for node in layers_of(stack):
        assert plan.forms[node.name] == "int8*int8"
        assert f"{LSTM} '{node.name}': weights are int8, target 'litert' has no int4 kernel" in plan.notes


def test_a_rule_keeps_one_layer_float(stack: Model, stats: Stats, samples: list[np.ndarray]) -> None:
    node = layers_of(stack)[0]
    int8 = recipes.load("int8")
    recipe = replace(int8, rules=(recipes.Rule(match=node.name), *int8.rules))
    plan, model = planned(stack, recipe, "tflm", stats=stats)
    assert plan.kept_float[node.name] == f"{LSTM}: the recipe keeps it float"
    assert plan.kept_float[node.inputs[18]] == "SLICE: it writes the state of a float layer"
    assert [plan.forms.get(other.name) for other in layers_of(stack)] == [None, *["int8*int8"] * 3]
    assert sqnr_db(outputs_of(stack, samples[:3]), outputs_of(model, samples[:3])) >= 30


def test_a_target_that_cannot_reset_keeps_it_float(stack: Model, stats: Stats) -> None:
    tflm = targets.load("tflm")
    plan, _ = planned(stack, "int8", replace(tflm, forms={**tflm.forms, "SLICE": ("int8",)}), stats=stats)
    node = layers_of(stack)[0]
    assert plan.kept_float[node.name] == f"{LSTM}: target 'tflm' has no int16 kernel for SLICE, which resets it"


def with_inputs(model: Model, arrays: dict[int, np.ndarray], **attrs: Any) -> Model:
    """Returns the model of one LSTM with further constant inputs (an empty array: none), and attributes."""
    (node,), tensors, inputs = model.main.nodes, dict(model.main.tensors), list(model.main.nodes[0].inputs)
    for position, array in arrays.items():
        inputs[position] = f"input_{position}" if array.size else ""
        if array.size:
            tensors[inputs[position]] = constant(inputs[position], array)
    node = replace(node, inputs=tuple(inputs), attrs={**node.attrs, **attrs})
    return replace(model, graphs=(replace(model.main, nodes=(node,), tensors=tensors),))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            with_inputs(lstm(), {9: weights(8), 10: weights(8), 11: weights(8)}),
            "peepholes, projections and layer norms (input 9, 10, 11) have no integer form here",
        ),
        (with_inputs(lstm(), {12: np.zeros(0)}), "only the plain LSTM has an integer form here (input 12 is missing)"),
        (with_inputs(lstm(), {}, proj_clip=3.0), "clipping of its projection has no integer form here"),
        (with_inputs(lstm(), {}, time_major=True), "the integer kernel wants tanh, and the batch before the steps"),
        (
            with_inputs(lstm(), {}, fused_activation_function="RELU"),
            "the integer kernel wants tanh, and the batch before the steps",
        ),
    ],
)
@pytest.mark.parametrize("recipe", ["int8", "dynamic"])
def test_other_layers_of_imported_files_stay_float(model: Model, reason: str, recipe: str) -> None:
    stats = Stats(1, {name: TensorStats(1, -1.0, 1.0) for name in ("x", "y", "cell")})
    plan, _ = planned(model, recipe, stats=stats)
    assert plan.kept_float["y"] == f"{LSTM}: {reason}"


def test_a_state_that_nothing_resets_is_noted(samples: list[np.ndarray]) -> None:
    model = lstm(STEPS, FEATURES)
    plan, result = planned(model, "int8", stats=calibrate(model, samples, progress=False))
    assert f"{LSTM} 'y': nothing resets its state; it lasts from run to run" in plan.notes
    assert result.main.tensors["cell"].dtype == "int16"
    expected, found = (fw.run(each, samples[0]) for each in (model, result))
    assert sqnr_db(np.asarray(expected), np.asarray(found)) >= 30


def test_a_plan_that_was_edited_into_two_types(stack: Model, integer: Any) -> None:
    plan, _ = integer
    hidden = layers_of(stack)[0].inputs[18]
    forms = {name: form for name, form in plan.forms.items() if name != hidden}
    edited = replace(plan, forms=forms, kept_float={hidden: "because I say so"})
    said = rf"^The plan writes the state '{hidden}' in float32, but {LSTM} '.*' keeps it in int8\. Plan it again"
    with pytest.raises(RecipeError, match=said):
        fw.rewrite(stack, edited)


# ------------------------------------------------------------------------------------------------ which form, and why


@pytest.mark.parametrize(
    ("recipe", "target", "form", "fuse", "unroll", "reason"),
    [
        ("dynamic", "litert", "loop", False, False, "the smallest and fastest form beside float activations"),
        ("float16", "litert", "loop", False, False, "the smallest and fastest form beside float activations"),
        ("int8", "litert", "unrolled", False, True, "loops have no integer form"),
        (
            "int8",
            "tflm",
            "fused",
            True,
            True,
            "target 'tflm' is made for integers: LSTM layers are one operator there, other loops are written out",
        ),
        ("dynamic", "tflm", "fused", True, False, "LSTM layers are one operator there, other loops stay loops"),
        ("int8", "ethos-u85", "fused", True, True, "target 'ethos-u85' is made for integers"),
        ("int8", "int8-per-tensor", "fused", True, True, "target 'int8-per-tensor' is made for integers"),
    ],
)
def test_the_form_follows_from_recipe_and_target(
    recipe: str, target: str, form: str, fuse: bool, unroll: bool, reason: str
) -> None:
    chosen = choose_style(recipes.load(recipe), targets.load(target))
    assert (chosen.name, chosen.fuse, chosen.unroll) == (form, fuse, unroll)
    assert reason in chosen.reason


def test_an_unknown_form() -> None:
    with pytest.raises(RecipeError, match=r"^recurrent 'fuse' is unknown \(allowed: auto, loop, fused, unrolled\)\.$"):
        fw.quantize(models.build("lstm"), "dynamic", recurrent="fuse")


@pytest.mark.parametrize(
    ("recurrent", "op"), [("loop", "WHILE"), ("fused", LSTM), ("unrolled", "LOGISTIC"), ("auto", "LOGISTIC")]
)
def test_the_form_can_be_forced(recurrent: str, op: str) -> None:
    result = fw.quantize(
        models.build("lstm"), "int8", calibration=models.samples("lstm", 4), recurrent=recurrent, progress=False
    )
    found = {op for op in ("WHILE", LSTM, "LOGISTIC") if operators(result.model)[op]}
    assert found == {op}
    name = "unrolled" if recurrent == "auto" else recurrent
    (note,) = (note for note in result.plan.notes if note.startswith("Recurrent layers: "))
    reason = "as asked for" if recurrent != "auto" else "loops have no integer form, and unrolled layers are faster"
    assert note.startswith(f"Recurrent layers: {name}; {reason}")


def test_a_gru_is_unrolled_for_microcontrollers() -> None:
    result = fw.quantize(
        models.build("gru"), "int8", calibration=models.samples("gru", 4), target="tflm", progress=False, strict=True
    )
    assert any(n.startswith("GRU 'gru' is written out step by step, not fused: only LSTM") for n in result.plan.notes)
    assert any(note.startswith("Recurrent layers: unrolled; ") for note in result.plan.notes)


def test_files_and_models_without_loops_get_no_note(stack: Model, stats: Stats) -> None:
    assert fw.quantize(stack, "dynamic", progress=False).plan.notes == ()
    assert fw.quantize(models.build("dense"), "dynamic", progress=False).plan.notes == ()


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featherweight.cli import app

    def called(*args: str) -> str:
        result = CliRunner().invoke(app, list(args))
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.chdir(tmp_path)
    models.build("lstm").save("m.keras")
    np.savez("data.npz", sequence=models.batch("lstm", 8)["sequence"])
    said = called("quantize", "m.keras", "-o", "q.tflite", "--target", "tflm", "--calibration", "data.npz")
    assert "Note: Recurrent layers: fused; target 'tflm' is made for integers" in said
    assert operators(fw.read("q.tflite"))[LSTM] == 1
    said = called("quantize", "m.keras", "-o", "d.tflite", "--recipe", "dynamic", "--recurrent", "fused")
    assert "Note: Recurrent layers: fused; as asked for." in said
    assert operators(fw.read("d.tflite"))[LSTM] == 1
    assert "stays fixed at 1" in called("lower", "m.keras", "-o", "f.tflite", "--fuse")
    assert operators(fw.read("f.tflite"))[LSTM] == 1
    refused = CliRunner().invoke(app, ["quantize", "m.keras", "-o", "x.tflite", "--recurrent", "fuse"])
    assert refused.exit_code == 2
    assert not Path("x.tflite").exists()
