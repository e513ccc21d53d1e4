"""Commands that list what there is: recipes, targets, schemas of JSON."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from featherweight.cli.harness import command, print_json, print_table, say

Json = typer.Option(False, "--json", help="Print JSON only.")


@command("featherweight recipes")
def recipes(as_json: bool = Json) -> None:
    """List the recipes, one line each."""
    from featherweight.recipes import recipe

    found = [(name, recipe.load(name).description) for name in recipe.available()]
    if as_json:
        print_json({"recipes": [{"name": name, "description": description} for name, description in found]})
    else:
        print_table("Recipes", ("name", "what it does"), found)


@command("featherweight targets")
def targets(as_json: bool = Json) -> None:
    """List the targets, one line each."""
    from featherweight.targets import target

    found = [target.load(name) for name in target.available()]
    if as_json:
        fields = ("name", "description", "profile", "io")
        print_json({"targets": [{field: getattr(each, field) for field in fields} for each in found]})
    else:
        rows = [(t.name, t.description, t.profile, t.io) for t in found]
        print_table("Targets", ("name", "device", "arithmetic", "inputs and outputs"), rows)


@command("featherweight schema search")
def schema(
    name: Annotated[str | None, typer.Argument(metavar="COMMAND", help="Without, the commands are listed.")] = None,
) -> None:
    """Print the JSON Schema of a command's --json."""
    from featherweight.cli.json_shapes import SHAPES
    from featherweight.cli.json_shapes import schema as schema_of
    from featherweight.errors import listed

    if name is None:
        say("\n".join(SHAPES))
        return
    if name not in SHAPES:
        raise typer.BadParameter(f"'{name}' prints no JSON (allowed: {listed(SHAPES, 20)}).", param_hint="'COMMAND'")
    say(json.dumps(schema_of(name), indent=2))
