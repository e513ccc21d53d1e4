"""All architectures by name: `family/architecture`."""

from __future__ import annotations

from benchmarks.architectures import image_nets, keras_nets, sense_nets, sentence_encoder, text_nets
from benchmarks.architectures.record import Architecture

# Small nets first: a run's table grows early.
ROSTER: dict[str, Architecture] = {
    **text_nets.ROSTER,
    **sense_nets.ROSTER,
    **sentence_encoder.ROSTER,
    **keras_nets.ROSTER,
    **image_nets.ROSTER,
}


def chosen(patterns: list[str]) -> list[str]:
    """Returns the names that a list of names or parts of names means; all of them for an empty list.

    Raises:
        SystemExit: if a part is in no name.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        found = [pattern] if pattern in ROSTER else [name for name in ROSTER if pattern in name]
        if not found:
            raise SystemExit(f"No architecture is called '{pattern}'; --list names them all.")
        names |= dict.fromkeys(found)
    return list(names) if patterns else list(ROSTER)
