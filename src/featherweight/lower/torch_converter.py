"""The one adapter around `litert_torch`: a PyTorch module in, the bytes of a float ``.tflite`` model out.

It takes the steps of ``litert_torch.convert`` one by one, to mend the exported program between them: `litert_torch` has
no interface for that, so its minor version is pinned in the project's `torch` extra.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import warnings
from collections.abc import Sequence
from typing import Any

from featherweight.errors import LoweringError
from featherweight.lower.torch_decompositions import bags_as_lookups, decomposed, hide_first_constants

# Operators that repeat operands of size one themselves.
_REPEATING = ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "eq", "ne", "lt", "le", "gt", "ge", "where")
# Where the converter, or an exporter's traceback, says which line of Python an operation comes from.
_LINE = re.compile(r"""(?:File ")?([^\s":]+\.py)(?:", line |:)(\d+)""")


def convert(module: Any, arguments: Sequence[Any], title: str) -> bytes:
    """Converts a module in evaluation mode, called with example tensors.

    Raises:
        LoweringError: if litert-torch is not installed or refuses the module, naming the line where it says it.
    """
    try:
        from litert_torch._convert import core, litert_converter, signature
    except ImportError as error:
        raise LoweringError(
            f"Lowering a torch module needs litert-torch, which can't be imported ({error}). "
            "Install it with: pip install 'featherweight[torch]'."
        ) from error
    signatures = [signature.Signature("serving_default", module, tuple(arguments), {})]
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # It reports every step.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            with bags_as_lookups():
                program = decomposed(core.export_torch_signature(signatures[0]))
            _drop_repetitions(program.graph_module.graph)
            program = core._run_convert_passes(program)
            hide_first_constants(program)
            _name_by_paths(program.graph_module.graph, module)
            return litert_converter.exported_programs_to_flatbuffer([program], signatures).to_bytes()
    except LoweringError:
        raise
    except Exception as error:  # Whatever torch.export and the converter raise.
        text = " ".join(str(error).split())
        said = text[:400].rstrip(".")
        raise LoweringError(
            f"litert-torch can't convert the {title}: {type(error).__name__}: {said}. {_way_out(str(error), module)}"
        ) from error


def weighted_layers(module: Any) -> frozenset[str]:
    """The names that `convert` gives to what layers with weights of two and more dimensions compute."""
    return frozenset(
        layer_name(path, part)
        for path, part in module.named_modules()
        if any(weight.ndim > 1 for weight in part.parameters(recurse=False))
    )


def layer_name(path: str, part: Any) -> str:
    """A module's name: its path, with its class in front where the path is numbers alone."""
    return path if re.search("[A-Za-z]", path) else f"{type(part).__name__}_{path}".rstrip("_")


def _drop_repetitions(graph: Any) -> None:
    """Hands operands to elementwise operators as they are, where they were repeated to the other operand's shape.

    The converter moves a repetition to another layout than the product that it is for, and then refuses the product:
    ``x * gate.expand_as(x)`` of efficient channel attention, MobileViTv2's ``context.expand_as(value)``.
    """
    import torch

    for node in list(graph.nodes):
        if node.target != torch.ops.aten.expand.default:
            continue
        shape = tuple(node.meta["val"].shape)
        for user in list(node.users):
            name = getattr(user.target, "_opname", "")
            others = [other for other in user.all_input_nodes if other is not node]
            if name in _REPEATING and any(tuple(other.meta["val"].shape) == shape for other in others):
                user.replace_input_with(node, node.args[0])
    graph.eliminate_dead_code()


def _name_by_paths(graph: Any, module: Any) -> None:
    """Names what is computed by the path of its module, and by its operator where that module has parts.

    The converter names an operation after the classes of the modules around it, and leaves out those that are not
    called (`ModuleList`): two layers can share a name.
    """
    parts = dict(module.named_modules())
    for node in graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if node.op != "call_function":
            continue
        path = stack[-1][0] if stack else ""
        part = parts.get(path, module)
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", "")).strip("_")
        if part is module or next(part.children(), None) is not None:
            label = f"{path}/{name}".lstrip("/")
        else:
            label = layer_name(path, part)
        node.meta["nn_module_stack"] = {path: ("", label)}


def _way_out(text: str, module: Any) -> str:
    found = _LINE.findall(text)
    import torch

    home = str(torch.__file__).removesuffix("__init__.py")
    own = [(path, int(number)) for path, number in found if not path.startswith(home) and "litert_torch" not in path]
    if not own:
        return "The module must be exportable by torch.export (no control flow on values)."
    path, number = own[-1]
    line = linecache.getline(path, number).strip()
    return (
        f"This is line {number} of '{path}'"
        + (f": `{line}`. " if line else ". ")
        + ("Write it in other operations, or replace the module that holds it.")
    )
