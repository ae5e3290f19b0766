"""Rows of a comparison that were never measured, for pages and charts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from circuitkit.comparison.conclusions import AGREEMENT_COLUMNS
from circuitkit.comparison.rows import COLUMNS, to_frame
from circuitkit.page.content import Content, PageCell
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.run.result import Result

SIZES = {0.001: 0, 0.01: 2, 0.1: 26, 0.5: 130, 1.0: 261}
"""Fractions of the edges, and numbers of edges."""
LABELS = ("model", "task", "strategy", "precision", "objective", "seed")


def make_row(**known: Any) -> dict[str, Any]:
    """Make a row with the columns of `results.csv`; what is not given is empty."""
    texts = {name: "" for name, kind in COLUMNS.items() if kind == "string"}
    labels = {"model": "toy", "task": "ioi", "objective": "logit_difference", "precision": "full", "seed": 0}
    row = dict.fromkeys(COLUMNS) | texts | labels | {"ranking": "absolute", "operating_point": "all edges"} | known
    row["folder"] = "cells/" + "-".join(str(row[name]) for name in LABELS)
    return row


def make_curve(strategy: str, values: Iterable[float], **known: Any) -> list[dict[str, Any]]:
    """Make the rows of one cell: a size per value, and train 0.05 above test."""
    return [
        make_row(
            strategy=strategy,
            fraction=fraction,
            edges_asked=edges,
            edges=edges,
            **figures("faithfulness_test", value),
            **figures("faithfulness_train", value + 0.05),
            cmd=1 - value,
            **{"wall_s": 10.0, "peak_mb": 100.0, "prompts_test": 32, "prompts_test_hash": "abc"} | known,
        )
        for (fraction, edges), value in zip(SIZES.items(), values, strict=False)
    ]


def figures(name: str, value: float, error: float = 0.1) -> dict[str, float]:
    """Make a figure with the ends of its interval."""
    return {name: value, f"{name}_low": value - error, f"{name}_high": value + error}


def make_content(
    rows: Iterable[Mapping[str, Any]],
    agreement: Iterable[Mapping[str, Any]] = (),
    controls: Iterable[str] = (),
    results: Mapping[str, Result] | None = None,
) -> Content:
    """Make the content of a comparison's folder from rows."""
    frame = to_frame([dict(row) for row in rows])
    first = frame.drop_duplicates("folder").to_dict("records")
    return Content(
        kind="comparison",
        title="made up",
        folder=Path("made-up"),
        frame=frame,
        cells=[
            PageCell({name: row[name] for name in LABELS}, row["folder"], "finished", row["error"], "") for row in first
        ],
        agreement=pd.DataFrame(list(agreement), columns=list(AGREEMENT_COLUMNS)),
        conclusions=[],
        config="",
        environment={},
        results=results or {},
        controls=frozenset({CONTROL, *controls}),
    )
