"""Data that are normalized in another way than in training, told by the first batch norm of a Keras model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.analysis.tensor_errors import sqnr_db
from featherweight.diagnosis.cause import REMEDIES, Cause
from featherweight.lower import keras

if TYPE_CHECKING:
    from featherweight.training.keras_models.batch_norms import FirstNorm

# Means that are so many deviations off, and variances so many times larger or smaller, are of other data.
_FAR_MEAN, _FAR_VARIANCE = 4.0, 16.0
_WAY = "Normalize them as in training"
# Percentiles of the input between which values are no outliers.
_WITHOUT_OUTLIERS = (0.5, 99.5)
# Examples that the batch norm sees.
_EXAMPLES = 16


def normalization_causes(source: Any, samples: Sequence[Any] | None) -> list[Cause]:
    """Returns whether samples bring the first batch norm other statistics than training did.

    Known are those of live Keras models and Keras files of one input, whose first batch norm was trained. The size of
    the cause is how far the float outputs are from those of data with the statistics that were expected.
    """
    fed = _fed(source, samples)
    if fed is None:
        return []
    from featherweight.training.keras_models.batch_norms import first_norm

    model, batch = fed
    quick = first_norm(model, batch, whole=False)
    if (quick is not None and not _is_strange(quick, model, batch, whole=False)) or (
        found := first_norm(model, batch)
    ) is None:
        return []
    if quick is None and not _is_strange(found, model, batch, whole=True):
        return []
    level = sqnr_db(found.normalized, found.outputs)
    said = f"{_said(found)}: brought back to them, the float outputs are others ({level:.1f} dB)."
    repairs = REMEDIES["unlike-data"][0]
    return [Cause("unlike-data", said, (found.path,), (), (), "all outputs", level, level, None, None, repairs, _WAY)]


def normalization_said(source: Any, samples: Sequence[Any] | None) -> str:
    """Returns a sentence where samples bring the first batch norm other statistics than training did; else nothing.

    Only what leads to it is run: it must be a layer of the model itself.
    """
    fed = _fed(source, samples)
    if fed is None:
        return ""
    from featherweight.training.keras_models.batch_norms import first_norm

    found = first_norm(*fed, whole=False)
    if found is None or not _is_strange(found, *fed, whole=False):
        return ""
    return f"{_said(found)}. {_WAY}"


def _fed(source: Any, samples: Sequence[Any] | None) -> tuple[Any, np.ndarray] | None:
    """Returns a Keras model of one input and a batch of samples for it; None for anything else."""
    is_file = isinstance(source, (str, Path)) and Path(source).suffix.lower() in keras.SUFFIXES
    if not samples or not (is_file or keras.is_keras_model(source)):
        return None
    model: Any = keras.load(source) if isinstance(source, (str, Path)) else source
    arrays = [np.asarray(sample) for sample in samples[:_EXAMPLES] if hasattr(sample, "shape")]
    if len(getattr(model, "inputs", None) or ()) != 1 or not arrays or model.inputs[0].shape[0] not in (None, 1):
        return None
    rank = len(model.inputs[0].shape)
    rows = [array if array.ndim == rank else array[np.newaxis] for array in arrays]
    return model, np.concatenate(rows) if model.inputs[0].shape[0] is None else rows[0]


def _said(found: FirstNorm) -> str:
    distance, ratio = _differences(found)
    return (
        f"What batch norm '{found.path}' reads of these samples is {distance:.1f} deviations off the mean that it was "
        f"trained on, its deviation {math.sqrt(ratio):.3g} times as large (medians over channels)"
    )


def _is_strange(found: FirstNorm, model: Any, batch: np.ndarray, *, whole: bool) -> bool:
    """True where statistics are far off, and not by a few values: outliers are no matter of normalization."""
    from featherweight.training.keras_models.batch_norms import first_norm

    if not _is_far(found):
        return False
    if batch.dtype.kind != "f":
        return True
    rest = np.clip(batch, *np.percentile(batch, _WITHOUT_OUTLIERS)).astype(batch.dtype)
    clipped = first_norm(model, rest, whole=whole)
    return clipped is not None and _is_far(clipped)


def _differences(found: FirstNorm) -> tuple[float, float]:
    """Returns by how many deviations means are off, and how many times larger variances are: medians over channels."""
    spread = np.sqrt(np.maximum(found.expected_variance, 1e-12))
    distance = float(np.median(np.abs(found.mean - found.expected_mean) / spread))
    return distance, float(np.median(found.variance / np.maximum(found.expected_variance, 1e-12)))


def _is_far(found: FirstNorm) -> bool:
    distance, ratio = _differences(found)
    return distance >= _FAR_MEAN or not 1 / _FAR_VARIANCE < ratio < _FAR_VARIANCE
