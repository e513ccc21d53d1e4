"""C and C++ sources around a model: arrays, scales, the operator resolver, and a test that the device runs itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.device_code.arena import Arena
from featherweight.errors import RecipeError, UnsupportedOp, listed
from featherweight.graph import Model, Tensor
from featherweight.tflite.decode_operator import is_decode

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keywords of C and C++ that a name of letters could be.
_KEYWORDS = frozenset(
    {
        "auto",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "const",
        "continue",
        "default",
        "delete",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "false",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "namespace",
        "new",
        "operator",
        "private",
        "public",
        "register",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "template",
        "this",
        "throw",
        "true",
        "try",
        "typedef",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "while",
    }
)
# C's types of what borders hold.
C_TYPES: Mapping[str, str] = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "float32": "float",
    "bool": "bool",
}
# Where MicroMutableOpResolver's method is not the operator's name in camel case (tflite-micro,
# tensorflow/lite/micro/micro_mutable_op_resolver.h).
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_CUSTOM_METHODS = {"TFLite_Detection_PostProcess": "DetectionPostprocess", "ethos-u": "EthosU"}
_BYTES_A_LINE = 16


@dataclass(frozen=True, eq=False)
class Border:
    """An input or output of the model as C sees it."""

    name: str
    tensor: Tensor

    @property
    def c_type(self) -> str:
        """The type of its elements."""
        return C_TYPES[self.tensor.dtype]

    @property
    def elements(self) -> int:
        """How many it has, for one example."""
        return int(np.prod([max(size, 1) for size in self.tensor.shape], dtype=np.int64))


Borders = tuple[Sequence[Border], Sequence[Border]]
"""A model's inputs and outputs."""


def check_identifier(name: str) -> str:
    """Returns a name that C can use.

    Raises:
        RecipeError: for another one.

    >>> check_identifier("keyword_model")
    'keyword_model'
    """
    if not _IDENTIFIER.fullmatch(name) or name in _KEYWORDS:
        raise RecipeError(
            f"deploy: '{name}' is no name in C (allowed: letters, digits and _, not beginning with a digit, and no "
            "keyword). Choose another with name= (--name)."
        )
    return name


def resolver_calls(model: Model) -> tuple[str, ...]:
    """Returns the methods that register the model's operators with TFLite Micro, each once.

    Raises:
        UnsupportedOp: for a custom operator that it has none for.
    """
    found: dict[str, None] = {}
    for graph in model.graphs:
        for node in graph.nodes:
            if node.op != "CUSTOM":
                words = node.op.split("_")
                method = _METHODS.get(node.op) or "".join(w if w[0].isdigit() else w.capitalize() for w in words)
            elif is_decode(node):
                method = "Decode"
            elif node.custom_code in _CUSTOM_METHODS:
                method = _CUSTOM_METHODS[node.custom_code]
            else:
                raise UnsupportedOp(
                    f"deploy: TFLite Micro has no custom operator '{node.custom_code}' ('{node.name}'). Remove it."
                )
            found[f"Add{method}"] = None
    return tuple(found)


def model_header(
    name: str, model: Model, arena: Arena, size: int, borders: tuple[Sequence[Border], Sequence[Border]]
) -> str:
    """Returns the header: the array, the arena, and what inputs and outputs mean."""
    upper = name.upper()
    lines = [
        f"#ifndef {upper}_H_",
        f"#define {upper}_H_",
        "#include <stdbool.h>",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define {upper}_BYTES {size}",
        "/* Measured in TFLite Micro's interpreter on a 64-bit host: tensors are the same on every device; structures",
        "   hold pointers, and take about half of this with 32 bits. */",
        f"#define {upper}_ARENA_TENSOR_BYTES {arena.tensors}",
        f"#define {upper}_ARENA_STRUCTURE_BYTES {arena.structures}",
        f"#define {upper}_ARENA_BYTES {-(-arena.total // 16) * 16}",
        f"#define {upper}_OPERATORS {len(resolver_calls(model))}",
        "",
        f"extern const unsigned char {name}_data[{upper}_BYTES];",
        "",
    ]
    for kind, rows in zip(("input", "output"), borders, strict=True):
        for index, border in enumerate(rows):
            lines += _border_lines(name, kind, index, border)
    lines += ["#ifdef __cplusplus", "}", "#endif", f"#endif /* {upper}_H_ */", ""]
    return "\n".join(lines)


def _border_lines(name: str, kind: str, index: int, border: Border) -> list[str]:
    prefix = f"{name.upper()}_{kind.upper()}_{index}"
    function = f"{name}_{kind}_{index}"
    lines = [f"/* {kind} {index}, '{_plain(border.name)}': {border.tensor.dtype}{list(border.tensor.shape)} */"]
    lines.append(f"#define {prefix}_ELEMENTS {border.elements}")
    quant = border.tensor.quant
    if quant is None or len(quant.scale) != 1 or border.tensor.dtype == "float32":
        return [*lines, ""]
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}.get(border.tensor.dtype, (-32768, 32767))
    lines += [
        f"#define {prefix}_SCALE {_float(quant.scale[0])}",
        f"#define {prefix}_ZERO_POINT {quant.zero_point[0]}",
        f"static inline {border.c_type} {function}_quantize(float x) {{",
        f"  float q = x / {prefix}_SCALE;",
        f"  q = (float)(int32_t)(q < {low - 1024}.0f ? {low - 1024}.0f : q > {high + 1024}.0f ? {high + 1024}.0f :",
        "                      q < 0 ? q - 0.5f : q + 0.5f);",
        f"  int32_t r = (int32_t)q + {prefix}_ZERO_POINT;",
        f"  return ({border.c_type})(r < {low} ? {low} : r > {high} ? {high} : r);",
        "}",
        f"static inline float {function}_dequantize({border.c_type} q) {{",
        f"  return {prefix}_SCALE * (float)((int32_t)q - {prefix}_ZERO_POINT);",
        "}",
        "",
    ]
    return lines


def model_source(name: str, content: bytes) -> str:
    """Returns the array, aligned as the interpreter wants it."""
    upper = name.upper()
    head = [
        f'#include "{name}.h"',
        "#if defined(__GNUC__) || defined(__clang__)",
        "#define ALIGNED __attribute__((aligned(16)))",
        "#else",
        "#define ALIGNED",
        "#endif",
        f"const unsigned char {name}_data[{upper}_BYTES] ALIGNED = {{",
    ]
    rows = [
        "  " + ",".join(map(str, content[i : i + _BYTES_A_LINE])) + "," for i in range(0, len(content), _BYTES_A_LINE)
    ]
    return "\n".join([*head, *rows, "};", ""])


def resolver_header(name: str, model: Model) -> str:
    """Returns the C++ header that registers exactly the operators in use."""
    calls = resolver_calls(model)
    return "\n".join(
        [
            f"#ifndef {name.upper()}_OPS_H_",
            f"#define {name.upper()}_OPS_H_",
            '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
            f"using {name}_resolver = tflite::MicroMutableOpResolver<{len(calls)}>;",
            "",
            f"inline TfLiteStatus {name}_register(%s& resolver) {{" % f"{name}_resolver",
            *[f"  if (resolver.{call}() != kTfLiteOk) return kTfLiteError;" for call in calls],
            "  return kTfLiteOk;",
            "}",
            f"#endif  // {name.upper()}_OPS_H_",
            "",
        ]
    )


def selftest_sources(
    name: str,
    borders: Borders,
    feeds: Sequence[Sequence[np.ndarray]],
    outputs: Sequence[Sequence[np.ndarray]],
) -> tuple[str, str]:
    """Returns header and source of the test that the device runs: golden inputs, and the integers to come out.

    The firmware gives a function that runs the model once: it reads ``inputs``, one pointer each, and writes
    ``outputs``.
    """
    header = "\n".join(
        [
            f"#ifndef {name.upper()}_TEST_H_",
            f"#define {name.upper()}_TEST_H_",
            f'#include "{name}.h"',
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            f"#define {name.upper()}_TESTS {len(feeds)}",
            "/* Runs the model once: reads each input, writes each output; returns 0, or anything else on failure. */",
            f"typedef int (*{name}_run)(const void *const *inputs, void *const *outputs);",
            "/* Returns how many elements differ from the host's, or -1 if a run fails; the first one is reported. */",
            f"long {name}_test({name}_run run,",
            "    void (*report)(int test, int output, long element, long found, long wanted));",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "#endif",
            "",
        ]
    )
    lines = [f'#include "{name}_test.h"', ""]
    for kind, rows, arrays in (("in", borders[0], feeds), ("out", borders[1], outputs)):
        for test, values in enumerate(arrays):
            for index, (border, array) in enumerate(zip(rows, values, strict=True)):
                numbers = ",".join(map(_number, array.reshape(-1).tolist()))
                lines.append(f"static const {border.c_type} {kind}_{test}_{index}[] = {{{numbers}}};")
    for index, border in enumerate(borders[1]):
        lines.append(f"static {border.c_type} found_{index}[{name.upper()}_OUTPUT_{index}_ELEMENTS];")
    for kind, rows in (("in", borders[0]), ("out", borders[1])):
        lines.append(f"static const void *const {kind}s[][{len(rows)}] = {{")
        lines += [
            "  {" + ", ".join(f"{kind}_{test}_{index}" for index in range(len(rows))) + "},"
            for test in range(len(feeds))
        ]
        lines.append("};")
    found = ", ".join(f"found_{index}" for index in range(len(borders[1])))
    lines += [
        f"static void *const founds[] = {{{found}}};",
        "",
        f"long {name}_test({name}_run run, void (*report)(int, int, long, long, long)) {{",
        "  long wrong = 0;",
        f"  for (int test = 0; test < {name.upper()}_TESTS; ++test) {{",
        "    if (run(ins[test], founds)) return -1;",
    ]
    for index, border in enumerate(borders[1]):
        lines += [
            "    {",
            f"      const {border.c_type} *wanted = (const {border.c_type} *)outs[test][{index}];",
            f"      for (long i = 0; i < {name.upper()}_OUTPUT_{index}_ELEMENTS; ++i)",
            f"        if (found_{index}[i] != wanted[i] && !wrong++ && report)",
            f"          report(test, {index}, i, (long)found_{index}[i], (long)wanted[i]);",
            "    }",
        ]
    return header, "\n".join([*lines, "  }", "  return wrong;", "}", ""])


def borders_of(model: Model, names: Mapping[str, str], kind: str) -> tuple[Border, ...]:
    """Returns the inputs or outputs of a model as C sees them.

    Raises:
        UnsupportedOp: for a type that has none in C here.
    """
    found = tuple(Border(name, model.main.tensors[tensor]) for name, tensor in names.items())
    wrong = [border for border in found if border.tensor.dtype not in C_TYPES]
    if wrong:
        raise UnsupportedOp(
            f"deploy: {kind} '{wrong[0].name}' is {wrong[0].tensor.dtype} (allowed: {listed(C_TYPES)}). Convert it."
        )
    return found


def _plain(text: str) -> str:
    return text.replace("*/", "* /").replace("\n", " ")


def _number(value: float | int | bool) -> str:
    return _float(value) if isinstance(value, float) else str(int(value))


def _float(value: float) -> str:
    text = repr(float(np.float32(value)))
    return f"{text if any(c in text for c in '.einf') else text + '.0'}f"
