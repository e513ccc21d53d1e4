from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError, RecipeError
from featherweight.sparsity import patterns
from featherweight.sparsity.patterns import mask, parse
from featherweight.sparsity.weight_layouts import (
    Layout,
    conv_layout,
    dense_layout,
    depthwise_layout,
    embedding_layout,
    runtime_layout,
    transposed_conv_layout,
    unview,
    view,
)

LAYOUTS = {
    "dense": dense_layout((16, 8)),
    "conv": conv_layout((3, 2, 8, 4)),
    "conv_1d": conv_layout((3, 8, 4)),
    "transposed": transposed_conv_layout((3, 2, 4, 8)),
    "depthwise": depthwise_layout((3, 2, 4, 2)),
    "embedding": embedding_layout((12, 8)),
    "lstm": dense_layout((8, 16), gates=4),
    "attention_query": Layout((8, 2, 4), (1, 2, 0), outputs=2),
    "attention_output": Layout((2, 4, 8), (2, 0, 1), inputs=2),
    "stored": runtime_layout((4, 3, 3, 8)),
}
NAMES = ("unstructured", "1x4", "4x1", "2x2", "1x8", "2:4", "1:4", "channel")


def scores_of(layout: Layout, kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "tied":
        return np.full(layout.shape, 0.5, np.float32)
    if kind == "zero":
        return np.zeros(layout.shape, np.float32)
    if kind == "few":
        return rng.integers(0, 3, layout.shape).astype(np.float32)
    return np.abs(rng.normal(size=layout.shape)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("kind", ["random", "tied", "zero", "few"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_exactly_the_asked_number_of_units_goes(layout: Layout, name: str, kind: str) -> None:
    pattern = parse(name)
    if pattern.obstacle(layout):
        pytest.skip("the pattern does not fit")
    units = pattern.units(layout)
    for sparsity in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        if sparsity > pattern.ceiling:
            continue
        kept = mask(scores_of(layout, kind), sparsity, name, layout)
        assert kept.shape == layout.shape
        assert kept.dtype == bool
        assert np.count_nonzero(~kept) == round(sparsity * units) * layout.size // units


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    sparsity=st.floats(0, 0.999),
    levels=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_the_lowest_scores_go_and_of_equal_ones_the_first(
    rows: int, columns: int, sparsity: float, levels: int, seed: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, (rows, columns)).astype(np.float32)
    kept = mask(scores, sparsity).ravel()
    order = np.argsort(scores.ravel(), kind="stable")
    assert not kept[order[: round(sparsity * scores.size)]].any()
    assert kept[order[round(sparsity * scores.size) :]].all()


@given(
    name=st.sampled_from(["1x4", "2x1", "2x4", "4x4", "1x2"]),
    rows=st.integers(1, 3),
    positions=st.integers(1, 4),
    columns=st.integers(1, 3),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)
def test_blocks_of_any_kernel_go_as_one(
    name: str, rows: int, positions: int, columns: int, sparsity: float, seed: int
) -> None:
    high, wide = map(int, name.split("x"))
    layout = conv_layout((positions, 1, columns * wide, rows * high))
    kept = mask(scores_of(layout, "random", seed), sparsity, name, layout)
    as_read = kept.transpose(3, 0, 1, 2)  # (out, kh, kw, in)
    blocks = as_read.reshape(rows, high, positions, columns, wide).transpose(0, 2, 3, 1, 4).reshape(-1, high * wide)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert np.count_nonzero(~blocks[:, 0]) == round(sparsity * rows * positions * columns)


@given(
    kept_of=st.sampled_from([(2, 4), (1, 4), (1, 2), (3, 4), (4, 8)]),
    groups=st.integers(1, 6),
    rows=st.integers(1, 5),
    part=st.floats(0, 1),
    levels=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_n_of_m_never_drops_more_of_a_group_than_allowed(
    kept_of: tuple[int, int], groups: int, rows: int, part: float, levels: int, seed: int
) -> None:
    n, m = kept_of
    scores = np.random.default_rng(seed).integers(0, levels, (rows, groups * m)).astype(np.float32)
    ceiling = (m - n) / m
    for sparsity in (part * ceiling, ceiling):
        kept = mask(scores, sparsity, f"{n}:{m}")
        assert np.count_nonzero(~kept) == round(sparsity * scores.size)
        assert (kept.reshape(rows, groups, m).sum(2) >= n).all()
    assert (kept.reshape(rows, groups, m).sum(2) == n).all()
    grouped = scores.reshape(rows, groups, m)
    weakest_kept = np.where(kept.reshape(grouped.shape), grouped, np.inf).min(2)
    strongest_gone = np.where(kept.reshape(grouped.shape), -np.inf, grouped).max(2)
    assert (weakest_kept >= strongest_gone).all()


def test_channels_go_through_all_gates() -> None:
    layout = LAYOUTS["lstm"]
    kept = mask(scores_of(layout, "random"), 0.5, "channel", layout)
    by_unit = kept.reshape(8, 4, 4)  # (in, gates, units)
    assert sorted(by_unit.all(axis=(0, 1))) == [False, False, True, True]
    assert (by_unit.all(axis=(0, 1)) == by_unit.any(axis=(0, 1))).all()


def test_channels_of_depthwise_kernels_are_their_columns() -> None:
    layout = LAYOUTS["depthwise"]
    kept = mask(scores_of(layout, "random"), 0.5, "channel", layout).reshape(6, 8)
    assert (kept.all(0) == kept.any(0)).all()
    assert np.count_nonzero(kept.all(0)) == 4


# ------------------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_view_is_undone(layout: Layout) -> None:
    values = np.arange(layout.size).reshape(layout.shape)
    assert (unview(np, view(np, values, layout), layout) == values).all()


def test_blocks_lie_along_the_inputs_that_the_runtime_reads_one_after_the_other() -> None:
    for name, axis in (("dense", 0), ("conv", 2), ("transposed", 3), ("depthwise", 2), ("stored", 3)):
        layout = LAYOUTS[name]
        flat = view(np, np.arange(layout.size).reshape(layout.shape), layout)
        places = np.array(np.unravel_index(flat[0, 0, 0, :2], layout.shape))
        moved = np.flatnonzero(places[:, 0] != places[:, 1])
        assert moved.tolist() == [axis] or (name == "depthwise" and moved.tolist() == [3])


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), True, "0.5", None])
def test_a_sparsity_outside_its_range_is_an_error(sparsity: object) -> None:
    with pytest.raises(RecipeError, match=r"a sparsity is a fraction of zeros in \[0, 1\), not "):
        mask(np.ones((4, 4), np.float32), sparsity)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "4", "0x4", "1x", "2-4", "dense", "auto", None])
def test_an_unknown_pattern_is_an_error(name: str) -> None:
    with pytest.raises(RecipeError, match=r"is unknown \(allowed: unstructured, RxC, N:M, channel"):
        parse(name)


@pytest.mark.parametrize("name", ["4:4", "5:4", "1:128"])
def test_n_of_m_needs_n_below_m(name: str) -> None:
    with pytest.raises(RecipeError, match="N must be below M, and M at most 64"):
        parse(name)


def test_a_pattern_that_does_not_divide_names_the_nearest_sizes() -> None:
    with pytest.raises(DataError, match=r"it has 30 consecutive inputs, .* by 4 \(nearest: 28 or 32\)"):
        mask(np.ones((8, 30), np.float32), 0.5, "1x4")
    with pytest.raises(DataError, match=r"it has 3 output channels, .* by 4 \(nearest: 4\)"):
        mask(np.ones((3, 8), np.float32), 0.5, "4x1")
    with pytest.raises(DataError, match=r"it has 6 consecutive inputs, .* by 4 \(nearest: 4 or 8\)"):
        mask(np.ones((3, 6), np.float32), 0.5, "2:4")


def test_a_pattern_says_what_it_can_hold() -> None:
    with pytest.raises(RecipeError, match=r"pattern '2:4' holds at most a sparsity of 0.5, not 0.6"):
        mask(np.ones((4, 8), np.float32), 0.6, "2:4")


def test_scores_that_are_nan_are_an_error() -> None:
    with pytest.raises(DataError, match="contain NaN"):
        mask(np.full((2, 2), np.nan, np.float32), 0.5)


def test_a_family_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'RxC' is registered twice"):
        patterns.family("RxC", "x")(lambda _: parse("1x4"))
