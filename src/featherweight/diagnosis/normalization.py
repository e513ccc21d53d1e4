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
# Percentiles of the input between which values are no outliers.
_WITHOUT_OUTLIERS = (0.5, 99.5)
# Examples that the batch norm sees.
_EXAMPLES = 16


def normalization_causes(source: Any, samples: Sequence[Any] | None) -> list[Cause]:
    """Returns whether samples bring the first batch norm other statistics than training did.

    Known are those of live Keras models and Keras files of one input, whose first batch norm was trained. The size of
    the cause is how far the float outputs are from those of data with the statistics that were expected.
    """
    is_file = isinstance(source, (str, Path)) and Path(source).suffix.lower() in keras.SUFFIXES
    if not samples or not (is_file or keras.is_keras_model(source)):
        return []
    from featherweight.training.keras_models.batch_norms import first_norm

    model: Any = keras.load(source) if isinstance(source, (str, Path)) else source
    arrays = [np.asarray(sample) for sample in samples[:_EXAMPLES] if hasattr(sample, "shape")]
    if len(getattr(model, "inputs", None) or ()) != 1 or not arrays or model.inputs[0].shape[0] not in (None, 1):
        return []
    rank = len(model.inputs[0].shape)
    rows = [array if array.ndim == rank else array[np.newaxis] for array in arrays]
    batch = np.concatenate(rows) if model.inputs[0].shape[0] is None else rows[0]
    found = first_norm(model, batch)
    if found is None or not _is_far(found):
        return []
    if batch.dtype.kind == "f":
        rest = first_norm(model, np.clip(batch, *np.percentile(batch, _WITHOUT_OUTLIERS)).astype(batch.dtype))
        if rest is None or not _is_far(rest):  # a few values are far off, which is no matter of normalization
            return []
    distance, ratio = _differences(found)
    level = sqnr_db(found.normalized, found.outputs)
    said = (
        f"What batch norm '{found.path}' reads of these samples is {distance:.1f} deviations off the mean that it was "
        f"trained on, its deviation {math.sqrt(ratio):.3g} times as large (medians over channels): brought back to "
        f"them, the float outputs are others ({level:.1f} dB)."
    )
    given = REMEDIES["unlike-data"]
    return [Cause("unlike-data", said, (found.path,), (), (), "all outputs", level, level, None, None, *given)]


def _differences(found: FirstNorm) -> tuple[float, float]:
    """Returns by how many deviations means are off, and how many times larger variances are: medians over channels."""
    spread = np.sqrt(np.maximum(found.expected_variance, 1e-12))
    distance = float(np.median(np.abs(found.mean - found.expected_mean) / spread))
    return distance, float(np.median(found.variance / np.maximum(found.expected_variance, 1e-12)))


def _is_far(found: FirstNorm) -> bool:
    distance, ratio = _differences(found)
    return distance >= _FAR_MEAN or not 1 / _FAR_VARIANCE < ratio < _FAR_VARIANCE
