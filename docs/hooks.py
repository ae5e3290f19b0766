"""What MkDocs does beyond its plugins: pages of the API, and of files of the repository outside of docs/.

*API.* A page per public room, from the names in its `__init__.pyi`.

*Links out of docs/.* Pages link to `../examples/ioi_toy.yaml` or `../CONTRIBUTING.md`, as Markdown in a repository can.
Every such target becomes a page below `repository/`: Markdown as it is, other text as a block of code, and a folder as
the blocks of its files. So links work on the site and in the repository alike, wherever either is published.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "circuitkit"
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
_LANGUAGES = {".py": "python", ".pyi": "python", ".toml": "toml", ".yaml": "yaml", ".csv": "text", ".sh": "bash"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the rooms into the navigation, at the entry `api/`."""
    pages = ["api/index.md", *(f"api/{room}.md" for room in public_rooms())]
    config.nav = _replace_entry(config.nav, "api/", pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "api/index.md", content=describe_package()))
    for room in public_rooms():
        files.append(File.generated(config, f"api/{room}.md", content=describe_room(room)))
    known, waiting = set[str](), [page for page in files.documentation_pages() if page.src_dir]
    while waiting:
        page = waiting.pop()
        if page.src_uri.endswith(".ipynb"):
            continue
        for path in outside_targets(page.content_string, _real_path(page.src_uri)):
            if path not in known:
                known.add(path)
                added = File.generated(config, _page_of(path), content=show_file(ROOT / path))
                files.append(added)
                waiting.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links out of docs/ lead to their pages."""
    here, real = page.file.src_uri, _real_path(page.file.src_uri)

    def relink(found: re.Match[str]) -> str:
        target = _resolve(real, found[2])
        place = target.removeprefix("docs/") if target.startswith("docs/") else _page_of(target)
        if (ROOT / target).is_dir() and target.startswith("docs"):
            place = "index.md"
        relative = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{found[1]}{relative}{found[3] or ''}{found[4]}"

    return _LINK.sub(relink, markdown) if real.startswith("docs/") or here.startswith("repository/") else markdown


def outside_targets(markdown: str, real: str) -> Iterator[str]:
    """List the files and folders outside of docs/ that a page at the path `real` of the repository links to."""
    for found in _LINK.finditer(markdown):
        target = _resolve(real, found[2])
        if not (target == "docs" or target.startswith("docs/")):
            if target.startswith("..") or not (ROOT / target).exists():
                raise PluginError(f"{real} links to {found[2]}, which is not there")
            yield target


def show_file(path: Path) -> str:
    """Write the page of a file or folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in _LANGUAGES and "egg-info" not in str(file)]
        return f"# {name}\n\n" + "\n\n".join(f"## {file.relative_to(path)}\n\n{_block(file)}" for file in files) + "\n"
    return path.read_text() if path.suffix == ".md" else f"# {name}\n\n{_block(path)}\n"


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
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    names = "\n".join(f"::: {module}.{name}\n" for module, name in exported_names(PACKAGE / room))
    return f"# circuitkit.{room}\n\n{text}\n\n{names}"


def describe_package() -> str:
    """Write the page of the package: its names, where they are described, and those that no room has."""
    in_rooms = {(module, name) for room in public_rooms() for module, name in exported_names(PACKAGE / room)}
    rows, others = list[str](), list[str]()
    for module, name in exported_names(PACKAGE):
        if module != "circuitkit":
            rows.append(f"| [`circuitkit.{name}`][{module}.{name}] | `{module}` |")
            others += [] if (module, name) in in_rooms else [f"::: {module}.{name}\n"]
    rooms = "\n".join(f"- [`circuitkit.{room}`]({room}.md): {_first_line(room)}" for room in public_rooms())
    table = "\n".join(["| name | defined in |", "|---|---|", *rows])
    return (
        "# circuitkit\n\nEvery public name, with the docstring that the code has. What `circuitkit` itself exports:\n\n"
        f"{table}\n\nThe rooms:\n\n{rooms}\n\n" + "\n".join(others)
    )


def _first_line(room: str) -> str:
    return (ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or "").split("\n\n")[0]


def _block(path: Path) -> str:
    return f"````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n````"


def _page_of(path: str) -> str:
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _real_path(src_uri: str) -> str:
    return src_uri.removeprefix("repository/") if src_uri.startswith("repository/") else f"docs/{src_uri}"


def _resolve(real: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(real), target))


def _replace_entry(nav: Any, old: str, new: list[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _replace_entry(entry, old, new) for title, entry in nav.items()}
    if isinstance(nav, list):
        return [_replace_entry(entry, old, new) for entry in nav]
    return new if nav == old else nav
