from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.single_ops import CONV, FACTORIES, POOL, ints, model_of

from featherweight import operators
from featherweight.errors import RecipeError
from featherweight.graph import Graph, Model, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.targets import target as targets
from featherweight.targets.target import Violation, check
from featherweight.tflite import names

NAMES = ("ethos-u55", "ethos-u65", "ethos-u85", "int8-per-tensor", "litert", "litert-arm", "power-of-two", "tflm")
HALF = QuantParams("int8", (0.5,), (0,))


def quantized(model: Model, dtypes: dict[str, Any] | None = None, **params: QuantParams | None) -> Model:
    """Returns the model with its float tensors as int8 at scale 1/2, or with the given parameters by tensor."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.main.tensors.items():
        quant = params.get(name, HALF)
        if not tensor.is_float or quant is None:
            tensors[name] = tensor
        elif tensor.is_constant:
            values = np.ones(tensor.shape, np.int8)
            tensors[name] = constant(name, values, quant.dtype, quant)
        else:
            tensors[name] = replace(tensor, dtype=quant.dtype, quant=quant)
    return replace(model, graphs=(replace(model.main, tensors=tensors),))


def edited(model: Model, name: str, **changes: Any) -> Model:
    tensors = dict(model.main.tensors)
    tensors[name] = replace(tensors[name], **changes)
    return replace(model, graphs=(replace(model.main, tensors=tensors),))


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    return path


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
    known = {op.name: op for op in operators.registered()}
    for op, forms in targets.load(name).forms.items():
        assert op in known, f"{op} is not registered"
        assert op in names.OP_CODES
        assert forms
        assert len(set(forms)) == len(forms)
        for form in forms:
            activation, _, weight = form.partition("*")
            assert activation in {"int8", "int16", "float32"}
            assert (weight in {"int8", "int4"}) if known[op].weight is not None else not weight, (op, form)
            assert form in known[op].versions, f"{op} has no version for {form}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_single_operator_model(name: str) -> None:
    # What tests/ptq/test_forms.py runs must cover every row.
    assert set(targets.load(name).forms) <= set(FACTORIES)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_outputs_are_known_for_the_integer_forms(name: str) -> None:
    fixed = {op.name: op.fixed_output for op in operators.registered() if op.fixed_output}
    for op, outputs in fixed.items():
        for form in targets.load(name).forms.get(op, ()):
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


VALID = 'name = "mine"\ndescription = "x"\nprofile = "tflite_ref"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks or misuses the key 'ops'"),
        ("[ops]\n", r"lacks or misuses the key 'name'"),
        (VALID + "bits = 8\n[ops]", r"unknown key bits \(allowed: constraint, description, float, io, name"),
        ("name = ", r"can't be read: .* Compare it with a shipped target"),
        ('extends = "stm32"', r"^Unknown target 'stm32'"),
        (VALID + '[ops]\n[[constraint]]\ntext = "t"', r"lacks or misuses the key 'check'"),
        (VALID + '[ops]\n[[constraint]]\ncheck = "stride"', r"lacks or misuses the key 'text'"),
        (
            VALID + '[ops]\n[[constraint]]\ncheck = "color"\ntext = "t"',
            r"unknown check 'color' \(allowed: classes, cluster_conv",
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


# ------------------------------------------------------------------------------------------------ check


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", ["CONV_2D", "FULLY_CONNECTED", "ADD", "AVERAGE_POOL_2D", "SOFTMAX"])
def test_what_a_target_runs_breaks_nothing(name: str, op: str) -> None:
    assert check(quantized(FACTORIES[op]()), name) == ()


def test_float_where_it_is_not_allowed() -> None:
    (found,) = check(FACTORIES["ADD"](), "ethos-u55")
    message = "ADD 'y' computes in float32, which target 'ethos-u55' does not run (allowed: int8, int16)."
    assert found == Violation("y", "ADD", "forms", message)
    assert check(FACTORIES["ADD"](), "tflm") == ()


def test_a_form_that_the_target_lacks() -> None:
    model = quantized(FACTORIES["CONV_2D"](), x=None, y=None, b=None)
    (found,) = check(model, "tflm")
    assert found.message == (
        "CONV_2D 'y' computes in float32*int8, which target 'tflm' does not run "
        "(allowed: int8*int8, int16*int8, int8*int4)."
    )


def test_an_operator_that_the_target_does_not_know() -> None:
    (found,) = check(quantized(FACTORIES["GELU"]()), "tflm")
    assert found.message.endswith("(allowed: nothing: the operator is unknown to it).")


def test_an_operator_without_real_numbers_that_the_target_does_not_know() -> None:
    model = model_of("BITCAST", {"x": (2,)}, {"y": (2,)}, dict.fromkeys("xy", "int32"))
    (found,) = check(model, "ethos-u55")
    assert found == Violation("y", "BITCAST", "operators", "BITCAST 'y' is not run by target 'ethos-u55'.")
    assert check(model, "tflm") == ()


def test_scales_per_channel_on_a_target_that_wants_one() -> None:
    per_channel = QuantParams("int8", (0.5, 0.25, 0.5, 0.5), (0,) * 4, 0)
    model = quantized(FACTORIES["CONV_2D"](), w=per_channel)
    (found,) = check(model, "int8-per-tensor")
    assert found.constraint == "per_channel"
    assert found.message == "CONV_2D 'y': 'w' has a scale per channel; target 'int8-per-tensor' wants one."
    assert check(model, "litert") == ()


def test_scales_that_are_no_powers_of_two() -> None:
    model = quantized(FACTORIES["ADD"](), z=QuantParams("int8", (0.3,), (0,)))
    (found,) = check(model, "power-of-two")
    assert found.constraint == "power_of_two"
    assert found.message == "ADD 'y': the scale of 'z' is no power of two, which 'power-of-two' wants."


def test_violations_in_every_graph_are_found() -> None:
    second = quantized(FACTORIES["GELU"]()).main
    second = replace(second, name="other")
    model = replace(quantized(FACTORIES["GELU"]()), graphs=(quantized(FACTORIES["GELU"]()).main, second))
    assert len(check(model, "tflm")) == 2


def messages(model: Model, target: str | Path) -> list[str]:
    return [violation.message for violation in check(model, target)]


@pytest.mark.parametrize("target", ["tflm", "ethos-u55", "ethos-u65", "ethos-u85"])
def test_free_shapes(target: str) -> None:
    model = quantized(FACTORIES["ADD"]())
    assert messages(edited(model, "x", shape_signature=(-1, 6, 6, 8)), target) == []
    (found,) = messages(edited(model, "x", shape_signature=(-1, -1, 6, 8)), target)
    assert found.startswith(
        "ADD 'y': 'x' has the free shape [-1, -1, 6, 8]. Only the first dimension of a tensor may be free"
    )
    assert found.endswith(f"(target '{target}')")


def test_absolute_weights_per_output_channel() -> None:
    # 65,536 weights of -127 are exactly the limit; the same of -128 are beyond it.
    shape = (2, 1, 1, 65536)
    model = quantized(
        model_of("CONV_2D", {"x": (1, 1, 1, shape[-1]), "w": np.ones(shape, np.float32)}, {"y": (1, 1, 1, 2)}, **CONV)
    )
    weights = np.ones(shape, np.int8)
    weights[1] = -127
    assert messages(edited(model, "w", data=constant("w", weights).data), "ethos-u55") == []
    weights[1] = -128
    (found,) = messages(edited(model, "w", data=constant("w", weights).data), "ethos-u55")
    assert found.startswith(
        "CONV_2D 'y': its absolute weights add up to 8388608. The absolute weights of one output channel"
    )


def test_computed_weights() -> None:
    model = quantized(model_of("CONV_2D", {"x": (1, 6, 6, 8), "w": (4, 3, 3, 8)}, {"y": (1, 6, 6, 4)}, **CONV))
    (found,) = messages(model, "ethos-u55")
    assert found.startswith("CONV_2D 'y': its weight 'w' is computed. Weights must be constant.")


def test_strides() -> None:
    def depthwise(stride: int) -> Model:
        attrs = CONV | {"stride_h": 1, "stride_w": stride, "depth_multiplier": 1}
        inputs = {"x": (1, 8, 8, 8), "w": np.ones((1, 3, 3, 8), np.float32)}
        return quantized(model_of("DEPTHWISE_CONV_2D", inputs, {"y": (1, 8, 2, 8)}, **attrs))

    assert messages(depthwise(3), "ethos-u55") == []
    (found,) = messages(depthwise(4), "ethos-u55")
    assert found.startswith("DEPTHWISE_CONV_2D 'y': its stride is 1×4. Strides must be 1 to 3.")


@pytest.mark.parametrize(
    ("op", "height", "width", "padding", "is_broken"),
    [
        ("AVERAGE_POOL_2D", 8, 8, "SAME", False),
        ("AVERAGE_POOL_2D", 9, 2, "SAME", True),
        ("AVERAGE_POOL_2D", 2, 9, "SAME", True),
        ("AVERAGE_POOL_2D", 9, 9, "VALID", False),
        ("AVERAGE_POOL_2D", 257, 1, "VALID", True),
        ("AVERAGE_POOL_2D", 256, 256, "VALID", False),
        ("AVERAGE_POOL_2D", 256, 257, "VALID", True),
        ("MAX_POOL_2D", 256, 256, "SAME", False),
        ("MAX_POOL_2D", 257, 1, "SAME", True),
        ("MAX_POOL_2D", 2, 40000, "SAME", True),
    ],
)
def test_windows(op: str, height: int, width: int, padding: str, is_broken: bool) -> None:
    attrs = POOL | {"filter_height": height, "filter_width": width, "padding": padding}
    model = quantized(model_of(op, {"x": (1, 300, 300, 1)}, {"y": (1, 1, 1, 1)}, **attrs))
    found = messages(model, "ethos-u55")
    assert len(found) == is_broken
    if found:
        assert found[0].startswith(f"{op} 'y': its kernel is {height}×{width}")


def test_classes_of_a_softmax() -> None:
    def softmax(classes: int) -> Model:
        return quantized(model_of("SOFTMAX", {"x": (1, classes)}, {"y": (1, classes)}, beta=1.0))

    assert messages(softmax(511), "tflm") == []
    (found,) = messages(softmax(512), "tflm")
    assert found.startswith(
        "SOFTMAX 'y': it has 512 classes in int8. An int8 SOFTMAX of 512 or more classes can stop the"
    )
    wide = replace(softmax(512), graphs=(_as_int16(softmax(512).main),))
    assert messages(wide, "tflm") == []


def _as_int16(graph: Graph) -> Graph:
    params = QuantParams("int16", (2.0**-10,), (0,))
    tensors = {n: replace(t, dtype="int16", quant=params) for n, t in graph.tensors.items()}
    return replace(graph, tensors=tensors)


def test_ranks(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        VALID + '[ops]\nRESHAPE = ["int8"]\n[[constraint]]\ncheck = "rank"\nmax = 4\ntext = "At most 4 dimensions."',
    )
    assert messages(quantized(FACTORIES["RESHAPE"]()), path) == []
    model = quantized(model_of("RESHAPE", {"x": (1, 6), "s": ints(1, 1, 1, 2, 3)}, {"y": (1, 1, 1, 2, 3)}))
    (found,) = messages(model, path)
    assert found == "RESHAPE 'y': 'y' has 5 dimensions. At most 4 dimensions. (target 'mine')"


def test_kernels_of_convolutions_count_their_dilation(tmp_path: Path) -> None:
    constraint = '[[constraint]]\nops = ["CONV_2D"]\ncheck = "kernel"\nmax_height = 5\ntext = "t."'
    path = own(tmp_path, VALID + f'[ops]\nCONV_2D = ["int8*int8"]\n{constraint}')
    inputs = {"x": (1, 9, 9, 1), "w": np.ones((1, 3, 3, 1), np.float32)}
    for dilation, is_broken in ((2, False), (3, True)):
        attrs = CONV | {"dilation_h_factor": dilation}
        model = quantized(model_of("CONV_2D", inputs, {"y": (1, 9, 9, 1)}, **attrs))
        assert len(messages(model, path)) == is_broken


# ------------------------------------------------------------------------------------------------ conversions


def converted(source: str, result: str, *, is_input: bool, is_output: bool) -> bool:
    op = "DEQUANTIZE" if result == "float32" else "QUANTIZE"
    tensors = {
        name: Tensor(name, (1,), dtype, quant=None if dtype == "float32" else QuantParams(dtype, (0.5,), (0,)))
        for name, dtype in (("x", source), ("y", result))
    }
    model = model_of(op, {"x": (1,)}, {"y": (1,)})
    inputs, outputs = ("x",) if is_input else (), ("y",) if is_output else ()
    graph = replace(model.main, tensors=tensors, inputs=inputs, outputs=outputs)
    assert targets.converts(graph.nodes[0])
    assert targets.form_of(graph.nodes[0], graph) is None
    return targets.is_border(graph.nodes[0], graph)


def test_conversions_at_the_border() -> None:
    assert converted("float32", "int8", is_input=True, is_output=False)
    assert not converted("float32", "int8", is_input=False, is_output=False)
    assert converted("int8", "float32", is_input=False, is_output=True)
    assert not converted("int8", "float32", is_input=False, is_output=False)
    assert converted("int8", "int16", is_input=False, is_output=False)


def test_other_operators_are_no_conversions() -> None:
    graph = FACTORIES["ADD"]().main
    assert not targets.converts(graph.nodes[0])
    assert not targets.is_border(graph.nodes[0], graph)
