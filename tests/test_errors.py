from __future__ import annotations

import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from featherweight import errors
from featherweight.errors import FeatherweightError, listed

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not FeatherweightError
]


def test_every_error_is_known_by_name() -> None:
    assert {kind.__name__ for kind in KINDS} == {
        "FormatError",
        "LoweringError",
        "UnsupportedOp",
        "RecipeError",
        "TargetViolation",
        "DataError",
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_the_one_root_and_a_line_in_the_tree(kind: type[Exception]) -> None:
    assert kind.__bases__ == (FeatherweightError,)
    assert inspect.getdoc(kind)
    assert kind.__name__ in (errors.__doc__ or "")
    with pytest.raises(FeatherweightError, match=r"^what is wrong$"):
        raise kind("what is wrong")


def test_no_error_is_one_that_python_raises_by_itself() -> None:
    # `except ValueError` around featherweight must not swallow its errors, nor the other way round.
    assert FeatherweightError.__bases__ == (Exception,)


@pytest.mark.parametrize(
    ("names", "limit", "text"),
    [
        ([], 8, ""),
        (["a"], 8, "a"),
        (["a", "b"], 2, "a, b"),
        (["a", "b", "c"], 2, "a, b, and 1 more"),
        (range(20), 3, "0, 1, 2, and 17 more"),
    ],
)
def test_long_lists_are_cut(names: list[str], limit: int, text: str) -> None:
    assert listed(names, limit) == text


def test_generators_can_be_listed() -> None:
    assert listed(repr(name) for name in ("a", "b")) == "'a', 'b'"


def test_the_documentation_lists_the_messages_of_all_errors_by_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parent.parent / "tools" / "error_messages.py"
    spec = spec_from_file_location("error_messages", path)
    assert spec is not None
    assert spec.loader is not None
    tool = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "error_messages", tool)
    spec.loader.exec_module(tool)
    assert set(tool.KINDS) == {kind.__name__ for kind in (*KINDS, FeatherweightError)}
    found = {message.kind: message.text for message in tool.messages() if "measures activation ranges" in message.text}
    assert found == {
        "RecipeError": "Recipe '…' measures activation ranges: pass calibration samples from the training split "
        "(calibration=…, --calibration DATA), or use 'dynamic', which needs none."
    }
    sections = tool.page().split("\n## ")[1:]
    assert all(section.count("\n- ") for section in sections)
    assert len(sections) == len(tool.KINDS)
