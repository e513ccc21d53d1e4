"""NumPy under the names of `keras.ops`: the array namespace of the reference kernels.

What an operator computes is written once over a namespace, which is this module or, inside a Keras model, one around
`keras.ops`. All of NumPy's functions are here, and below what `keras.ops` calls otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def __getattr__(name: str) -> Any:
    return getattr(np, name)


def convert_to_tensor(x: Any, dtype: Any = None) -> np.ndarray:
    """Returns x as an array."""
    return np.asarray(x, dtype)


def cast(x: Any, dtype: Any) -> np.ndarray:
    """Returns x in another type: integers wrap around."""
    return np.asarray(x).astype(dtype, copy=False)


def relu(x: np.ndarray) -> np.ndarray:
    """Returns x, or 0 below it."""
    return np.clip(x, 0, None)


def relu6(x: np.ndarray) -> np.ndarray:
    """Returns x in [0, 6]."""
    return np.clip(x, 0, 6)


def view(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns the bits of x as another type of the same size."""
    return x.view(dtype)
