"""Candidates as bytes: exactly as they are, arrays that tensors share included.

Bytes are Python's own serialization (PEP 307 and 574) read back with nothing but the frozen data of this package and
arrays: a file that names anything else is refused, and nothing that it names runs.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from types import MappingProxyType
from typing import Any

from featherweight.errors import FormatError
from featherweight.repair.candidate import Candidate

_PACKAGE = "featherweight."
_ARRAYS = frozenset({"_reconstruct", "_frombuffer", "ndarray", "dtype", "scalar"})


def to_bytes(candidate: Candidate) -> bytes:
    """Returns a candidate as bytes."""
    buffer = io.BytesIO()
    _Writer(buffer, protocol=5).dump(candidate)
    return buffer.getvalue()


def from_bytes(content: bytes) -> Candidate:
    """Returns the candidate that `to_bytes` wrote.

    Raises:
        FormatError: for bytes that hold no candidate of this version, or anything beside data.
    """
    try:
        found = _Reader(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        raise FormatError(f"they hold no repaired model: {error}") from error
    if not isinstance(found, Candidate):
        raise FormatError(f"they hold no repaired model, but {type(found).__name__}")
    return found


class _Writer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return (_read_only, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    """Returns a read-only view, whose type pickle can't name."""
    return MappingProxyType(values)


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == (__name__, _read_only.__name__):
            return _read_only
        is_array = module_name.partition(".")[0] == "numpy" and global_name in _ARRAYS
        if is_array or (module_name.startswith(_PACKAGE) and "." not in global_name):
            found = super().find_class(module_name, global_name)
            if is_array or _is_data(found):
                return found
        raise pickle.UnpicklingError(f"'{module_name}.{global_name}' is no data of this package")


def _is_data(found: Any) -> bool:
    return isinstance(found, type) and (
        dataclasses.is_dataclass(found) or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
