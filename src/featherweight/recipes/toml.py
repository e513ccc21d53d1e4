"""Tables that users write in TOML or JSON: finds them, and holds every value against what it must be."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, overload

from featherweight.arguments import shown
from featherweight.errors import RecipeError, listed

T = TypeVar("T")
D = TypeVar("D")

_KINDS: dict[type, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}
_REQUIRED: Any = object()
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Table:
    """One table, with how messages name it and what they advise.

    Every reader raises a RecipeError that names the key, what it holds, and what it may hold.

    >>> Table({"max": "2"}, "Target 'mine.toml', constraint 1", "Compare it with a shipped target.").count("max")
    Traceback (most recent call last):
    featherweight.errors.RecipeError: Target 'mine.toml', constraint 1 lacks or misuses the key 'max': found '2'
    (allowed: a whole number from 1 on). Compare it with a shipped target.
    """

    values: Mapping[str, Any]
    where: str
    remedy: str

    def __contains__(self, key: str) -> bool:
        """True if the table has the key."""
        return key in self.values

    def error(self, key: str, allowed: str) -> RecipeError:
        """Returns the error for a key that is missing or holds what it must not."""
        found = repr(self.values[key]) if key in self.values else "nothing"
        if len(found) > _LONGEST_SHOWN:
            found = f"{found[:_LONGEST_SHOWN]}…"
        return RecipeError(
            f"{self.where} lacks or misuses the key '{key}': found {found} (allowed: {allowed}). {self.remedy}"
        )

    def check_keys(self, allowed: Collection[str]) -> None:
        """Raises RecipeError for a key that the table has no use for; the message keeps the order of `allowed`."""
        if unknown := sorted(set(self.values) - set(allowed)):
            raise RecipeError(
                f"{self.where}: unknown key {listed(unknown)} (allowed: {listed(allowed, 20)}). {self.remedy}"
            )

    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[Any], default: Any = _REQUIRED) -> Any:
        """Returns a value of one kind: ``str``, ``bool``, ``int``, ``float``, ``list`` or ``dict``."""
        if key not in self.values and default is not _REQUIRED:
            return default
        value = self.values.get(key)
        if not _is(value, kind):
            raise self.error(key, _KINDS[kind])
        return value

    def count(self, key: str) -> int:
        """Returns a whole number from 1 on."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, "a whole number from 1 on")
        return value

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """Returns one of the allowed texts."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in allowed:
            raise self.error(key, listed(allowed, 20))
        return value

    def several(self, key: str, kind: type[T]) -> tuple[T, ...]:
        """Returns the elements of a list whose elements are of one kind."""
        values: list[Any] = self.get(key, list)
        if not all(_is(value, kind) for value in values):
            raise self.error(key, f"a list, each element {_KINDS[kind]}")
        return tuple(values)

    def table(self, key: str) -> Table:
        """Returns the table under a key; without the key, an empty one."""
        return Table(self.get(key, dict, {}), f"{self.where}, {key}", self.remedy)

    def rows(self, key: str) -> tuple[Table, ...]:
        """Returns the tables of a list of tables, counted from 1 in messages; without the key, none."""
        rows = self.values.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.error(key, f"tables, each under [[{key}]]")
        return tuple(Table(row, f"{self.where}, {key} {i}", self.remedy) for i, row in enumerate(rows, 1))


def _is(value: object, kind: type) -> bool:
    """True if a value is of a kind; true and false are no numbers, but a whole number that float64 holds is one."""
    if isinstance(value, bool):
        return kind is bool
    is_real = kind is float and isinstance(value, int) and value.bit_length() < 1024
    return is_real or isinstance(value, kind)


def check_known(name: str, known: Collection[str], what: str, where: str) -> None:
    """Raises RecipeError, with the names nearest to it, for a name that is not known.

    >>> check_known("CONV2D", ["CONV_2D", "CONV_3D", "ADD"], "operator", "rule 1")
    Traceback (most recent call last):
    featherweight.errors.RecipeError: rule 1: operator 'CONV2D' is unknown (near it: CONV_2D, CONV_3D). Correct it.
    """
    if name not in known:
        near = difflib.get_close_matches(name.upper(), known, 3)
        hint = f"near it: {listed(near)}" if near else f"nothing is near it; allowed: {listed(sorted(known), 5)}"
        raise RecipeError(f"{where}: {what} '{name}' is unknown ({hint}). Correct it.")


def shipped(kind: str) -> tuple[str, ...]:
    """Returns the names of the tables of a kind that the package brings along.

    >>> shipped("recipe")[:2]
    ('dynamic', 'float16')
    """
    folder = resources.files("featherweight") / f"{kind}s"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def read_chain(source: str | Path, kind: str, link: str) -> tuple[Table, ...]:
    """Reads a shipped table by name or one from a TOML file, then the one that its `link` key names, and so on.

    A path in a file counts from the folder that the file lies in.

    Raises:
        RecipeError: if there is no such table, a file is no TOML, or the links lead in a circle.

    >>> [table.where for table in read_chain("ethos-u65", "target", "extends")]
    ["Target 'ethos-u65'", "Target 'ethos-u55'", "Target 'ethos-u85'"]
    """
    if not isinstance(source, (str, Path)):
        names = f"the name of a {kind}, the path of a .toml file, or a {kind.capitalize()}"
        raise RecipeError(
            f"The {kind} is {shown(source)} (allowed: {names}). Choose one of {listed(shipped(kind), 20)}."
        )
    name = str(source)
    tables = [_read(name, kind)]
    seen = {_identity(name)}
    while link in tables[-1]:
        linked = tables[-1].get(link, str)
        if linked.endswith(".toml") and name.endswith(".toml"):
            linked = str(Path(name).parent / linked)
        if _identity(linked) in seen:
            raise RecipeError(
                f"{tables[-1].where}: its `{link}` leads back to '{linked}'. Name another {kind}, or drop it."
            )
        name = linked
        seen.add(_identity(name))
        tables.append(_read(name, kind))
    return tuple(tables)


def _identity(name: str) -> str:
    return os.path.abspath(name) if name.endswith(".toml") else name


def _read(name: str, kind: str) -> Table:
    names, where, remedy = shipped(kind), f"{kind.capitalize()} '{name}'", f"Compare it with a shipped {kind}."
    if name not in names and not name.endswith(".toml"):
        raise RecipeError(
            f"Unknown {kind} '{name}'. Choose one of {listed(names, 20)}, or give the path of a .toml file."
        )
    file = resources.files("featherweight") / f"{kind}s" / f"{name}.toml" if name in names else Path(name)
    try:
        return Table(tomllib.loads(file.read_text("utf-8")), where, remedy)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, no UTF-8, too long a number
        raise RecipeError(f"{where} can't be read: {error}. {remedy}") from error
