"""Shipped targets, targets of one's own, and the forms that operators have in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.building import model_of
from tests.single_ops import FACTORIES
from tests.targets.building import NAMES, VALID, own, quantized

from featherweight import operators
from featherweight.errors import RecipeError
from featherweight.graph.numerics import QuantParams
from featherweight.targets import target as targets
from featherweight.targets.target import check
from featherweight.tflite import names

# ------------------------------------------------------------------------------------------------ shipped targets


def test_the_shipped_targets() -> None:
    assert targets.available() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_target_loads(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    assert 10 < len(target.description) < 120
    assert target.io == ("float32" if name.startswith("litert") else "int8")
    assert target.is_float_allowed == (not name.startswith("ethos"))
    assert target.forms


@pytest.mark.parametrize("name", NAMES)
def test_rows_name_operators_and_forms_that_have_a_record(name: str) -> None:
    known, target = {op.name: op for op in operators.registered()}, targets.load(name)
    for op, forms in target.forms.items():
        assert op in names.OP_CODES
        assert op in known or target.is_complete, f"{op} is not registered"
        assert forms or target.is_complete
        assert len(set(forms)) == len(forms)
        for form in forms:
            activation, _, weight = form.partition("*")
            if target.is_complete and activation not in {"int8", "int16"}:
                assert activation in {"float32", "int32", "int64", "bool", "resource"}
                continue
            assert activation in {"int8", "int16", "float32"}
            assert (weight in {"int8", "int4"}) if known[op].weight is not None else not weight, (op, form)
            assert target.is_complete or form in known[op].versions, f"{op} has no version for {form}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_single_operator_model(name: str) -> None:
    # What tests/ptq/test_forms.py runs must cover every row.
    written = {op for op, forms in targets.load(name).forms.items() if set(forms) & set(operators.lookup(op).versions)}
    variables = {"READ_VARIABLE", "ASSIGN_VARIABLE"}  # which are no models by themselves
    assert written - variables <= set(FACTORIES)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_outputs_are_known_for_the_integer_forms(name: str) -> None:
    fixed = {op.name: op.fixed_output for op in operators.registered() if op.fixed_output}
    for op, outputs in fixed.items():
        for form in targets.load(name).integer_forms(op):
            assert form in outputs, f"{op} in {form} has no fixed output"


@pytest.mark.parametrize("name", NAMES)
def test_constraints_name_known_checks_and_say_why(name: str) -> None:
    for constraint in targets.load(name).constraints:
        assert constraint.text.endswith(".")
        assert set(constraint.ops) <= set(names.OP_CODES)


def test_fixed_outputs_follow_the_specification() -> None:
    expected = {
        "SOFTMAX": (1 / 256, -128),
        "LOGISTIC": (1 / 256, -128),
        "TANH": (1 / 128, 0),
        "LOG_SOFTMAX": (16 / 256, 127),
        "L2_NORMALIZATION": (1 / 128, 0),
    }
    assert {op.name: op.fixed_output["int8"] for op in operators.registered() if op.fixed_output} == expected


def test_weights_have_the_axes_of_the_specification() -> None:
    axes = {op.name: (op.weight, op.axis, op.bias) for op in operators.registered() if op.bias is not None}
    assert axes["CONV_2D"] == (1, 0, 2)
    assert axes["DEPTHWISE_CONV_2D"] == (1, 3, 2)
    assert axes["FULLY_CONNECTED"] == (1, 0, 2)
    assert axes["TRANSPOSE_CONV"] == (1, 0, 3)


def test_operators_can_not_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="operator CONV_2D is registered twice"):
        operators.register(operators.Op("CONV_2D"))


def test_operators_that_nothing_is_known_about_have_a_record_without_facts() -> None:
    assert operators.lookup("BUCKETIZE") == operators.Op("BUCKETIZE")


@pytest.mark.parametrize(
    ("op", "macs"),
    [
        ("CONV_2D", 6 * 6 * 4 * 3 * 3 * 8),
        ("DEPTHWISE_CONV_2D", 6 * 6 * 8 * 3 * 3),
        ("TRANSPOSE_CONV", 6 * 6 * 8 * 3 * 3 * 4),
        ("FULLY_CONNECTED", 8 * 64),
        ("BATCH_MATMUL", 2 * 5 * 3 * 8),
        ("AVERAGE_POOL_2D", 3 * 3 * 8 * 4),
        ("RESHAPE", 0),
    ],
)
def test_multiply_accumulates(op: str, macs: int) -> None:
    model = FACTORIES[op]()
    assert operators.lookup(op).macs(model.main.nodes[0], model.main) == macs


# ------------------------------------------------------------------------------------------------ loading


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(
        RecipeError, match=rf"^Unknown target 'stm32'\. Choose one of {', '.join(NAMES)}, or give the path"
    ):
        targets.load("stm32")


def test_a_target_is_returned_as_it_is() -> None:
    target = targets.load("litert")
    assert targets.load(target) is target


def test_a_target_of_ones_own(tmp_path: Path) -> None:
    target = targets.load(
        own(
            tmp_path,
            """
            extends = "tflm"
            name = "mine"
            description = "TFLM without tanh"
            per_channel = false
            [ops]
            TANH = []
            CONV_2D = ["int8*int8"]
            [[constraint]]
            ops = ["CONV_2D"]
            check = "stride"
            max = 2
            text = "Strides must be 1 or 2."
            """,
        )
    )
    base = targets.load("tflm")
    assert (target.name, target.profile, target.softmax_limit) == ("mine", base.profile, 512)
    assert not target.is_per_channel
    assert not target.runs("TANH", "int8")
    assert target.forms["CONV_2D"] == ("int8*int8",)
    assert target.forms["ADD"] == base.forms["ADD"]
    assert len(target.constraints) == len(base.constraints) + 1
    assert target.constraints[-1].limits == {"max": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks or misuses the key 'ops'"),
        ("[ops]\n", r"lacks or misuses the key 'name'"),
        (VALID + "bits = 8\n[ops]", r"unknown key bits \(allowed: complete, constraint, description, float, io"),
        ("name = ", r"can't be read: .* Compare it with a shipped target"),
        ('extends = "stm32"', r"^Unknown target 'stm32'"),
        (VALID + '[ops]\n[[constraint]]\ntext = "t"', r"lacks or misuses the key 'check'"),
        (VALID + '[ops]\n[[constraint]]\ncheck = "stride"', r"lacks or misuses the key 'text'"),
        (
            VALID + '[ops]\n[[constraint]]\ncheck = "color"\ntext = "t"',
            r"unknown check 'color' \(allowed: activations, area, axis",
        ),
    ],
)
def test_files_that_are_no_targets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        targets.load(own(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        VALID + "ops = 5",
        VALID + '[ops]\nCONV_2D = "int8*int8"',
        VALID + "[ops]\nCONV_2D = 5",
        VALID + "[ops]\nCONV_2D = [5]",
        VALID + '[ops]\nCONV2D = ["int8*int8"]',
        VALID + '[ops]\nCONV_2D = ["int8*int7"]',
        VALID + '[ops]\nCONV_2D = ["int8"]',
        VALID + 'io = "uint9"\n[ops]',
        VALID + 'float = "no"\n[ops]',
        VALID + 'softmax_limit = "many"\n[ops]',
        VALID + 'constraint = ["x"]\n[ops]',
        VALID + "constraint = 5\n[ops]",
        VALID + '[ops]\n[[constraint]]\ncheck = "stride"\ntext = "t"',
        VALID + '[ops]\n[[constraint]]\ncheck = "stride"\ntext = "t"\nmax = "2"',
        VALID + '[ops]\n[[constraint]]\ncheck = "stride"\ntext = "t"\nmax = 2\nops = "CONV_2D"',
        "extends = 5",
    ],
)
def test_values_of_the_wrong_kind(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml|'5'"):
        targets.load(own(tmp_path, text))


def test_a_target_that_extends_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match="extends"):
        targets.load(own(tmp_path, f'extends = "{path}"'))


# ------------------------------------------------------------------------------------------------ forms


@pytest.mark.parametrize(
    ("params", "form"),
    [
        ({}, "int8*int8"),
        ({"x": QuantParams("int16", (0.5,), (0,)), "y": QuantParams("int16", (0.5,), (0,))}, "int16*int8"),
        ({"w": QuantParams("int4", (0.5,), (0,))}, "int8*int4"),
        ({"x": None, "y": None, "b": None}, "float32*int8"),
        ({"x": None, "y": None, "b": None, "w": QuantParams("int4", (0.5,), (0,))}, "float32*int4"),
        ({"x": None, "y": None, "b": None, "w": None}, "float32"),
    ],
)
def test_forms_of_operators_with_weights(params: dict[str, QuantParams | None], form: str) -> None:
    model = quantized(FACTORIES["FULLY_CONNECTED"](), **params)
    assert targets.form_of(model.main.nodes[0], model.main) == form


def test_forms_of_other_operators() -> None:
    for op in ("ADD", "RESHAPE", "EQUAL", "ARG_MAX", "GATHER"):
        model = FACTORIES[op]()
        assert targets.form_of(model.main.nodes[0], model.main) == "float32"
        model = quantized(model)
        assert targets.form_of(model.main.nodes[0], model.main) == "int8"


def test_operators_on_integers_that_stand_for_themselves_have_no_form() -> None:
    model = model_of("ADD", {"x": (2,), "z": (2,)}, {"y": (2,)}, dict.fromkeys("xyz", "int32"))
    assert targets.form_of(model.main.nodes[0], model.main) is None
    assert check(model, "litert") == ()
