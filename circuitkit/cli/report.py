"""`circuitkit report`: the page of a comparison or a run."""

import shlex
from pathlib import Path

from jsonargparse import ArgumentParser

from circuitkit.cli.arguments import parse
from circuitkit.errors import require_package


def run(parser: ArgumentParser, arguments: list[str]) -> int:
    """Write `report.html`, `report.md` and pictures, and say where."""
    parser.add_argument("folder", type=str, help="the folder of a comparison or of a run, finished or not")
    parser.add_argument("--out", type=str | None, default=None, help="folder for the page; by default the same folder")
    parser.add_argument(
        "--reference",
        type=str | None,
        default=None,
        help="a circuit whose edges are known: a name (`circuitkit list references`), a run folder, a circuit's "
        "folder, or EAP-IG's .json or .pt file",
    )
    values = parse(parser, arguments)
    make_page(values["folder"], values["out"], values["reference"])
    return 0


def make_page(folder: str | Path, out: str | None = None, reference: str | None = None) -> None:
    """Write the page, and say where it is."""
    from circuitkit.page.page import write_report

    html, *others = write_report(folder, out, reference)
    print(f"Page: {html} (one file that needs no network; {len(others)} more beside it: Markdown and pictures)")


def page_command(folder: Path) -> str:
    """Return the command that makes a folder's page."""
    return f"circuitkit report {shlex.quote(str(folder))}"


def add_option(parser: ArgumentParser) -> None:
    """Add the option of the commands that can make the page at once."""
    parser.add_argument("--report", action="store_true", help="also make the page, as `circuitkit report` does")


def check_page(wanted: bool) -> None:
    """Refuse a page that could not be made, before any work is done."""
    if wanted:
        require_package("matplotlib", "report")


def offer_page(folder: Path, wanted: bool) -> None:
    """Make the page, or print the command that makes it."""
    if wanted:
        make_page(folder)
    else:
        print(f"Make its page: {page_command(folder)}")
