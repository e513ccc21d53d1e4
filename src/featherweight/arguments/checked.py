"""The decorator of public functions: every argument is of its kind before work begins."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from featherweight.arguments.kinds import Kind
from featherweight.arguments.words import understood
from featherweight.errors import RecipeError, listed

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def checked(words: Mapping[str, str | None] | None = None, /, **kinds: Kind) -> Callable[[F], F]:
    """Returns a decorator that holds each argument against its kind, unless it is the argument's default.

    `words` are old names of arguments, as `words.understood` takes them.

    >>> from featherweight.arguments.kinds import count
    >>> @checked({"number": "limit"}, limit=count())
    ... def first(limit=None):
    ...     return limit
    >>> first(limit=0)
    Traceback (most recent call last):
        ...
    featherweight.errors.RecipeError: first: limit is 0 (allowed: a whole number from 1 on).
    """

    def add(function: F) -> F:
        signature = inspect.signature(function)
        if unknown := set(kinds) - set(signature.parameters):
            raise ValueError(f"{function.__qualname__} has no argument {listed(sorted(unknown))}")
        title = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def guarded(*args: Any, **given: Any) -> Any:
            found = bound(signature, title, args, given, words or {})
            for name, kind in kinds.items():
                if name in found.arguments and found.arguments[name] is not signature.parameters[name].default:
                    found.arguments[name] = kind(found.arguments[name], f"{title}: {name}")
            return function(*found.args, **found.kwargs)

        return guarded  # pyright: ignore[reportReturnType]

    return add


def renamed(words: Mapping[str, str | None], /) -> Callable[[type[T]], type[T]]:
    """Returns a class decorator: what makes an instance understands old names of its arguments."""

    def add(made: type[T]) -> type[T]:
        setattr(made, "__init__", checked(words)(made.__init__))  # noqa: B010, a method is not to be assigned to
        return made

    return add


def bound(
    signature: inspect.Signature,
    title: str,
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    words: Mapping[str, str | None],
) -> inspect.BoundArguments:
    """Returns the arguments of a call by name; old words are those of a caller two frames up.

    Raises:
        RecipeError: if one is missing, unknown, or too many.
    """
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names += [*given]
    kwargs = understood(title, given, words, names, 3)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        by_position = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        said = f"by position: {listed(n for n in by_position if n != 'self')}; all: {listed(names, 30)}"
        raise RecipeError(f"{title}: {error} ({said}). Name the arguments.") from None
