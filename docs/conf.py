"""The documentation site: `make docs` builds it into build/docs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from featherweight.version import package_version

HERE = Path(__file__).parent

project = "featherweight"
author = "The featherweight authors"
release = version = package_version()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["conftest.py"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

napoleon_use_ivar = True  # attributes stand in the class docstring
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": False}

html_theme = "furo"
html_title = f"featherweight {release}"
html_static_path = []
html_theme_options = {"navigation_with_keys": True}


def write_commands(_app: object) -> None:
    """Writes the reference of the command line from what the commands themselves say."""
    page = HERE / "reference" / "commands.md"
    tool = [sys.executable, "-m", "typer", "featherweight.cli", "utils", "docs"]
    subprocess.run(
        [*tool, "--name", "featherweight", "--title", "Commands", "--output", str(page)],
        check=True,
        capture_output=True,
    )
    # An example is indented by two blanks: a code block of its own.
    lines = page.read_text("utf-8").splitlines()
    fenced: list[str] = []
    for line in lines:
        if line == "Example:":
            fenced += ["Example:", "", "```sh"]
        elif fenced and line == "" and fenced[-1].startswith("featherweight "):
            fenced += ["```", ""]
        else:
            fenced.append(line.strip() if line.startswith("  featherweight ") else line)
    if fenced[-1].startswith("featherweight "):
        fenced.append("```")
    page.write_text("\n".join(fenced) + "\n", "utf-8")


def write_messages(_app: object) -> None:
    """Writes the list of every error's message, from the sources."""
    sys.path.insert(0, str(HERE.parent / "tools"))
    from error_messages import page

    (HERE / "reference" / "messages.md").write_text(page(), "utf-8")


def made_accessible(_app: object, _page: str, _template: str, context: dict[str, object], _tree: object) -> None:
    """Gives captions that Sphinx calls headings a level, and code and tables that scroll a place for the keyboard."""
    for name in ("body", "furo_navigation_tree"):
        if isinstance(text := context.get(name), str):
            text = text.replace('role="heading">', 'role="heading" aria-level="2">')
            text = text.replace("<pre>", '<pre tabindex="0">')
            context[name] = text.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


def setup(app: object) -> None:
    """Hooks into the build."""
    app.connect("builder-inited", write_commands)  # type: ignore[attr-defined]
    app.connect("builder-inited", write_messages)  # type: ignore[attr-defined]
    app.connect("html-page-context", made_accessible, priority=900)  # type: ignore[attr-defined]
