"""`circuitkit fetch`: download a model once."""

from jsonargparse import ArgumentParser

from circuitkit.cli.arguments import parse


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Fetch a model, and say where it is."""
    parser.add_argument("name", type=str, help="a model that `circuitkit list models` shows")
    name = parse(parser, arguments)["name"]
    from circuitkit.models.fetch import fetch

    print(f"{name} is in {fetch(name)}")
    return 0
