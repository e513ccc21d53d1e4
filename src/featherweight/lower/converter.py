"""The one adapter around `litert_converter`: StableHLO bytecode in, the bytes of a float ``.tflite`` model out.

It uses the converter's low-level interface, which has no promise of stability: the minor version is pinned in the
project's `keras` extra, and nothing else in the package imports it than `bindings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.errors import LoweringError
from featherweight.lower.rewrites import bindings, loops, placeholders

SIGNATURE = "serving_default"


def convert(stablehlo: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Converts a StableHLO module whose function ``main`` has the named inputs and outputs, in order.

    Raises:
        LoweringError: if the converter is not installed, or refuses the module; the message holds its diagnostics.
    """
    ir, passmanager, api = bindings.ir(), bindings.passmanager(), bindings.converter()
    context = ir.Context()
    api.prepare_mlir_context(context)
    said: list[str] = []
    handler = context.attach_diagnostic_handler(lambda diagnostic: _note(said, diagnostic))
    try:
        with context, ir.Location.unknown():
            module = ir.Module.parse(stablehlo)
            placeholders.expand(module)
            main = next(f for f in module.body.operations if _symbol(f) == "main")
            api.set_signature(main.operation, SIGNATURE, list(inputs), list(outputs))
            api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
            loops.outline(module)
            module.operation.verify()
            return api.export_flatbuffer_to_bytes(module.operation)
    except Exception as error:  # The bindings raise several types, none of them documented.
        raise LoweringError(
            f"The LiteRT converter refused the model: {_cause(said, error)}. "
            "Write the layer that holds this operation in other operations."
        ) from error
    finally:
        handler.detach()


def _symbol(op: Any) -> str:
    return str(op.attributes["sym_name"]).strip('"')


def _note(said: list[str], diagnostic: Any) -> bool:
    said.append(str(diagnostic.message))
    return True


def _cause(said: Sequence[str], error: Exception) -> str:
    """The first thing that the converter said, in one line, else the exception's own first line."""
    text = next((s for s in said if s.strip()), str(error) or type(error).__name__)
    return " ".join(text.split())[:400].rstrip(".")
