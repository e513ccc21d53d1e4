"""Sparse storage: exact round trips, files that LiteRT runs, and what stays dense with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import models
from tests.building import dense, net, weights
from tests.ptq.nets import samples

import featherweight as fw
from featherweight import operators
from featherweight.errors import FormatError, RecipeError
from featherweight.graph import Model, Tensor, constant
from featherweight.operators import record
from featherweight.passes.legalization import prepare
from featherweight.sparse_files import store as storing
from featherweight.tflite.sparse_tensors import decoded, encoded, is_sparse

WIDTHS = (64, 96, 32)


@given(st.integers(0, 2**16), st.sampled_from([1, 4, 16]), st.floats(0, 1), st.sampled_from(["float32", "int8"]))
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_is_decoded(seed: int, block: int, density: float, dtype: str) -> None:
    random = np.random.default_rng(seed)
    shape = (*random.integers(1, 5, random.integers(0, 3)), block * int(random.integers(1, 40)))
    array = random.integers(-127, 128, shape).astype(dtype) * (random.random(shape) < density)
    tensor = constant("w", array.astype(dtype))
    stored = encoded(tensor, block)
    assert is_sparse(stored)
    np.testing.assert_array_equal(decoded(stored).array, array)
    with pytest.raises(FormatError, match="is stored sparsely"):
        _ = stored.array


def test_a_block_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(FormatError, match=r"'w' \[3, 6\] can't be stored in blocks of 4"):
        encoded(constant("w", np.ones((3, 6), np.float32)), 4)


def test_damaged_indices_are_an_error() -> None:
    def damaged(change: Callable[[Any], None]) -> Tensor:
        stored = encoded(constant("w", np.eye(8, dtype=np.float32)))
        change(stored.extras["sparsity"])
        return stored

    def set_values(part: str, values: np.ndarray) -> Callable[[Any], None]:
        return lambda sparsity: setattr(getattr(sparsity.dimMetadata[1], part), "values", values)

    for change in (
        set_values("arrayIndices", np.full(8, 9, np.uint8)),
        set_values("arraySegments", np.arange(1, 10, dtype=np.uint8)),
        lambda sparsity: setattr(sparsity, "traversalOrder", None),
        lambda sparsity: setattr(sparsity, "dimMetadata", []),
    ):
        with pytest.raises(FormatError, match="stored in a sparse form that is not understood"):
            decoded(damaged(change))


def stack(pattern: str, sparsity: float = 0.9) -> Model:
    """Dense layers whose kernels have zeros in a pattern."""
    constants, layers, last = dict[str, np.ndarray](), [], "x"
    for number, (depth, width) in enumerate(pairwise(WIDTHS)):
        constants |= {f"w{number}": weights(width, depth, seed=number), f"b{number}": weights(width, seed=9)}
        layers.append(dense(last, f"w{number}", f"b{number}", f"y{number}", (1, width), "RELU"))
        last = f"y{number}"
    return fw.prune(net({"x": (1, WIDTHS[0])}, constants, layers, [last]), sparsity, pattern=pattern, keep=(),
                    progress=False).model  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "pattern", "block"),
    [(None, "1x4", 4), (None, "unstructured", 1), ("int8", "1x16", 16), ("dynamic", "1x16", 16)],
)
def test_the_file_runs_and_is_smaller(recipe: str | None, pattern: str, block: int, tmp_path) -> None:
    model = stack(pattern)
    given_samples = samples(model, 8)
    if recipe is not None:
        calibration = given_samples if recipe == "int8" else None
        model = fw.quantize(model, recipe, calibration=calibration, progress=False).model
    stored = fw.store_sparse(model)
    assert {row.block for row in stored.tensors} == {block}
    assert all(row.stored_bytes < 0.35 * row.dense_bytes for row in stored.tensors)
    path = tmp_path / "sparse.tflite"
    assert stored.file_bytes == (len(fw.write(model)), stored.save(path))
    assert stored.file_bytes[1] < stored.file_bytes[0]
    inspected = [fw.inspect(one).compressed_bytes for one in (model, path)]
    assert list(stored.compressed_bytes) == inspected
    resolver = "auto" if recipe is None else "no_delegate"  # LiteRT's own kernels run sparse layers
    for sample in given_samples:
        before, after = (np.asarray(fw.run(m, sample, resolver=resolver)) for m in (model, path))
        if recipe is None:
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(after, before)
        np.testing.assert_allclose(np.asarray(fw.run(path, sample)), before, rtol=1e-5, atol=1e-5)


def test_convolutions_are_unpacked_when_loaded() -> None:
    model = fw.prune(models.lowered("convnet"), 0.85, progress=False).model
    stored = fw.store_sparse(model)
    assert any(row.op == "CONV_2D" and row.block == 1 for row in stored.tensors)
    assert len(fw.write(stored.model)) < len(fw.write(model))
    inputs = models.batch("convnet", 4)
    np.testing.assert_allclose(fw.run(stored.model, inputs), fw.run(model, inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["convnet", "dense"])
def test_sparse_files_are_loaded_and_quantized_as_dense_ones(name: str) -> None:
    model = fw.prune(models.lowered(name), 0.85, keep=("depthwise",), progress=False).model
    stored = fw.store_sparse(model).model
    for tensor_name, tensor in prepare(stored).main.tensors.items():
        if tensor.is_constant and tensor.is_float:
            np.testing.assert_array_equal(tensor.array, model.main.tensors[tensor_name].array)
    calibration = models.samples(name, 8)
    plain, packed = (fw.quantize(m, calibration=calibration, progress=False) for m in (model, fw.write(stored)))
    inputs = models.batch(name, 4)
    np.testing.assert_array_equal(fw.run(packed.model, inputs), fw.run(plain.model, inputs))


@pytest.mark.parametrize(("name", "recipe"), [("convnet", None), ("dense", None), ("dense", "int8")])
def test_weights_of_sparse_files_are_compared(name: str, recipe: str | None) -> None:
    source = models.lowered(name)
    # The convolutions of the one are unpacked by an operator, the dense layers of the other by their kernels.
    pattern, exclude = ("unstructured", ()) if recipe is None else ("1x16", ("dense_4",))
    model = fw.prune(source, 0.85, pattern=pattern, exclude=exclude, keep=("depthwise",), progress=False).model
    if recipe is not None:
        model = fw.quantize(model, recipe, calibration=models.samples(name, 8), progress=False).model
    stored = fw.store_sparse(model)
    sparse = {row.name for row in stored.tensors if row.block}
    assert sparse
    inputs = models.samples(name, 2)
    expected = {row.name: row for row in fw.compare(source, model, inputs) if row.kind == "weight"}
    for found in (fw.compare(source, stored.model, inputs), fw.compare(source, fw.write(stored.model), inputs)):
        weights_of = {row.name: row for row in found if row.kind == "weight"}
        assert weights_of == expected
        assert sparse <= set(weights_of)
        assert all(weights_of[name].sqnr_db < 20 for name in sparse)
    if recipe is None:
        back = {row.name: row for row in fw.compare(stored.model, model, inputs) if row.kind == "weight"}
        assert sparse <= set(back)
        assert all(row.max_abs_error == 0 for row in back.values())


def test_speed_takes_only_what_is_faster() -> None:
    """Whatever a machine measures, what stays dense says so in milliseconds, and what does not was measured faster."""
    integer = fw.quantize(stack("1x16"), calibration=samples(stack("1x16"), 8), progress=False).model
    for model in (stack("1x4"), integer):
        for row in fw.store_sparse(model, prefer="speed").tensors:
            assert row.milliseconds is not None
            dense, sparse = row.milliseconds
            assert (row.block > 0) == (sparse <= 0.95 * dense)
            assert row.block or row.reason == f"sparse it would take {sparse:.3g} ms instead of {dense:.3g} ms"
    assert {row.milliseconds for row in fw.store_sparse(integer).tensors} == {None}
    with pytest.raises(RecipeError, match=r"prefer is 'guess' \(allowed: size, speed\)"):
        fw.store_sparse(integer, prefer="guess")


def test_what_stays_dense_says_why() -> None:
    model = stack("unstructured", 0.1)
    assert all(row.reason.startswith("sparse it would take") for row in fw.store_sparse(model).tensors)
    int16 = fw.quantize(stack("1x16"), "int16x8", calibration=samples(model, 8), progress=False).model
    reasons = {row.reason for row in fw.store_sparse(int16).tensors}
    assert reasons == {"LiteRT has no sparse kernel for FULLY_CONNECTED in int16*int8"}


def test_a_file_that_litert_does_not_run_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 have no float kernel: the trial finds out, and the weights stay dense."""
    dense_layer = operators.lookup("FULLY_CONNECTED")
    monkeypatch.setitem(record._OPS, dense_layer.name, replace(dense_layer, sparse_blocks={"float32": (16,)}))
    model = stack("1x16")
    stored = fw.store_sparse(model)
    assert all(row.block == 0 and "LiteRT can't run it" in row.reason for row in stored.tensors)
    assert fw.write(stored.model) == fw.write(model)
    monkeypatch.setitem(record._OPS, dense_layer.name, replace(dense_layer, sparse_blocks={"float32": (4,)}))
    monkeypatch.setattr(storing, "_VERSION", 1)  # XNNPACK takes such a layer for a dense one
    assert all(
        "outputs differ by" in row.reason or "can't run it" in row.reason for row in fw.store_sparse(model).tensors
    )


@pytest.mark.parametrize(("recipe", "pattern"), [(None, "1x4"), ("int8", "1x16"), ("dynamic", "1x16")])
def test_weights_that_are_off_by_a_little_are_found(
    recipe: str | None, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All integers by 1 of 127, floats by as much of the largest: no output changes by more than a few hundredths."""
    model = stack(pattern)
    if recipe is not None:
        calibration = samples(model, 8) if recipe == "int8" else None
        model = fw.quantize(model, recipe, calibration=calibration, io="int8" if recipe == "int8" else None,
                            progress=False).model  # fmt: skip

    def wrong(tensor: Tensor, block: int) -> Tensor:
        array = np.array(tensor.array)
        step = 1 if recipe else np.abs(array).max() / 127
        array[np.abs(array) > step] -= (np.sign(array) * step).astype(array.dtype)[np.abs(array) > step]
        return encoded(replace(tensor, data=constant(tensor.name, array, tensor.dtype).data), block)

    monkeypatch.setattr(storing, "encoded", wrong)
    rows = fw.store_sparse(model).tensors
    assert rows
    assert all(row.block == 0 and "its outputs differ by" in row.reason for row in rows)
    monkeypatch.undo()
    assert all(row.block for row in fw.store_sparse(model).tensors)


def test_a_weight_of_zeros_alone() -> None:
    model = stack("1x4")
    zero = constant("w0", np.zeros((WIDTHS[1], WIDTHS[0]), np.float32))
    graph = replace(model.main, tensors={**model.main.tensors, "w0": zero})
    stored = fw.store_sparse(replace(model, graphs=(graph,)))
    x = samples(model, 1)[0]
    np.testing.assert_allclose(fw.run(stored.model, x), fw.run(replace(model, graphs=(graph,)), x), rtol=1e-5)
