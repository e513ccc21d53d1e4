"""Names and numbers as C writes them."""

from __future__ import annotations

import math
import re

import numpy as np

from featherweight.errors import RecipeError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keywords of C and C++ that a name of letters could be.
_KEYWORDS = {
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch",
    "char", "char16_t", "char32_t", "char8_t", "class", "compl", "concept", "const", "const_cast", "consteval",
    "constexpr", "constinit", "continue", "decltype", "default", "delete", "do", "double", "dynamic_cast", "else",
    "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if", "inline", "int",
    "linux", "long", "main", "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr", "operator",
    "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast", "requires", "restrict",
    "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct", "switch",
    "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "union", "unix",
    "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
}  # fmt: skip
# C's own headers: a NAME.h beside the sources would stand in for them, on some file systems in any case of letters.
_HEADERS = {
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp",
    "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn",
    "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
}  # fmt: skip


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
    if name.lower() in _HEADERS:
        raise RecipeError(
            f"deploy: '{name}.h' would stand in for the header of C of that name. Choose another with name= (--name)."
        )
    return name


def number(value: float | int | bool) -> str:
    """Returns a constant of C; a float as the float32 that it is.

    >>> number(0.1), number(-3), number(True), number(float("-inf"))
    ('0.1f', '-3', '1', '-INFINITY')
    """
    if isinstance(value, float):
        return _float(value)
    # The magnitude of the least int64 is no int64: C reads the sign as an operation on it.
    return f"(-{2**63 - 1} - 1)" if int(value) == -(2**63) else str(int(value))


def _float(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    # The shortest decimal that float32 reads back as the same number.
    text = str(np.float32(value))
    return f"{text if any(c in text for c in '.e') else text + '.0'}f"


def comment(text: str) -> str:
    """Returns a text that can stand in a comment."""
    for mark in ("*/", "/*", "/*"):  # twice: of /*/* the first pass leaves one
        text = text.replace(mark, " ".join(mark))
    return " ".join(text.splitlines())
