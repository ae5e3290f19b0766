"""Columns of tables of figures: their types, and how a figure with its interval becomes three of them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from circuitkit.evaluation.intervals import Figure

if TYPE_CHECKING:  # pandas takes a second to import
    from pandas import DataFrame

TEXT, INTEGER, NUMBER = "string", "Int64", "float64"
"""Types, as pandas names them."""
Row = dict[str, Any]


def figure_columns(*names: str) -> dict[str, str]:
    """Return three columns for each figure: `X`, and the ends of its interval, `X_low` and `X_high`."""
    return {f"{name}{end}": NUMBER for name in names for end in ("", "_low", "_high")}


def figure_cells(name: str, figure: Figure | None) -> Row:
    """Return the cells of a figure's three columns; None where it is not known."""
    value, low, high = figure or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def negate(figure: Figure) -> Figure:
    """Change the sign, as of an objective that is a negated logit difference."""
    value, high, low = (None if one is None else -one for one in figure)
    return Figure(value, low, high)


def make_frame(rows: Iterable[Row], columns: Mapping[str, str]) -> "DataFrame":
    """Make a table of rows, each of which has all columns, with these columns and types."""
    from pandas import DataFrame

    found = list(rows)
    return DataFrame({name: [row[name] for row in found] for name in columns}).astype(dict(columns))


POINT_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("split", "objective"), TEXT),
    "prompts": INTEGER,
    "ranking": TEXT,
    "fraction": NUMBER,
    **dict.fromkeys(("edges_asked", "edges"), INTEGER),
    **figure_columns("faithfulness", "logit_difference_faithfulness", "kl_faithfulness"),
    **figure_columns("accuracy_circuit", "accuracy_model", "logit_difference", "logit_difference_model", "kl"),
    **figure_columns("cpr", "cmd"),
    **dict.fromkeys(("value", "full", "ablated"), NUMBER),
}
"""Columns of the points of an evaluation, and their types: as `comparison.rows.COLUMNS`, for the prompts of `split`."""
