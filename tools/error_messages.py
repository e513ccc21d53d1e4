"""Collects every message of the package's errors from its sources, for the documentation.

`python tools/error_messages.py` prints the page. Parts of a message that depend on the case are an ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "src" / "featherweight"
KINDS = (
    *("FormatError", "LoweringError", "UnsupportedOp", "RecipeError", "TargetViolation", "DataError"),
    "FeatherweightError",
)
# Shorter ones say all that they say in words that are put in elsewhere.
_LEAST_LETTERS = 12
_CASE = "…"
_HEAD = """# Every message

What each error says, by its class; `…` stands for what depends on the case. A message ends with the way out: what to
pass, to change or to run instead. This list is made from the sources. [What people run into](errors.md) says more about
the usual ones.
"""


@dataclass(frozen=True)
class Message:
    """One message: the class of its error, the text, and the module that raises it."""

    kind: str
    text: str
    module: str


def messages(sources: Path = SOURCES) -> Iterator[Message]:
    """Yields the messages of all errors that are raised with a text, module by module."""
    for path in sorted(sources.rglob("*.py")):
        module = ".".join(path.relative_to(sources.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in KINDS:
                continue
            text = re.sub(rf"({_CASE}\s*)+", f"{_CASE} ", _text(node.args[0])).strip() if node.args else ""
            text = re.sub(rf"{_CASE} (?=['.,;:)])", _CASE, " ".join(text.split()))
            if sum(letter.isalpha() for letter in text) >= _LEAST_LETTERS:
                yield Message(node.func.id, text, module)


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body):
            return _text(body)
        case _:
            return _CASE


def page() -> str:
    """Returns all messages as Markdown, a list for each class."""
    found = list(messages())
    parts = [_HEAD]
    for kind in KINDS:
        texts = sorted({message.text for message in found if message.kind == kind}, key=str.lower)
        parts.append(f"## {kind}\n\n" + "\n".join(f"- {_plain(text)}" for text in texts) + "\n")
    return "\n".join(parts)


def _plain(text: str) -> str:
    """Returns a text whose characters mean nothing to Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


if __name__ == "__main__":
    print(page())
