"""JAX functions: the rewriting rules on their own, free batches, and verification."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.lower.support import all_ops, ops

from featherweight.errors import LoweringError
from featherweight.graph import constant, replace_graph
from featherweight.lower import jax as lower_jax
from featherweight.lower import lower, lower_with_notes
from featherweight.lower.batching import batch
from featherweight.lower.batching.places import Place, relocated
from featherweight.lower.jax import lower_function
from featherweight.lower.verify import differences, judged, longest_sum, tolerance
from featherweight.runtime import run

X = np.random.default_rng(1).normal(size=(2, 6, 8)).astype("float32")


@pytest.mark.parametrize(
    "gelu",
    [
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: 0.5 * x * (1 + jax.scipy.special.erf(x / math.sqrt(2))),
        lambda x: (jax.scipy.special.erf(x * math.sqrt(0.5)) + 1) * (x * 0.5),
    ],
)
def test_exact_gelu_is_found_however_it_is_written(gelu: Any) -> None:
    model = lower(gelu, samples=[X])
    assert ops(model) == ["GELU"]
    assert not model.main.nodes[0].attrs["approximate"]
    np.testing.assert_allclose(run(model, X), gelu(X), atol=1e-6)


def test_what_only_looks_like_gelu_is_left_alone() -> None:
    def other(x: Any) -> Any:
        return 0.5 * x * (1 + jax.scipy.special.erf(x * 0.5))

    assert "GELU" not in ops(lower(other, samples=[X]))


def test_softmax_of_attention_is_one_operator() -> None:
    def attend(x: Any) -> Any:
        return jax.nn.softmax(x @ jnp.swapaxes(x, 1, 2), axis=-1) @ x

    found = ops(lower(attend, samples=[X]))
    assert found.count("SOFTMAX") == 1
    assert not {"REDUCE_MAX", "EXP", "SUM", "DIV"} & set(found)


def test_keys_of_what_is_returned_name_the_outputs() -> None:
    model = lower(lambda x: {"scores": x + 1, "boxes": (x * 2, [x - 3])}, samples=[X])
    found = run(model, X)
    np.testing.assert_allclose(found["scores"], X + 1)
    np.testing.assert_allclose(found["boxes_0"], X * 2)
    np.testing.assert_allclose(found["boxes_1_0"], X - 3)
    assert list(run(lower(lambda x: (x + 1, x * 2), samples=[X]), X)) == ["output_0", "output_1"]
    ((public, _),) = lower(lambda x: x + 1, samples=[X]).signatures[0].outputs
    assert public == "output"


def test_softmax_over_another_axis_is_right() -> None:
    model = lower(lambda x: jax.nn.softmax(x, axis=1), samples=[X])
    np.testing.assert_allclose(run(model, X), jax.nn.softmax(X, axis=1), atol=1e-6)


C = np.random.default_rng(2).normal(size=(8, 6)).astype("float32")


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: 1 - x, "SUB"),
        (lambda x: C - x, "SUB"),
        (lambda x: C[:, :1] - jax.nn.sigmoid(x), "SUB"),
        (lambda x: jnp.arange(6.0) - 2 * x, "SUB"),
        (lambda x: C / x, "DIV"),
        (lambda x: 1 / (1.5 + jnp.tanh(x)), "DIV"),
        (lambda x: x**-1, "DIV"),
        (lambda x: jnp.full((2, 8, 6), 3.0) / jnp.exp(x), "DIV"),
        (lambda x: 1 / (1 + jnp.exp(-x)), "LOGISTIC"),
        (lambda x: 7 - (10 * x).astype(jnp.int32), "SUB"),
        (lambda x: jax.nn.relu(2 - x), "SUB"),
    ],
)
def test_a_constant_stays_in_front_of_what_was_transposed(function: Any, op: str) -> None:
    def whole(x: Any) -> Any:
        return function(jnp.swapaxes(x, 1, 2))

    model = lower(whole, samples=[X + 4])
    assert ops(model).count(op) == 1
    np.testing.assert_allclose(run(model, X + 4), whole(X + 4), rtol=1e-5, atol=1e-6)


def test_a_constant_stays_in_front_within_a_loop() -> None:
    def looped(x: Any) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, v: 1 - v.T, x[0, :, :6])

    np.testing.assert_allclose(run(lower(looped, samples=[X]), X), looped(X), atol=1e-6)


def test_rules_reach_into_loops_and_branches() -> None:
    def looped(x: Any) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, v: jax.nn.gelu(v, approximate=False), x)

    model = lower(looped, samples=[X])
    assert "GELU" in all_ops(model)
    assert "GELU" not in ops(model)


def test_a_batch_inside_of_other_dimensions_is_freed() -> None:
    """Transposed and merged batches need the graph of another batch than 1."""

    def mixed(x: Any) -> Any:
        swapped = jnp.swapaxes(x, 0, 1) * jnp.arange(6, dtype=x.dtype)[:, None, None]
        return jnp.tanh(swapped[2]).reshape(x.shape[0] * 2, 4).sum(axis=1).reshape(-1, 2)

    lowered = lower_function(mixed, X, free_batch=True)
    assert lowered.notes == ()
    for size in (1, 2, 5):
        x = np.random.default_rng(size).normal(size=(size, 6, 8)).astype("float32")
        np.testing.assert_allclose(run(lowered.model, x), mixed(x), atol=1e-5)


def test_a_function_that_mixes_samples_keeps_its_batch() -> None:
    lowered = lower_function(lambda x: x - x.mean(axis=0, keepdims=True), X, free_batch=True)
    assert "stays fixed at 1" in " ".join(lowered.notes) or np.allclose(
        run(lowered.model, X), X - X.mean(0, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "place", "into", "expected"),
    [
        ((2, 8, 49, 96), Place(0), (16, 49, 96), Place(0)),  # windows, sample by sample
        ((49, 2, 96), Place(1), (49, 6, 32), Place(1)),  # heads of a sequence that comes first
        ((7, 2, 3), Place(1), (14, 3), Place(0, 7)),  # samples inside of time steps
        ((14, 3), Place(0, 7), (7, 2, 3), Place(1)),
        ((2, 4), Place(0), (8,), Place(0)),
        ((3, 2), Place(1), (2, 3), None),  # no axis holds a whole number of samples
    ],
)
def test_a_reshape_carries_the_batch_in_the_order_of_elements(
    shape: tuple[int, ...], place: Place, into: tuple[int, ...], expected: Place | None
) -> None:
    assert relocated(shape, place, into, batch=2) == expected


def test_constants_written_out_for_every_sample_are_taken_once() -> None:
    table = np.random.default_rng(2).normal(size=(1, 6, 8)).astype("float32")

    def shifted(x: Any) -> Any:
        return jnp.swapaxes(jnp.swapaxes(x, 0, 1) + jnp.swapaxes(jnp.repeat(table, x.shape[0], 0), 0, 1), 0, 1)

    lowered = lower_function(shifted, X, free_batch=True)
    assert lowered.notes == ()
    np.testing.assert_allclose(run(lowered.model, X), X + table, atol=1e-6)


def test_a_source_that_computes_one_batch_only_keeps_it() -> None:
    weight = np.random.default_rng(2).normal(size=(48, 4)).astype("float32")
    lowered = lower_function(lambda x: x.reshape(1, 48) @ weight, X[:1], free_batch=True)
    assert "stays fixed at 1: The function <lambda> can't be traced on" in lowered.notes[0]
    np.testing.assert_allclose(run(lowered.model, X[:1]), X[:1].reshape(1, 48) @ weight, atol=1e-5)


def test_several_arguments_are_named_after_their_place() -> None:
    model = lower(lambda a, b: {"sum": a + b["k"], "a": a * 2}, samples=[(X, {"k": X})])
    assert [name for name, _ in model.signatures[0].inputs] == ["input_0", "1_k"]
    got = run(model, (X, X))
    assert isinstance(got, dict)
    np.testing.assert_allclose(got["sum"], X + X, atol=1e-6)


def test_a_function_needs_an_example() -> None:
    with pytest.raises(LoweringError, match=r"Pass an example of them: samples=\[\(x, …\)\]"):
        lower(lambda x: x)


def test_a_wrong_lowering_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The approximate GELU in place of the exact one: the smallest defect that a conversion has shown."""
    real = lower_jax._converted

    def wrong(*args: Any) -> Any:
        model = real(*args)
        nodes = tuple(dataclasses.replace(n, attrs={**n.attrs, "approximate": True}) for n in model.main.nodes)
        return replace_graph(model, 0, dataclasses.replace(model.main, nodes=nodes))

    monkeypatch.setattr(lower_jax, "_converted", wrong)
    message = r"Output 'output' of the lowered function .* differs from its source by up to .* \(tolerated: .*\)\. This"
    with pytest.raises(LoweringError, match=message):
        lower_with_notes(lambda x: jax.nn.gelu(x, approximate=False), samples=[X * 3])


def test_a_wrong_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = lower_jax._converted
    weight = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")

    def wrong(*args: Any) -> Any:
        model = real(*args)
        main = model.main
        tensors = dict(main.tensors)
        name = next(n for n, t in tensors.items() if t.is_constant and t.shape == (5, 8))
        array = np.array(tensors[name].array)
        array[0, 0] += 0.01
        tensors[name] = dataclasses.replace(constant(name, array), file_name=tensors[name].file_name)
        return replace_graph(model, 0, dataclasses.replace(main, tensors=tensors))

    monkeypatch.setattr(lower_jax, "_converted", wrong)
    with pytest.raises(LoweringError, match="differs from its source"):
        lower(lambda x: x @ weight, samples=[X[:, 0]])


def test_shapes_and_dtypes_count_as_differences() -> None:
    one = np.ones((2, 3), "float32")
    assert differences(["y"], [one], [one[:1]])[0].note == "shape [1, 3] where the source gives [2, 3]"
    assert differences(["y"], [one.astype("int32")], [one])[0].note == "dtype float32 where the source gives int32"
    nan = np.full((2, 3), np.nan, "float32")
    assert differences(["y"], [nan], [nan])[0].is_tolerable
    assert not differences(["y"], [one], [nan])[0].is_tolerable
    assert tolerance(np.arange(3, dtype="int32")) == 0


def test_a_process_with_64_bit_types_lowers_the_same() -> None:
    def counted(x: Any) -> Any:
        return jax.lax.fori_loop(0, 4, lambda _, y: y * 2 + x, x)

    with jax.enable_x64(True):
        model = lower(counted, samples=[np.ones((1, 4), np.float32)])
    assert "int64" not in {t.dtype for graph in model.graphs for t in graph.tensors.values()}
    assert "WHILE" in ops(model)


def test_a_size_that_stays_fixed_above_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that end at the batch of the lowering cut larger ones alone."""
    real = batch.restated

    def without_masks(*args: Any, **options: Any) -> Any:
        model = real(*args, **options)
        nodes = tuple(
            dataclasses.replace(n, attrs={**n.attrs, "end_mask": 0}) if n.op == "STRIDED_SLICE" else n
            for n in model.main.nodes
        )
        return replace_graph(model, 0, dataclasses.replace(model.main, nodes=nodes))

    def swapped(x: Any) -> Any:
        return jnp.tanh(jnp.swapaxes(x, 0, 1)[2])

    assert lower_function(swapped, X, free_batch=True).notes == ()
    monkeypatch.setattr(batch, "restated", without_masks)
    assert "stays fixed at 1" in " ".join(lower_function(swapped, X, free_batch=True).notes)


def test_long_sums_are_no_defect() -> None:
    """LiteRT adds one value after the other; XLA in another order."""
    image = np.random.default_rng(0).uniform(0.9, 1.08, (1, 512, 512, 2)).astype("float32")
    model = lower(lambda x: x.mean(axis=(1, 2)), samples=[image])
    assert longest_sum(model) == 512 * 512
    assert tolerance(image, 512 * 512) > 8 * tolerance(image)


def _normalized(x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2 + 1)


def test_where_float32_cancels_the_distance_from_float64_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    far = (100 + np.random.default_rng(0).normal(size=(3, 6, 8))).astype("float32")
    assert lower_function(_normalized, far, free_batch=True).notes == ()
    asked = list[int]()
    real = lower_jax.in_float64
    monkeypatch.setattr(lower_jax, "in_float64", lambda *args: asked.append(1) or real(*args))
    lower_function(_normalized, far, free_batch=True)
    assert asked
    wide = real(jax.make_jaxpr(_normalized)(far), [far])[0]
    x = far.astype("float64")
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1)
    np.testing.assert_allclose(wide, exact, atol=1e-9)
    np.testing.assert_array_less(1e-5, np.abs(np.asarray(_normalized(far)) - exact).max())


def test_float64_reaches_into_loops_and_calls() -> None:
    def looped(x: Any) -> Any:
        return jax.lax.scan(lambda c, row: (c + jax.nn.gelu(row), c.sum()), jnp.zeros(8), x[0])[0]

    wide = lower_jax.in_float64(jax.make_jaxpr(looped)(X), [X])[0]
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, np.asarray(looped(X)), atol=1e-5)


def test_a_defect_is_found_beside_what_float32_loses() -> None:
    exact = np.linspace(-5, 5, 1000)
    source = (exact + 1e-4).astype("float32")
    found = differences(["y"], [source], [source + np.float32(6e-4)])
    assert [d.is_tolerable for d in judged(found, [source], [source + np.float32(6e-4)], [exact], [source])] == [False]
    assert [d.is_tolerable for d in judged(found, [source], [source - np.float32(3e-4)], [exact], [source])] == [True]


def test_an_output_that_is_returned_twice_keeps_its_places() -> None:
    def repeated(x: Any) -> Any:
        y = x + 1
        return y, 1 - x, y

    for expected, found in zip(repeated(X), run(lower(repeated, samples=[X]), X).values(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
