"""What a comparison says in words: which method is better, on the same prompts, and how far methods agree."""

from pathlib import Path

import pandas
import pytest

from circuitkit.comparison.conclusions import AGREEMENT_COLUMNS, Finished, compare_methods
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.runner import compare
from circuitkit.evaluation.intervals import PerPrompt, difference_figure
from circuitkit.run.result import Result

SIZES = [0.05, 0.2, 1.0]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Path]:
    grid = Grid(
        models={"toy": "toy"},
        tasks={"ioi": "ioi"},
        strategies={"eap": "eap", "again": "eap", "acdc": "acdc"},
        seeds=[0, 1],
        examples=8,
        sizes=SIZES,
    )
    out = tmp_path_factory.mktemp("comparison") / "out"
    compare(grid, out)
    return grid, out


def finished(grid: Grid, out: Path) -> list[Finished]:
    rows = pandas.read_csv(out / "results.csv", keep_default_na=False)
    folders = {(row.strategy, row.seed): row.folder for row in rows.itertuples()}
    cells = [cell for cell in grid.cells if not cell.is_control]
    return [Finished(cell, Result.load(out / folders[cell.strategy, cell.seed])) for cell in cells]


def test_the_best_two_methods_are_compared_on_the_same_prompts(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    said = compare_methods(found)
    assert [line.partition(":")[0] for line in said] == ["5%, 13 edges", "20%, 52 edges"]
    pooled = {}
    for method in ("eap", "acdc"):
        parts = []
        for one in (one for one in found if one.cell.strategy == method):
            (point,) = (point for point in one.evaluation.curve("absolute") if point.fraction == 0.05)
            parts.append([one.evaluation.per_prompt(which) for which in (point, "full", "ablated")])
        pooled[method] = PerPrompt(*([*one, *other] for one, other in zip(*parts, strict=True)))
    difference = difference_figure(pooled["acdc"], pooled["eap"])
    assert f"acdc (full) is better than eap (full), with 95% confidence (difference {difference.value:.2f}" in said[0]


def test_equal_methods_are_not_told_apart(compared: tuple[Grid, Path]) -> None:
    found = [one for one in finished(*compared) if one.cell.strategy != "acdc"]
    assert all("do equally well on 16 prompts" in line for line in compare_methods(found))


def test_one_method_alone_is_not_compared(compared: tuple[Grid, Path]) -> None:
    assert compare_methods([one for one in finished(*compared) if one.cell.strategy == "acdc"]) == []


def test_methods_without_a_common_seed_are_not_compared(compared: tuple[Grid, Path]) -> None:
    seeds = {"eap": 0, "acdc": 1}
    said = compare_methods([one for one in finished(*compared) if seeds.get(one.cell.strategy) == one.cell.seed])
    assert len(said) == 2
    assert all("were measured on different prompts" in line for line in said)


def test_seeds_with_the_same_prompts_do_not_count_as_more_prompts(compared: tuple[Grid, Path]) -> None:
    found = finished(*compared)
    for one in found:
        one.result.config["content"]["test"] = "the same"
    said = compare_methods([one for one in found if one.cell.strategy != "acdc"])
    assert all("do equally well on 8 prompts" in line for line in said)


def test_a_method_without_some_seed_takes_none_from_the_others(compared: tuple[Grid, Path]) -> None:
    found = [one for one in finished(*compared) if not (one.cell.strategy == "again" and one.cell.seed == 1)]
    (at_13, _) = compare_methods(found)
    (of_all, _) = compare_methods(finished(*compared))
    assert at_13 == of_all


def test_agreement_of_every_two_cells_is_saved(compared: tuple[Grid, Path]) -> None:
    frame = pandas.read_csv(compared[1] / "agreement.csv")
    assert tuple(frame.columns) == AGREEMENT_COLUMNS
    assert len(frame) == 15  # pairs of six cells
    by_cells = frame.set_index(["strategy_a", "seed_a", "strategy_b", "seed_b"])
    same = by_cells.loc["eap", 0, "again", 0]
    assert (same.jaccard, same.rank_correlation, same.edges) == (1, pytest.approx(1), 13)
    results = {(one.cell.strategy, one.cell.seed): one.result.circuit for one in finished(*compared)}
    searches = by_cells.loc["acdc", 0, "acdc", 1]
    assert searches.jaccard_own == pytest.approx(results["acdc", 0].jaccard(results["acdc", 1]))
    assert searches.jaccard == pytest.approx(results["acdc", 0].top(13).jaccard(results["acdc", 1].top(13)))
    assert pandas.isna(same.jaccard_own)
    assert (by_cells.jaccard_chance < 0.03).all()


def test_conclusions_are_saved_by_model_and_task(compared: tuple[Grid, Path]) -> None:
    head, *said = (compared[1] / "conclusions.txt").read_text().splitlines()
    assert head == "ioi in toy, logit_difference: the best two methods"
    assert [line.strip() for line in said] == compare_methods(finished(*compared))
