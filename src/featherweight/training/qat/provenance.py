"""What a model in training was made of and for: saved with it, and held against what there is when it is loaded.

Its integers follow from the graph, the plan, the target and this package; where one is no longer what it was, the
weights that were trained belong to other integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from featherweight.errors import FormatError, RecipeError, listed
from featherweight.targets import target as targets
from featherweight.targets.target import Target
from featherweight.version import package_version

# Entries of the saved settings that are text, and decide the integers.
_DECIDING = ("graph", "integer", "plan", "target")
# Versions whose models in training compute the same integers here: models that they saved are tests.
_SAME_INTEGERS = ("0.1.0",)
# Of a target: what decides no integer.
_UNDECIDING = ("name", "description", "is_ordered", "packs", "codings")
_FORMS = "forms of "
_ANEW = "or begin training anew"


@dataclass(frozen=True)
class Origin:
    """What a model was made for.

    Attributes:
        target: the device.
        named: the name or the file of the target, as it was given; None where a value was.
    """

    target: Target
    named: str | None = None


def saved(origin: Origin, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a model, with those of its origin."""
    content = {**config, "target": targets.to_json(origin.target), "target_named": origin.named}
    return {**content, "version": package_version(), "digests": _digests(content)}


def loaded(config: Mapping[str, Any]) -> tuple[Origin, dict[str, Any]]:
    """Returns the origin of a model and its other settings, from what `saved` returned.

    Raises:
        RecipeError: if the package or the target is another one now, naming both.
        FormatError: if the graph, the plan or the target was changed in the file, naming both digests.
    """
    others = dict(config)
    version, digests = others.pop("version", None), others.pop("digests", None) or {}
    if version not in (package_version(), *_SAME_INTEGERS):
        raise RecipeError(
            f"This model in training was saved by featherweight {version}; this is {package_version()}, whose integers "
            f"may be others. Load it with {version} and finalize it there, {_ANEW}."
        )
    for part, found in _digests(others).items():
        if found != digests.get(part):
            raise FormatError(
                f"This model in training was saved with a {part} of the digest {digests.get(part)}; the file now holds "
                f"one of {found}. It was changed since: load the file as it was saved, {_ANEW}."
            )
    origin = Origin(targets.from_json(others.pop("target")), others.pop("target_named"))
    _check_target(origin)
    return origin, others


def _digests(config: Mapping[str, Any]) -> dict[str, str]:
    return {part: hashlib.sha256(str(config[part]).encode()).hexdigest()[:16] for part in _DECIDING}


def _check_target(origin: Origin) -> None:
    """Raises where the target of that name is another one now; a file that is gone can't be."""
    if origin.named is None or (origin.named.endswith(".toml") and not Path(origin.named).is_file()):
        return
    was, now = _flat(origin.target), _flat(targets.load(origin.named))
    # Forms of operators that the target had none of: the model's plan keeps those operators float.
    new = {key for key in now if key.startswith(_FORMS) and key not in was}
    changed = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in new]
    if changed:
        found = listed(f"{key} was {was.get(key, 'not there')} and is {now.get(key, 'not there')}" for key in changed)
        raise RecipeError(
            f"This model in training was made for target '{origin.named}', which is another one now: {found}. Put the "
            f"target back as it was, {_ANEW}."
        )


def _flat(target: Target) -> dict[str, Any]:
    """Returns what decides integers and violations, operator by operator."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(Target) if field.name not in _UNDECIDING):
        value = getattr(target, name)
        if isinstance(value, Mapping):
            found |= {f"{name} of {key}": part for key, part in value.items()}
        elif name == "constraints":
            for number, part in enumerate(target.constraints):
                found[f"constraint {number}"] = part.check, part.ops, part.forms, dict(part.limits)
        else:
            found[name] = value
    return found
