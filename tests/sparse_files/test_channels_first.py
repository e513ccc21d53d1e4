"""What XNNPACK's sparse convolutions want: named where it misses, written where it can be, refused where it harms."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests import models
from tests.ptq.nets import samples
from tests.sparse_files.cluster_nets import MET, MISSED, Net, begun, body

import featherweight as fw
from featherweight.graph import Model
from featherweight.sparse_files.channels_first import with_channels_first
from featherweight.sparse_files.store import store_sparse
from featherweight.targets import target as targets

ARM = targets.load("litert-arm")
CHECK_OF = {constraint.text: constraint.check for constraint in ARM.constraints}


def missed(model: Model) -> list[str]:
    """The conditions that a model misses, by check, that of sparse storage apart."""
    return [check for v in fw.check(model, ARM) if (check := CHECK_OF[v.constraint]) != "cluster_stored"]


def same(before: Model, after: Model) -> None:
    """Asserts that two models compute the same on LiteRT, up to float rounding."""
    for sample in samples(before, 3):
        first, second = (np.asarray(fw.run(model, sample)) for model in (before, after))
        assert first.shape == second.shape
        np.testing.assert_allclose(second, first, rtol=0, atol=1e-5 * np.abs(first).max())


@pytest.mark.parametrize(("make", "check", "found"), MISSED.values(), ids=MISSED)
def test_a_condition_that_is_missed_is_named(make: Callable[[], Net], check: str, found: str) -> None:
    model = make().model()
    violations = [v for v in fw.check(model, ARM) if CHECK_OF[v.constraint] == check]
    assert violations
    assert any(re.search(found, v.message) for v in violations)
    assert set(missed(model)) == {check}
    assert missed(with_channels_first(model)) == missed(model)


@pytest.mark.parametrize("make", MET.values(), ids=MET)
def test_what_can_be_met_is_met_and_computes_the_same(make: Callable[[], Net]) -> None:
    model = make().model()
    written = with_channels_first(model)
    assert missed(written) == []
    same(model, written)
    assert with_channels_first(written) is written


@given(
    st.tuples(st.integers(7, 12), st.integers(7, 12)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from(["SAME", "VALID"]),
)
@settings(max_examples=25, deadline=None)
def test_any_padding_is_written_exactly_or_left(
    size: tuple[int, int], pads: tuple[int, int, int, int], kernel: int, stride: int, padding: str
) -> None:
    made = Net(*size, 3).pad(*pads).conv(4, 3, 2, padding)
    assume(padding == "SAME" or min(made.shape[1:3]) >= kernel)
    model = made.depthwise(kernel, stride, padding).conv(8).mean().model()
    written = with_channels_first(model)
    if missed(written):
        assert written is model
    else:
        same(model, written)


def test_even_sizes_are_mirrored_and_odd_ones_are_not() -> None:
    def first(rows: int, columns: int) -> tuple[str, list[int]]:
        graph = with_channels_first(body((rows, columns)).mean().model()).main
        node = graph.nodes[0]
        return node.op, np.asarray(graph.tensors[node.inputs[1]].array).tolist()

    assert first(32, 32) == ("REVERSE_V2", [1, 2])
    assert first(33, 32) == ("REVERSE_V2", [2])
    assert first(33, 33) == ("PAD", [[0, 0], [1, 1], [1, 1], [0, 0]])


def test_a_free_batch_stays_free() -> None:
    model = fw.prune(models.lowered("depthwise"), 0.8, pattern="auto", target="litert-arm", progress=False).model
    stored = store_sparse(model, target="litert-arm")
    assert stored.violations == ()
    inputs = models.batch("depthwise", 5)
    np.testing.assert_allclose(fw.run(stored.model, inputs), fw.run(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [None, "litert-arm"])
@pytest.mark.parametrize("name", ["3×3 inside", "padding of both kinds", "pooling inside", "multiplier"])
def test_what_litert_for_arm_misreads_stays_dense(name: str, target: str | None) -> None:
    model = MISSED[name][0]().model()
    stored = store_sparse(model, target=target)
    assert stored.model is model
    reasons = [row.reason for row in stored.tensors if row.reason != "it has no zeros"]
    assert reasons
    assert all("LiteRT for ARM64 would read it wrongly" in reason for reason in reasons)


def test_a_kept_dimension_is_misread_unless_it_is_written_otherwise() -> None:
    model = begun().mean(keep=True).model()
    assert not any(row.block for row in store_sparse(model).tensors)
    stored = store_sparse(model, target="litert-arm")
    assert any(row.block for row in stored.tensors)
    same(model, stored.model)


@pytest.mark.parametrize("name", ["stem of 5×5", "stem of stride 1"])
def test_what_it_does_not_enter_is_stored(name: str) -> None:
    stored = store_sparse(MISSED[name][0]().model(), target="litert-arm")
    assert any(row.block for row in stored.tensors)
    assert [CHECK_OF[v.constraint] for v in stored.violations] == ["cluster_convolution"]


def test_integers_are_named() -> None:
    model = begun().mean().dense(5).model()
    quantized = fw.quantize(model, "int8", calibration=samples(model), target=ARM, progress=False)
    found = [v.message for v in fw.check(quantized.model, ARM) if CHECK_OF[v.constraint] == "cluster_floats"]
    assert found
    assert all("it computes with " in message and "int8" in message for message in found)


def test_other_targets_change_nothing() -> None:
    model = body().mean().model()
    stored = store_sparse(model, target="litert")
    assert [node.op for node in stored.model.main.nodes if node.op == "REVERSE_V2"] == []
    assert stored.violations == ()
