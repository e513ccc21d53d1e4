"""Commands that list what there is: recipes, targets."""

from __future__ import annotations

import typer

from featherweight.cli.harness import command, print_json, print_table

Json = typer.Option(False, "--json", help="Print JSON only.")


@command("featherweight recipes")
def recipes(as_json: bool = Json) -> None:
    """List the recipes, one line each."""
    from featherweight.recipes import recipe

    found = [(name, recipe.load(name).description) for name in recipe.available()]
    if as_json:
        print_json([{"name": name, "description": description} for name, description in found])
    else:
        print_table("Recipes", ("name", "what it does"), found)


@command("featherweight targets")
def targets(as_json: bool = Json) -> None:
    """List the targets, one line each."""
    from featherweight.targets import target

    found = [target.load(name) for name in target.available()]
    if as_json:
        print_json([{"name": t.name, "description": t.description, "profile": t.profile, "io": t.io} for t in found])
    else:
        rows = [(t.name, t.description, t.profile, t.io) for t in found]
        print_table("Targets", ("name", "device", "arithmetic", "inputs and outputs"), rows)
