"""A comparison's printed tables: which lines there are, and what they are of."""

from io import StringIO
from typing import Any

from rich.console import Console

from circuitkit.comparison.rows import COLUMNS
from circuitkit.report.comparison_tables import CONTROL, comparison_tables

LABELS = {"model": "toy", "task": "ioi", "objective": "kl", "operating_point": "all edges"}


def make_row(strategy: str, precision: str, seed: int, value: float = 0.5, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | LABELS | {"strategy": strategy, "precision": precision, "seed": seed}
    row |= {"ranking": "absolute", "fraction": 0.5, "edges_asked": 131, "edges": 130, "prompts_test": 8}
    row |= {"faithfulness_test": value, "wall_s": 2.0, "peak_mb": 7.0, "notes": "", "error": "", "folder": "cells/x"}
    return row | more


def make_failure(strategy: str, precision: str, seed: int, error: str, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | LABELS | make_row(strategy, precision, seed, error=error, ranking="", **more)


def show(rows: list[dict[str, Any]]) -> list[str]:
    text = StringIO()
    for table in comparison_tables(rows):
        Console(file=text, width=140).print(table)
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_failed_cell_has_a_line_with_its_reason() -> None:
    rows = [make_row("eap", "full", 0), make_failure("acdc", "int8", 1, "It [was] stopped.")]
    rows += [make_failure(CONTROL, "full", 1, "Lost.")]
    rows += [make_failure("eap", "full", 0, "No luck.", task="other")]
    lines = show(rows)
    assert lines[0] == "ioi in toy, kl: faithfulness on 8 test prompts"
    assert "Failed: acdc (int8), seed 1: It [was] stopped." in lines
    assert f"Failed: {CONTROL}, seed 1: Lost." in lines
    assert lines[-2:] == ["other in toy, kl: no cell is finished", "Failed: eap (full), seed 0: No luck."]


def test_a_line_of_fewer_seeds_says_so() -> None:
    rows = [make_row("eap", "full", seed) for seed in (0, 1, 2)] + [make_row("acdc", "full", seed) for seed in (0, 2)]
    rows += [make_row("acdc", "full", 0, ranking="own"), make_failure("acdc", "full", 1, "Lost.")]
    lines = show(rows)
    assert lines[0].endswith(", mean over 3 seeds")
    assert any(line.startswith("eap 0.50") for line in lines)
    assert any(line.startswith("acdc, 2 of 3 seeds 0.50") for line in lines)


def test_precisions_that_change_no_figure_share_a_line() -> None:
    random = [make_row("random", name, 0, wall_s=wall) for name, wall in (("full", 1.0), ("int8", 3.0))]
    lines = show([*random, make_row("eap", "full", 0), make_row("eap", "int8", 0, 0.4)])
    (of_random,) = (number for number, line in enumerate(lines) if line.startswith("random"))
    assert lines[of_random : of_random + 2] == ["random full 0.50 1.00 s 7", "int8 3.00 s 7"]
    assert [line for line in lines if line.startswith("eap")] == ["eap full 0.50 2.00 s 7", "eap int8 0.40 2.00 s 7"]


def test_rows_of_different_test_prompts_have_the_ranges_of_all() -> None:
    def row(strategy: str, prompts: int, accuracy: float, difference: float) -> dict[str, Any]:
        of_model = {"accuracy_model": accuracy, "logit_difference_model": difference}
        return make_row(strategy, "full", 0, prompts_test=prompts, prompts_test_hash=str(prompts), **of_model)

    lines = show([row("eap", 16, 0.5, 1.25), row("acdc", 6, 1.0, 2.5), row("gim", 6, 1.0, 2.5)])
    assert lines[0] == "ioi in toy, kl: faithfulness on 6 to 16 test prompts"
    wanted = "right on 50% to 100% of the answers, logit difference 1.25 to 2.50"
    assert lines[1] == f"The full model, on the different test prompts of the rows: {wanted}"
    lines = show([row("acdc", 6, 1.0, 2.5), row("gim", 6, 1.0, 2.5)])
    assert lines[:2] == [
        "ioi in toy, kl: faithfulness on 6 test prompts",
        "The full model: right on 100% of the answers, logit difference 2.50",
    ]
