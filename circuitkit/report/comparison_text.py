"""What a comparison prints: its tables, the legend and the conclusions."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from circuitkit.report.comparison_tables import LEGEND, Row, comparison_tables


def comparison_text(rows: Sequence[Row], conclusions: Sequence[str], width: int) -> Iterator[Group | Text]:
    """Yield the parts to print, for a terminal of `width` characters.

    Args:
        rows: of `results.csv`.
        conclusions: the lines of `conclusions.txt`.
        width: of the terminal, in characters.
    """
    if not rows:
        yield Text("No cell has ended yet.")
        return
    yield from comparison_tables(rows, width)
    yield Text(LEGEND)
    if conclusions:
        yield Text("\n".join([*conclusions, ""]))
