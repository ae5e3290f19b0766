"""`circuitkit list`: show registered names and fetchable models."""

import ast
import importlib.util
import warnings
from pathlib import Path

from jsonargparse import ArgumentParser
from rich import box
from rich.markup import escape
from rich.table import Table

from circuitkit.cli.arguments import make_console, parse
from circuitkit.config import registry
from circuitkit.errors import UsageError
from circuitkit.models.fetch import SOURCES, locate

KINDS = ("strategies", "precision", "tasks", "models", "families", "objectives", "ablations")
_RENAMED = {"policies": "precision"}
"""Kinds renamed since version 0.1.0, old name to new. Old names work for one more release, with a warning."""


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Print the table of one kind."""
    parser.add_argument("kind", type=str, help=", ".join(KINDS))
    make_console().print(make_table(parse(parser, arguments)["kind"]))
    return 0


def make_table(kind: str) -> Table:
    """Make a table of the names of one kind, their descriptions and their classes.

    Raises:
        UsageError: there is no such kind.
    """
    if kind in _RENAMED:
        message = (
            f"The kind {kind!r} is now called {_RENAMED[kind]!r}; the old name will be removed in the next release."
        )
        warnings.warn(message, FutureWarning, stacklevel=1)
        kind = _RENAMED[kind]
    if kind not in KINDS:
        raise registry.unknown_name("list of", kind, list(KINDS))
    if kind == "models":
        return _models_table()
    result = Table("name", "description", box=box.SIMPLE)
    result.add_column("class", overflow="fold")
    for name in registry.names(kind):
        path = registry.class_path(kind, name)
        result.add_row(escape(name), escape(_first_line(path)), escape(path))
    return result


def _models_table() -> Table:
    result = Table("name", "description", box=box.SIMPLE)
    result.add_row("toy", "comes with the package: a small GPT-2 trained on IOI-like prompts")
    for name in SOURCES:
        try:
            state = f"fetched: {locate(name)}"
        except UsageError:
            state = f"`circuitkit fetch {name}` downloads it"
        result.add_row(escape(name), escape(state))
    result.add_row("", "any folder or Hugging Face name of a model in a family of `circuitkit list families`")
    return result


def _first_line(class_path: str) -> str:
    """Read the first line of a class's docstring from its source file; importing the class would import torch."""
    module, _, name = class_path.rpartition(".")
    try:
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            return ""
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
