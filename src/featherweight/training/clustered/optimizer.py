"""Clustering as an optimizer: wraps another one, and leaves few values in each kernel after every step."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from featherweight.arguments import checked, choice, count, flag, layer_name
from featherweight.clustering.choosing import FEWEST, MOST, check_choice, chosen
from featherweight.errors import DataError, RecipeError, listed
from featherweight.pruning.choosing import ROLES
from featherweight.training.clustered.levels import INITIALS, Clustered, Members, initial_levels
from featherweight.training.devices import assign, values_of
from featherweight.training.graph.registry import ops
from featherweight.training.optimizers.arguments import as_optimizer, models
from featherweight.training.optimizers.fit_callback import Training
from featherweight.training.optimizers.variable_owners import find_kernels, find_layers, references
from featherweight.training.optimizers.wrapping import ConstrainingOptimizer
from featherweight.training.schedules import LAST_STEP

# Values of a kernel are one where int8 makes one integer of them.
_STEPS = 127


@keras.saving.register_keras_serializable("featherweight")
class ClusterOptimizer(ConstrainingOptimizer):
    """Trains with any Keras optimizer, and leaves at most so many different values in each kernel.

    It is used in place of the optimizer that it wraps: in `compile`, in custom loops, on every backend, inside or
    around a `LossScaleOptimizer`, around a `SparseOptimizer`, saved and restored with the model. There is nothing to
    strip and no callback.

    Values are levels in units of each output channel's largest weight, so that int8 makes the same integers of them in
    every channel, batch norms folded or not; levels and channels are trained by the gradients of all their weights
    together. Weights that are 0 stay 0, and count as one of the values.

    Args:
        optimizer: the Keras optimizer that trains.
        clusters: values in a kernel: 4 to 128.
        initial: the values that training starts from: ``k-means`` (the best there are, which is computed), ``density``
            (as many weights between any two), ``linear`` (equally far from each other) or ``random``.
        begin: the update of the weights from which on they are drawn to their values.
        end: the one from which on they have them, and no weight goes from one value to another. None: `begin`.
        exclude: shell patterns of paths of kernels that stay as they are; each may match a part of a path.
        rules: shell pattern → values in the kernels whose path it matches, 0 for none; the first decides.
        keep: what stays as it is unless a rule other than ``*`` names it: the ``first`` convolution, the ``last``
            kernel, ``depthwise`` convolutions. So do kernels with fewer than 16 weights for each value.
        per_channel: False for targets with one scale for a whole weight.
        model: the model (or several) that a loop of one's own trains; `fit` and `train_on_batch` make theirs known.

    Raises:
        RecipeError: for an argument that is not understood; when the optimizer is built, if there is nothing to
            cluster, a rule matches nothing, or the model has to be named.
        DataError: when it is built, if a kernel holds NaN or infinity; when it is restored, if the levels belong to
            another model.
    """

    @checked(
        {"number_of_clusters": "clusters", "cluster_centroids_init": "initial", "dense": "keep"},
        clusters=count(FEWEST, MOST),
        initial=choice(*INITIALS),
        begin=count(0, LAST_STEP),
        end=count(0, LAST_STEP),
        per_channel=flag,
        model=models,
        name=layer_name,
    )
    def __init__(
        self,
        optimizer: Any,
        clusters: int = 16,
        *,
        initial: str = "k-means",
        begin: int = 0,
        end: int | None = None,
        exclude: str | Sequence[str] = (),
        rules: Mapping[str, int] | Sequence[tuple[str, int]] = (),
        keep: str | Sequence[str] = ROLES,
        per_channel: bool = True,
        model: Any = None,
        name: str = "cluster_optimizer",
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer: Any = as_optimizer(optimizer, type(self).__name__)
        self.initial, self.begin, self.end, self.per_channel = (
            initial,
            begin,
            begin if end is None else end,
            per_channel,
        )
        if self.end < begin:
            raise RecipeError(f"ClusterOptimizer: it ends at step {end}, before it begins, at {begin}.")
        self._choice = check_choice(clusters, rules, exclude, keep, type(self).__name__)
        self._models = references(model)
        self._start, self._is_length_checked = 0, False

    # ----------------------------------------------------------------------------------------------------------- state

    def build(self, variables: Sequence[Any]) -> None:
        """Chooses the kernels among the variables, and the levels that each starts from."""
        if self.built:
            return
        layers = find_layers(variables, self._models, type(self).__name__, is_unstructured=True)
        if any(getattr(layer, "blueprint", None) is not None for layer in layers):
            raise RecipeError(
                "ClusterOptimizer: a model of quantize_aware keeps the clusters that it begins with by itself. Train "
                "the float model with this optimizer, or use cluster, then quantize_aware with any optimizer."
            )
        kernels = find_kernels(variables, layers)
        counts, self._kept = chosen(kernels, self._choice)
        clustered = [kernel for kernel in kernels if kernel.path in counts]
        rows = values_of([variables[kernel.index] for kernel in clustered])
        if odd := [kernel.path for kernel, (_, value) in zip(clustered, rows, strict=True) if not _is_finite(value)]:
            raise DataError(f"ClusterOptimizer: {listed(odd)} holds NaN or infinity. Train from finite weights.")
        if coarse := [kernel.path for kernel in clustered if str(variables[kernel.index].dtype) == "bfloat16"]:
            raise RecipeError(
                f"ClusterOptimizer: {listed(coarse)} is bfloat16, which is too coarse for weights of one value in "
                "channels of different scales. Use the policy mixed_bfloat16, whose variables are float32."
            )
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._training = Training.of(layers, self)
        self._clustered = tuple(
            self._made(kernel, variable, value, counts[kernel.path])
            for kernel, (variable, value) in zip(clustered, rows, strict=True)
        )

    def _made(self, kernel: Any, variable: Any, value: np.ndarray, count: int) -> Clustered:
        levels = initial_levels(value, kernel, count, self.initial, per_channel=self.per_channel)
        initializer: Any = lambda shape, dtype: ops.convert_to_tensor(levels, dtype=dtype)  # noqa: E731
        made = self.add_variable(levels.shape, initializer, name=f"{kernel.path.replace('/', '_')}_levels")
        return Clustered(kernel, variable, made, self.per_channel)

    # ----------------------------------------------------------------------------------------------------------- steps

    def before_step(self, gradients: Sequence[Any], variables: Sequence[Any] | None) -> tuple[Any, Sequence[Any]]:
        """Takes note of the level of each weight, and leads gradients along what levels and channels can follow."""
        known = [one.members() for one in self._clustered]
        strength, found = self._strength(self._updates()), list(gradients)
        trained = None if variables is None else {id(variable): at for at, variable in enumerate(variables)}
        for one, members in zip(self._clustered, known, strict=True):
            at = one.kernel.index if trained is None else trained.get(id(one.variable))
            if at is not None and found[at] is not None:
                found[at] = one.along(ops.convert_to_tensor(found[at]), members, strength)
        return known, found

    def after_step(self, noted: list[Members]) -> None:
        """Draws weights to their levels, and levels to their weights."""
        if not self._is_length_checked:
            self._is_length_checked = True
            self._training.warn_if_too_short(self.end, self._start, self.inner_optimizer, _TOO_SHORT)
        self._hold(noted, self._strength(self._updates()))

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the wrapped optimizer put in its averages, and gives these few values again."""
        inner = getattr(self.inner_optimizer, "inner_optimizer", self.inner_optimizer)
        # (`fit` comes here after a failed step, too: then there may be no values to look at.)
        is_held = self.built and inner.use_ema and sys.exc_info()[0] is None
        known = [one.members() for one in self._clustered] if is_held else []
        self.inner_optimizer.finalize_variable_values(var_list)
        if known:
            self._hold(known, self._strength(self._updates()))

    def _hold(self, known: Sequence[Members], strength: Any) -> None:
        rows = [one.held(members, strength) for one, members in zip(self._clustered, known, strict=True)]
        assign([(one.variable, weights) for one, (weights, _) in zip(self._clustered, rows, strict=True)])
        assign([(one.levels, levels) for one, (_, levels) in zip(self._clustered, rows, strict=True)])

    def _strength(self, step: Any) -> Any:
        """Returns how far weights are drawn to their levels after so many updates, from 0 to 1."""
        done = ops.cast(step - self.begin + 1, "float32") / np.float32(self.end - self.begin + 1)
        return ops.clip(done, 0.0, 1.0)

    # ---------------------------------------------------------------------------------------------------------- reports

    @property
    def kernels(self) -> tuple[Any, ...]:
        """The variables that get few values.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        return tuple(one.variable for one in self._clustered)

    def clusters(self) -> dict[str, int]:
        """Returns path → how many integers int8 makes of each clustered kernel, as its weights are now.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        return {path: len(np.unique(np.rint(units * _STEPS))) for path, units in self._units().items()}

    def levels(self) -> dict[str, tuple[float, ...]]:
        """Returns path → the levels of each clustered kernel, in units of a channel's largest weight.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        rows = values_of([one.levels for one in self._clustered])
        return {one.kernel.path: tuple(v.tolist()) for one, (_, v) in zip(self._clustered, rows, strict=True)}

    def kept_kernels(self) -> dict[str, str]:
        """Returns path → reason of each kernel that stays as it is.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        return dict(self._kept)

    def _units(self) -> dict[str, np.ndarray]:
        self._check_built()
        found = dict[str, np.ndarray]()
        for one in self._clustered:
            known = one.members()
            value, scale = (ops.convert_to_numpy(part).astype(np.float64) for part in (known.value, known.scale))
            found[one.kernel.path] = value / scale
        return found

    def _check_built(self) -> None:
        if not self.built:
            raise RecipeError("ClusterOptimizer: it has no kernels yet. Train a step, or call build(variables).")

    # ---------------------------------------------------------------------------------------------------------- storage

    def save_own_variables(self, store: Any) -> None:
        """Stores the levels; the wrapped optimizer is stored by itself."""
        if self.built:
            store["step"] = np.asarray(int(self.iterations))
            for number, (_, value) in enumerate(values_of([one.levels for one in self._clustered])):
                store[f"levels_{number}"] = value
                store[f"shape_{number}"] = np.asarray(self._clustered[number].kernel.layout.shape)

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` has stored.

        Raises:
            DataError: if the levels belong to another model.
        """
        keys = set(store.keys())
        if "step" not in keys:
            warnings.warn(f"No levels are stored for '{self.name}'; it keeps those that it has.", stacklevel=2)
            return
        if self.is_left_out("levels"):
            return
        count = sum(key.startswith("levels_") for key in keys)
        stored = [tuple(int(size) for size in np.asarray(store[f"shape_{i}"])) for i in range(count)]
        counts = [len(np.asarray(store[f"levels_{i}"])) for i in range(count)]
        expected = [one.kernel.layout.shape for one in self._clustered]
        if stored != expected or counts != [one.levels.shape[0] for one in self._clustered]:
            raise DataError(
                "ClusterOptimizer: the stored levels belong to another model or another choice of kernels: they are of "
                f"the shapes {listed(stored)}, this model's clustered kernels {listed(expected)}. Restore them onto "
                "the model that they were saved with."
            )
        for number, one in enumerate(self._clustered):
            one.levels.assign(np.asarray(store[f"levels_{number}"]))
        self._start = int(np.asarray(store["step"]))

    def get_config(self) -> dict[str, Any]:
        """Returns what makes the same optimizer again."""
        choice = self._choice
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "clusters": choice.clusters,
            "initial": self.initial,
            "begin": self.begin,
            "end": self.end,
            "exclude": list(choice.exclude),
            "rules": [list(row) for row in choice.rules],
            "keep": list(choice.keep),
            "per_channel": self.per_channel,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ClusterOptimizer:
        """Makes the optimizer that `get_config` describes."""
        arguments = dict(config)
        inner = keras.saving.deserialize_keras_object(arguments.pop("optimizer"), custom_objects=custom_objects)
        return cls(inner, **arguments)


_TOO_SHORT = (
    "ClusterOptimizer: weights have few values from step {end} on, but this training ends at step {last}, so that they "
    "do not get them. Train longer, or let end= be earlier."
)


def _is_finite(value: np.ndarray) -> bool:
    return bool(np.isfinite(value.astype(np.float32)).all())
