"""What `circuitkit list` shows."""

import ast
import importlib.util
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from circuitkit import registry
from circuitkit.errors import UsageError
from circuitkit.models.fetch import SOURCES, resolve

KINDS = ("strategies", "policies", "tasks", "models", "families", "objectives", "ablations")


def table(kind: str) -> Table:
    """Names of one kind, what they are, and where they come from.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in KINDS:
        raise registry.unknown_name("list of", kind, list(KINDS))
    if kind == "models":
        return _models()
    result = Table("name", "what it is", box=box.SIMPLE)
    result.add_column("class", overflow="fold")
    for name in registry.names(kind):
        path = registry.class_path(kind, name)
        result.add_row(escape(name), escape(_first_line(path)), escape(path))
    return result


def _models() -> Table:
    result = Table("name", "what it is", box=box.SIMPLE)
    result.add_row("toy", "comes with the package: a small GPT-2 trained on IOI-like prompts")
    for name in SOURCES:
        try:
            state = f"fetched: {resolve(name)}"
        except UsageError:
            state = f"`circuitkit fetch {name}` downloads it"
        result.add_row(escape(name), escape(state))
    result.add_row("", "any folder, or name on the Hugging Face hub, of a family in `circuitkit list families`")
    return result


def _first_line(class_path: str) -> str:
    """The first line of a class's docstring, read without importing it: torch takes seconds."""
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
