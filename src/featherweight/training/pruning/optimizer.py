"""Pruning as an optimizer: wraps another one, keeps masks as its state, and leaves the model untouched."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from featherweight.arguments import checked, layer_name, text
from featherweight.errors import RecipeError
from featherweight.pruning.allocation import allocate
from featherweight.pruning.choosing import ROLES, check_choice, choose
from featherweight.targets.target import Target
from featherweight.training.devices import assign, values_of
from featherweight.training.optimizers.arguments import as_optimizer, models
from featherweight.training.optimizers.fit_callback import Training
from featherweight.training.optimizers.variable_owners import find_kernels, find_layers, references
from featherweight.training.optimizers.wrapping import ConstrainingOptimizer
from featherweight.training.pruning import mask_bits as mask_storage
from featherweight.training.pruning.arguments import OLD_WORDS, as_schedule, check_arguments
from featherweight.training.pruning.mask_updates import Masking
from featherweight.training.schedules import Schedule, restore


@keras.saving.register_keras_serializable("featherweight")
class SparseOptimizer(ConstrainingOptimizer):
    """Trains with any Keras optimizer and prunes on the way: after every step, pruned weights are exactly 0.

    It is used in place of the optimizer that it wraps: in `compile`, in custom loops, on every backend, inside or
    around a `LossScaleOptimizer`, saved and restored with the model. There is nothing to strip and no callback.

    A step is a finished update of the weights. Masks are updated every `frequency` steps from the schedule's beginning
    on, and at its first and last step whatever the frequency: each kernel then has exactly round(sparsity × units)
    zero units. Between updates pruned weights get gradients, and one that has grown in the step of an update may come
    back. Masks are boolean variables of the optimizer: a quarter of the bytes of float32 kernels.

    Args:
        optimizer: the Keras optimizer that trains.
        schedule: step → sparsity, from `featherweight.schedules`; a number means that from the start. None
            prunes nothing more and keeps every zero that the kernels have, as `quantize_aware` does.
        pattern: ``unstructured``, blocks as ``1x4`` (output channels × consecutive inputs, as the runtime reads them),
            ``2:4``, ``channel``, or ``auto`` for what `target` names for each operator.
        frequency: steps between updates of the masks.
        exclude: shell patterns of paths that stay dense; each may match a part of a path, such as a layer's name.
        rules: shell pattern → final sparsity for the kernels whose path it matches, 0 for dense; the first decides.
        keep: what stays dense unless a rule other than ``*`` names it: the ``first`` convolution, the ``last`` kernel,
            ``depthwise`` convolutions.
        method: ``magnitude``: the lowest ``|w|`` go (Zhu & Gupta 2017); ``movement``: those that moved to zero, by
            −Σ w·gradient (Sanh et al. 2020, arXiv 2005.07683), which keeps one score for each weight.
        allocation: ``uniform``, ``global`` (the lowest scores of all kernels together) or ``erk``.
        regrowth: fraction of the kept weights that an update exchanges for those with the largest gradients, falling
            to 0 by a cosine until the schedule ends (RigL, Evci et al. 2020, arXiv 1911.11134; 0.3 there). None: none.
        target: a target's name or file, for `pattern="auto"`.
        model: the model (or several) that a loop of one's own trains; `fit` and `train_on_batch` make theirs known.

    Raises:
        RecipeError: for an argument that is not understood; when the optimizer is built, if there is nothing to prune,
            a rule matches nothing, a pattern can't hold a sparsity, or the model has to be named.
        DataError: when it is built, if a pattern does not divide a kernel; when it is restored, if the masks belong
            to another model.
    """

    @checked(OLD_WORDS, pattern=text, method=text, allocation=text, model=models, name=layer_name)
    def __init__(
        self,
        optimizer: Any,
        schedule: Schedule | float | None,
        pattern: str = "unstructured",
        *,
        frequency: int = 100,
        exclude: str | Sequence[str] = (),
        rules: Mapping[str, float] | Sequence[tuple[str, float]] = (),
        keep: Sequence[str] = ROLES,
        method: str = "magnitude",
        allocation: str = "uniform",
        regrowth: float | None = None,
        target: str | Path | Target | None = None,
        model: Any = None,
        name: str = "sparse_optimizer",
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer: Any = as_optimizer(optimizer, type(self).__name__)
        self.schedule = as_schedule(schedule)
        self._keeps_zeros, self._has_zeros = schedule is None, False
        self.frequency, self.method, self.allocation, self.regrowth = frequency, method, allocation, regrowth
        check_arguments(self.schedule, frequency, method, allocation, regrowth, self._keeps_zeros)
        self._choice = check_choice(pattern, target, exclude, rules, () if schedule is None else keep)
        self._models = references(model)
        self._start, self._is_length_checked = 0, False

    # ----------------------------------------------------------------------------------------------------------- state

    def build(self, variables: Sequence[Any]) -> None:
        """Chooses the kernels among the variables, and makes a mask for each."""
        if self.built:
            return
        is_unstructured = self._choice.pattern == "unstructured"
        layers = find_layers(variables, self._models, type(self).__name__, is_unstructured=is_unstructured)
        chosen = choose(find_kernels(variables, layers), self._choice)
        shares = allocate(chosen.kernels, chosen.ruled, self.schedule.final, self.allocation)
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._dense_kernels = dict(chosen.reasons)
        self._training = Training.of(layers, self)
        self._masking = Masking(
            shares,
            self.schedule,
            self.frequency,
            self.regrowth,
            self.allocation == "global",
            tuple(variables),
            tuple(variables[share.kernel.index] for share in shares),
            tuple(self.add_variable_like(variables[share.kernel.index], "mask", True) for share in shares),
            tuple(
                self.add_variable_like(variables[share.kernel.index], "movement", 0.0)
                for share in (shares if self.method == "movement" else ())
            ),
            self._keeps_zeros,
        )
        if self._keeps_zeros:
            for mask, (_, value) in zip(self._masking.masks, values_of(self._masking.kernels), strict=True):
                mask.assign(value != 0)
                self._has_zeros = self._has_zeros or not value.all()

    # ----------------------------------------------------------------------------------------------------------- steps

    def before_step(self, gradients: Sequence[Any], variables: Sequence[Any] | None) -> tuple[Any, Sequence[Any]]:
        """Takes note of the step, and of the gradients where the method or the regrowth wants them."""
        noted = self._noted(gradients, variables)
        before = self._updates()
        assign(self._masking.moved(noted))
        return (before, noted), gradients

    def after_step(self, noted: Any) -> None:
        """Updates the masks if they are due, and sets what is pruned to 0."""
        self._prune(*noted)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the wrapped optimizer put in its averages, sets what is pruned to 0 again, and warns of emptied kernels.

        `fit` calls it at its end, and after a failed step, too: then there may be no values to look at.
        """
        self.inner_optimizer.finalize_variable_values(var_list)
        inner = getattr(self.inner_optimizer, "inner_optimizer", self.inner_optimizer)
        if self.built and inner.use_ema:
            assign(self._masking.masked(self._masking.mask_values()))
        if self.built and self.allocation == "global" and sys.exc_info()[0] is None:
            self._masking.warn_of_emptied()

    def _noted(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None) -> list[Any] | None:
        """Returns the gradients of the pruned kernels if the method or the regrowth wants them."""
        if self.method != "movement" and self.regrowth is None:
            return None
        variables = self._masking.trained if trainable_variables is None else trainable_variables
        return self._masking.gradients(variables, grads, getattr(self.inner_optimizer, "dynamic_scale", None))

    def _prune(self, before: Any, gradients: list[Any] | None) -> None:
        if not self._is_length_checked:
            self._is_length_checked = True
            if self._keeps_zeros and not self._has_zeros:
                raise RecipeError(
                    "SparseOptimizer: without a schedule it keeps the zeros of kernels, and these have none. Prune the "
                    "model first, or give a schedule."
                )
            self._training.warn_if_too_short(self.schedule.end, self._start, self.inner_optimizer, self._too_short())
        step = self._updates()
        values = self._masking.updated(step, step != before, gradients)
        assign(self._masking.masked(values))
        assign(list(zip(self._masking.masks, values, strict=True)))

    def _too_short(self) -> str:
        return (
            "SparseOptimizer: the schedule ends at step {end}, but this training ends at step {last}, so the final "
            f"sparsity of {self.schedule.final:g} is not reached. Train longer, or let the schedule end earlier."
        )

    # ---------------------------------------------------------------------------------------------------------- reports

    @property
    def kernels(self) -> tuple[Any, ...]:
        """The variables that are pruned.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        return self._masking.kernels

    def sparsities(self) -> dict[str, float]:
        """Returns path → fraction of zeros of each pruned kernel, as its weights are now.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        self._masking.warn_of_emptied()
        return self._masking.sparsities()

    def dense_kernels(self) -> dict[str, str]:
        """Returns path → reason of each kernel that is not pruned.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        return dict(self._dense_kernels)

    def patterns(self) -> dict[str, str]:
        """Returns path → name of the pattern of each pruned kernel.

        Raises:
            RecipeError: if the optimizer is not built: it has not seen a model.
        """
        self._check_built()
        return {share.kernel.path: share.pattern.name for share in self._masking.shares}

    def _check_built(self) -> None:
        if not self.built:
            raise RecipeError("SparseOptimizer: it has no kernels yet. Train a step, or call build(variables).")

    # ---------------------------------------------------------------------------------------------------------- storage

    def save_own_variables(self, store: Any) -> None:
        """Stores masks in bits; the wrapped optimizer is stored by itself."""
        if self.built:
            store["step"] = np.asarray(int(self.iterations))
            mask_storage.save(self._masking, store)

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` has stored.

        Raises:
            DataError: if the masks belong to another model.
        """
        if "step" not in store.keys():  # noqa: SIM118, a store of Keras is no container
            warnings.warn(f"No masks are stored for '{self.name}'; it keeps those that it has.", stacklevel=2)
            return
        if self.is_left_out("masks"):
            return
        mask_storage.load(self._masking, store)
        self._start, self._has_zeros = int(np.asarray(store["step"])), True

    def get_config(self) -> dict[str, Any]:
        """Returns what makes the same optimizer again.

        Raises:
            RecipeError: if the schedule can't be stored.
        """
        choice = self._choice
        if not self.schedule.settings:
            raise RecipeError(
                "SparseOptimizer: a schedule of one's own has no settings to store. Use one of "
                "fw.schedules to save a model with its optimizer."
            )
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "schedule": None if self._keeps_zeros else dict(self.schedule.settings),
            "pattern": choice.pattern,
            "frequency": self.frequency,
            "exclude": list(choice.exclude),
            "rules": [list(row) for row in choice.rules],
            "keep": list(choice.keep),
            "method": self.method,
            "allocation": self.allocation,
            "regrowth": self.regrowth,
            "target": None if choice.target is None else choice.target.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SparseOptimizer:
        """Makes the optimizer that `get_config` describes."""
        arguments = {OLD_WORDS.get(name, name): value for name, value in config.items()}
        inner = keras.saving.deserialize_keras_object(arguments.pop("optimizer"), custom_objects=custom_objects)
        settings = arguments.pop("schedule")
        return cls(inner, None if settings is None else restore(settings), **arguments)
