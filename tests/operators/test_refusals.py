"""What kernels of functions, quotients, choices and detectors refuse, and how they say it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from flatbuffers import flexbuffers

from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import QuantParams
from featherweight.operators.kernels import interpolation
from featherweight.runtime import run_reference

EIGHTH = QuantParams("int8", (0.125,), (-3,))


def run(
    op: str,
    arrays: dict[str, np.ndarray],
    dtype: str,
    quant: QuantParams | None = None,
    out: QuantParams | None = None,
    profile: str = "xnnpack",
    **node: Any,
) -> np.ndarray:
    """Runs one operator: integers stand for real numbers by `quant` where it is given, the output's by `out`."""
    tensors = {
        n: Tensor(n, a.shape, a.dtype.name, quant=quant if a.dtype != np.bool_ else None) for n, a in arrays.items()
    }
    tensors["y"] = Tensor("y", (1,), dtype, quant=out or (quant if dtype.startswith("int8") else None))
    graph = Graph("main", tuple(arrays), ("y",), (Node(op, tuple(arrays), ("y",), **node),), tensors)
    return run_reference(Model((graph,)), arrays, profile)["y"]


X = np.array([[-4, -3, 5]], np.int8)


@pytest.mark.parametrize("op", ["SQRT", "RSQRT"])
def test_roots_of_negative_numbers_are_bad_data(op: str) -> None:
    with pytest.raises(DataError, match=rf"{op} 'y': 1 of 3 input values are negative, and roots of them are not "):
        run(op, {"x": X}, "int8", EIGHTH)


def test_quotients_by_zero_are_bad_data() -> None:
    with pytest.raises(DataError, match=r"DIV 'y': 1 of 3 divisors are zero \(LiteRT ends with an error\)\. Keep"):
        run("DIV", {"x": X, "z": X}, "int8", EIGHTH)
    with pytest.raises(DataError, match=r"FLOOR_MOD 'y': 2 of 2 divisors are zero"):
        run("FLOOR_MOD", {"x": np.ones(2, np.int32), "z": np.zeros(2, np.int32)}, "int32")
    with pytest.raises(DataError, match=r"POW 'y': an exponent of integers is negative"):
        run("POW", {"x": np.ones(2, np.int32), "z": np.array([1, -1], np.int32)}, "int32")


def test_zero_by_a_large_number_is_not_always_zero_in_litert() -> None:
    zero, large = np.array([-3], np.int8), np.array([120], np.int8)
    found = {
        p: int(run("DIV", {"x": zero, "z": large}, "int8", EIGHTH, profile=p)[0])
        for p in ("xnnpack", "integer_multiplier")
    }
    assert found == {"xnnpack": -2, "integer_multiplier": -3}


def test_negation_needs_symmetric_integers() -> None:
    with pytest.raises(UnsupportedOp, match="NEG 'y': parameters other than one scale for input and output and zero "):
        run("NEG", {"x": X}, "int8", EIGHTH)


def test_sums_of_the_reference_kernel_are_refused() -> None:
    arrays = {"x": X, "axes": np.array([1], np.int32)}
    assert run("SUM", arrays, "int8", EIGHTH).tolist() == [4]
    with pytest.raises(UnsupportedOp, match="SUM 'y': sums of int8 in profile 'tflite_ref' are not supported"):
        run("SUM", arrays, "int8", EIGHTH, profile="tflite_ref")
    assert run("SUM", arrays, "int8", EIGHTH, profile="tflm").tolist() == [4]


def test_comparisons_need_scales_below_one_and_int16_one_scale() -> None:
    whole = QuantParams("int8", (1.0,), (0,))
    with pytest.raises(
        UnsupportedOp, match=r"EQUAL 'y': LiteRT can't compute it: it compares scales below 1 only, and one is 1 "
    ):
        run("EQUAL", {"x": X, "z": X}, "bool", whole)


def test_values_that_pass_through_need_the_output_s_parameters() -> None:
    arrays = {"c": np.array([[True, False, True]]), "x": X, "z": X}
    with pytest.raises(
        UnsupportedOp, match="SELECT_V2 'y': input 1 with parameters other than the output's is not supp"
    ):
        run("SELECT_V2", arrays, "int8", EIGHTH, QuantParams("int8", (0.25,), (-3,)))


def test_integers_that_stand_for_reals_have_no_floor_division() -> None:
    with pytest.raises(UnsupportedOp, match="FLOOR_DIV 'y': integers with a scale are not supported"):
        run("FLOOR_DIV", {"x": X, "z": np.ones_like(X)}, "int8", EIGHTH)


def test_floats_that_fit_no_integer_are_not_cast() -> None:
    x = np.array([1.5, -1.5, 3e9, np.nan], np.float32)
    assert run("CAST", {"x": x[:2]}, "int32").tolist() == [1, -1]
    with pytest.raises(UnsupportedOp, match="CAST 'y': 2 of 4 floats that do not fit int32 are not supported"):
        run("CAST", {"x": x}, "int32")


def test_ranges_end() -> None:
    numbers = {name: np.array(value, np.int32) for name, value in (("a", 0), ("b", 5), ("c", 0))}
    with pytest.raises(UnsupportedOp, match="RANGE 'y': a range from 0 to 5 in steps of 0 is not supported"):
        run("RANGE", numbers, "int32")


def detect(options: dict[str, Any] | None, **shapes: tuple[int, ...]) -> None:
    shapes = {"boxes": (1, 2, 4), "scores": (1, 2, 3), "anchors": (2, 4)} | shapes
    extras = {} if options is None else {"custom_options": np.frombuffer(flexbuffers.Dumps(options), np.uint8)}
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    run("CUSTOM", arrays, "float32", custom_code="TFLite_Detection_PostProcess", extras=extras)


def test_detectors_without_what_they_need() -> None:
    with pytest.raises(UnsupportedOp, match="CUSTOM 'y': a node without custom options is not supported"):
        detect(None)
    with pytest.raises(UnsupportedOp, match="custom options without 'y_scale' are not supported"):
        detect({"max_detections": 3})
    full = {"max_detections": 3, "max_classes_per_detection": 1, "num_classes": 3}
    full |= {"nms_score_threshold": 0.0, "nms_iou_threshold": 0.5} | {f"{n}_scale": 1.0 for n in "yxhw"}
    with pytest.raises(UnsupportedOp, match=r"a batch of 2 is not supported \(supported: 1\)"):
        detect(full, boxes=(2, 2, 4))
    with pytest.raises(UnsupportedOp, match="5 scores for 3 classes are not supported"):
        detect(full, scores=(1, 2, 5))


def test_tables_without_a_c_library_are_rounded_from_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str | None) -> ctypes.CDLL:
        raise OSError(name)

    points = np.linspace(-4, 4, 65, dtype=np.float32)
    library = interpolation.libm("tanh")(points)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    rounded = interpolation.libm.__wrapped__("tanh")(points)
    assert rounded.dtype == library.dtype == np.float32
    np.testing.assert_array_max_ulp(rounded, library, 2)
    np.testing.assert_array_equal(rounded, np.tanh(points.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_corners_and_centers_of_pixels_are_not_aligned_together(dtype: str) -> None:
    arrays = {"x": np.ones((1, 4, 4, 1), dtype), "size": np.array([6, 6], np.int32)}
    with pytest.raises(UnsupportedOp, match="aligned corners together with half-pixel centers are not supported"):
        run("RESIZE_BILINEAR", arrays, dtype, attrs={"align_corners": True, "half_pixel_centers": True})
