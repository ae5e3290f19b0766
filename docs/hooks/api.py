"""Pages of the API for MkDocs: one per public room, with the names in its `__init__.pyi`, and one for the package."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "circuitkit"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, at the entry `api/`."""
    pages = ["api/index.md", *(f"api/{room}.md" for room in public_rooms())]
    config.nav = _replace_entry(config.nav, "api/", pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    files.append(File.generated(config, "api/index.md", content=describe_package()))
    for room in public_rooms():
        files.append(File.generated(config, f"api/{room}.md", content=describe_room(room)))
    return files


def public_rooms() -> list[str]:
    """List the rooms that `import circuitkit` gives."""
    return [name for module, name in exported_names(PACKAGE) if module == "circuitkit"]


def exported_names(folder: Path) -> list[tuple[str, str]]:
    """List what the stub of a room exports: the defining module, and the name."""
    room = ".".join(folder.relative_to(ROOT).parts)
    return [
        (f"{room}.{statement.module}" if statement.module else room, alias.name)
        for statement in ast.parse((folder / "__init__.pyi").read_text()).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]


def describe_room(room: str) -> str:
    """Write the page of a room: what it is for, then its names."""
    names = "\n".join(f"::: {module}.{name}\n" for module, name in exported_names(PACKAGE / room))
    return f"# circuitkit.{room}\n\n{_docstring(room)}\n\n{names}"


def describe_package() -> str:
    """Write the page of the package: its rooms, its names with where they are described, and those that no room has."""
    in_rooms = {(module, name) for room in public_rooms() for module, name in exported_names(PACKAGE / room)}
    names = [(module, name) for module, name in exported_names(PACKAGE) if module != "circuitkit"]
    rooms = "\n".join(f"| [`circuitkit.{room}`]({room}.md) | {_summary(room)} |" for room in public_rooms())
    table = "\n".join(f"| [`circuitkit.{name}`][{module}.{name}] | `{module}` |" for module, name in names)
    others = "\n".join(f"::: {module}.{name}\n" for module, name in names if (module, name) not in in_rooms)
    return (
        "# circuitkit\n\nEvery public name, with the docstring that the code has.\n\n"
        f"| room | |\n|---|---|\n{rooms}\n\n"
        f"What `circuitkit` itself exports:\n\n| name | defined in |\n|---|---|\n{table}\n\n{others}"
    )


def _docstring(room: str) -> str:
    return ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""


def _summary(room: str) -> str:
    return " ".join(_docstring(room).split("\n\n")[0].split())


def _replace_entry(nav: Any, old: str, new: list[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _replace_entry(entry, old, new) for title, entry in nav.items()}
    if isinstance(nav, list):
        return [_replace_entry(entry, old, new) for entry in nav]
    return new if nav == old else nav
