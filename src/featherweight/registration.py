"""Makes Keras know the classes of this package in saved models, without importing Keras before its user does."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Importing it registers the classes.
_CLASSES = "featherweight.training"


class _AfterKeras(MetaPathFinder):
    """Imports the classes right after Keras, the first time that it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns Keras's own spec, whose loader registers the classes when it is done; nothing for other modules."""
        if fullname != "keras" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        executes = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            executes(module)
            if hasattr(module, "ops"):  # Keras 3
                importlib.import_module(_CLASSES)

        spec.loader.exec_module = exec_module
        return spec


def register_classes() -> None:
    """Registers the classes of saved models with Keras: now if it is imported, else as soon as it is."""
    if hasattr(sys.modules.get("keras"), "ops"):
        importlib.import_module(_CLASSES)
    elif "keras" not in sys.modules and not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())
