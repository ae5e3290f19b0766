"""A comparison as an object: its rows, its results, and how it shows itself."""

import io
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderResult

from circuitkit.comparison.comparison_folder import read_comparison
from circuitkit.comparison.rows import COLUMNS, Row, to_frame
from circuitkit.errors import MissingPackageError, UsageError, quote, require_package
from circuitkit.report.comparison_text import comparison_text
from circuitkit.report.notebook import display, image_html
from circuitkit.run.result import Result
from circuitkit.storage.files import to_path

if TYPE_CHECKING:
    from pandas import DataFrame

_WIDTH = 140
"""Characters of a line of text, outside of a terminal."""
_LABELS = list(COLUMNS)[: list(COLUMNS).index("seed") + 1]


class UnknownCellError(UsageError, KeyError):
    """A comparison has no result under this key."""

    __str__ = Exception.__str__  # that of a KeyError adds quotes


class Results(Mapping[str, Result]):
    """The results of finished cells by `folder`, as the rows name it. Each is read from its folder when asked for.

    Args:
        path: the comparison's folder.
        folders: the cells' folders in it.
    """

    def __init__(self, path: Path, folders: Iterable[str]) -> None:
        self._path, self._folders = path, dict.fromkeys(folders)

    def __getitem__(self, folder: str) -> Result:
        if folder not in self._folders:
            raise UnknownCellError(
                f"The comparison has no result {quote(folder)}.", "Give a row's `folder`; failed cells are in `errors`."
            )
        return Result.load(self._path / folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __repr__(self) -> str:
        return f"Results({quote(list(self._folders))})"


class Comparison:
    """The rows of a comparison, and the results that they are about. `print` shows the tables.

    Iteration yields the rows, and `len` counts them. `circuitkit.compare` returns a comparison, and `load` reads one.

    Args:
        folder: the comparison's folder.
        rows: those of `results.csv`; numbers that are not known are None.
        conclusions: lines that say at each size which of the best two methods is better; empty until all cells have
            ended.
    """

    def __init__(self, folder: str | Path, rows: Sequence[Row], conclusions: Sequence[str] = ()) -> None:
        self.folder = to_path(folder)
        self.rows = list(rows)
        self.conclusions = list(conclusions)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the folder of a comparison. It may be unfinished, or be running: then the cells so far are read.

        Raises:
            UsageError: the folder holds no comparison, or one of another version.
            CircuitKitError: a file is damaged or cannot be read.
        """
        return cls(folder, *read_comparison(to_path(folder)))

    @property
    def results(self) -> Results:
        """The results of the finished cells by the column `folder`: `comparison.results[row["folder"]]`."""
        return Results(self.folder, (row["folder"] for row in self.rows if not row["error"]))

    @property
    def errors(self) -> dict[str, str]:
        """Why cells have failed, by the column `folder`."""
        return {row["folder"]: row["error"] for row in self.rows if row["error"]}

    def to_pandas(self) -> "DataFrame":
        """Return the rows as a table, with the columns and types of `circuitkit.comparison.COLUMNS`."""
        return to_frame(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __bool__(self) -> bool:
        return True  # also before the first cell has ended

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        cells = len({tuple(row[name] for name in _LABELS) for row in self.rows})
        failed = f", {len(self.errors):,} failed" if self.errors else ""
        return f"Comparison({_count(cells, 'cell')}, {_count(len(self), 'row')}{failed}, in {str(self.folder)!r})"

    def show(self) -> None:
        """Show the comparison: in a notebook the curves and the tables; elsewhere print the tables."""
        if not display(self):
            print(self)
            print(f"Saved in {self.folder}; `circuitkit report {shlex.quote(str(self.folder))}` makes a page of it.")

    def _repr_html_(self) -> str:
        text = escape(self._to_text(_WIDTH))
        return f'<div>{self._picture_html()}<pre style="overflow: auto; max-height: 40rem">{text}</pre></div>'

    def _picture_html(self) -> str:
        if all(row["error"] for row in self.rows):
            return ""
        try:
            require_package("matplotlib", "report")
        except MissingPackageError as error:
            return f"<p>No picture: {escape(str(error))}</p>"
        from circuitkit.report.comparison_picture import comparison_picture  # imports matplotlib, which takes a second

        return image_html(comparison_picture(self.rows), "Faithfulness on held-out prompts over circuit size")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from comparison_text(self.rows, self.conclusions, options.max_width)

    def __str__(self) -> str:
        terminal = Console()
        return self._to_text(terminal.width if terminal.is_terminal else _WIDTH)

    def _to_text(self, width: int) -> str:
        file = io.StringIO()
        # In a notebook, rich would display a second time
        console = Console(file=file, width=width, highlight=False, emoji=False, color_system=None, force_jupyter=False)
        console.print(self)
        return file.getvalue().rstrip()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
