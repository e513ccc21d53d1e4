"""What `check` finds in a model that a target can't run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.building import CONV, POOL, ints, model_of
from tests.single_ops import FACTORIES
from tests.targets.building import HALF, NAMES, VALID, edited, own, quantized

from featherweight.graph import Graph, Model, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.targets import target as targets
from featherweight.targets.target import Violation, check

# ------------------------------------------------------------------------------------------------ check


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", ["CONV_2D", "FULLY_CONNECTED", "ADD", "AVERAGE_POOL_2D", "SOFTMAX"])
def test_what_a_target_runs_breaks_nothing(name: str, op: str) -> None:
    result = QuantParams("int8", (1 / 256,), (-128,)) if op == "SOFTMAX" else HALF
    assert check(quantized(FACTORIES[op](), y=result), name) == ()


def test_float_where_it_is_not_allowed() -> None:
    (found,) = check(FACTORIES["ADD"](), "ethos-u55")
    message = "ADD 'y' computes in float32, which target 'ethos-u55' does not run (allowed: int8, int16, int32)."
    assert found == Violation("y", "ADD", "forms", message)
    assert check(FACTORIES["ADD"](), "tflm") == ()


def test_a_form_that_the_target_lacks() -> None:
    model = quantized(FACTORIES["CONV_2D"](), x=None, y=None, b=None)
    (found,) = check(model, "tflm")
    assert found.message == (
        "CONV_2D 'y' computes in float32*int8, which target 'tflm' does not run "
        "(allowed: int8*int8, int16*int8, int8*int4, float32)."
    )


def test_an_operator_that_the_target_does_not_know() -> None:
    (found,) = check(quantized(FACTORIES["GELU"]()), "tflm")
    assert found.message.endswith("(allowed: nothing: the operator is unknown to it).")


def test_an_operator_without_real_numbers_that_the_target_does_not_know() -> None:
    model = model_of("BITCAST", {"x": (2,)}, {"y": (2,)}, dict.fromkeys("xy", "int32"))
    for target in ("ethos-u55", "tflm"):
        (found,) = check(model, target)
        words = (
            f"computes in int32, which target '{target}' does not run (allowed: nothing: the operator is unknown to it)"
        )
        assert found == Violation("y", "BITCAST", "forms", f"BITCAST 'y' {words}.")
    assert check(model, "litert") == ()


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
    assert sorted(row.constraint for row in check(model, "tflm")) == ["forms", "forms", "one_entry"]


def messages(model: Model, target: str | Path) -> list[str]:
    return [violation.message for violation in check(model, target)]


@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u65", "ethos-u85"])
def test_free_shapes(target: str) -> None:
    model = quantized(FACTORIES["ADD"]())
    # TFLite Micro has the shapes that the file begins with.
    assert messages(edited(model, "x", shape_signature=(-1, -1, 6, 8)), "tflm") == []
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
    assert found.startswith("CONV_2D 'y': its weight 'w' is computed. Weights must be constant: Vela ends otherwise")
    assert messages(model, "ethos-u85") == []


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
        result = QuantParams("int8", (1 / 256,), (-128,))
        return quantized(model_of("SOFTMAX", {"x": (1, classes)}, {"y": (1, classes)}, beta=1.0), y=result)

    assert messages(softmax(511), "tflm") == []
    (found,) = messages(softmax(512), "tflm")
    assert found.startswith(
        "SOFTMAX 'y': it has 512 classes in int8. An int8 SOFTMAX of 512 or more classes can stop the"
    )
    wide = replace(softmax(512), graphs=(_as_int16(softmax(512).main),))
    assert messages(wide, "tflm") == []


def _as_int16(graph: Graph) -> Graph:
    params = QuantParams("int16", (2.0**-15,), (0,))
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
