"""Blocks of code in Markdown pages, run in their order: Python is executed, `circuitkit` commands go through the CLI.

A block of `text` directly after another one is what it prints, where `...` stands for anything. A block with a title,
such as ```yaml title="grid.yaml"```, is a file: it is written, and not run.
"""

import doctest
import io
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from circuitkit.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.DOTALL | re.MULTILINE)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A block of code, the file that it is (or None), and the output shown below it (or None)."""

    kind: str
    code: str
    title: str | None
    output: str | None
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    found = list(_BLOCK.finditer(text))
    outputs = set[int]()
    for this, following in zip_longest(found, found[1:]):
        if this.start() in outputs:
            continue
        output = None
        if following and following[2] == "text" and not text[this.end() : following.start()].strip():
            output = textwrap.dedent(following[4])
            outputs.add(following.start())
        yield Block(this[2], textwrap.dedent(this[4]), this[3], output, text.count("\n", 0, this.start()) + 1)


def run_page(
    page: Path, not_run: Mapping[str, str] | None = None, *, python_only: bool = False
) -> tuple[dict[str, Any], int]:
    """Run a page's blocks in the current folder, and compare what they print with what the page shows.

    Args:
        page: the file.
        not_run: beginnings of blocks that are not run, and why.
        python_only: run no commands, and write no files.

    Returns:
        The variables of its Python, and the number of outputs compared.
    """
    variables, shown, skipped = dict[str, Any](), 0, set[str]()
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        reasons = [start for start in not_run or {} if block.code.startswith(start)]
        skipped.update(reasons)
        if reasons or (python_only and block.kind != "python"):
            continue
        if block.title:
            Path(block.title).write_text(block.code)
            continue
        printed = run_block(block, variables, where)
        if block.output is not None:
            shown += 1
            check_output(block, printed, where)
    assert skipped == set(not_run or {}), f"{page.name} has no block that begins so"
    return variables, shown


def run_block(block: Block, variables: dict[str, Any], where: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        if block.kind == "python":
            exec(compile(block.code, where, "exec"), variables)
        elif block.kind == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                name, *arguments = shlex.split(line, comments=True) or ["#"]
                assert name in ("circuitkit", "#"), f"{where}: {line} is no command of circuitkit"
                assert name == "#" or main(arguments) == 0, f"{where}: {line}"
        else:
            assert block.kind == "text", f"{where}: a block of {block.kind} has no title, so that nothing tests it"
    return output.getvalue()


def check_output(block: Block, printed: str, where: str) -> None:
    checker = doctest.OutputChecker()
    assert block.output is not None
    assert checker.check_output(block.output, printed, _FLAGS), f"{where}:\n" + checker.output_difference(
        doctest.Example(block.code, block.output), printed, _FLAGS | doctest.REPORT_NDIFF
    )
