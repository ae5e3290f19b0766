"""`circuitkit list`: show registered names and fetchable models."""

import ast
import importlib.util
import inspect
import warnings
from pathlib import Path

from jsonargparse import ArgumentParser
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.cli.arguments import make_console, parse, silence_libraries
from circuitkit.config import registry
from circuitkit.errors import UsageError
from circuitkit.models.fetch import PACKAGED, SOURCES, locate

KINDS = ("strategies", "precision", "tasks", "models", "families", "objectives", "ablations", "references")
_RENAMED = {"policies": "precision"}
"""Kinds renamed since version 0.1.0, old name to new. Old names work for one more release, with a warning."""


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Print the table of one kind; of tasks, if a model is given, how well it does each of them."""
    parser.add_argument("kind", type=str, help=", ".join(KINDS))
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="with `tasks`: show how well this model does each (toy, a fetched model, a folder, a Hugging Face name)",
    )
    values = parse(parser, arguments)
    if values["model"] is None:
        make_console().print(make_table(values["kind"]))
        return 0
    if values["kind"] != "tasks":
        raise UsageError(f"--model has no meaning for the list of {values['kind']}.", "Use it with `list tasks`.")
    make_console().print(_abilities_table(values["model"]))
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
    if kind == "references":
        return _references_table()
    result = Table("name", "description", box=box.SIMPLE)
    result.add_column("class", overflow="fold")
    for name in registry.names(kind):
        path = registry.class_path(kind, name)
        result.add_row(escape(name), escape(_first_line(path)), escape(path))
    return result


def _abilities_table(name: str) -> Group:
    """Make a table of how well a model does each task, with what it cannot do below."""
    silence_libraries()
    from circuitkit.evaluation.ability import EXAMPLES, measure_ability
    from circuitkit.evaluation.chance import is_near_chance
    from circuitkit.report.figures import format_interval
    from circuitkit.run.run_config import load_model
    from circuitkit.tasks.base import format_count

    model = load_model(name)
    table = Table("task", box=box.SIMPLE, title=f"{name}: up to {EXAMPLES} train prompts of each task")
    for head in ("accuracy", "chance", "logit difference", "prompts: train", "validation", "test"):
        table.add_column(head, justify="right")
    below = ["Accuracy: an answer has a larger logit than every wrong answer. In brackets: 95% intervals over prompts."]
    for task in registry.names("tasks"):
        kind = registry.load("tasks", task)
        if needed := [one.name for one in inspect.signature(kind).parameters.values() if one.default is one.empty]:
            below.append(f"{task}: not measured, since it needs {', '.join(needed)}.")
            continue
        try:
            found = measure_ability(model, kind())
        except UsageError as error:
            below.append(f"{task}: {' '.join(error.problem.split())}")
            continue
        if found.accuracy is not None and found.chance is not None and is_near_chance(found.accuracy, found.chance):
            below.append(
                f"{task}: close to chance; {name} may not do this task at all, and no circuit of it means anything."
            )
        table.add_row(
            escape(task),
            escape(format_interval(found.accuracy, percent=True)),
            "" if found.chance is None else f"{found.chance:.0%}",
            escape(format_interval(found.logit_difference)),
            *("?" if count is None else format_count(count) for count in found.available.values()),
        )
    return Group(table, *map(escape, below))


def _models_table() -> Table:
    result = Table("name", "description", box=box.SIMPLE)
    for name, (what, _) in PACKAGED.items():
        result.add_row(escape(name), f"comes with the package: {escape(what)}")
    for name in SOURCES:
        try:
            state = f"fetched: {locate(name)}"
        except UsageError:
            state = f"`circuitkit fetch {name}` downloads it"
        result.add_row(escape(name), escape(state))
    result.add_row(
        "", "any folder, GGUF file or Hugging Face name of a model in a family of `circuitkit list families`"
    )
    return result


def _references_table() -> Table:
    from circuitkit.evaluation.known_circuits import describe_known, list_known

    result = Table("name", "description", box=box.SIMPLE)
    for name in list_known():
        result.add_row(escape(name), escape(describe_known(name)))
    result.add_row("", "any run folder, circuit's folder, or EAP-IG file")
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
