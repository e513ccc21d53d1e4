from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from tests import models
from tests.building import ints, model_of
from tests.runtime import tiny

import featherweight as fw
from featherweight import tflite
from featherweight.calibration import TensorStats, calibrate, measurable, shards
from featherweight.calibration.probes import implied, with_probes
from featherweight.errors import DataError, FormatError, RecipeError
from featherweight.graph import Tensor
from featherweight.runtime import Session

MODES = [{}, {"histograms": True}, {"channels": True}, {"histograms": True, "channels": True}]


def reference(model, samples) -> dict[str, tuple[float, float]]:
    """Extremes of every float tensor, from whole tensors read one by one."""
    names = measurable(model)
    computed = [name for name in names if name not in model.main.inputs]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with Session(model, outputs=computed) as session:
        for sample in samples:
            results = session.run(sample)
            for name in computed:
                found[name].append(results[name])
            for public, tensor in session.inputs.items():
                if tensor.is_float:
                    found[tensor.name].append(np.asarray(sample[public] if isinstance(sample, dict) else sample))
    return {
        n: (float(min(v.min() for v in values)), float(max(v.max() for v in values))) for n, values in found.items()
    }


@pytest.mark.parametrize("name", ["convnet", "gru", "transformer"])
@pytest.mark.parametrize("histograms", [False, True])
def test_extremes_are_those_of_the_values(name, histograms):
    model = models.lowered(name)
    samples = models.samples(name, 4)
    stats = calibrate(model, samples, histograms=histograms)
    expected = reference(model, samples)
    assert stats.samples == 4
    assert {n: (s.low, s.high) for n, s in stats.tensors.items()} == expected
    if histograms:
        for tensor, each in stats.tensors.items():
            assert each.histogram is not None
            assert each.histogram.total == 4 * model.main.tensors[tensor].elements


@pytest.mark.parametrize("mode", MODES)
def test_order_and_shards_do_not_change_a_bit(mode, rng):
    samples = list(rng.normal(size=(5, 3)).astype(np.float32) * np.array([[1], [100], [1e-3], [5], [0]], np.float32))
    expected = calibrate(tiny.dense(), samples, **mode)
    for order in itertools.islice(itertools.permutations(samples), 0, 120, 29):
        assert calibrate(tiny.dense(), order, **mode) == expected
        shards = [calibrate(tiny.dense(), part, **mode) for part in (order[:2], order[2:])]
        assert shards[0].merge(shards[1]) == shards[1].merge(shards[0]) == expected
    assert calibrate(tiny.dense(), samples, threads=1, **mode) == expected
    batched = calibrate(tiny.dense(free=True), [np.stack(samples[:2]), np.stack(samples[2:])], **mode)
    assert batched == expected


@pytest.mark.parametrize("mode", MODES)
def test_what_is_only_moved_is_measured_once(mode):
    stats = calibrate(tiny.dense(), [np.array([1, -2, 3], np.float32)], **mode)
    assert list(stats.tensors) == ["x", "y", "z"]
    assert (stats.tensors["z"].low, stats.tensors["z"].high) == (0.0, 7.0)
    assert (stats.tensors["z"] is stats.tensors["y"]) == (not mode.get("channels", False))


def test_repeated_values_share_extremes_but_not_histograms():
    model = model_of("TILE", {"x": (1, 2), "by": ints(1, 3)}, {"y": (1, 6)})
    assert implied(model, ["x", "y"], same_size=False) == {"x": "x", "y": "x"}
    assert implied(model, ["x", "y"], same_size=True) == {"x": "x", "y": "y"}
    stats = calibrate(model, [np.ones(2, np.float32)], histograms=True)
    assert [stats.tensors[name].histogram.total for name in "xy"] == [2, 6]


def test_channel_moments():
    samples = [np.array([1, 2, 3], np.float32), np.array([3, -2, 0], np.float32)]
    stats = calibrate(tiny.dense(), samples, channels=True, tensors=["x"])
    assert stats.tensors["x"].channels.mean.tolist() == [2, 0, 1.5]
    assert stats.tensors["x"].channels.mean_square.tolist() == [5, 4, 4.5]


def test_chosen_tensors_limit_and_sources(tmp_path):
    samples = np.array([[1, 2, 3], [9, 9, 9]], np.float32)
    path = tmp_path / "m.tflite"
    tflite.save(tiny.dense(), path)
    for source in (tiny.dense(), path, path.read_bytes()):
        stats = calibrate(source, samples, tensors=["y"], limit=1)
        assert stats == fw.Stats(1, {"y": TensorStats(1, 1.0, 3.0)})


def test_several_inputs_scalars_and_integers():
    stats = calibrate(tiny.two_inputs(signature=True), [{"in_a": [1.0, 2.0], "in_b": [5.0, 7.0]}])
    assert {name: (s.low, s.high) for name, s in stats.tensors.items()} == {
        "a": (1, 2),
        "b": (5, 7),
        "p": (5, 14),
        "s": (4, 5),
    }
    assert calibrate(tiny.integers("int32"), [np.array([1, 2, 3])]).tensors == {}
    scalar = tiny.unary("ABS", ())
    for mode in MODES:
        assert calibrate(scalar, [np.float32(-3)], **mode).tensors["y"].high == 3.0


def test_loops_are_measured_at_their_borders():
    for mode in MODES:
        stats = calibrate(tiny.loop(), [np.array([3], np.float32), np.array([5], np.float32)], **mode)
        assert (stats.tensors["y"].low, stats.tensors["y"].high) == (160, 192)


@pytest.mark.parametrize("mode", MODES)
def test_a_generator_is_consumed_once(mode):
    taken: list[int] = []

    def source():
        for number in range(5):
            taken.append(number)
            yield np.full(3, number, np.float32)

    generator = source()
    assert calibrate(tiny.dense(), generator, **mode).samples == 5
    assert taken == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="the iterator gave no samples: it is empty, or something consumed it before"):
        calibrate(tiny.dense(), generator, **mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("op", "value", "found"),
    [("LOG", -1.0, "NaN"), ("LOG", 0.0, "infinity"), ("SQRT", -4.0, "NaN"), ("EXP", 1e3, "infinity")],
)
def test_what_is_not_finite_is_traced_to_tensor_and_sample(mode, op, value, found):
    model = tiny.chain("ABS" if op == "EXP" else "FLOOR", op, "ABS", shape=(1, 3))
    samples = [np.ones(3, np.float32) for _ in range(4)]
    samples[2][1] = value
    with pytest.raises(DataError, match=re.escape(f"tensor 't2' holds {found} when the model runs on sample 2, which")):
        calibrate(model, samples, **mode)


@pytest.mark.parametrize("mode", MODES)
def test_bad_samples_are_named(mode):
    samples = [np.ones(3, np.float32), np.array([0, np.nan, 0], np.float32)]
    with pytest.raises(DataError, match=r"sample 1, input 'x': it holds NaN \(first at \[0, 1\]\)"):
        calibrate(tiny.dense(), samples, **mode)


@pytest.mark.parametrize("mode", MODES)
def test_huge_values_whose_sum_overflows_are_fine(mode):
    stats = calibrate(tiny.chain("ABS", "NEG", shape=(1, 3)), [np.full(3, 3e38, np.float32)], **mode)
    assert stats.tensors["t2"].low == -float(np.float32(3e38))


@pytest.mark.parametrize("mode", MODES)
def test_constant_and_zero_tensors_are_valid(mode):
    stats = calibrate(tiny.dense(), [np.zeros(3, np.float32)] * 2, **mode)
    for name, each in stats.tensors.items():
        assert (each.count, each.low, each.high) == (2, 0.0, 0.0), name
        assert not np.signbit([each.low, each.high]).any()


def test_state_does_not_leak_between_samples():
    model = models.lowered("lstm")
    samples = models.samples("lstm", 3)
    assert calibrate(model, samples) == calibrate(model, samples[::-1])


def test_tensors_that_can_not_be_measured_are_refused():
    with pytest.raises(RecipeError, match="tensor 'nothing' does not exist in the model's main graph"):
        calibrate(tiny.dense(), [np.zeros(3)], tensors=["nothing"])
    with pytest.raises(RecipeError, match=r"tensor 'w' can't be calibrated: .* \(it is a constant\)"):
        calibrate(tiny.dense(), [np.zeros(3)], tensors=["w"])
    with pytest.raises(RecipeError, match=r"tensor 'x' can't be calibrated: .* \(it is int32\)"):
        calibrate(tiny.integers("int32"), [np.zeros(3, int)], tensors=["x"])


def test_probes_get_names_of_their_own():
    model = tiny.chain("ABS", "ABS")
    taken = Tensor("t1/sum", (1,), "float32")
    model.main.tensors[taken.name] = taken  # pyright: ignore[reportIndexIssue]
    probed = with_probes(model, ["t1", "t2"])
    assert len(set(probed.outputs)) == 6
    assert "t1/sum" not in probed.outputs
    assert [node.op for node in probed.model.main.nodes] == ["ABS", "REDUCE_MIN", "REDUCE_MAX", "SUM"] * 2
    assert len(model.main.nodes) == 2


def test_one_interpreter_is_enough_for_large_models(monkeypatch):
    monkeypatch.setattr(shards, "_LARGEST_TWICE_BYTES", 0)
    samples = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    alone = calibrate(tiny.dense(), samples, histograms=True)
    monkeypatch.undo()
    assert calibrate(tiny.dense(), samples, histograms=True, threads=2) == alone


def test_a_model_of_integers_is_refused_unless_tensors_are_named():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    float_model = tiny.dense()
    quantized = fw.quantize(float_model, "int8", calibration=x).model
    with pytest.raises(FormatError, match=r"is already quantized: .* is computed in int8\. Calibrate the float model"):
        calibrate(quantized, x)
    with pytest.raises(FormatError, match="is already quantized"):
        fw.quantize(fw.quantize(float_model, "int8", calibration=x, io="int8"), calibration=x)
    name = quantized.main.inputs[0]
    assert [*calibrate(quantized, x, tensors=[name]).tensors] == [name]
    assert len(calibrate(fw.quantize(float_model, "dynamic").model, x).tensors) == len(measurable(float_model))


@pytest.mark.parametrize("mode", [{}, {"histograms": True, "channels": True}])
def test_workers_learn_the_same_bytes(mode, tmp_path):
    model, samples = models.lowered("convnet"), models.samples("convnet", 40)
    for jobs in (1, 2):
        calibrate(model, samples, jobs=jobs, progress=False, **mode).save(tmp_path / f"{jobs}.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_bad_sample_is_named_from_a_worker_too():
    model, samples = models.lowered("convnet"), models.samples("convnet", 40)
    samples[33] = {name: np.full_like(values, np.nan) for name, values in samples[33].items()}
    with pytest.raises(DataError, match="sample 33"):
        calibrate(model, samples, jobs=2, progress=False)
