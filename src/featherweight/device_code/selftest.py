"""The test that a device runs itself: golden inputs, and the integers that are to come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.device_code.borders import Borders
from featherweight.device_code.c_text import number

# A compiler without a library has no math.h.
_NOT_FINITE = (
    "#if defined(__GNUC__)",
    '#define NAN __builtin_nanf("")',
    "#define INFINITY __builtin_inff()",
    "#else",
    "#include <math.h>",
    "#endif",
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
            "/* Returns how many elements differ from the host's, or -1 if a run fails; the first one is reported. The",
            "   tests run in order, and what keeps a state begins with its initial one. */",
            f"long {name}_test({name}_run run,",
            "    void (*report)(int test, int output, long element, long found, long wanted));",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "#endif",
            "",
        ]
    )
    given = [array for arrays in (*feeds, *outputs) for array in arrays if array.dtype.kind == "f"]
    is_finite = all(bool(np.isfinite(array).all()) for array in given)
    lines = [f'#include "{name}_test.h"', *(() if is_finite else _NOT_FINITE), ""]
    for kind, rows, arrays in (("in", borders[0], feeds), ("out", borders[1], outputs)):
        for test, values in enumerate(arrays):
            for index, (border, array) in enumerate(zip(rows, values, strict=True)):
                numbers = ",".join(map(number, array.reshape(-1).tolist()))
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
        found = f"found_{index}[i]"
        # NaN is equal to NaN here.
        is_number = f" && ({found} == {found} || wanted[i] == wanted[i])" if border.c_type == "float" else ""
        unequal = f"{found} != wanted[i]{is_number}"
        lines += [
            "    {",
            f"      const {border.c_type} *wanted = (const {border.c_type} *)outs[test][{index}];",
            f"      for (long i = 0; i < {name.upper()}_OUTPUT_{index}_ELEMENTS; ++i)",
            f"        if ({unequal} && !wrong++ && report)",
            f"          report(test, {index}, i, (long)found_{index}[i], (long)wanted[i]);",
            "    }",
        ]
    return header, "\n".join([*lines, "  }", "  return wrong;", "}", ""])
