"""Exact sparsities at the end of any schedule, and which weights go."""

from __future__ import annotations

import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.training.pruning.nets import (
    BATCH,
    STEPS,
    conv_net,
    data,
    dense_net,
    kernel_of,
    kernels_of,
    several_kinds_net,
    trained,
    zeros,
)

import featherweight as fw
from featherweight.pruning.allocation import allocate
from featherweight.sparsity import patterns
from featherweight.sparsity.patterns import mask
from featherweight.sparsity.weight_layouts import dense_layout


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 7, 1), (0, 7, 3), (3, 8, 4), (2, 3, 100)])
def test_the_final_sparsity_is_exact_whatever_the_frequency(begin: int, end: int, frequency: int) -> None:
    optimizer = fw.SparseOptimizer("adam", fw.schedules.polynomial_decay(0.0, 0.77, begin, end), frequency=frequency)
    model = trained(dense_net(), optimizer)
    assert zeros(model, "a/kernel") == round(0.77 * 12 * 16)
    assert zeros(model, "b/kernel") == round(0.77 * 16 * 24)
    assert zeros(model, "c/kernel") == 0


@pytest.mark.parametrize(
    ("pattern", "start"),
    [("unstructured", "ones"), ("unstructured", "zeros"), ("1x4", "ones"), ("4x1", "zeros"), ("channel", "ones")],
)
def test_tied_and_zero_weights_give_the_exact_sparsity(pattern: str, start: str) -> None:
    """TFMOT prunes nothing where weights are tied."""
    model = dense_net(kernel_initializer=start)
    trained(model, fw.SparseOptimizer(keras.optimizers.SGD(0.0), fw.schedules.linear(0.0, 0.5, 0, 5), pattern), 6)
    for path in ("a/kernel", "b/kernel"):
        kernel, layout = kernel_of(model, path), dense_layout(kernel_of(model, path).shape)
        expected = dense_net(kernel_initializer=start).get_layer(path[0]).kernel
        kept = mask(np.abs(keras.ops.convert_to_numpy(expected)), 0.5, pattern, layout)
        assert kernel.tolist() == np.where(kept, keras.ops.convert_to_numpy(expected), 0).tolist()


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_pruned_weights_are_zero_after_every_step_and_masks_follow_the_schedule() -> None:
    model, schedule = dense_net(), fw.schedules.linear(0.0, 0.8, 2, 10)
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), schedule, frequency=3)
    trained(model, optimizer, 1)
    seen = []
    for _ in range(12):
        model.fit(*data(model, 1), batch_size=BATCH, verbose=0)
        masks = [keras.ops.convert_to_numpy(v) for v in optimizer.variables if v.dtype == "bool"]
        assert (kernel_of(model, "b/kernel")[~masks[1]] == 0).all()
        seen.append(zeros(model, "b/kernel"))
    expected = [schedule(max((s for s in (2, 5, 8, 10) if s <= step), default=0)) for step in range(2, 14)]
    assert seen == [round(sparsity * 16 * 24) for sparsity in expected]


def test_fewer_steps_than_the_frequency_prune_all_the_same() -> None:
    """TFMOT updates every 100 steps and prunes nothing, silently, in a shorter training."""
    model = trained(dense_net(), fw.SparseOptimizer("adam", fw.schedules.polynomial_decay(0.0, 0.9, 0, STEPS)))
    assert zeros(model, "b/kernel") == round(0.9 * 16 * 24)


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_n_of_m_follows_the_schedule() -> None:
    """TFMOT's 2:4 ignores its schedule."""
    optimizer = fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 10), "2:4", frequency=2)
    model = trained(dense_net(), optimizer, 4)
    assert zeros(model, "b/kernel") == round(0.2 * 16 * 24)
    trained(model, optimizer, 6)
    groups = kernel_of(model, "b/kernel").T.reshape(24, 4, 4)
    assert (np.count_nonzero(groups, axis=2) == 2).all()


def test_a_number_prunes_at_the_first_step() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    assert zeros(model, "b/kernel") == 192


@pytest.mark.parametrize("pattern", ["1x4", "2:4", "channel"])
def test_patterns_of_convolutions_lie_as_the_runtime_reads_them(pattern: str) -> None:
    model = trained(conv_net(), fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 4), pattern), 5)
    as_read = kernel_of(model, "body/kernel").transpose(3, 0, 1, 2) != 0  # (out, kh, kw, in)
    blocks = {"1x4": as_read.reshape(-1, 4), "2:4": as_read.reshape(-1, 4), "channel": as_read.reshape(16, -1)}[pattern]
    if pattern == "2:4":
        assert (blocks.sum(1) == 2).all()
    else:
        assert (blocks.all(1) == blocks.any(1)).all()
        assert np.count_nonzero(~blocks[:, 0]) == len(blocks) // 2


def test_a_global_allocation_takes_the_lowest_of_all() -> None:
    model = dense_net()
    model.get_layer("a").kernel.assign(0.01 * np.arange(1, 193).reshape(12, 16) / 192)
    model.get_layer("b").kernel.assign(1 + np.arange(1, 385).reshape(16, 24))
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.0), 0.5, allocation="global")
    with pytest.warns(UserWarning, match="pruning has left no weight in net/a/kernel; the output of such a layer"):
        trained(model, optimizer, 1)
    with pytest.warns(UserWarning, match="pruning has left no weight in net/a/kernel"):
        assert optimizer.sparsities()["net/a/kernel"] == 1
    assert zeros(model, "a/kernel") == 192
    assert zeros(model, "b/kernel") == round(0.5 * (192 + 384)) - 192
    assert (kernel_of(model, "b/kernel").ravel()[:96] == 0).all()


def test_erk_keeps_small_kernels_denser_and_the_same_total() -> None:
    model = several_kinds_net()
    kernels = kernels_of(model)
    pattern = patterns.parse("unstructured")
    shares = allocate([(kernel, pattern) for kernel in kernels], {}, 0.9, "erk")
    uniform = allocate([(kernel, pattern) for kernel in kernels], {}, 0.9, "uniform")
    assert abs(sum(s.zeros for s in shares) - sum(s.zeros for s in uniform)) <= 1
    assert all(0 <= share.zeros < share.units for share in shares)
    density = {share.kernel.path: 1 - share.zeros / share.units for share in shares}
    sides = {k.path: [side for side in k.layout.shape if side > 1] for k in kernels}
    raw = {path: sum(side) / np.prod(side) for path, side in sides.items()}
    free = [path for path in density if density[path] < 1]
    ratios = [density[path] / raw[path] for path in free]
    np.testing.assert_allclose(ratios, np.mean(ratios), rtol=0.1)  # in proportion, but for whole numbers of weights
    ruled = allocate([(kernel, pattern) for kernel in kernels], {kernels[2].path: 0.5}, 0.9, "erk")
    assert ruled[2].zeros == round(0.5 * ruled[2].units)


def test_movement_prunes_what_moves_to_zero() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([L.Input((4,)), L.Dense(1, use_bias=False, name="a")], name="net")
    start = np.array([[1.0], [0.1], [-1.0], [-0.1]], "float32")
    model.get_layer("a").kernel.assign(start)
    optimizer = fw.SparseOptimizer(
        keras.optimizers.SGD(0.01), fw.schedules.constant(0.5, begin=3), method="movement", keep=()
    )
    model.compile(optimizer, lambda y, x: keras.ops.mean(x))
    x = np.tile(np.array([[1.0, -1.0, -1.0, 1.0]], "float32"), (4, 1))  # the gradient: 1, -1, -1, 1
    model.fit(x, np.zeros((4, 1)), batch_size=1, shuffle=False, verbose=0)
    kernel = kernel_of(model, "a/kernel").ravel()
    assert (kernel != 0).tolist() == [False, True, False, True]  # the large ones moved towards zero


def test_regrowth_exchanges_weights_for_those_with_large_gradients() -> None:
    def kept(regrowth: float | None, steps: int) -> list[np.ndarray]:
        model = dense_net()
        schedule = fw.schedules.constant(0.5, 0, 12)
        optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.001), schedule, frequency=3, regrowth=regrowth)
        masks = []
        for _ in range(steps // 3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trained(model, optimizer, 3)
            masks.append(kernel_of(model, "b/kernel") != 0)
            assert np.count_nonzero(masks[-1]) == 192
        return masks

    plain, grown = kept(None, 15), kept(0.4, 15)
    exchanged = [np.count_nonzero(a & ~b) for a, b in itertools.pairwise(grown)]
    assert not any(np.count_nonzero(a & ~b) > 4 for a, b in itertools.pairwise(plain))
    assert exchanged[0] > 10 * exchanged[2] == exchanged[3] == 0  # after steps 6, 9, 12, 15
    assert exchanged[0] <= 0.4 * 192
