"""Channels chosen by time: operators timed alone with the channels that are left, and which channels go first."""

from __future__ import annotations

import numpy as np
import pytest
from tests import building, models

import featherweight as fw
from featherweight.channels import latencies
from featherweight.channels.groups import find_groups, magnitudes
from featherweight.channels.labeling import label
from featherweight.channels.steps import steps_of
from featherweight.errors import RecipeError
from featherweight.operators import lookup
from featherweight.runtime.litert import Session


def branches(wide: int = 48, narrow: int = 48, side: int = 12):
    """Two convolutions of one image, the first of 3 x 3, and what reads each: nothing ties their channels."""
    constants = {
        "w": building.weights(wide, 3, 3, 8, seed=1),
        "v": building.weights(narrow, 1, 1, 8, seed=1),
        "r": building.weights(4, 1, 1, wide, seed=2),
        "s": building.weights(4, 1, 1, narrow, seed=3),
    }
    layers = [
        building.conv("x", "w", "", "h", (1, side, side, wide)),
        building.conv("x", "v", "", "g", (1, side, side, narrow)),
        building.conv("h", "r", "", "a", (1, side, side, 4)),
        building.conv("g", "s", "", "b", (1, side, side, 4)),
        building.add("a", "b", "y", (1, side, side, 4)),
    ]
    return building.net({"x": (1, side, side, 8)}, constants, layers, ("y",))


def in_packs(model) -> float:
    """Seconds of an operator whose outputs go in packs of 16: 1 µs of calling, and 1 ns for each product."""
    (node,) = model.main.nodes
    role = lookup(node.op).weights[0]
    weight = model.main.tensors[node.inputs[role.weight]].shape
    positions = np.prod(model.main.tensors[node.outputs[0]].shape[1:-1])
    outputs = -(-weight[0] // 16) * 16
    return 1e-6 + 1e-9 * outputs * float(np.prod(weight[1:])) * float(positions)


def test_channels_go_where_time_is(monkeypatch) -> None:
    monkeypatch.setattr(latencies, "fastest", in_packs)
    removed = fw.remove_channels(branches(), latency=0.3)
    after = {group.operators[0]: group.after for group in removed.groups}
    assert after["h"] < 48
    assert after["g"] == 48
    before, left = removed.time_us
    assert left <= 0.7 * before
    assert "time of products" in repr(removed)
    by_products = fw.remove_channels(branches(), macs=0.3)
    assert by_products.time_us is None


def test_a_channel_that_saves_nothing_stays(monkeypatch) -> None:
    monkeypatch.setattr(latencies, "fastest", in_packs)
    removed = fw.remove_channels(branches(wide=48, narrow=64), latency=0.2, multiple=8)
    after = {group.operators[0]: group.after for group in removed.groups}
    assert after["h"] % 16 == 0


def test_steps_that_later_ones_make_needless_stay(monkeypatch) -> None:
    monkeypatch.setattr(latencies, "fastest", in_packs)
    model = branches()
    labels = label(model.main)
    groups = find_groups(model.main, labels)
    scores = [magnitudes(model.main, labels, group) for group in groups]
    steps = [latencies.coarser(steps_of(group, own, 16)) for group, own in zip(groups, scores, strict=True)]
    clock = latencies.clock_of(model, labels, "int8")
    for share in (0.1, 0.35, 0.6):
        gone, found = latencies.without_time(clock, groups, scores, steps, share)
        assert found >= share
        for number, own in enumerate(steps):
            taken = [step for step in own if set(step.labels) <= gone]
            if taken:
                without = gone - set(taken[-1].labels)
                assert 1 - clock.total(without) / clock.total(set()) < share, number


@pytest.mark.parametrize("form", ["int8", "float32"])
@pytest.mark.parametrize("name", ["convnet", "depthwise"])
def test_each_operator_runs_alone_with_fewer_channels(name: str, form: str) -> None:
    model = models.lowered(name)
    labels = label(model.main)
    clock = latencies.clock_of(model, labels, form)
    assert clock.uses
    groups = [group for group in find_groups(model.main, labels) if not group.reason]
    keep = np.ones(labels.count, bool)
    for group in groups:
        keep[list(group.labels[::2])] = False
    for use in clock.uses:
        seconds, products = clock.seconds_of(use, keep)
        assert 0 < seconds < 1
        assert products <= clock.seconds_of(use, np.ones(labels.count, bool))[1]
    for index, role in clock.uses:
        node = model.main.nodes[index]
        shapes = tuple(model.main.tensors[n].shape for n in (node.inputs[role.activation], node.inputs[role.weight]))
        made = latencies.timed_model(model.main, node, role, (*shapes, model.main.tensors[node.outputs[0]].shape), form)
        with Session(made, threads=1) as session:
            (result,) = session.run(np.zeros(shapes[0], form)).values()
        assert result.dtype == form
        assert result.shape == model.main.tensors[node.outputs[0]].shape


def test_the_clock_runs_here() -> None:
    removed = fw.remove_channels(branches(side=64), latency=0.1)
    assert removed.time_us[1] <= 0.9 * removed.time_us[0]
    assert removed.macs[1] < removed.macs[0]


def test_many_steps_are_few_and_hold_the_same_channels() -> None:
    model = branches(wide=200)
    labels = label(model.main)
    group = find_groups(model.main, labels)[0]
    fine = steps_of(group, magnitudes(model.main, labels, group), 8)
    coarse = latencies.coarser(fine)
    assert len(fine) == 24
    assert len(coarse) == latencies.MOST_STEPS
    assert [v for step in coarse for v in step.labels] == [v for step in fine for v in step.labels]
    assert latencies.coarser([]) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"latency": 0.3, "target": "tflm"},
            "latency=0.3 times LiteRT, which target 'tflm' does not run. Instead, give",
        ),
        ({"latency": 0.3, "macs": 0.3}, "'macs' and 'latency'|macs and latency|macs, latency"),
        ({"latency": 0.99}, r"latency=0.99 can't be saved; 0\.\d+ is the most that these channels"),
        ({"latency": 1.0}, "latency is 1.0"),
    ],
)
def test_bad_options(options, told, monkeypatch) -> None:
    monkeypatch.setattr(latencies, "fastest", in_packs)
    with pytest.raises(RecipeError, match=told):
        fw.remove_channels(branches(), **options)


def test_much_more_than_asked_is_said() -> None:
    model = branches(wide=24, narrow=4)
    with pytest.warns(
        UserWarning, match=r"3\d% of the multiply-accumulates went, 10% were asked for.*multiple of 8, 16"
    ):
        fw.remove_channels(model, macs=0.1)


def test_times_that_the_clock_does_not_tell_apart_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(latencies, "fastest", lambda model: 1e-5)
    with pytest.raises(RecipeError, match=r"less than a call of the runtime \(10\.0 µs\).*Give macs= or sparsity="):
        fw.remove_channels(branches(), latency=0.3)
