"""Few values in each kernel after every step, the same in all channels, from any start; what is refused and stored."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.backends import run_on
from tests.training.pruning.nets import BATCH, data, kernel_of, several_kinds_net, trained

import featherweight as fw
from featherweight.errors import DataError, RecipeError

PATHS = ("body_1/kernel", "body_2/kernel")


def units_of(kernel: np.ndarray) -> np.ndarray:
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    return kernel / np.where(largest > 0, largest, 1)


def values_in(model: Any, path: str) -> int:
    return len(np.unique(np.rint(127 * units_of(kernel_of(model, path)))))


def integers_of(model: Any) -> dict[str, int]:
    samples = np.random.default_rng(1).normal(size=(8, 1, *model.input_shape[1:])).astype(np.float32)
    made = fw.quantize(model, calibration=samples, progress=False, verify=False).model.main
    weights = [tensor for tensor in made.tensors.values() if tensor.dtype == "int8" and tensor.is_constant]
    return {t.name: len(np.unique(t.array)) for t in weights if t.array is not None and t.array.ndim == 4}


@pytest.mark.parametrize("initial", ["k-means", "density", "linear", "random"])
def test_each_kernel_has_few_values_from_any_start(initial: str) -> None:
    optimizer = fw.ClusterOptimizer("adam", 12, initial=initial)
    model = trained(several_kinds_net(), optimizer)
    for path in PATHS:
        assert 4 < values_in(model, path) <= 12
    assert values_in(model, "stem/kernel") > 40
    assert set(optimizer.clusters().values()) <= set(range(4, 13))
    assert set(optimizer.kept_kernels()) == {f"net/{p}/kernel" for p in ("stem", "depthwise_1", "depthwise_2", "head")}


def test_int8_makes_as_many_integers_of_them_though_batch_norms_are_folded() -> None:
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3), L.Conv2D(24, 3, use_bias=False), L.BatchNormalization(), L.ReLU()]
    model = keras.Sequential([L.Input((8, 8, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(10)], name="net")
    trained(model, fw.ClusterOptimizer(keras.optimizers.Adam(0.01), 8), 12)
    assert sorted(integers_of(model).values())[0] <= 8


def test_levels_and_channels_learn_and_no_weight_changes_its_value() -> None:
    model = several_kinds_net()
    optimizer = fw.ClusterOptimizer(keras.optimizers.Adam(0.01), 8)
    trained(model, optimizer, 1)
    before, levels = kernel_of(model, PATHS[1]), optimizer.levels()[f"net/{PATHS[1]}"]
    trained(model, optimizer, 12)
    after = kernel_of(model, PATHS[1])
    assert not np.allclose(before, after, rtol=0.02)
    one, other = np.rint(127 * units_of(before)), np.rint(127 * units_of(after))
    for value in np.unique(one):
        assert len(np.unique(other[one == value])) == 1
    moved = optimizer.levels()[f"net/{PATHS[1]}"]
    assert levels != moved
    assert (moved[0], moved[-1]) == (-1, 1)


def test_the_gradient_of_a_value_is_that_of_its_members_together() -> None:
    """Weights ±s and ±c·s of two channels; a step of plain descent along the mean, not weight by weight."""
    keras.utils.set_random_seed(0)
    layer = L.Dense(2, use_bias=False, name="a")
    model = keras.Sequential([L.Input((64,)), layer], name="net")
    units = np.tile([-1.0, -0.5, 0.5, 1.0], 16)
    layer.kernel.assign(np.stack([units, 2 * units], axis=1))
    optimizer = fw.ClusterOptimizer(keras.optimizers.SGD(0.1), 4, keep=(), model=model)
    gradient = np.zeros((64, 2), np.float32)
    gradient[1, 0] = 16.0  # of one weight at −0.5 of the first channel
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [layer.kernel])
    kernel = kernel_of(model, "a/kernel")
    assert len(np.unique(kernel[:, 0])) == len(np.unique(kernel[:, 1])) == 4
    np.testing.assert_allclose(units_of(kernel)[:, 0], units_of(kernel)[:, 1], rtol=1e-5)
    # The level goes down in both channels, the first channel's scale up; the second's scale has no gradient of its own.
    level = units_of(kernel)[1, 0]
    assert level < -0.5
    assert np.abs(kernel[:, 0]).max() > 1
    assert abs(np.abs(kernel[:, 1]).max() - 2) < 0.02


def test_zeros_stay_and_count_as_a_value() -> None:
    model = several_kinds_net()
    for path in PATHS:
        variable = model.get_layer(path.split("/")[0]).kernel
        value = keras.ops.convert_to_numpy(variable)
        variable.assign(np.where(np.abs(value) < np.quantile(np.abs(value), 0.6), 0, value))
    zeros = {path: kernel_of(model, path) == 0 for path in PATHS}
    trained(model, fw.ClusterOptimizer("adam", 8))
    for path in PATHS:
        assert (kernel_of(model, path)[zeros[path]] == 0).all()
        assert values_in(model, path) <= 8


def test_pruning_and_clustering_go_together() -> None:
    sparse = fw.SparseOptimizer("adam", fw.schedules.polynomial_decay(0.0, 0.6, 0, 4), frequency=1)
    model = trained(several_kinds_net(), fw.ClusterOptimizer(sparse, 8, begin=6), 10)
    for path in PATHS:
        kernel = kernel_of(model, path)
        assert (kernel == 0).mean() >= round(0.6 * kernel.size) / kernel.size
        assert values_in(model, path) <= 8


def test_weights_are_drawn_from_begin_to_end() -> None:
    model = several_kinds_net()
    optimizer = fw.ClusterOptimizer(keras.optimizers.SGD(0.01), 8, begin=3, end=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = []
        for _ in range(7):
            trained(model, optimizer, 1)
            counts.append(values_in(model, PATHS[1]))
    assert min(counts[:2]) > 60
    assert counts[5] <= 8
    assert counts[6] <= 8


def test_averages_have_few_values_again() -> None:
    model = trained(several_kinds_net(), fw.ClusterOptimizer(keras.optimizers.Adam(0.01, use_ema=True), 8))
    assert values_in(model, PATHS[1]) <= 8


@pytest.mark.parametrize("is_inside", [False, True])
def test_loss_scales_go_with_it(is_inside: bool) -> None:
    inner = keras.optimizers.Adam(0.01)
    scaled = keras.optimizers.LossScaleOptimizer
    optimizer = fw.ClusterOptimizer(scaled(inner), 8) if is_inside else scaled(fw.ClusterOptimizer(inner, 8))
    assert values_in(trained(several_kinds_net(), optimizer), PATHS[1]) <= 8


def test_rules_give_kernels_their_own_number() -> None:
    rules = {"body_1": 32, "depthwise_2": 5, "body_2": 0}
    optimizer = fw.ClusterOptimizer("adam", 8, rules=rules)
    model = trained(several_kinds_net(), optimizer, 2)
    assert 16 < values_in(model, "body_1/kernel") <= 32
    assert optimizer.clusters()["net/depthwise_2/kernel"] <= 5
    assert optimizer.kept_kernels()["net/body_2/kernel"] == "rule 'body_2' gives it 0 values"


def test_saved_with_its_model_it_goes_on(tmp_path: Any) -> None:
    model = trained(several_kinds_net(), fw.ClusterOptimizer(keras.optimizers.Adam(0.01), 8, end=4))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [*loaded.optimizer.levels().values()] == [*model.optimizer.levels().values()]
    x, y = data(model)
    for one in (model, loaded):
        one.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    np.testing.assert_array_equal(kernel_of(model, PATHS[1]), kernel_of(loaded, PATHS[1]))
    other = trained(several_kinds_net(), fw.ClusterOptimizer("adam", 16), 1)
    store: dict[str, Any] = {}
    model.optimizer.save_own_variables(store)
    with pytest.raises(DataError, match="the stored levels belong to another model or another choice of kernels"):
        other.optimizer.load_own_variables(store)


def test_integer_training_keeps_what_it_has_made() -> None:
    model = trained(several_kinds_net(), fw.ClusterOptimizer("adam", 8))
    x, _ = data(model)
    qat = fw.quantize_aware(model, calibration=x[:16], progress=False, verify=False)
    assert sorted(qat.blueprint.clustered.values()) == [8, 8]
    qat.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(RecipeError, match="a model of quantize_aware keeps the clusters that it begins with by itself"):
        fw.ClusterOptimizer("adam", model=qat).build(qat.trainable_variables)


def test_targets_of_one_scale_say_that_they_lose_the_values_of_channels() -> None:
    settings: dict[str, Any] = {"progress": False, "verify": False, "target": "int8-per-tensor"}
    for per_channel in (True, False):
        model = trained(several_kinds_net(), fw.ClusterOptimizer("adam", 8, per_channel=per_channel))
        qat = fw.quantize_aware(model, calibration=data(model)[0][:16], **settings)
        said = [note for note in fw.finalize(qat).plan.notes if "are not kept in training" in note]
        assert len(said) == (2 if per_channel else 0)
        assert len(qat.blueprint.clustered) == (0 if per_channel else 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 3}, r"clusters is 3 \(allowed: a whole number from 4 to 128\)"),
        ({"initial": "kmeans++"}, r"initial is 'kmeans\+\+' \(allowed: k-means, density, linear, random"),
        ({"begin": 5, "end": 2}, "it ends at step 2, before it begins, at 5"),
        ({"keep": "head"}, r"ClusterOptimizer: keep='head' is not understood \(allowed: first, last, depthwise\)"),
        ({"rules": {"a": 3}}, r"ClusterOptimizer: rules is .*\(allowed: a dict from names of kernels to numbers"),
        ({"optimizer": "adamm"}, "ClusterOptimizer: optimizer='adamm' is none of Keras's"),
    ],
    ids=str,
)
def test_arguments_that_are_not_understood(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fw.ClusterOptimizer(**{"optimizer": "adam", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": "*"}, r"there is nothing to cluster; all kernels stay as they are: 'net/stem/kernel' \(excluded"),
        ({"exclude": "bodies"}, "exclude 'bodies' matches no kernel. They are named net/stem/kernel"),
        ({"rules": {"bodies": 8}}, "rule 'bodies' matches no kernel"),
    ],
    ids=str,
)
def test_choices_that_no_model_can_follow(options: dict[str, Any], message: str) -> None:
    model = several_kinds_net()
    with pytest.raises(RecipeError, match=message):
        fw.ClusterOptimizer("adam", model=model, **options).build(model.trainable_variables)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = several_kinds_net()
    model.get_layer("body_2").kernel.assign(np.full((3, 3, 32, 64), np.nan))
    with pytest.raises(DataError, match="net/body_2/kernel holds NaN or infinity"):
        fw.ClusterOptimizer("adam", model=model).build(model.trainable_variables)


def test_bfloat16_is_too_coarse() -> None:
    model = keras.Sequential([L.Input((32,)), L.Dense(32), L.Dense(32, name="body"), L.Dense(4)], name="net")
    halved = keras.Sequential([L.Input((32,)), L.Dense(32), L.Dense(32, dtype="bfloat16"), L.Dense(4)])
    fw.ClusterOptimizer("adam", model=model).build(model.trainable_variables)
    with pytest.raises(RecipeError, match=r"dense_.*/kernel is bfloat16.*policy mixed_bfloat16"):
        fw.ClusterOptimizer("adam", model=halved).build(halved.trainable_variables)


@pytest.mark.parametrize("make", [lambda: fw.ClusterOptimizer("adam"), lambda: fw.SparseOptimizer("adam", 0.5)])
def test_weights_go_into_a_model_that_has_not_been_trained(make: Any, tmp_path: Path) -> None:
    model, path = trained(several_kinds_net(), make()), tmp_path / "net.weights.h5"
    model.save_weights(path)
    fresh = several_kinds_net()
    fresh.compile(make(), "sparse_categorical_crossentropy")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh.load_weights(path)
    assert any("not built yet, so that its stored" in str(one.message) for one in said)
    np.testing.assert_array_equal(kernel_of(fresh, PATHS[0]), kernel_of(model, PATHS[0]))
    if not isinstance(fresh.optimizer, fw.SparseOptimizer):
        trained(fresh, fresh.optimizer, 1)
        assert values_in(fresh, PATHS[0]) <= 16


@pytest.mark.parametrize("make", [lambda: fw.ClusterOptimizer("adam"), lambda: fw.SparseOptimizer("adam", 0.5)])
def test_layers_that_are_frozen_once_it_is_built_want_a_new_optimizer(make: Any) -> None:
    model = trained(several_kinds_net(), make())
    model.get_layer("body_1").trainable = False
    with pytest.raises(RecipeError, match=r"was built with .* are trained now: layers were frozen.* a new optimizer"):
        trained(model, model.optimizer)


def test_a_training_that_ends_too_early_warns() -> None:
    with pytest.warns(UserWarning, match="few values from step 100 on, but this training ends at step 2"):
        trained(several_kinds_net(), fw.ClusterOptimizer("adam", end=100), 2)


def test_reports_need_kernels() -> None:
    with pytest.raises(RecipeError, match="it has no kernels yet"):
        fw.ClusterOptimizer("adam").clusters()


_SCRIPT = """
import tempfile
import keras, numpy as np
import featherweight as fw
from keras import layers as L

def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((8, 8, 3)), L.Conv2D(8, 3, name="stem"), L.Conv2D(16, 3, name="body"),
                             L.Flatten(), L.Dense(10, name="head")], name="net")

rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 96)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
for inner in (keras.optimizers.Adam(0.01), fw.SparseOptimizer("adam", 0.5), scaled):
    model, optimizer = net(), fw.ClusterOptimizer(inner, 8, begin=2, end=4)
    model.compile(optimizer, loss)
    model.fit(x, y, batch_size=16, verbose=0)
    assert 4 <= optimizer.clusters()["net/body/kernel"] <= 8, optimizer.clusters()
    path = tempfile.mkdtemp() + "/m.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for one in (model, loaded):
        one.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for one, other in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
print("DONE")
"""

_REPLICAS = """
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras, numpy as np
import featherweight as fw
from keras import layers as L
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([L.Input((12,)), L.Dense(16), L.Dense(24), L.Dense(10)])
    model.compile(fw.ClusterOptimizer("adam", 8), "mse")
x = np.random.default_rng(0).normal(size=(96, 12))
model.fit(x, np.ones((96, 10)), batch_size=16, verbose=0)
for variable in model.optimizer.kernels:
    for copy in strategy.experimental_local_results(variable.value):
        units = copy.numpy() / np.abs(copy.numpy()).max(0)
        assert len(np.unique(np.rint(127 * units))) <= 8
print("DONE")
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    run_on(backend, _SCRIPT)


@pytest.mark.frameworks
def test_several_devices_of_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _REPLICAS)
