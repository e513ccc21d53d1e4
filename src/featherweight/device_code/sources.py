"""C and C++ sources around a model: arrays, scales, and the operator resolver."""

from __future__ import annotations

from featherweight.device_code.arena import Arena
from featherweight.device_code.borders import Border, Borders
from featherweight.device_code.c_text import comment, number
from featherweight.errors import UnsupportedOp
from featherweight.graph import Model
from featherweight.operators.families.control import HANDLE, name_of
from featherweight.tflite.decode_operator import is_decode

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
# Integers that conversions to and from real numbers are written for.
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


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


def variables_of(model: Model) -> tuple[str, ...]:
    """Returns the variables that the model keeps from run to run, which the interpreter is to be given room for."""
    handles = (node for graph in model.graphs for node in graph.nodes if node.op == HANDLE)
    return tuple(dict.fromkeys(name_of(node) for node in handles))


def model_header(name: str, model: Model, arena: Arena, size: int, borders: Borders) -> str:
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
        "/* The smallest arena that TFLite Micro's interpreter loads the model in on a 64-bit host, with its reference",
        "   kernels: tensors are the same on every device; structures hold pointers, and take about half of this with",
        "   32 bits; optimized kernels may want some more. */",
        f"#define {upper}_ARENA_TENSOR_BYTES {arena.tensors}",
        f"#define {upper}_ARENA_STRUCTURE_BYTES {arena.structures}",
        f"#define {upper}_ARENA_BYTES {-(-arena.total // 16) * 16}",
        f"#define {upper}_OPERATORS {len(resolver_calls(model))}",
        *_variable_lines(upper, len(variables_of(model))),
        "",
        f"extern const unsigned char {name}_data[{upper}_BYTES];",
        "",
    ]
    for kind, rows in zip(("input", "output"), borders, strict=True):
        for index, border in enumerate(rows):
            lines += _border_lines(name, kind, index, border)
    lines += ["#ifdef __cplusplus", "}", "#endif", f"#endif /* {upper}_H_ */", ""]
    return "\n".join(lines)


def _variable_lines(upper: str, count: int) -> list[str]:
    if not count:
        return []
    return [
        "/* State that is kept from run to run, and begins anew with MicroInterpreter::Reset. The interpreter wants",
        "   MicroResourceVariables::Create(MicroAllocator::Create(arena, size), this number) at its construction. */",
        f"#define {upper}_RESOURCE_VARIABLES {count}",
    ]


def _border_lines(name: str, kind: str, index: int, border: Border) -> list[str]:
    prefix = f"{name.upper()}_{kind.upper()}_{index}"
    function = f"{name}_{kind}_{index}"
    lines = [f"/* {kind} {index}, '{comment(border.name)}': {border.tensor.dtype}{list(border.tensor.shape)} */"]
    lines.append(f"#define {prefix}_ELEMENTS {border.elements}")
    quant = border.tensor.quant
    if quant is None or len(quant.scale) != 1 or border.tensor.dtype not in _LIMITS:
        return [*lines, ""]
    low, high = _LIMITS[border.tensor.dtype]
    # `graph.numerics.quantize`: float32 throughout, halves away from zero; one half itself would round 0.49999997 up.
    lines += [
        f"#define {prefix}_SCALE {number(float(quant.scale[0]))}",
        f"#define {prefix}_ZERO_POINT {quant.zero_point[0]}",
        f"static inline {border.c_type} {function}_quantize(float x) {{",
        f"  float q = x * (1.0f / {prefix}_SCALE);",
        f"  q = q < {2 * low - high}.0f ? {2 * low - high}.0f : q > {2 * high - low}.0f ? {2 * high - low}.0f : q;",
        "  q = q != q ? 0.0f : q < 0.0f ? q - 0.49999997f : q + 0.49999997f;",
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
