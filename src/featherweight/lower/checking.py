"""Checks what was lowered against its source, and frees its batch where the result is still right."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError, LoweringError
from featherweight.graph import Model, replace_graph
from featherweight.lower import verify
from featherweight.lower.batching import batch
from featherweight.lower.source import Input
from featherweight.operators.families.recurrent import LSTM
from featherweight.runtime.folding import with_folded_constants
from featherweight.runtime.litert import Session

_log = logging.getLogger("featherweight")
# The batch at which a freed graph is checked against its source, besides 1.
SEVERAL = 3
WAY_OUT = (
    "This is a defect of the conversion; nothing was returned. Replace the layer that computes it by others that "
    "compute the same, and please report it."
)


@dataclass(frozen=True)
class Lowered:
    """A verified float model.

    Attributes:
        notes: what the caller should know (a batch that had to stay fixed, a layer that could not be fused …).
        recurrent: the styles that the loops of its source took: ``fused``, ``unrolled``, ``loop``; none if it had none.
        source: what it was read from, as the caller gave it; None where that is not known.
    """

    model: Model
    notes: tuple[str, ...] = ()
    recurrent: tuple[str, ...] = ()
    source: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Check:
    """Compares models with their source.

    Attributes:
        title: what messages call the source.
        inputs: in the order of the model's.
        outputs: their public names, in the order of the model's.
        run: the source: (arrays, batch) → outputs in order.
        limits: for integer inputs, the number that their values must stay below, where one is known.
        samples: inputs to use instead of random ones.
        exact: as `run`, in float64; asked only where float32 in another order may be what differs. None: unknown.
    """

    title: str
    inputs: Sequence[Input]
    outputs: Sequence[str]
    run: Callable[[Sequence[np.ndarray], int], list[np.ndarray]]
    limits: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[Sequence[np.ndarray]] = ()
    exact: Callable[[Sequence[np.ndarray], int], list[np.ndarray]] | None = None
    known: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = field(default_factory=dict)

    def expected(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(inputs, the source's outputs) at a batch; computed once.

        Raises:
            LoweringError: if the source's outputs are not finite for random inputs.
        """
        if size not in self.known:
            self.known[size] = self._computed(size)
        return self.known[size]

    def _computed(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        inputs = batch_of(self.samples, self.inputs, size)
        if inputs is not None:
            return inputs, self._run(inputs, size)
        for positive in (False, True):
            inputs = verify.random_inputs(self.inputs, size, self.limits, positive=positive)
            outputs = self._run(inputs, size)
            if all(np.isfinite(o).all() for o in outputs if o.dtype.kind == "f"):
                return inputs, outputs
        raise LoweringError(
            f"The {self.title} itself returns NaN or infinite values for random inputs, so its lowering can't be "
            "verified. Pass inputs for which it is finite as samples=, or look for NaN in its weights."
        )

    def _run(self, inputs: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
        try:
            return self.run(inputs, size)
        except FeatherweightError:
            raise
        except Exception as error:  # Whatever the model's own code raises.
            said = " ".join(str(error).split())[:300].rstrip(".")
            raise LoweringError(
                f"its own code can't compute a batch of {size} ({type(error).__name__}: {said})"
            ) from error

    def _differences(
        self,
        model: Model,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        got: Sequence[np.ndarray],
        size: int,
    ) -> list[verify.Difference]:
        found = verify.differences(self.outputs, outputs, got, verify.longest_sum(model))
        if self.exact is None or all(d.is_tolerable or d.note for d in found):
            return found
        try:
            exact, again = self.exact(inputs, size), self.run([verify.jittered(array) for array in inputs], size)
        except Exception as error:  # Whatever code that was written for float32 raises.
            _log.debug("not computed in float64: %s", error)
            return found
        return verify.judged(found, outputs, got, exact, again)

    def at_fixed_batch(self, model: Model) -> None:
        """Compares at the batch of the source, or at batch 1 where that is free.

        Raises:
            LoweringError: if the model does not run, or differs from its source.
        """
        inputs, outputs = self.expected(1)
        try:
            with Session(model) as session:
                got = verify.outputs_of(session, inputs)
        except FeatherweightError as error:
            raise LoweringError(f"The lowered {self.title} does not run: {error}. {WAY_OUT}") from error
        found = self._differences(model, inputs, outputs, got, 1)
        verify.require_equal(found, self.title, WAY_OUT)

    def at_free_batch(self, model: Model) -> None:
        """Compares at several samples and at one.

        Raises:
            FeatherweightError: if the model does not run at both batches, or differs from its source.
        """
        inputs, outputs = self.expected(SEVERAL)
        free = [item.has_free_batch for item in self.inputs]
        one = [array[:1] if is_free else array for array, is_free in zip(inputs, free, strict=True)]
        with Session(model) as session:
            single = verify.outputs_of(session, one)
            found = verify.outputs_of(session, inputs)
        where = f"{self.title} at batch {SEVERAL}"
        verify.require_equal(self._differences(model, inputs, outputs, found, SEVERAL), where, WAY_OUT)
        first = [o[:1] if o.shape != g.shape else o for o, g in zip(outputs, single, strict=True)]
        if not all(d.is_tolerable for d in self._differences(model, one, first, single, 1)):
            self.at_fixed_batch(model)  # The samples of a batch depend on each other: ask the source itself.


def checked(check: Check, lowered_at: Callable[[int], Model], sizes: Sequence[int] = (1, 2)) -> Lowered:
    """Lowers with `lowered_at(batch)`, frees the batch where the source's is free, and verifies the result.

    Args:
        check: compares with the source.
        lowered_at: converts the source at a batch.
        sizes: batches to convert at until one's graph can be freed; else it stays fixed, with a note. At 1 a graph is
            simplest, and at 2 the batch can be told from sizes of one.

    Raises:
        LoweringError: if the model can't be lowered, or differs from its source.
    """
    notes = tuple(item.note for item in check.inputs if item.note)
    public = [item.name for item in check.inputs if item.has_free_batch]
    if not public:
        model = _folded(lowered_at(1))
        check.at_fixed_batch(model)
        return Lowered(model, notes)
    reason, fixed = "", None
    for size in sizes:
        try:
            check.expected(SEVERAL)  # What the source can't compute needs no conversion.
            model = _folded(lowered_at(size))
            tensors = [tensor for name, tensor in model.signatures[0].inputs if name in public]
            fixed = fixed or (model if size == 1 else batch.restated(model, tensors, size, is_free=False))
            freed = batch.restated(model, tensors, size)
            check.at_free_batch(freed)
        except FeatherweightError as error:
            _log.debug("batch not freed at %d: %s", size, error)
            reason = str(error).split(". ")[0].rstrip(".")
            if isinstance(error, batch.FixedBatchError):
                break
        else:
            return Lowered(freed, notes)
    note = f"The batch of the {check.title} stays fixed at 1: {reason}."
    _log.warning(note)
    return Lowered(_at_fixed_batch(check, fixed, lowered_at), (*notes, note))


def _folded(model: Model) -> Model:
    """A batch that a converter wrote into constant operators can't be freed; in a constant it can be told."""
    return replace_graph(model, 0, with_folded_constants(model.main))


def _at_fixed_batch(check: Check, restated: Model | None, lowered_at: Callable[[int], Model]) -> Model:
    """Returns a verified model at batch 1: what was converted already, if that is right, else what is converted now."""
    if restated is not None:
        with contextlib.suppress(LoweringError):
            check.at_fixed_batch(restated)
            return restated
    check.expected(1)
    model = _folded(lowered_at(1))
    check.at_fixed_batch(model)
    return model


def with_recurrent_styles(lowered: Lowered, *, is_unrolled: bool) -> Lowered:
    """Returns the model with the styles that its source's loops took."""
    found = {node.op for graph in lowered.model.graphs for node in graph.nodes}
    took = {"fused": LSTM in found, "unrolled": is_unrolled, "loop": "WHILE" in found}
    return replace(lowered, recurrent=tuple(style for style, is_there in took.items() if is_there))


def unfused(lowered: Lowered, converter: str) -> Lowered:
    """Returns what another converter lowered, with the note that it has no fused LSTM."""
    note = f"LSTM layers are not fused: {converter} does not mark them. Those of Keras models on the JAX backend are."
    return replace(lowered, notes=(*lowered.notes, note))


def batch_of(samples: Sequence[Sequence[np.ndarray]], inputs: Sequence[Input], size: int) -> list[np.ndarray] | None:
    """Makes a batch of `size` from samples, with or without their own batch dimension; None without samples."""
    if not samples:
        return None
    arrays: list[np.ndarray] = []
    for position, item in enumerate(inputs):
        one = item.at(1)
        rows = [np.asarray(sample[position], item.dtype) for sample in samples]
        if not item.has_free_batch:
            arrays.append(_fitting(rows[0], one, item, 0))
            continue
        rows = [row[None] if row.shape == one[1:] else row for row in rows]
        stacked = [_fitting(row, (len(row), *one[1:]), item, number) for number, row in enumerate(rows)]
        arrays.append(np.concatenate(stacked * -(-size // max(1, sum(map(len, stacked)))))[:size])
    return arrays


def _fitting(array: np.ndarray, shape: tuple[int, ...], item: Input, number: int) -> np.ndarray:
    if array.shape == shape and array.size:
        return array
    raise LoweringError(
        f"A sample for input '{item.name}' has shape {list(array.shape)}; it must be {list(shape)} (sample {number}, "
        "from 0 on). Bring all samples to one shape, padded if they are texts, or lower the model once for each shape."
    )
